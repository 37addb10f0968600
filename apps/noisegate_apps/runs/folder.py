"""Run folders: where a run keeps its configuration, metrics, checkpoints and figures.

A folder explains itself: `config.json` holds the app, the whole configuration, and the command, commit, versions and
machine that produced it, and of what went on with it later where that differs; `metrics.jsonl` one JSON object per
line. The same command on the same folder goes on where it stopped; another configuration, another app or a second
process on it is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import JsonValue, plain, read_json, write_json, write_text_atomically
from noisegate_apps.runs.identity import differences
from noisegate_apps.runs.owner import LOCK, owned, refuse_owned
from noisegate_apps.runs.provenance import physics, provenance

CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """What becomes of an earlier run in the same folder."""

    resume: bool = True
    """Go on with the run of the same settings that lies in `out`; `--no-resume` refuses a folder with a run in it."""
    overwrite: bool = False
    """Remove the earlier run of this command from `out`, whatever its settings, and start anew."""


class RunFolder:
    """What a run keeps in its folder.

    Args:
        path: The folder; `claimed` makes and owns it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def hours(self) -> float:
        """Hours since the run began, interruptions included."""
        return max(0.0, time.time() - (self.path / CONFIG).stat().st_mtime) / 3600  # clocks may be set back

    @property
    def metrics(self) -> Path:
        """One JSON object a line, with the step it belongs to."""
        return self.path / "metrics.jsonl"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps past `step`, which a resumed run will write again; half a last line too."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.history() if line["step"] <= step]
        write_text_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def history(self) -> Iterator[dict[str, float]]:
        """Yield the metrics written so far; a line cut off or filled by a crash ends them."""
        if not self.metrics.exists():
            return
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                return
            if not isinstance(found, dict) or not isinstance(found.get("step"), int | float):
                return
            yield found


@contextmanager
def claimed(
    path: Path,
    app: str,
    config: object,
    identity: JsonValue,
    options: FolderOptions | None = None,
    *,
    on_tabletop: bool = False,
    main: bool = True,
) -> Iterator[RunFolder]:
    """Own a run folder while the run lasts; claim it when all that the run needs is loaded.

    A run that ends by an error before it has kept anything leaves no folder behind, so that it can be put right.

    Args:
        path: The folder; made where it is missing.
        app: Whose run it is.
        config: The run's configuration, for the record.
        identity: What makes two runs the same (`identity_of`).
        options: What becomes of an earlier run.
        on_tabletop: Whether the run plays there, so that it belongs to the physics, too, under which it began.
        main: False for the other processes of a run: its first one owns the folder.

    Raises:
        RunError: If the folder holds another run or other files, or another process owns it.
    """
    if not main:
        yield RunFolder(path)
        return
    options = options or FolderOptions()
    refuse(path, app, options)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    held = path / CONFIG
    try:
        with owned(path, app):
            if options.overwrite:
                _clear(path)
            fresh = not held.exists()
            if fresh:
                write_json(held, {"app": app, "config": plain(config), "identity": identity, **provenance()})
            else:
                earlier = read_json(held)
                there = earlier.get("identity", earlier["config"])
                if not isinstance(there, dict):
                    raise RunError(f"`{held}` was damaged: restore it, or start anew with `--overwrite`.")
                here = plain(identity)
                if on_tabletop and (began := earlier.get("physics")) and (now := physics()):
                    there, here = {**there, "physics": began}, {**here, "physics": now}
                _compare(path, there, here)
                _continue(held, earlier)
            try:
                yield RunFolder(path)
            except BaseException:
                if fresh and not _kept(path):
                    _clear(path)
                raise
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def refuse(path: Path, app: str, options: FolderOptions) -> None:
    """Refuse, before anything slow is loaded, a folder that no run of this app can have.

    Raises:
        RunError: If it is no folder, holds another app's run or what no run left, or another process owns it.
    """
    if path.is_symlink() and not path.exists():
        raise RunError(
            f"`{path}` is a link to `{path.readlink()}`, which is gone; bring it back or give another folder."
        )
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"`{path}` is a file; give a folder with `--out`.")
    refuse_owned(path)
    if not (path / CONFIG).exists():
        foreign = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if foreign:
            shown = ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")
            raise RunError(f"`{path}` holds what no run left there ({shown}); give another folder with `--out`.")
        return
    found = read_json(path / CONFIG).get("app", app)
    if found != app:
        raise RunError(f"`{path}` holds a run of `{found}`, not of `{app}`; give another folder with `--out`.")
    if not (options.resume or options.overwrite):
        raise RunError(f"`{path}` holds a run; give another folder with `--out`, or `--resume`, or `--overwrite`.")


def _compare(path: Path, there: JsonValue, here: JsonValue) -> None:
    found = differences(there, here)
    if found:
        shown = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
        raise RunError(
            f"`{path}` holds another run ({shown}); give a new folder with `--out`, or start anew with `--overwrite`."
        )


def _continue(held: Path, earlier: JsonValue) -> None:
    """Add to a run's record what goes on with it, where that is something else than before; the file stays as old."""
    now, began = provenance(), held.stat().st_mtime
    before = [earlier, *earlier.get("continued", [])]
    if any(before[-1].get(name) != value for name, value in now.items() if name != "started"):
        write_json(held, {**earlier, "continued": [*before[1:], now]})
        os.utime(held, (began, began))  # which says when the run began


def _kept(path: Path) -> list[Path]:
    """What a run has left besides its record, empty folders aside."""
    files = (entry for entry in path.rglob("*") if entry.is_file() and entry.name not in (CONFIG, LOCK))
    return [entry for entry in files if "tensorboard" not in entry.relative_to(path).parts]


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()

"""Files that are whole at any moment: JSON and text, replaced in one step."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

from noisegate_apps.runs.errors import RunError

JsonValue = Any

_ABOVE = Path(__file__).resolve().parents[3]
CHECKOUT = _ABOVE if (_ABOVE / "apps" / "noisegate_apps").is_dir() else None
"""The repository, where the library runs from one; None where it is installed."""


_HERE = Path("checkpoints")
CHECKPOINTS = _HERE if CHECKOUT is None or _HERE.exists() else CHECKOUT / _HERE
"""The repository's checkpoints: relative where the working directory has them, else where they lie."""
TRANSITIONS = "transitions.safetensors"
"""Beside a policy: what was observed in demonstrations and what followed."""


def derived(data: Path) -> Path:
    """Return where to keep what is derived from data: beside it, or in the user's cache where it is read-only.

    Whether a folder may be written is tried, since rights do not tell: a disk may be mounted for reading.
    """
    if _writable(data):
        return data
    name = blake2b(os.fsencode(data.resolve()), digest_size=8).hexdigest()
    for place in _users_places():
        kept = place / "noisegate" / name
        if _writable(kept, make=True):
            return kept
    raise RunError(
        f"`{data}` cannot be written, nor this user's cache or temporary folder; set `XDG_CACHE_HOME` to a folder that "
        "can."
    )


def _writable(folder: Path, *, make: bool = False) -> bool:
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _users_places() -> Iterator[Path]:
    """Where this user may keep files; a user of a container may have no home, a full machine no temporary folder."""
    with suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with suppress(OSError):
        yield Path(gettempdir())


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a process killed meanwhile, sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there is one where the disk is full


def write_json(path: Path, value: JsonValue) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text_atomically(path, json.dumps(plain(value), indent=2, sort_keys=True) + "\n")


class Record(dict[str, JsonValue]):
    """A JSON object that names its file where something is asked for that it lacks."""

    def __init__(self, pairs: Iterable[tuple[str, JsonValue]], file: Path) -> None:
        super().__init__(pairs)
        self.file = file

    def __missing__(self, name: str) -> JsonValue:
        raise RunError(f"`{self.file}` has no `{name}`; it was damaged or belongs elsewhere: restore it or remove it.")

    def __reduce__(self) -> tuple[type[Record], tuple[list[tuple[str, JsonValue]], Path]]:
        return Record, (list(self.items()), self.file)


def read_json(path: Path) -> JsonValue:
    """Read a JSON file that holds an object.

    Raises:
        RunError: If it holds something else, for example because it was cut off; later, too, if a name is missing.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: Record(pairs, path))
    except (ValueError, RecursionError) as error:
        raise RunError(f"`{path}` is not JSON ({error}); it was damaged: restore it or remove it.") from error
    if not isinstance(found, Record):
        raise RunError(f"`{path}` holds a {type(found).__name__}, no object; it was damaged: restore it or remove it.")
    return found


def plain(value: object) -> JsonValue:
    """Return the JSON form of a configuration or a record: dataclasses as objects, paths as `portable` names them."""
    return json.loads(json.dumps(value, default=_plain))


def portable(path: Path) -> str:
    """Name a path relative to the repository where it lies inside it, so that records hold on other machines."""
    resolved = path.resolve()
    if CHECKOUT is not None and resolved.is_relative_to(CHECKOUT):
        return str(resolved.relative_to(CHECKOUT))
    return str(path)


def _plain(value: object) -> JsonValue:
    if isinstance(value, Path):
        return portable(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"`{type(value).__name__}` has no JSON form here.")

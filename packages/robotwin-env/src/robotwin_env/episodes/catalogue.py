"""The catalogue of a set of episodes on disk: one JSON file of entries, one numpy file of states and actions.

It is derived data: damaged or of another version, it is built again. The JSON is written last and names the numpy
file by the fingerprint, so that a process killed at any moment leaves the older catalogue or the new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ..atomic_file import replacing, write_json
from ..errors import EpisodeError, EpisodeFormatError
from ..robotwin50 import STEP_LIMITS
from .episode import ACTION_SIZE
from .file import EpisodeFile, beside, episode_files
from .jpeg import frame_size

_log = logging.getLogger(__name__)

VERSION = 2
"""Of the files; another version is built again."""

Tables = Float32[np.ndarray, "2 steps 14"]
"""States, then actions, all episodes end to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraEntry:
    """One camera's frames in a file."""

    place: str
    """Path of the dataset in the file."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeEntry:
    """One episode file; its states and actions stand in the index's tables."""

    path: str
    """Below the root, with forward slashes."""
    size: int
    """Bytes."""
    modified_ns: int
    """Time of the file's last change."""
    beside: str
    """Names, sizes and times of change of the files beside it: RoboTwin's older layout has words and seeds there."""
    digest: str
    """Of the content: tables, instructions, and the first, middle and last frame of every camera."""
    task: str | None
    seed: int | None
    """The scene's seed."""
    steps: int
    frames: int
    frame_every: int
    """Steps between two frames; the first frame shows step 0."""
    steps_per_second: float
    cameras: Mapping[str, CameraEntry]
    instructions: tuple[int, ...]
    """Positions among the index's phrases; the first is the one to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadEpisode:
    """A file as it was read for an index."""

    entry: EpisodeEntry
    """Its `instructions` are still empty."""
    instructions: tuple[str, ...]
    states: Float32[np.ndarray, "steps 14"]
    actions: Float32[np.ndarray, "steps 14"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What is known of a set of episodes."""

    entries: tuple[EpisodeEntry, ...]
    phrases: tuple[str, ...]
    """Every instruction, once."""
    fingerprint: str

    @property
    def step_start(self) -> list[int]:
        """First row of every episode in the tables, and the number of rows."""
        return [0, *accumulate(entry.steps for entry in self.entries)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An episode of the catalogue on disk."""

    entry: EpisodeEntry
    instructions: tuple[str, ...]
    table: Tables


def build_catalogue(root: Path, cache: Path, on_file: Callable[[int, int], None] | None) -> Catalogue:
    """Bring the catalogue at `cache` up to date and return it; only files that are new or changed are read.

    Args:
        root: Folder of the episodes.
        cache: Folder of the catalogue.
        on_file: Called with the number of files seen and their total.

    Raises:
        EpisodeError: there are no episodes.
        EpisodeFormatError: an episode is damaged.
    """
    paths = episode_files(root)
    known = _load(cache)
    tasks = frozenset(STEP_LIMITS)
    phrases: dict[str, int] = {}
    entries: list[EpisodeEntry] = []
    tables: list[Tables] = []
    fresh = 0
    for place, path in enumerate(paths):
        status = path.stat()
        kept = known.get(path.relative_to(root).as_posix())
        stamp = (status.st_size, status.st_mtime_ns, stamp_beside(path))
        if kept is None or (kept.entry.size, kept.entry.modified_ns, kept.entry.beside) != stamp:
            read = read_entry(root, path, tasks)
            table: Tables = np.stack([read.states, read.actions])
            kept = _Known(entry=read.entry, instructions=read.instructions, table=table)
            fresh += 1
        numbers = tuple(phrases.setdefault(phrase, len(phrases)) for phrase in kept.instructions)
        entries.append(replace(kept.entry, instructions=numbers))
        tables.append(kept.table)
        if on_file is not None:
            on_file(place + 1, len(paths))
    warn_of_copies({str(root / entry.path): entry.digest for entry in entries})
    digest = blake2b(digest_size=16)
    for entry in entries:
        digest.update(f"{entry.path}\n{entry.digest}\n".encode())
    catalogue = Catalogue(entries=tuple(entries), phrases=tuple(phrases), fingerprint=digest.hexdigest())
    if fresh or len(known) != len(entries):
        _log.info("indexed %s: %d episodes, %d of them read", root, len(entries), fresh)
        _store(cache, catalogue, tables)
    return catalogue


def warn_of_copies(digests: Mapping[str, str]) -> None:
    """Warn of episodes that are there twice: they count twice in training, and may lie on both sides of a split.

    Args:
        digests: Name of each episode to the digest of its content.
    """
    first: dict[str, str] = {}
    copies = [(name, first[digest]) for name, digest in digests.items() if first.setdefault(digest, name) != name]
    if copies:
        _log.warning(
            "%d of %d episodes are there twice, such as %s and %s; remove the copies, or each counts twice",
            len(copies),
            len(digests),
            *reversed(copies[0]),
        )


def read_entry(root: Path, path: Path, tasks: frozenset[str]) -> ReadEpisode:
    """Read and check a file for an index.

    Args:
        root: Folder that the entry's path is relative to.
        path: The file.
        tasks: Names that are recognised as tasks where the file names none and a folder does.

    Raises:
        EpisodeFormatError: the file is damaged, or its frames are not evenly spaced.
    """
    status = path.stat()
    with EpisodeFile(path) as file:
        file.check_colours()
        header, frame_steps = file.header, file.frame_steps
        every = int(frame_steps[1] - frame_steps[0]) if len(frame_steps) > 1 else header.steps
        if not np.array_equal(frame_steps, np.arange(len(frame_steps)) * every) or not len(frame_steps):
            raise EpisodeFormatError(
                f"{path}: its frames belong to the steps {frame_steps[:8].tolist()}...; a training set needs them "
                "evenly spaced from step 0."
            )
        if len(frame_steps) * every < header.steps:
            raise EpisodeFormatError(
                f"{path}: its frames end at step {frame_steps[-1]} of {header.steps}; record the episode again."
            )
        digest = blake2b(digest_size=16)
        for part in (header.states.tobytes(), header.actions.tobytes(), repr(header.instructions).encode()):
            digest.update(part)
        digest.update(repr((len(frame_steps), every, header.steps_per_second)).encode())
        cameras = {}
        for camera in file.cameras:
            looked_at = sorted({0, len(frame_steps) // 2, len(frame_steps) - 1})
            encoded = file.encoded(camera, looked_at)
            try:
                height, width = frame_size(encoded[0])
            except EpisodeError as error:
                raise EpisodeFormatError(f"{path}: camera `{camera}`, frame 0: {error}") from error
            digest.update(b"".join([camera.encode(), *encoded]))
            cameras[camera] = CameraEntry(place=file.place(camera), height=height, width=width)
    return ReadEpisode(
        entry=EpisodeEntry(
            path=path.relative_to(root).as_posix(),
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            beside=stamp_beside(path),
            digest=digest.hexdigest(),
            task=header.task or next((part for part in path.parts[::-1] if part in tasks), None),
            seed=header.seed,
            steps=header.steps,
            frames=len(frame_steps),
            frame_every=every,
            steps_per_second=header.steps_per_second or 0.0,
            cameras=cameras,
            instructions=(),
        ),
        instructions=header.instructions,
        states=header.states,
        actions=header.actions,
    )


def stamp_beside(path: Path) -> str:
    """Say what `EpisodeEntry.beside` is for a file."""
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in beside(path)]
    return ";".join(f"{name} {size} {modified}" for name, size, modified in stamps)


def load_tables(cache: Path, catalogue: Catalogue) -> Tables:
    """Map the states and actions of a catalogue into memory.

    Raises:
        EpisodeError: the file is missing or damaged.
    """
    path = _tables_path(cache, catalogue.fingerprint)
    shape = (2, catalogue.step_start[-1], ACTION_SIZE)
    try:
        tables: Tables = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EpisodeError(f"{path} cannot be read ({error}); remove its folder, and it is built again.") from error
    if tables.shape != shape or tables.dtype != np.float32:
        raise EpisodeError(
            f"{path} holds {tables.dtype} {tables.shape}; float32 {shape} is needed. Remove its folder, and it is "
            "built again."
        )
    return tables


def _tables_path(cache: Path, fingerprint: str) -> Path:
    return cache / f"tables-{fingerprint}.npy"


def _store(cache: Path, catalogue: Catalogue, tables: Sequence[Tables]) -> None:
    joined = np.concatenate(tables, axis=1)
    with replacing(_tables_path(cache, catalogue.fingerprint)) as draft, draft.open("xb") as file:
        np.save(file, joined, allow_pickle=False)
    record = {
        "version": VERSION,
        "fingerprint": catalogue.fingerprint,
        "phrases": list(catalogue.phrases),
        "episodes": [asdict(entry) for entry in catalogue.entries],
    }
    write_json(cache / "episodes.json", record)
    for stale in [*cache.glob("tables-*.npy"), *cache.glob("statistics-*.json")]:
        if catalogue.fingerprint not in stale.name:
            stale.unlink(missing_ok=True)


def _load(cache: Path) -> Mapping[str, _Known]:
    """Return the catalogue on disk by path; empty where there is none that can be used."""
    path = cache / "episodes.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            return {}
        catalogue = Catalogue(
            entries=tuple(_entry(item) for item in record["episodes"]),
            phrases=tuple(map(str, record["phrases"])),
            fingerprint=str(record["fingerprint"]),
        )
        tables = load_tables(cache, catalogue)
        return {
            entry.path: _Known(
                entry=entry,
                instructions=tuple(catalogue.phrases[phrase] for phrase in entry.instructions),
                table=tables[:, start : start + entry.steps],
            )
            for entry, start in zip(catalogue.entries, catalogue.step_start, strict=False)
        }
    except FileNotFoundError:
        return {}
    except (EpisodeError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        _log.warning("the index at %s is damaged (%s) and is built again", path, error)
        return {}


def _entry(item: dict[str, Any]) -> EpisodeEntry:
    cameras = {name: CameraEntry(**camera) for name, camera in item["cameras"].items()}
    return EpisodeEntry(**{**item, "cameras": cameras, "instructions": tuple(item["instructions"])})

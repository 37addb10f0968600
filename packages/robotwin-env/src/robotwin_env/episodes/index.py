"""An index over many episode files: read once, kept on disk, so that training opens a file only for its pictures."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ..atomic_file import write_json
from ..errors import EpisodeError, EpisodeFormatError
from ._hdf5 import Source
from .catalogue import Catalogue, build_catalogue, load_tables
from .jpeg import decode_frame
from .statistics import ColumnStatistics, EpisodeStatistics

_log = logging.getLogger(__name__)

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""No right to write, or something that is no folder in its place."""


def _cache_of(root: Path) -> Path:
    """A folder of this user's for the index of a folder of episodes that cannot be written."""
    name = blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    for place in _users_places():
        kept = place / "robotwin-env" / f"index-{name}"
        try:
            kept.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=kept):  # rights do not tell, nor who made it
                return kept
        except OSError:
            continue
    raise EpisodeError(
        f"{root} cannot be written, nor this user's cache or temporary folder; name a folder for its index with "
        "`cache`."
    )


def _users_places() -> Iterator[Path]:
    """Where this user may keep files; a user of a container may have no home, a full machine no temporary folder."""
    with suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with suppress(OSError):
        yield Path(tempfile.gettempdir())


class EpisodeIndex:
    """Every episode below a folder, in the order of `episode_files`.

    `open` makes one. Its states and actions are memory-mapped; pictures stay in their files and are decoded one by
    one. The object may be pickled to workers, inherited by forked ones and used by several threads.
    """

    def __init__(self, root: Path, cache: Path, catalogue: Catalogue) -> None:
        self.root = root
        self.entries = catalogue.entries
        """One per episode."""
        self.phrases = catalogue.phrases
        """Every instruction of the set, once."""
        self.fingerprint = catalogue.fingerprint
        """Changes with the content or the names of the files; not when they are copied elsewhere."""
        self.step_start: Int64[np.ndarray, " episodes_plus_one"] = np.array(catalogue.step_start, dtype=np.int64)
        """Episode `e` owns rows `step_start[e]:step_start[e + 1]` of `states` and `actions`."""
        self._cache = cache
        self._files = OpenFiles()
        self._tables = load_tables(cache, catalogue)

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        cache: str | os.PathLike[str] | None = None,
        on_file: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Open the index of a folder; files that are new or have changed are read first.

        Args:
            root: Folder with episode files of either layout, at any depth.
            cache: Where the index lies; unless told, `.index` below `root`, or where nothing can be written there, a
                folder of the user's cache.
            on_file: Called with the number of files seen and their total.

        Raises:
            EpisodeError: there are no episodes.
            EpisodeFormatError: an episode is damaged; none is skipped.
        """
        folder = Path(root)
        if cache is not None:
            return cls(folder, Path(cache), build_catalogue(folder, Path(cache), on_file))
        below = folder / ".index"
        if below.is_dir() or os.access(folder, os.W_OK):
            try:
                return cls(folder, below, build_catalogue(folder, below, on_file))
            except OSError as error:
                if error.errno not in _NOT_WRITABLE:
                    raise
        kept = _cache_of(folder)
        _log.warning("%s cannot be written; its index is kept in %s", folder, kept)
        return cls(folder, kept, build_catalogue(folder, kept, on_file))

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.entries)

    @property
    def states(self) -> Float32[np.ndarray, "steps 14"]:
        """The state before each action, all episodes end to end."""
        states: Float32[np.ndarray, "steps 14"] = self._tables[0]
        return states

    @property
    def actions(self) -> Float32[np.ndarray, "steps 14"]:
        """The action at each step: RoboTwin's is the next state."""
        actions: Float32[np.ndarray, "steps 14"] = self._tables[1]
        return actions

    @property
    def statistics(self) -> EpisodeStatistics:
        """Normalisation statistics over every step; computed once and kept beside the index."""
        kept = self._cache / f"statistics-{self.fingerprint}.json"
        try:
            return EpisodeStatistics.parse(json.loads(kept.read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (json.JSONDecodeError, UnicodeDecodeError, EpisodeError) as error:
            _log.warning("%s is damaged (%s) and is computed again", kept, error)
        found = EpisodeStatistics(state=ColumnStatistics.of(self.states), action=ColumnStatistics.of(self.actions))
        try:
            write_json(kept, found.record(), indent=1)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            _log.info("%s cannot be written; the statistics are computed again next time", kept)
        return found

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Every phrasing of an episode's task; the first is the one to show."""
        return tuple(self.phrases[phrase] for phrase in self.entries[episode].instructions)

    def frames(self, episode: int, camera: str, indices: Sequence[int]) -> UInt8[np.ndarray, "n height width 3"]:
        """Decode frames of one camera of an episode; a frame named twice is decoded once.

        Args:
            episode: Position in `entries`.
            camera: `head`, `left_wrist`, `right_wrist`, ...
            indices: Which of the episode's frames.

        Returns:
            RGB.

        Raises:
            EpisodeError: there is no such camera or frame.
            EpisodeFormatError: a frame is damaged, or the file has changed since it was indexed.
        """
        entry = self.entries[episode]
        path = self.root / entry.path
        if camera not in entry.cameras:
            raise EpisodeError(f"{path}: no camera `{camera}`; it has {sorted(entry.cameras)}.")
        outside = [index for index in indices if not 0 <= index < entry.frames]
        if outside:
            raise EpisodeError(f"{path}: no frames {outside}; it has frames 0 to {entry.frames - 1}.")
        found = entry.cameras[camera]
        wanted = sorted(set(indices))
        encoded = self._files.entries(path, found.place, wanted, size=entry.size, modified_ns=entry.modified_ns)
        pictures: dict[int, UInt8[np.ndarray, "height width 3"]] = {}
        for index, data in zip(wanted, encoded, strict=True):
            try:
                pictures[index] = decode_frame(data, (found.height, found.width))
            except EpisodeError as error:
                raise EpisodeFormatError(f"{path}: camera `{camera}`, frame {index}: {error}") from error
        return np.stack([pictures[index] for index in indices])

    def _catalogue(self) -> Catalogue:
        return Catalogue(entries=self.entries, phrases=self.phrases, fingerprint=self.fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tables = load_tables(self._cache, self._catalogue())


class _Opened(threading.local):
    def __init__(self) -> None:
        self.process = 0
        self.sources: OrderedDict[Path, Source] = OrderedDict()


class OpenFiles:
    """The files that were read last.

    HDF5 handles cannot be shared by processes. A copy of this object that was pickled to a worker, or inherited by a
    forked one, therefore starts with none.

    Args:
        limit: Files that one thread keeps open.
    """

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._opened = _Opened()

    def entries(self, path: Path, place: str, indices: Sequence[int], *, size: int, modified_ns: int) -> list[bytes]:
        """Some entries of a dataset of byte strings.

        Args:
            path: The file.
            place: The dataset.
            indices: Which entries.
            size: Bytes that the file must have.
            modified_ns: Its time of change.

        Raises:
            EpisodeFormatError: the file cannot be read, or is another one than was indexed.
        """
        source = self._source(path, size, modified_ns)
        dataset = source.dataset(place, "S", 1)
        return source.entries(dataset, indices)

    def _source(self, path: Path, size: int, modified_ns: int) -> Source:
        opened = self._opened
        if opened.process != os.getpid():
            opened.process, opened.sources = os.getpid(), OrderedDict()
        if path in opened.sources:
            opened.sources.move_to_end(path)
            return opened.sources[path]
        try:
            source = Source(path)
        except FileNotFoundError as error:
            raise EpisodeFormatError(
                f"{path} has gone since it was indexed; bring it back, or open the set of episodes again."
            ) from error
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (size, modified_ns):
            source.file.close()
            raise source.fail("it has changed since it was indexed; open the set of episodes again.")
        opened.sources[path] = source
        while len(opened.sources) > self._limit:
            opened.sources.popitem(last=False)[1].file.close()
        return source

    def __getstate__(self) -> int:
        return self._limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)  # type: ignore[misc]  # nothing but the limit is carried over

"""LeRobot v3 data sets, read as RoboTwin's episodes are, and written so that LeRobot loads them; neither needs LeRobot.

A row of a data set is a step and a frame. Its rate is nominal: RoboTwin's own converter writes 50 for rows that are a
sixteenth of a second apart. What LeRobot has no place for (the true rate, seeds, further phrasings) is kept in
`meta/robotwin_env.json` by our writer and read where it is there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ..errors import EpisodeError, EpisodeFormatError, RobotwinEnvError
from ._lerobot_files import decode_picture, decode_video, names_in, read_table, rows_of_numbers
from .catalogue import CameraEntry, EpisodeEntry
from .episode import ACTION_SIZE, LARGEST, check_words
from .index import EpisodeIndex
from .statistics import ColumnStatistics, EpisodeStatistics
from .windows import Episodes, EpisodeWindows, WindowLayout

CAMERA_KEYS = MappingProxyType(
    {
        "head": "observation.images.cam_high",
        "left_wrist": "observation.images.cam_left_wrist",
        "right_wrist": "observation.images.cam_right_wrist",
    }
)
"""Our cameras and the features that RoboTwin's own converter writes them to."""
STATE, ACTION = "observation.state", "action"
VERSION = "v3.0"
OURS = "robotwin_env.json"
"""File of `meta` with what LeRobot has no place for."""


class LeRobotIndex:
    """The episodes of a LeRobot v3 data set: what `EpisodeIndex` is for RoboTwin's files.

    `open` makes one. States and actions are held in memory, pictures are decoded when they are asked for. The object
    may be pickled to workers, inherited by forked ones and used by several threads.
    """

    def __init__(self, root: Path, made: _Read) -> None:
        self.root = root
        self.entries = made.entries
        """One per episode."""
        self.phrases = made.phrases
        """Every instruction of the set, once."""
        self.fingerprint = made.fingerprint
        """Changes with the content and the choice of episodes."""
        lengths = [entry.steps for entry in made.entries]
        self.step_start: Int64[np.ndarray, " episodes_plus_one"] = np.cumsum([0, *lengths], dtype=np.int64)
        """Episode `e` owns rows `step_start[e]:step_start[e + 1]` of `states` and `actions`."""
        self.states: Float32[np.ndarray, "steps 14"] = made.states
        """The state before each action, all episodes end to end."""
        self.actions: Float32[np.ndarray, "steps 14"] = made.actions
        """The action at each step."""
        self._sources = made.sources

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        episodes: Sequence[int] | None = None,
        camera_keys: Mapping[str, str] = CAMERA_KEYS,
        steps_per_second: float | None = None,
    ) -> Self:
        """Read a data set's tables.

        Args:
            root: Its folder.
            episodes: Numbers of those to take; all where `None`. Only their files are read.
            camera_keys: Our cameras' names and the data set's features; features that are not named keep the last part
                of theirs.
            steps_per_second: The true rate (Hz), where it is not the data set's.

        Raises:
            MissingPackageError: `pyarrow` is not installed.
            EpisodeError: the data set has no such episode, or is another robot's.
            EpisodeFormatError: it is no whole LeRobot v3 data set.
        """
        try:
            return cls(Path(root), _read(Path(root), episodes, camera_keys, steps_per_second))
        except RobotwinEnvError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EpisodeFormatError(
                f"{root}: `meta` does not describe a whole LeRobot data set ({error!r}); copy or write it again."
            ) from error

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.entries)

    @property
    def statistics(self) -> EpisodeStatistics:
        """Normalisation statistics over every step."""
        return EpisodeStatistics(state=ColumnStatistics.of(self.states), action=ColumnStatistics.of(self.actions))

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Every phrasing of an episode's task; the first is the one to show."""
        return tuple(self.phrases[phrase] for phrase in self.entries[episode].instructions)

    def frames(self, episode: int, camera: str, indices: Sequence[int]) -> UInt8[np.ndarray, "n height width 3"]:
        """Decode frames of one camera of an episode, RGB; a frame named twice is decoded once.

        Raises:
            EpisodeError: there is no such camera or frame.
            EpisodeFormatError: a file is damaged.
        """
        entry = self.entries[episode]
        if camera not in entry.cameras:
            raise EpisodeError(f"{self.root}, {entry.path}: no camera `{camera}`; it has {sorted(entry.cameras)}.")
        outside = [index for index in indices if not 0 <= index < entry.frames]
        if outside:
            raise EpisodeError(
                f"{self.root}, {entry.path}: no frames {outside}; it has frames 0 to {entry.frames - 1}."
            )
        source = self._sources[episode].cameras[camera]
        wanted = [source.first + index for index in sorted(set(indices))]
        if source.rate is not None:
            pictures = decode_video(source.path, wanted, source.rate)
        else:
            stored = _stored_pictures(source.path, source.key, source.path.stat().st_mtime_ns)
            pictures = {row: decode_picture(source.path, row, stored[row]) for row in wanted}
        found = entry.cameras[camera]
        for row, picture in pictures.items():
            if picture.shape[:2] != (found.height, found.width):
                raise EpisodeFormatError(
                    f"{source.path}: frame {row} is {picture.shape[0]}x{picture.shape[1]} (height x width); the data "
                    f"set says {found.height}x{found.width}."
                )
        return np.stack([pictures[source.first + index] for index in indices])


def open_episodes(root: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None) -> Episodes:
    """Open a folder of training data, whichever it is: RoboTwin's files, or a LeRobot v3 data set.

    Args:
        root: The folder; one with `meta/info.json` is a LeRobot data set.
        cache: Where the index of RoboTwin's files lies; as in `EpisodeIndex.open`.

    Raises:
        EpisodeError: as `EpisodeIndex.open` and `LeRobotIndex.open`.
    """
    if (Path(root) / "meta" / "info.json").is_file():
        return LeRobotIndex.open(root)
    return EpisodeIndex.open(root, cache=cache)


class LeRobotWindows(EpisodeWindows):
    """Windows over a LeRobot v3 data set: `EpisodeWindows` over its `LeRobotIndex`.

    Args:
        dataset: Its folder, or an object with a `root` that is one, such as a `LeRobotDataset`.
        layout: What a window is made of.
        camera_keys: As in `LeRobotIndex.open`.
        episodes: Numbers of those to take; all where `None`.

    Raises:
        EpisodeError: the data set lacks a camera, or is another robot's.
    """

    def __init__(
        self,
        dataset: Any,
        layout: WindowLayout,
        camera_keys: Mapping[str, str] = CAMERA_KEYS,
        *,
        episodes: Sequence[int] | None = None,
    ) -> None:
        root = dataset if isinstance(dataset, str | os.PathLike) else getattr(dataset, "root", None)
        if root is None:
            raise EpisodeError(f"a {type(dataset).__name__} has no `root`; give the folder of a LeRobot v3 data set.")
        super().__init__(LeRobotIndex.open(root, episodes=episodes, camera_keys=camera_keys), layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CameraSource:
    path: Path
    key: str
    first: int
    """Number of the episode's first frame in the file."""
    rate: float | None
    """Of a video; `None` for pictures in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    cameras: Mapping[str, _CameraSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    entries: tuple[EpisodeEntry, ...]
    sources: tuple[_Source, ...]
    phrases: tuple[str, ...]
    states: Float32[np.ndarray, "steps 14"]
    actions: Float32[np.ndarray, "steps 14"]
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One file of rows."""

    path: Path
    episode: Int64[np.ndarray, " rows"]
    frame: Int64[np.ndarray, " rows"]
    state: Float32[np.ndarray, "rows 14"]
    action: Float32[np.ndarray, "rows 14"]


def _read(
    root: Path, chosen: Sequence[int] | None, camera_keys: Mapping[str, str], steps_per_second: float | None
) -> _Read:
    info = _info(root)
    listed = _episodes(root)
    numbers = sorted(listed) if chosen is None else list(chosen)
    missing = [number for number in numbers if number not in listed]
    if missing or not numbers:
        raise EpisodeError(f"{root} has no episodes {missing}; it has {len(listed)}, from 0 on.")
    cameras = _cameras(root, info, camera_keys)
    ours = _ours(root)
    rate = float(steps_per_second or ours.get("steps_per_second") or info["fps"])
    if not 0 < rate < math.inf:
        raise EpisodeFormatError(f"{root} has {rate} steps per second; name a positive rate with `steps_per_second`.")
    phrases: dict[str, int] = {}
    tables: dict[Path, _Table] = {}
    entries, sources, states, actions = [], [], [], []
    digest = blake2b(repr((numbers, rate, sorted(cameras))).encode(), digest_size=16)
    for number in numbers:
        row = listed[number]
        path = root / info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        if path not in tables:
            tables = {path: _table(root, path)}  # episodes lie in the order of the files: one at a time is enough
        table = tables[path]
        rows = np.flatnonzero(table.episode == number)
        if len(rows) != row["length"] or not np.array_equal(table.frame[rows], np.arange(len(rows))) or not len(rows):
            raise EpisodeFormatError(f"{path}: episode {number} has {len(rows)} rows; {row['length']} are listed.")
        states.append(table.state[rows])
        actions.append(table.action[rows])
        told = ours.get("episodes", {}).get(str(number), {})
        words = tuple(told.get("instructions") or row["tasks"])
        check_words(words, f"{path}: episode {number}")
        for part in (states[-1], actions[-1]):
            digest.update(part.tobytes())
        digest.update(repr(words).encode())
        status = path.stat()
        sources.append(_source(root, info, row, cameras, path, int(rows[0])))
        entries.append(
            EpisodeEntry(
                path=f"{path.relative_to(root).as_posix()}#{number}",
                size=status.st_size,
                modified_ns=status.st_mtime_ns,
                beside="",
                digest=blake2b(states[-1].tobytes() + actions[-1].tobytes(), digest_size=16).hexdigest(),
                task=told.get("task"),
                seed=told.get("seed"),
                steps=len(rows),
                frames=len(rows),
                frame_every=1,
                steps_per_second=rate,
                cameras={name: entry for name, (_, entry) in cameras.items()},
                instructions=tuple(phrases.setdefault(phrase, len(phrases)) for phrase in words),
            )
        )
    return _Read(
        entries=tuple(entries),
        sources=tuple(sources),
        phrases=tuple(phrases),
        states=np.concatenate(states),
        actions=np.concatenate(actions),
        fingerprint=digest.hexdigest(),
    )


def _info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, features = info["codebase_version"], info["features"]
    except FileNotFoundError:
        raise EpisodeFormatError(f"{root} has no `meta/info.json`; name the folder of a LeRobot data set.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise EpisodeFormatError(f"{path} is no description of a LeRobot data set ({error!r}).") from error
    if version != VERSION:
        raise EpisodeFormatError(
            f"{path} says `{version}`; {VERSION} is read. Convert older ones with LeRobot's "
            "`convert_dataset_v21_to_v30`."
        )
    for key in (STATE, ACTION):
        shape = tuple(features[key]["shape"]) if key in features else None
        if shape != (ACTION_SIZE,):
            raise EpisodeError(
                f"{root}: `{key}` has shape {shape}; ({ACTION_SIZE},) is needed, two arms of six joints."
            )
    return info


def _episodes(root: Path) -> dict[int, dict[str, Any]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise EpisodeFormatError(f"{root} has no `meta/episodes/*/*.parquet`; the data set was never finished.")
    rows: dict[int, dict[str, Any]] = {}
    for file in files:
        table = read_table(file, [name for name in names_in(file) if not name.startswith("stats/")])
        for row in table.to_pylist():
            if row["episode_index"] in rows:
                raise EpisodeFormatError(f"{file} lists episode {row['episode_index']} a second time; write it again.")
            rows[int(row["episode_index"])] = row
    return rows


def _ours(root: Path) -> dict[str, Any]:
    path = root / "meta" / OURS
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EpisodeFormatError(f"{path} is damaged ({error}); remove it, or copy the data set again.") from error
    return told


def _cameras(root: Path, info: Mapping[str, Any], camera_keys: Mapping[str, str]) -> dict[str, tuple[str, CameraEntry]]:
    names = {key: name for name, key in camera_keys.items()}
    found = {}
    for key, feature in info["features"].items():
        if feature["dtype"] in ("image", "video"):
            shape = tuple(feature["shape"])
            height, width = shape[1:] if shape[0] == 3 and shape[-1] != 3 else shape[:2]
            name = names.get(key, key.rpartition(".")[2])
            found[name] = (key, CameraEntry(place=key, height=int(height), width=int(width)))
    missing = [key for name, key in camera_keys.items() if camera_keys is not CAMERA_KEYS and name not in found]
    if missing:
        raise EpisodeError(f"{root} has no features {missing}; its pictures are {[key for key, _ in found.values()]}.")
    return found


def _source(
    root: Path,
    info: Mapping[str, Any],
    row: Mapping[str, Any],
    cameras: Mapping[str, tuple[str, CameraEntry]],
    table: Path,
    first: int,
) -> _Source:
    found = {}
    for name, (key, _) in cameras.items():
        if info["features"][key]["dtype"] == "image":
            found[name] = _CameraSource(path=table, key=key, first=first, rate=None)
            continue
        place = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
        begins = float(row[f"videos/{key}/from_timestamp"]) * info["fps"]
        path = root / info["video_path"].format(video_key=key, **place)
        found[name] = _CameraSource(path=path, key=key, first=round(begins), rate=float(info["fps"]))
    return _Source(cameras=found)


def _table(root: Path, path: Path) -> _Table:
    table = read_table(path, ["episode_index", "frame_index", STATE, ACTION])

    def numbers(name: str) -> Float32[np.ndarray, "rows 14"]:
        found = rows_of_numbers(table[name], ACTION_SIZE)
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused
            values: Float32[np.ndarray, "rows 14"] | None = None if found is None else found.astype(np.float32)
        if values is None or not (np.abs(values) <= LARGEST).all():
            raise EpisodeFormatError(
                f"{path}: `{name}` does not hold {ACTION_SIZE} finite numbers in every row, none beyond {LARGEST:g}."
            )
        return values

    return _Table(
        path=path,
        episode=table["episode_index"].to_numpy(),
        frame=table["frame_index"].to_numpy(),
        state=numbers(STATE),
        action=numbers(ACTION),
    )


@lru_cache(maxsize=4)
def _stored_pictures(path: Path, key: str, modified_ns: int) -> list[bytes]:
    """Encoded pictures of one camera in one file of rows."""
    cells = read_table(path, [key])[key].to_pylist()
    return [cell if isinstance(cell, bytes) else (cell or {}).get("bytes") or b"" for cell in cells]

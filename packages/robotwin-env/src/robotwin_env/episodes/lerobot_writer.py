"""Episodes written as a LeRobot v3 data set that LeRobot loads."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..atomic_file import write_json
from ..errors import EpisodeError
from ._lerobot_files import PIXELS, arrow, encode_video
from .episode import ACTION_SIZE, Episode
from .lerobot import ACTION, CAMERA_KEYS, OURS, STATE, VERSION

Rows = Literal["steps", "frames"]

CHUNK = 1000
"""Files per folder."""
FILE_BYTES = 100 << 20
"""A file of rows that has grown to this is followed by another."""
_NAMES = [
    f"{side}_{part}" for side in ("left", "right") for part in (*(f"joint_{joint}" for joint in range(6)), "gripper")
]
_INDEX = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_SEEN = 32
"""Frames of each episode that the statistics of pictures are taken from, at most."""


def write_lerobot(
    root: str | os.PathLike[str],
    episodes: Iterable[Episode],
    *,
    fps: int | None = None,
    camera_keys: Mapping[str, str] = CAMERA_KEYS,
    pictures: Literal["video", "png"] = "video",
    rows: Rows = "steps",
    robot_type: str = "two_arms",
) -> Path:
    """Write episodes as a LeRobot v3 data set; the folder appears whole or not at all.

    Args:
        root: The new folder.
        episodes: With the same cameras of the same size, and one rate.
        fps: What LeRobot calls the rate, a whole number; the true one, rounded, where `None`. The true one is kept too.
        camera_keys: Our cameras' names and the features they are written to; others go to `observation.images.<name>`.
        pictures: `video`: H.264, small, colours at half the resolution; `png`: every pixel as it is.
        rows: A row is a state, a frame and an action. `steps`: one of every step, each of which must have a frame;
            `frames`: one of every frame, at so much lower a rate, and its action is the last one before the next frame.
        robot_type: LeRobot's name for the robot.

    Returns:
        The folder.

    Raises:
        MissingPackageError: `pyarrow` or `av` is not installed.
        EpisodeError: the folder is there already, there are no episodes, or they do not fit together.
    """
    folder = Path(root)
    if folder.exists():
        raise EpisodeError(f"{folder} exists; a data set is written to a new folder.")
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        writer = _Writer(draft, fps=fps, camera_keys=camera_keys, pictures=pictures)
        for number, episode in enumerate(episodes):
            writer.add(_in_rows(episode, number, rows))
        writer.finish(robot_type)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _in_rows(episode: Episode, number: int, rows: Rows) -> Episode:
    """Bring an episode to one frame for each state and action; a frame that shows the end has no action."""
    steps = episode.image_steps
    every = int(steps[1]) if len(steps) > 1 else episode.steps
    kept = np.arange(0, episode.steps, every)
    if not np.array_equal(steps[steps < episode.steps], kept):
        raise EpisodeError(
            f"episode {number} has frames at the steps {steps[:4].tolist()}... of {episode.steps}; a row needs one, so "
            "they must be evenly spaced, from the first step to the last."
        )
    if every != 1 and rows == "steps":
        raise EpisodeError(
            f"episode {number} has a frame every {every} steps; a row of LeRobot's is a step and a frame, so collect "
            'with `--frame-stride 1`, or write a row of every frame alone, at a lower rate, with `rows="frames"` '
            "(`export-lerobot --rows frames`)."
        )
    rate = episode.steps_per_second or episode.frequency
    if rate is None:
        raise EpisodeError(f"episode {number} does not say its rate; set `steps_per_second`.")
    return Episode(
        states=episode.states[kept],
        actions=episode.actions[np.minimum(kept + every, episode.steps) - 1],
        instructions=episode.instructions,
        steps_per_second=rate / every,
        images={camera: images[: len(kept)] for camera, images in episode.images.items()},
        task=episode.task,
        seed=episode.seed,
        success=episode.success,
    )


class _Writer:
    def __init__(
        self, root: Path, *, fps: int | None, camera_keys: Mapping[str, str], pictures: Literal["video", "png"]
    ) -> None:
        self._root = root
        self._fps = fps
        self._keys = camera_keys
        self._video = pictures == "video"
        self._pa, self._parquet = arrow(), arrow("pyarrow.parquet")
        self._rate: float | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, list[np.ndarray[Any, Any]]] = {STATE: [], ACTION: []}
        self._seen: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._count = 0
        self._file = 0
        self._open: Any = None

    def add(self, episode: Episode) -> None:
        """Write one episode."""
        number = len(self._rows)
        self._check(episode, number)
        assert self._fps is not None
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        steps = np.arange(episode.steps)
        columns: dict[str, Any] = {
            STATE: self._vectors(episode.states),
            ACTION: self._vectors(episode.actions),
            "timestamp": (steps / self._fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(episode.steps, number),
            "index": self._count + steps,
            "task_index": np.full(episode.steps, task),
        }
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [episode.instruction],
            "length": episode.steps,
            "dataset_from_index": self._count,
            "dataset_to_index": self._count + episode.steps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for camera, images in episode.images.items():
            key = self._key(camera)
            self._seen.setdefault(key, []).append(_sampled(images))
            if self._video:
                row |= self._write_video(key, images, number)
            else:
                columns[key] = [{"bytes": _png(image), "path": None} for image in images]
        row |= self._write_rows(columns)
        self._rows.append(row)
        self._told[str(number)] = {
            "instructions": list(episode.instructions),
            "task": episode.task,
            "seed": episode.seed,
            "success": episode.success,
        }
        self._numbers[STATE].append(episode.states)
        self._numbers[ACTION].append(episode.actions)
        self._count += episode.steps

    def finish(self, robot_type: str) -> None:
        """Write what is said of all episodes together."""
        if not self._rows:
            raise EpisodeError("there are no episodes; a data set has at least one.")
        if self._open is not None:
            self._open.close()
        meta = self._root / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        table = self._pa.Table.from_pylist(self._rows)
        self._parquet.write_table(table, meta / "episodes" / "chunk-000" / "file-000.parquet")
        self._write_tasks(meta / "tasks.parquet")
        write_json(meta / "stats.json", self._statistics(), indent=1)
        write_json(meta / "info.json", self._info(robot_type), indent=1)
        write_json(meta / OURS, {"steps_per_second": self._rate, "episodes": self._told}, indent=1)

    def _check(self, episode: Episode, number: int) -> None:
        rate = episode.steps_per_second
        assert rate is not None
        sizes = {camera: images.shape[1:3] for camera, images in episode.images.items()}
        if self._rate is None:
            self._rate, self._sizes = rate, sizes
            self._fps = self._fps or max(1, round(rate))
        if abs(self._rate - rate) > 1e-3 * self._rate:
            raise EpisodeError(f"episode {number} has {rate:.4g} steps per second, the first has {self._rate:.4g}.")
        if sizes != self._sizes:
            raise EpisodeError(f"episode {number} has the cameras {sizes} (height, width); the first {self._sizes}.")

    def _key(self, camera: str) -> str:
        return self._keys.get(camera, f"observation.images.{camera}")

    def _vectors(self, values: np.ndarray[Any, Any]) -> Any:
        flat = self._pa.array(values.reshape(-1), self._pa.float32())
        return self._pa.FixedSizeListArray.from_arrays(flat, ACTION_SIZE)

    def _write_video(self, key: str, images: UInt8[np.ndarray, "n h w 3"], number: int) -> dict[str, Any]:
        assert self._fps is not None
        chunk, file = divmod(number, CHUNK)
        path = self._root / "videos" / key / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode_video(path, images, self._fps)
        place = {
            "chunk_index": chunk,
            "file_index": file,
            "from_timestamp": 0.0,
            "to_timestamp": len(images) / self._fps,
        }
        return {f"videos/{key}/{name}": value for name, value in place.items()}

    def _write_rows(self, columns: Mapping[str, Any]) -> dict[str, int]:
        table = self._pa.table(dict(columns))
        chunk, file = divmod(self._file, CHUNK)
        path = self._root / "data" / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet"
        if self._open is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = self._parquet.ParquetWriter(path, table.schema)
        self._open.write_table(table)
        if path.stat().st_size > FILE_BYTES:
            self._open.close()
            self._open, self._file = None, self._file + 1
        return {"data/chunk_index": chunk, "data/file_index": file}

    def _write_tasks(self, path: Path) -> None:
        """As pandas writes a table whose index is the task's text, which is how LeRobot reads it."""
        index = "__index_level_0__"
        table = self._pa.table({"task_index": list(self._tasks.values()), index: list(self._tasks)})
        kinds = {"task_index": ("int64", "task_index"), index: ("unicode", None)}
        described = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [
                {"name": shown, "field_name": field, "pandas_type": kind, "numpy_type": kind, "metadata": None}
                for field, (kind, shown) in kinds.items()
            ],
            "pandas_version": "2.2.3",
        }
        self._parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(described)}), path)

    def _info(self, robot_type: str) -> dict[str, Any]:
        vector = {"dtype": "float32", "shape": [ACTION_SIZE], "names": _NAMES}
        features: dict[str, Any] = {STATE: vector, ACTION: vector}
        for camera, (height, width) in self._sizes.items():
            feature: dict[str, Any] = {"dtype": "video" if self._video else "image"}
            feature |= {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
            if self._video:
                video = {"height": height, "width": width, "codec": "h264", "pix_fmt": PIXELS, "fps": self._fps}
                video |= {"channels": 3, "is_depth_map": False}
                feature["info"] = {f"video.{name}": value for name, value in video.items()} | {"has_audio": False}
            features[self._key(camera)] = feature
        features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in _INDEX.items()}
        file = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        return {
            "codebase_version": VERSION,
            "robot_type": robot_type,
            "fps": self._fps,
            "total_episodes": len(self._rows),
            "total_frames": self._count,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": f"data/{file}.parquet",
            "video_path": f"videos/{{video_key}}/{file}.mp4" if self._video else None,
            "features": features,
        }

    def _statistics(self) -> dict[str, Any]:
        numbers = {key: np.concatenate(parts) for key, parts in self._numbers.items()}
        found = {key: _described(table, np.asarray([len(table)])) for key, table in numbers.items()}
        for key, parts in self._seen.items():
            pixels = np.concatenate([part.reshape(-1, 3) for part in parts]) / 255.0
            described = _described(pixels, np.asarray([sum(map(len, parts))]))
            found[key] = {
                name: value if name == "count" else [[[number]] for number in value]
                for name, value in described.items()
            }
        return found


def _described(table: np.ndarray[Any, Any], count: np.ndarray[Any, Any]) -> dict[str, list[Any]]:
    values = table.astype(np.float64)
    measured = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    measured |= {name: np.quantile(values, share, axis=0) for name, share in _QUANTILES.items()}
    return {name: value.tolist() for name, value in measured.items()} | {"count": count.tolist()}


def _sampled(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _SEEN)).astype(int))
    step = max(1, images.shape[1] // 64)
    sampled: UInt8[np.ndarray, "n h w 3"] = images[chosen, ::step, ::step]
    return sampled


def _png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()

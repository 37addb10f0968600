"""RoboTwin's two layouts of an episode's file, and what either says before any picture is decoded.

The current one (XPolicyLab v1.0): `data_format_version`, `instructions` (JSON list), `additional_info/frequency`,
`state/` and `action/` with `{left,right}_arm_joint_states (steps, 6)`, `{left,right}_ee_joint_states (steps, 1)`,
`{left,right}_ee_poses (steps, 7)`, and `vision/cam_*/{colors, shape, intrinsic_matrix (frames, 3, 3),
extrinsics_matrix (frames, 4, 4)}`. The last is the camera's pose in the world, looking along -z with y up.

Ours, each absent where RoboTwin's meaning holds: root attributes `task`, `seed`, `success`, `steps_per_second`;
`additional_info/frame_steps`, where the cameras did not see every step, as RoboTwin's own tools expect;
`vision/cam_*/first_frame_mean_rgb`, by which a reader notices exchanged colours; `extra/*`. Always there: the attribute
`frame_stride` of `vision`: steps between two frames; 0 where they are not evenly spaced, or there is only one.

RoboTwin's `additional_info/frequency` is no frequency: it is the number of physics steps (250 a second) between two
rows, 15 in its configurations, which is 16.7 rows a second. Its files are known by their attribute `source_path`.

The older one: its observations stacked over time, one row more than there are actions, as the action at a row is the
joint state of the next one. Instructions lie beside the data, in `instructions/<episode>.json`; the rate is not
recorded, and every configuration that RoboTwin ships keeps a row every 15 physics steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..conventions import CameraMatrices
from ..robotwin.simulator.adapter import CAMERAS, STORED_CAMERAS
from ._hdf5 import Source
from .episode import ACTION_SIZE, Episode
from .jpeg import encode_frame

VERSION = "v1.0"
PHYSICS_HZ = 250
"""Physics steps per second, RoboTwin's and ours."""
COLUMNS = {
    "left_arm_joint_states": slice(0, 6),
    "left_ee_joint_states": slice(6, 7),
    "right_arm_joint_states": slice(7, 13),
    "right_ee_joint_states": slice(13, 14),
}
"""Where each dataset's columns stand among the 14 numbers."""
SIDES = ("left", "right")
SAVE_EVERY = 15
"""Physics steps between two rows of the older layout."""
_STORED = {stored: ours for ours, stored in STORED_CAMERAS.items()}
_OLDER = {theirs: ours for ours, theirs in CAMERAS.items()}
_GL_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])
"""A camera that looks along -z with y up, seen from one that looks along z with y down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The pictures of one camera in an open file."""

    dataset: h5py.Dataset
    """`(frames,)` byte strings, one JPEG each."""
    size: tuple[int, int] | None
    """`(height, width)`, where the file says it."""
    first_mean: NDArray[np.float32] | None = None
    """`(3,)` mean RGB of the first frame as it was before encoding, where the file says it."""
    matrices: CameraMatrices | None = None
    """Its matrices, where the file says them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """An episode's small parts; fields as in `Episode`."""

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: tuple[str, ...]
    frequency: int | None
    steps_per_second: float
    frame_steps: NDArray[np.int32]
    frames: dict[str, Frames]
    ee_poses: NDArray[np.float32] | None
    task: str | None = None
    seed: int | None = None
    success: bool | None = None
    extra: dict[str, NDArray[np.generic]] = field(default_factory=dict)


def write_current(file: h5py.File, episode: Episode, frequency: int) -> None:
    """Fill an empty file, in the current layout."""
    file.attrs["source_format"] = "RoboTwin"
    for name, kind in (("task", str), ("seed", int), ("success", bool), ("steps_per_second", float)):
        value = getattr(episode, name)
        if value is not None:
            file.attrs[name] = kind(value)
    file["data_format_version"] = VERSION
    file["instructions"] = json.dumps(list(episode.instructions), ensure_ascii=False)
    file["additional_info/frequency"] = np.int32(frequency)
    if not np.array_equal(episode.image_steps, np.arange(episode.steps)):
        file["additional_info/frame_steps"] = episode.image_steps
    for group, values in (("state", episode.states), ("action", episode.actions)):
        for name, columns in COLUMNS.items():
            file[f"{group}/{name}"] = values[:, columns]
    if episode.ee_poses is not None:
        for index, side in enumerate(SIDES):
            file[f"state/{side}_ee_poses"] = episode.ee_poses[:-1, index]
            file[f"action/{side}_ee_poses"] = episode.ee_poses[1:, index]
    if episode.images:
        file.require_group("vision").attrs["frame_stride"] = _stride(episode)
    for camera, images in episode.images.items():
        group = file.create_group(f"vision/{STORED_CAMERAS.get(camera, f'cam_{camera}')}")
        _write_frames(group, images)
        if camera in episode.camera_matrices:
            matrices = episode.camera_matrices[camera]
            group["intrinsic_matrix"] = matrices.intrinsics
            group["extrinsics_matrix"] = _in_world(matrices.extrinsics)
    for name, array in episode.extra.items():
        file[f"extra/{name}"] = array


def _stride(episode: Episode) -> int:
    """Steps between two frames; 0 where they are not evenly spaced, or there is only one."""
    strides = np.unique(np.diff(episode.image_steps))
    return int(strides[0]) if len(strides) == 1 else 0


def _in_world(extrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
    """Poses of cameras in the world, as RoboTwin stores them, from what takes the world to the camera."""
    last = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (len(extrinsics), 1, 4))
    poses: NDArray[np.float32] = (
        np.linalg.inv(np.concatenate([extrinsics.astype(np.float64), last], axis=1)) @ _GL_TO_CV
    ).astype(np.float32)
    return poses


def _to_camera(poses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo `_in_world`."""
    extrinsics: NDArray[np.float32] = np.linalg.inv(poses.astype(np.float64) @ _GL_TO_CV)[:, :3].astype(np.float32)
    return extrinsics


def _write_frames(group: h5py.Group, images: NDArray[np.uint8]) -> None:
    encoded = [encode_frame(image) for image in images]
    width = max(map(len, encoded), default=1)
    group.create_dataset("colors", data=np.array(encoded, dtype=f"S{width}"))
    group["shape"] = np.array(images.shape[1:], dtype=np.int32)
    if encoded:
        group["first_frame_mean_rgb"] = images[0].mean(axis=(0, 1)).astype(np.float32)


def read_current(source: Source) -> Contents:
    """The contents of a file of the current layout."""
    version = source.text("data_format_version")
    if version != VERSION:
        raise source.fail(f"`data_format_version` is {version!r}; this reader knows {VERSION!r}.")
    states, actions = (_joints(source, group) for group in ("state", "action"))
    if len(states) != len(actions):
        raise source.fail(f"{len(states)} states but {len(actions)} actions; there must be one action per state.")
    frame_steps = np.arange(len(states), dtype=np.int32)
    if source.has("additional_info/frame_steps"):
        frame_steps = source.numbers("additional_info/frame_steps", "i", 1).astype(np.int32)
    frequency = _frequency(source)
    return Contents(
        states=states,
        actions=actions,
        instructions=source.texts("instructions"),
        frequency=frequency,
        steps_per_second=_steps_per_second(source, frequency),
        frame_steps=frame_steps,
        frames={
            _STORED.get(name, name.removeprefix("cam_")): _current_frames(source, f"vision/{name}")
            for name in source.members("vision")
        },
        ee_poses=_ee_poses(source),
        task=source.attribute("task", str),
        seed=source.attribute("seed", int),
        success=source.attribute("success", bool),
        extra={name: source.numbers(f"extra/{name}") for name in source.members("extra")},
    )


def _joints(source: Source, group: str) -> NDArray[np.float32]:
    parts = [source.rows(f"{group}/{name}", columns.stop - columns.start) for name, columns in COLUMNS.items()]
    return _join(source, group, parts)


def _join(source: Source, where: str, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Put the parts of one table side by side."""
    lengths = sorted({len(part) for part in parts})
    if len(lengths) > 1:
        raise source.fail(f"the datasets of `{where}` have {lengths} rows; all must have as many.")
    return np.concatenate(parts, axis=1)


def _frequency(source: Source) -> int:
    value = source.numbers("additional_info/frequency", "i")
    if value.size != 1 or int(value.reshape(-1)[0]) < 1:
        raise source.fail(f"`additional_info/frequency` is {value.tolist()}; it must be one number of 1 Hz or more.")
    return int(value.reshape(-1)[0])


def _steps_per_second(source: Source, frequency: int) -> float:
    written = source.attribute("steps_per_second", float)
    if written is not None:
        return written
    return PHYSICS_HZ / frequency if source.has_attribute("source_path") else float(frequency)


def _ee_poses(source: Source) -> NDArray[np.float32] | None:
    places = [[f"{group}/{side}_ee_poses" for side in SIDES] for group in ("state", "action")]
    if not all(source.has(place) for pair in places for place in pair):
        return None
    state, action = (
        _join(source, "ee_poses", [source.rows(place, 7) for place in pair]).reshape(-1, 2, 7) for pair in places
    )
    return np.concatenate([state, action[-1:]])


def _current_frames(source: Source, place: str) -> Frames:
    """The pictures of one camera's group."""
    dataset = source.dataset(f"{place}/colors", "S", 1)
    shape = source.numbers(f"{place}/shape", "i", 1).tolist()
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise source.fail(f"`{place}/shape` is {shape}; it must be [height, width, 3].")
    mean = f"{place}/first_frame_mean_rgb"
    return Frames(
        dataset=dataset,
        size=(int(shape[0]), int(shape[1])),
        first_mean=source.rows(mean, None) if source.has(mean) else None,
        matrices=_current_matrices(source, place),
    )


def _current_matrices(source: Source, place: str) -> CameraMatrices | None:
    intrinsics = f"{place}/intrinsic_matrix"
    # RoboTwin's collector writes the second name, its converter the first.
    extrinsics = next(
        (name for name in (f"{place}/extrinsic_matrix", f"{place}/extrinsics_matrix") if source.has(name)), None
    )
    if extrinsics is None or not source.has(intrinsics):
        return None
    poses = source.table(extrinsics, (4, 4))
    if np.abs(np.linalg.det(poses[:, :3, :3]) - 1.0).max(initial=0.0) > 1e-3:
        raise source.fail(f"`{extrinsics}` holds matrices that are no poses; drop it, or record the episode again.")
    return CameraMatrices(intrinsics=source.table(intrinsics, (3, 3)), extrinsics=_to_camera(poses))


def read_older(source: Source) -> Contents:
    """The contents of a file of the older layout."""
    joints = source.rows("joint_action/vector", ACTION_SIZE)
    if len(joints) < 2:
        raise source.fail(f"`joint_action/vector` has {len(joints)} rows; an action needs the next row too.")
    ee_poses = None
    places = [f"endpose/{side}_endpose" for side in SIDES]
    if all(source.has(place) for place in places):
        ee_poses = _join(source, "endpose", [source.rows(place, 7) for place in places]).reshape(-1, 2, 7)
    stored = {}
    for name in source.members("observation"):
        if source.has(f"observation/{name}/rgb"):
            stored[_OLDER.get(name, name)] = _older_frames(source, f"observation/{name}")
    return Contents(
        states=joints[:-1],
        actions=joints[1:],
        instructions=_instructions(source),
        frequency=None,
        steps_per_second=PHYSICS_HZ / SAVE_EVERY,
        frame_steps=np.arange(len(joints), dtype=np.int32),
        frames=stored,
        ee_poses=ee_poses,
    )


def _older_frames(source: Source, place: str) -> Frames:
    """The pictures of one camera's group."""
    matrices = [f"{place}/intrinsic_cv", f"{place}/extrinsic_cv"]
    found = None
    if all(source.has(matrix) for matrix in matrices):
        found = CameraMatrices(
            intrinsics=source.table(matrices[0], (3, 3)), extrinsics=source.table(matrices[1], (3, 4))
        )
    return Frames(dataset=source.dataset(f"{place}/rgb", "S", 1), size=None, matrices=found)


def instructions_path(path: Path) -> Path:
    """Where RoboTwin writes an episode's instructions in this layout."""
    return path.parent.parent / "instructions" / f"{path.stem}.json"


def _instructions(source: Source) -> tuple[str, ...]:
    path = instructions_path(source.path)
    if not path.is_file():
        raise source.fail(f"no instructions lie beside it; RoboTwin writes them to {path}.")
    try:
        seen = json.loads(path.read_text(encoding="utf-8").removeprefix("\N{BOM}"))["seen"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise source.fail(f'{path} is not RoboTwin\'s `{{"seen": [...], "unseen": [...]}}` ({error!r}).') from error
    return source.parse_texts(json.dumps(seen), f"`seen` of {path}")

"""Demonstrations in memory: every episode's frames, states and actions, and the windows that Stage 1 learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from noisegate_apps.data.pack import read_pack, write_pack
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import derived
from noisegate_apps.runs.processes import worker_processes
from robotwin_env.episodes import Episode, EpisodeFile, beside, check_rates, episode_files, warn_of_copies
from robotwin_env.splits import check_recordings
from wam_backbone.cameras import CAMERAS, tile
from wam_backbone.errors import ShapeError

FRAMES_PER_LATENT = 4
"""Wan's temporal compression: one latent for the first frame, then one for every four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """Episodes laid end to end; episode `e` owns frames `frame_start[e]:frame_start[e + 1]`, likewise steps.

    Frame `i` of an episode shows the moment before its action `i * frame_stride`.
    """

    frames: UInt8[Tensor, "frames rows columns 3"]
    frame_start: Int[Tensor, " episodes_plus_one"]
    states: Float[Tensor, "steps 14"]
    actions: Float[Tensor, "steps 14"]
    step_start: Int[Tensor, " episodes_plus_one"]
    instructions: tuple[str, ...]
    """One per episode."""
    tasks: tuple[str, ...]
    """One per episode."""
    seeds: tuple[int | None, ...]
    """One per episode: its scene's, where it is known."""
    success: tuple[bool, ...]
    """One per episode: whether it solved its task."""
    object_positions: Mapping[str, Float[Tensor, "frames 3"]]
    """Object `task/name` to positions (m), NaN in the frames of other tasks: labels for probes, unseen by policies."""
    frame_stride: int
    fingerprint: str
    """Changes with any of the files."""

    @property
    def digest(self) -> str:
        """Of what is in the files, wherever and whenever they were written; hashes a gigabyte in about a second."""
        digest = blake2b(digest_size=16)
        for tensor in (self.frames, self.frame_start, self.states, self.actions, self.step_start):
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(repr([*map(list, (self.instructions, self.tasks, self.success)), self.frame_stride]).encode())
        return digest.hexdigest()

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.tasks)


def load_demonstrations(
    root: Path, *, frame_stride: int | None = None, picture_size: tuple[int, int] | None = None, workers: int = 1
) -> Demonstrations:
    """Read every episode below `root`, in the order of their paths.

    Decoding thousands of files takes minutes, so the result is kept in `root/.packed` (in the user's cache where
    nothing may be written there), under a name that depends on every file's name, size and time of change, those beside
    the episodes included.

    Args:
        root: Folder of the episodes.
        frame_stride: Keep the frames of every so many steps; all where None.
        picture_size: Height and width that pictures are scaled to, as `RoboTwinEnv` scales them; None leaves them.
        workers: Processes that decode.

    Raises:
        robotwin_env.errors.EpisodeError: If there are none, or a file is damaged; nothing is skipped.
        robotwin_env.errors.SplitError: If one was recorded on a scene of an evaluation.
        RunError: If the distance between frames varies.
    """
    paths = episode_files(root)
    demonstrations = _load(root, paths, frame_stride, picture_size, workers)
    check_recordings(dict(zip(map(str, paths), demonstrations.seeds, strict=True)))
    return demonstrations


def _load(
    root: Path, paths: Sequence[Path], frame_stride: int | None, picture_size: tuple[int, int] | None, workers: int
) -> Demonstrations:
    """Take the pack, or read the files and pack them."""
    fingerprint = _fingerprint(root, paths, (frame_stride, picture_size))
    packed = derived(root) / ".packed" / f"{fingerprint}.safetensors"
    if packed.exists():
        with suppress(RunError, TypeError):  # damaged, or of an earlier version: it is made again
            return Demonstrations(**read_pack(packed), fingerprint=fingerprint)
    read = partial(_read, frame_stride=frame_stride, picture_size=picture_size)
    with worker_processes(workers) if workers > 1 else nullcontext() as pool:
        found = map(read, paths) if pool is None else pool.map(read, paths, chunksize=32)
        episodes = list(track(found, description="reading demonstrations", total=len(paths)))
    check_rates({str(path): read.episode.steps_per_second or 0.0 for path, read in zip(paths, episodes, strict=True)})
    warn_of_copies({str(path): read.digest for path, read in zip(paths, episodes, strict=True)})
    _check_alike(paths, episodes)
    demonstrations = _join(episodes, fingerprint)
    parts = [field.name for field in fields(demonstrations) if field.name != "fingerprint"]
    write_pack(packed, {name: getattr(demonstrations, name) for name in parts})
    return demonstrations


class _Read(NamedTuple):
    """An episode without its pictures, and these in the frame that the codec sees."""

    episode: Episode
    frames: UInt8[np.ndarray, "frames rows columns 3"]
    steps: tuple[int, ...]
    """Step that each frame shows the moment before."""

    @property
    def digest(self) -> str:
        """Of its content."""
        digest = blake2b(repr((self.episode.task, self.episode.instructions)).encode(), digest_size=8)
        for array in (self.episode.states, self.episode.actions, self.frames[[0, -1]]):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _read(path: Path, frame_stride: int | None, picture_size: tuple[int, int] | None) -> _Read:
    """Read one episode; only the frames that are kept are decoded."""
    with EpisodeFile(path) as file:
        whole = frame_stride is None and picture_size is None
        kept = np.flatnonzero(file.frame_steps % (frame_stride or 1) == 0)
        images = {camera: file.frames(camera, kept.tolist()) for camera in CAMERAS}
        if picture_size is not None:
            images = {camera: scaled(pictures, picture_size) for camera, pictures in images.items()}
        extra = file.read(()).extra if whole else {}
        bare = replace(file.header, images={}, extra=extra)
        try:
            frames = tile(images).numpy()
        except ShapeError as error:
            raise RunError(f"`{path}`: {error}") from error
        return _Read(bare, frames, tuple(file.frame_steps[kept].tolist()))


def scaled(
    pictures: UInt8[np.ndarray, "time h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "time rows columns 3"]:
    """Scale pictures to a height and width by averaging boxes."""
    if pictures.shape[1:3] == size:
        return pictures
    rows, columns = size
    return np.stack(
        [np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX)) for picture in pictures]
    )


def _fingerprint(root: Path, paths: Sequence[Path], changes: tuple[int | None, tuple[int, int] | None]) -> str:
    digest = blake2b(b"" if changes == (None, None) else repr(changes).encode(), digest_size=8)
    for path in paths:
        status = path.stat()
        digest.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
        for file in beside(path):  # RoboTwin's instructions, which may be generated again
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check_alike(paths: Sequence[Path], found: Sequence[_Read]) -> None:
    """Refuse episodes that cannot be laid end to end: frames that differ in size, or in the steps between them."""
    strides: dict[int, Path] = {}
    sizes: dict[tuple[int, ...], Path] = {}
    for path, read in zip(paths, found, strict=True):
        strides |= {stride: path for stride in np.diff(read.steps).tolist() if stride not in strides}
        sizes.setdefault(read.frames.shape[1:3], path)
    if len(strides) != 1:
        listed = ", ".join(f"{stride} in `{path}`" for stride, path in sorted(strides.items())) or "in no episode two"
        raise RunError(f"frames are {sorted(strides)} steps apart ({listed}); one constant stride is needed.")
    if len(sizes) > 1:
        listed = " and ".join(f"{rows}x{columns} in `{path}`" for (rows, columns), path in sizes.items())
        raise RunError(f"pictures side by side are {listed} (rows x columns); train on one size, from one folder each.")


def _join(found: Sequence[_Read], fingerprint: str) -> Demonstrations:
    stride = int(np.diff(next(read.steps for read in found if len(read.steps) > 1))[0])
    episodes = [read.episode for read in found]
    frame_counts = [len(read.frames) for read in found]
    poses = [_poses(read) for read in found]
    names = sorted({f"{read.episode.task}/{name}" for read, own in zip(found, poses, strict=True) for name in own})
    positions = {name: torch.full((sum(frame_counts), 3), torch.nan) for name in names}
    start = 0
    for episode, own, count in zip(episodes, poses, frame_counts, strict=True):
        for name, rows in own.items():
            positions[f"{episode.task}/{name}"][start : start + count] = torch.from_numpy(rows[:, :3])
        start += count
    return Demonstrations(
        frames=torch.from_numpy(np.concatenate([read.frames for read in found])),
        frame_start=_starts(frame_counts),
        states=torch.from_numpy(np.concatenate([episode.states for episode in episodes])).float(),
        actions=torch.from_numpy(np.concatenate([episode.actions for episode in episodes])).float(),
        step_start=_starts([len(episode.actions) for episode in episodes]),
        instructions=tuple(episode.instruction for episode in episodes),
        tasks=tuple(episode.task or "" for episode in episodes),
        seeds=tuple(episode.seed for episode in episodes),
        success=tuple(episode.success is not False for episode in episodes),
        object_positions=positions,
        frame_stride=stride,
        fingerprint=fingerprint,
    )


def _poses(read: _Read) -> dict[str, NDArray[np.generic]]:
    """Of what an episode holds besides, where objects are: a row for each frame, a position first."""
    frames = len(read.frames)
    return {
        name: rows
        for name, rows in read.episode.extra.items()
        if rows.ndim == 2 and len(rows) == frames and rows.shape[1] >= 3
    }


def _starts(counts: Sequence[int]) -> Int[Tensor, " counts_plus_one"]:
    return torch.tensor([0, *counts]).cumsum(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """One training window per frame: which frames, states and actions it is made of.

    Past an episode's end the last frame and the last action are held.
    """

    episode: Int[Tensor, " windows"]
    frame: Int[Tensor, "windows frames_plus_one"]
    """The observed frame and the future ones."""
    step: Int[Tensor, "windows actions"]
    """The steps whose actions make the chunk; the first one's state is the robot's."""

    def __len__(self) -> int:
        return len(self.episode)


def windows_of(demonstrations: Demonstrations, *, action_steps: int, future_latents: int) -> Windows:
    """List every window of `action_steps` actions with `4 * future_latents` future frames.

    Raises:
        RunError: If the frames do not span the actions.
    """
    stride, future = demonstrations.frame_stride, FRAMES_PER_LATENT * future_latents
    if stride * future != action_steps:
        raise RunError(
            f"{future} future frames at every {stride} steps span {stride * future} actions, not {action_steps}; "
            f"collect with `--frame-stride {action_steps // future}`."
        )
    counts = demonstrations.frame_start.diff()
    episode = torch.repeat_interleave(torch.arange(demonstrations.episodes), counts)
    index = torch.arange(int(counts.sum())) - demonstrations.frame_start[episode]
    first_step, last_step = demonstrations.step_start[episode], demonstrations.step_start[episode + 1] - 1
    last_frame = demonstrations.frame_start[episode + 1] - 1
    # The frame after the last action shows the end and starts no window.
    starts = first_step + index * stride <= last_step
    frames = demonstrations.frame_start[episode, None] + index[:, None] + torch.arange(future + 1)
    steps = first_step[:, None] + index[:, None] * stride + torch.arange(action_steps)
    return Windows(
        episode=episode[starts],
        frame=torch.minimum(frames, last_frame[:, None])[starts],
        step=torch.minimum(steps, last_step[:, None])[starts],
    )

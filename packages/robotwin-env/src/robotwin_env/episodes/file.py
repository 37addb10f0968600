"""Episode files: reading either layout, writing the current one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ..atomic_file import replacing
from ..errors import EpisodeError, EpisodeFormatError
from ._hdf5 import Source
from .episode import Episode
from .jpeg import decode_frame
from .layouts import (
    Contents,
    Frames,
    instructions_path,
    read_current,
    read_older,
    write_current,
)

MEAN_TOLERANCE = 8.0
"""Of 255: encoding moves a picture's mean colour by less."""


class EpisodeFile:
    """A file of RoboTwin's current or older layout, told apart by its content; pictures are decoded on demand.

    Opening checks everything but the pictures. Use it in a `with` statement; not from several processes at once.

    Args:
        path: An HDF5 file.

    Raises:
        EpisodeFormatError: the file is cut off, foreign, or its parts do not fit together.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._source = Source(Path(path))
        self._checked: set[str] = set()
        try:
            self._contents = self._read_contents()
            self._header = self._episode({})
            self._check_alignment()
            self._check_counts()
        except EpisodeFormatError:
            self.close()
            raise
        except EpisodeError as error:
            self.close()
            raise self._source.fail(str(error)) from error

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._source.path

    @property
    def header(self) -> Episode:
        """The episode without its pictures."""
        return self._header

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that recorded."""
        return tuple(self._contents.frames)

    def place(self, camera: str) -> str:
        """Where in the file one camera's frames lie."""
        return str(self._contents.frames[camera].dataset.name)

    @property
    def frame_steps(self) -> NDArray[np.int32]:
        """`(frames,)`: the step each frame belongs to, as in `Episode.frame_steps`."""
        return self._contents.frame_steps

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Decode frames of one camera.

        Args:
            camera: One of `cameras`.
            indices: Positions in `frame_steps`, in any order; all frames where `None`.

        Returns:
            `(len(indices), height, width, 3)` RGB.

        Raises:
            EpisodeError: there is no such camera or frame.
            EpisodeFormatError: a frame does not decode to the size of the others.
        """
        if camera not in self._contents.frames:
            raise EpisodeError(f"{self.path}: no camera `{camera}`; it has {list(self.cameras)}.")
        count = len(self.frame_steps)
        chosen = range(count) if indices is None else indices
        outside = [index for index in chosen if not 0 <= index < count]
        if outside:
            raise EpisodeError(f"{self.path}: no frames {outside}; camera `{camera}` has frames 0 to {count - 1}.")
        frames = self._contents.frames[camera]
        self._check_colours(camera, frames)
        size = frames.size
        pictures = []
        for index, data in zip(chosen, self._source.entries(frames.dataset, indices), strict=True):
            picture = self._decode(camera, index, data, size)
            size = (picture.shape[0], picture.shape[1])
            pictures.append(picture)
        return np.stack(pictures) if pictures else np.zeros((0, *(size or (0, 0)), 3), dtype=np.uint8)

    def encoded(self, camera: str, indices: Sequence[int]) -> list[bytes]:
        """The bytes of some frames of one camera as they are stored; see `frames` for arguments and errors."""
        return self._source.entries(self._contents.frames[camera].dataset, indices)

    def read(self, cameras: Sequence[str] | None = None) -> Episode:
        """The episode with the pictures of some cameras, or of all where `None`."""
        chosen = self.cameras if cameras is None else cameras
        return self._episode({camera: self.frames(camera) for camera in chosen})

    def close(self) -> None:
        """Close the file."""
        self._source.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_contents(self) -> Contents:
        if self._source.has("data_format_version"):
            return read_current(self._source)
        if self._source.has("joint_action"):
            return read_older(self._source)
        raise self._source.fail(
            f"not an episode of RoboTwin: it holds {self._source.members('')[:8]}; "
            "expected `data_format_version` (current layout) or `joint_action` (older layout)."
        )

    def _episode(self, images: Mapping[str, NDArray[np.uint8]]) -> Episode:
        contents = self._contents
        return Episode(
            states=contents.states,
            actions=contents.actions,
            instructions=contents.instructions,
            frequency=contents.frequency,
            steps_per_second=contents.steps_per_second,
            images=images,
            frame_steps=contents.frame_steps,
            ee_poses=contents.ee_poses,
            camera_matrices={
                camera: frames.matrices
                for camera, frames in contents.frames.items()
                if frames.matrices is not None and (camera in images or not images)
            },
            task=contents.task,
            seed=_listed_seed(self.path) if contents.seed is None else contents.seed,
            success=contents.success,
            extra=contents.extra,
        )

    def _check_alignment(self) -> None:
        states, actions = self._contents.states, self._contents.actions
        if len(states) < 3 or np.array_equal(actions[:-1], states[1:]):
            return
        if np.array_equal(states[:-1], actions[1:]):
            raise self._source.fail(
                "each state is the action of the row before: states and actions are exchanged; swap the two tables."
            )
        if np.array_equal(states, actions):
            raise self._source.fail(
                "each action is the state of its own row; it must be the next one's. RoboTwin's converter does this "
                "with `--same_index_action`: convert again without it."
            )

    def _check_counts(self) -> None:
        for camera, frames in self._contents.frames.items():
            if len(frames.dataset) != len(self.frame_steps):
                raise self._source.fail(
                    f"camera `{camera}` has {len(frames.dataset)} frames; {len(self.frame_steps)} are needed."
                )

    def check_colours(self) -> None:
        """Decode the first frame of every camera and compare its mean colour with what was written, where that is said.

        `frames` does it for the camera that is asked for.

        Raises:
            EpisodeFormatError: the file was written with red and blue exchanged, or a first frame is damaged.
        """
        for camera, frames in self._contents.frames.items():
            self._check_colours(camera, frames)

    def _check_colours(self, camera: str, frames: Frames) -> None:
        if camera in self._checked or frames.first_mean is None or not len(frames.dataset):
            return
        self._checked.add(camera)
        if frames.first_mean.shape != (3,):
            raise self._source.fail(f"camera `{camera}`: `first_frame_mean_rgb` must have three numbers.")
        first = self._source.entries(frames.dataset, [0])[0]
        mean = self._decode(camera, 0, first, frames.size).mean(axis=(0, 1))
        if np.abs(mean - frames.first_mean).max() <= MEAN_TOLERANCE:
            return
        if np.abs(mean[::-1] - frames.first_mean).max() <= MEAN_TOLERANCE:
            raise self._source.fail(
                f"camera `{camera}` has red and blue exchanged against RoboTwin's order (mean {mean.round()} where "
                f"{frames.first_mean.round()} was written); encode RGB arrays as `cv2.imencode` does, without a swap."
            )
        raise self._source.fail(
            f"the first frame of camera `{camera}` has mean colour {mean.round()}; "
            f"{frames.first_mean.round()} was written."
        )

    def _decode(self, camera: str, index: int, data: bytes, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        try:
            return decode_frame(data, size)
        except EpisodeError as error:
            raise self._source.fail(f"camera `{camera}`, frame {index}: {error}") from error


def read_episode(path: str | os.PathLike[str], *, cameras: Sequence[str] | None = None) -> Episode:
    """Read a file of RoboTwin's current or older layout.

    Args:
        path: An HDF5 file.
        cameras: Whose pictures to decode; all where `None`.

    Raises:
        EpisodeFormatError: as `EpisodeFile` and `EpisodeFile.frames`.
    """
    with EpisodeFile(path) as file:
        return file.read(cameras)


def write_episode(path: str | os.PathLike[str], episode: Episode) -> None:
    """Write a file of RoboTwin's current layout; the file appears whole or not at all, replacing an older one.

    Raises:
        EpisodeError: the episode has no frequency, which the layout requires.
    """
    if episode.frequency is None:
        raise EpisodeError("`frequency` is None; RoboTwin's layout records it, so set it (RoboTwin's own files: 15).")
    # Made in memory: where a disk is full, HDF5 itself cannot close its file, and ends the process.
    with h5py.File(Path(path).name, "w", driver="core", backing_store=False) as file:
        write_current(file, episode, episode.frequency)
        file.flush()
        image = file.id.get_file_image()
    with replacing(Path(path)) as draft:
        draft.write_bytes(image)


def episode_path(folder: str | os.PathLike[str], index: int) -> Path:
    """RoboTwin's name for an episode of the current layout."""
    return Path(folder) / f"episode_{index:07d}.hdf5"


def episode_files(root: str | os.PathLike[str]) -> list[Path]:
    """Every `episode*.hdf5` below a folder, by folder and then by number; folders may be links.

    Raises:
        EpisodeError: there are none, one has a name that is not UTF-8, or is a link whose target is gone.
    """
    found = [path for path in _files_below(Path(root), frozenset()) if re.fullmatch(r"episode_?\d+\.hdf5", path.name)]
    if not found:
        raise EpisodeError(f"no episodes below {root}; expected files such as `episode_0000000.hdf5`.")
    for path in found:
        if not path.exists():
            raise EpisodeFormatError(
                f"{path} is a link to {path.readlink()}, which is gone; bring it back or remove it."
            )
    return sorted(found, key=lambda path: (path.parent, int(path.stem.removeprefix("episode").removeprefix("_"))))


def beside(path: Path) -> tuple[Path, ...]:
    """Files beside an episode of RoboTwin's that say something of it, and may change while it does not."""
    listed = (instructions_path(path), path.parent.parent / "seed.txt")
    return tuple(file for file in listed if file.is_file())


def _listed_seed(path: Path) -> int | None:
    """The seed of an episode as RoboTwin's collector notes it: the episode's own place in `seed.txt`."""
    listed, number = path.parent.parent / "seed.txt", re.sub(r"\D", "", path.stem)
    if not number or not listed.is_file():
        return None
    seeds = listed.read_text(encoding="utf-8", errors="replace").split()
    noted = seeds[int(number)] if int(number) < len(seeds) else ""
    return int(noted) if re.fullmatch(r"[0-9]{1,18}", noted) else None


def _files_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Files below a folder, through links to folders too, but never round in a circle."""
    here = folder.resolve()
    if here in above:
        return
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            str(entry).encode()
        except UnicodeEncodeError:
            raise EpisodeError(
                f"{str(entry)!a} has a name that is not UTF-8, as archives of other systems have; rename it."
            ) from None
        if entry.is_dir():
            if not entry.name.startswith("."):
                yield from _files_below(entry, above | {here})
        else:
            yield entry

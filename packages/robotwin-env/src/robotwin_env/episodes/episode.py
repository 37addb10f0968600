"""One demonstration in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..conventions import CameraMatrices
from ..errors import EpisodeError

ACTION_SIZE = 14
"""Left arm 6 joints (rad), left gripper (0 closed, 1 open), right arm 6 joints, right gripper."""
LARGEST = 1e4
"""No state or action is larger (rad, or 0 to 1): statistics over such a number would drown all others."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode:
    """States, actions and pictures of one run of a task, `steps` actions long.

    Raises:
        EpisodeError: a part has the wrong shape, type or length, or is not finite.
    """

    states: NDArray[np.float32]
    """`(steps, 14)`: the state before each action."""
    actions: NDArray[np.float32]
    """`(steps, 14)`: absolute joint targets. RoboTwin's convention: the next state."""
    instructions: tuple[str, ...]
    """Phrasings of the task, at least one; the first is the one to show."""
    frequency: int | None = None
    """The number that RoboTwin's layout calls so: physics steps, 250 a second, between two rows in RoboTwin's own files
    and those of the tabletop. `None` where the file does not say."""
    steps_per_second: float | None = None
    """The true rate of states and actions (Hz). RoboTwin's own files: 250 / 15 = 16.7."""
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Camera (`head`, `left_wrist`, `right_wrist`, ...) to `(frames, height, width, 3)` RGB."""
    frame_steps: NDArray[np.int32] | None = None
    """`(frames,)`: the step before whose action each frame was taken, ascending in [0, steps]; `steps` is the end.

    `None` means every step, `0 ... steps - 1`.
    """
    ee_poses: NDArray[np.float32] | None = None
    """`(steps + 1, 2, 7)`: left and right end effector, position (m) and quaternion `(w, x, y, z)`."""
    camera_matrices: Mapping[str, CameraMatrices] = field(default_factory=dict)
    """Camera to its matrices at each of its frames (float32), of those whose are known."""
    task: str | None = None
    seed: int | None = None
    """The scene's seed."""
    success: bool | None = None
    extra: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Further numeric arrays by name, such as object poses."""

    def __post_init__(self) -> None:
        _check_array("states", self.states, np.float32, (None, ACTION_SIZE))
        _check_array("actions", self.actions, np.float32, (self.steps, ACTION_SIZE))
        for name, joints in (("states", self.states), ("actions", self.actions)):
            if np.abs(joints).max(initial=0.0) > LARGEST:
                raise EpisodeError(
                    f"`{name}` holds {np.abs(joints).max():.4g}; joints are in rad, none beyond {LARGEST:g}, and "
                    "grippers from 0 to 1: the file is damaged or of another unit, so drop or convert it."
                )
        if self.steps == 0:
            raise EpisodeError("`states` has no steps; an episode has at least one.")
        check_words(self.instructions, "`instructions`")
        if self.task is not None:
            _check_text("`task`", self.task)
        for name, number in (("frequency", self.frequency), ("seed", self.seed)):
            if number is not None and (not abs(number) < 2**63 or number != int(number)):
                raise EpisodeError(f"`{name}` is {number}; it must be a whole number of at most 63 bits.")
        if self.frequency is not None and self.frequency < 1:
            raise EpisodeError(f"`frequency` is {self.frequency}; it must be 1 Hz or more.")
        if self.steps_per_second is not None and not 0 < self.steps_per_second < math.inf:
            raise EpisodeError(f"`steps_per_second` is {self.steps_per_second}; it must be a positive number of Hz.")
        if self.ee_poses is not None:
            _check_array("ee_poses", self.ee_poses, np.float32, (self.steps + 1, 2, 7))
        steps = self.image_steps
        _check_frame_steps(steps, self.steps)
        for camera, images in self.images.items():
            _check_name("images", camera)
            _check_array(f"images[{camera!r}]", images, np.uint8, (len(steps), None, None, 3))
            if len(steps) and not images.size:
                raise EpisodeError(f"`images[{camera!r}]` has shape {images.shape}; pictures have a pixel at least.")
        for camera, matrices in self.camera_matrices.items():
            if camera not in self.images and self.images:
                raise EpisodeError(f"`camera_matrices` names `{camera}`; `images` has {sorted(self.images)}.")
            for part, shape in (("intrinsics", (3, 3)), ("extrinsics", (3, 4))):
                _check_array(
                    f"camera_matrices[{camera!r}].{part}", getattr(matrices, part), np.float32, (len(steps), *shape)
                )
        for name, array in self.extra.items():
            _check_name("extra", name)
            if np.asarray(array).dtype.kind not in "fiub":
                raise EpisodeError(f"`extra[{name!r}]` is not an array of numbers.")

    @property
    def steps(self) -> int:
        """Number of actions."""
        return len(self.states)

    @property
    def instruction(self) -> str:
        """The phrasing to show."""
        return self.instructions[0]

    @property
    def image_steps(self) -> NDArray[np.int32]:
        """`frame_steps` with the default filled in."""
        return np.arange(self.steps, dtype=np.int32) if self.frame_steps is None else self.frame_steps


def _check_array(name: str, array: object, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise EpisodeError(f"`{name}` is {found}; it must be an array of {dtype.__name__}.")
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise EpisodeError(f"`{name}` has shape {array.shape}; it must be {wanted}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EpisodeError(f"`{name}` holds values that are not finite; drop the episode or repair them.")


def _check_frame_steps(frame_steps: NDArray[np.int32], steps: int) -> None:
    _check_array("frame_steps", frame_steps, np.int32, (None,))
    inside = (frame_steps >= 0).all() and (frame_steps <= steps).all()
    if not inside or not (np.diff(frame_steps) > 0).all():
        raise EpisodeError(f"`frame_steps` must ascend strictly within [0, {steps}]; found {frame_steps.tolist()}.")


def _check_name(field_name: str, name: str) -> None:
    if not name or "/" in name or name.startswith("."):
        raise EpisodeError(f"`{field_name}` has the name {name!r}; a name has no `/` and does not start with a dot.")


def check_words(phrases: Sequence[object], where: str) -> None:
    """Refuse phrasings of a task that say nothing, or that no file can hold.

    Args:
        phrases: All of an episode.
        where: They were found, for the message.

    Raises:
        EpisodeError: there is none, or one is blank or no UTF-8 text.
    """
    listed = phrases and not isinstance(phrases, str)
    if not listed or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
        raise EpisodeError(f"{where} is {phrases!r}; it needs at least one phrasing, none empty.")
    for phrase in phrases:
        _check_text(where, phrase)


def _check_text(where: str, text: object) -> None:
    if not isinstance(text, str) or "\0" in text:
        raise EpisodeError(f"{where} holds {text!r}; it must be text without a NUL.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EpisodeError(
            f"{where} holds {text[:80]!a}, which is no UTF-8 text ({error.reason}); write it anew."
        ) from None

"""What both worlds observe and tell: what plays on the tabletop plays on RoboTwin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray

from .errors import RobotwinEnvError, UnknownNameError

CameraName = Literal["head", "left_wrist", "right_wrist", "front"]
"""`front` is RoboTwin's alone."""

Modality = Literal["depth", "segmentation", "intrinsics", "extrinsics"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
FARTHEST = 100.0
"""Depths end here (m)."""
LARGEST = 1e6
"""Of a camera's matrices."""

Observation = dict[str, NDArray[Any]]
"""Camera names to `(H, W, 3)` uint8 RGB, and `state`: `(14,)` float32, the last command.

Where modalities are asked for: `depth/<camera>`, `(H, W)` float32, metres along the optical axis, 0 where nothing is
seen; `segmentation/<camera>`, `(H, W)` uint16, the numbers of `env.segment_names()`, 0 where nothing is seen;
`intrinsics/<camera>`, `(3, 3)`, and `extrinsics/<camera>`, `(3, 4)`, float32, as `CameraMatrices`.
"""
Info = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOutcome:
    """What came of playing a chunk of actions."""

    observation: Observation
    """After the last executed action."""
    reward: float
    terminated: bool
    truncated: bool
    info: Info
    executed: int
    """How many of the actions were played."""
    frames: tuple[Observation, ...]
    """After every `record_every`-th executed action; empty unless asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraMatrices:
    """What a pinhole camera does to a point, with OpenCV's axes: x to the right, y down, z ahead.

    A point `p` of the world (m) is seen at `(u, v)`, where `w * (u, v, 1) = intrinsics @ extrinsics @ (*p, 1)`; a
    picture's first pixel covers u and v from 0 to 1.
    """

    intrinsics: Float[np.ndarray, "*frames 3 3"]
    """Pixels."""
    extrinsics: Float[np.ndarray, "*frames 3 4"]
    """From the world into the camera's frame."""


def camera_spaces(
    sizes: Mapping[CameraName, tuple[int, int]], modalities: Sequence[Modality]
) -> dict[str, spaces.Space[Any]]:
    """Make the spaces of what cameras of these heights and widths (pixels) give."""
    found: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in sizes.items()
    }
    for modality in modalities:
        for name, size in sizes.items():
            found[f"{modality}/{name}"] = _space(modality, size)
    return found


def _space(modality: Modality, size: tuple[int, int]) -> spaces.Space[Any]:
    if modality == "depth":
        return spaces.Box(0.0, FARTHEST, size, np.float32)
    if modality == "segmentation":
        return spaces.Box(0, 2**16 - 1, size, np.uint16)
    return spaces.Box(-LARGEST, LARGEST, (3, 3) if modality == "intrinsics" else (3, 4), np.float32)


def check_modalities(modalities: Sequence[Modality], cameras: Sequence[CameraName]) -> None:
    """Refuse modalities that there are not, twice, or of no camera.

    Raises:
        UnknownNameError, ValueError: so.
    """
    for modality in modalities:
        if modality not in MODALITIES:
            listed = ", ".join(f"`{name}`" for name in MODALITIES)
            raise UnknownNameError(f"there is no modality `{modality}`; choose of {listed}.")
    if len(set(modalities)) != len(modalities):
        raise ValueError(f"`modalities` are {modalities}; each may be named once.")
    if modalities and not cameras:
        raise ValueError(f"`modalities` are {modalities} and `cameras` are none; name the cameras to observe.")


def checked_instruction(given: object) -> str | None:
    """The reset option `instruction`; None leaves the scene's own.

    Raises:
        RobotwinEnvError: it says nothing.
    """
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        raise RobotwinEnvError(f"the option `instruction` is {given!r}; it must be text, or be left out.")
    return given

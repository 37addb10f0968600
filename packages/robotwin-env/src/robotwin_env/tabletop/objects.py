"""What lies on the table, as values: shapes that are both seen and touched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..visual import Color, Pose, Quaternion, Shape, Vector3


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """A rigid object made of primitives."""

    name: str
    shapes: tuple[Shape, ...]
    """In the object's frame, whose origin lies on the table when the object stands on it."""
    position: tuple[float, float]
    """Of the object's origin on the table (m)."""
    yaw: float = 0.0
    """rad."""
    density: float = 600.0
    """kg/m³; a 5 cm cube weighs 75 g."""
    friction: float = 1.0
    motion: Literal["free", "fixed", "button"] = "free"
    """A button moves down by up to `BUTTON_TRAVEL` against a spring; nothing else of it moves."""


BUTTON_TRAVEL = 0.012
"""How far a button goes down (m)."""


def box(half: Vector3, color: Color, at: Vector3 = (0.0, 0.0, 0.0)) -> Shape:
    """Make a box of half extents `half` (m) with its centre at `at`."""
    return Shape(kind="box", size=half, color=color, pose=Pose(position=at))


def cylinder(radius: float, half_length: float, color: Color, at: Vector3 = (0.0, 0.0, 0.0)) -> Shape:
    """Make an upright cylinder (m) with its centre at `at`."""
    return Shape(kind="cylinder", size=(radius, radius, half_length), color=color, pose=Pose(position=at))


def upright(yaw: float) -> Quaternion:
    """Return the quaternion of a turn by `yaw` (rad) about z."""
    return (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))

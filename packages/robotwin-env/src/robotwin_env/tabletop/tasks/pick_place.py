"""The expert's recipe for one-arm pick and place, top down."""

from __future__ import annotations

from collections.abc import Iterator

from ...visual import Vector3
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint

CLEARANCE = 0.10
"""How far above a grasp the tool travels (m)."""


def pick(motion: Motion, side: Side, at: Vector3, *, yaw: float = 0.0, lift: float = CLEARANCE) -> Iterator[Action]:
    """Hover, descend, close and lift straight up by `lift` (m)."""
    x, y, z = at
    yield from motion.move({side: Waypoint(position=(x, y, z + CLEARANCE), yaw=yaw, grip=1.0, rough=True)})
    yield from motion.move({side: Waypoint(position=at, yaw=yaw, speed=0.35)})
    yield from motion.grip({side: 0.0})
    yield from motion.move({side: Waypoint(position=(x, y, z + lift), yaw=yaw, speed=0.4)})


def place(motion: Motion, side: Side, at: Vector3, *, yaw: float = 0.0) -> Iterator[Action]:
    """Carry over `at`, lower, open and rise."""
    x, y, z = at
    height = motion.tool(side).position[2]
    yield from motion.move({side: Waypoint(position=(x, y, max(height, z + 0.03)), yaw=yaw, rough=True, speed=0.5)})
    yield from motion.move({side: Waypoint(position=at, yaw=yaw, speed=0.3)})
    yield from motion.grip({side: 1.0})
    yield from motion.move({side: Waypoint(position=(x, y, z + CLEARANCE), yaw=yaw)})

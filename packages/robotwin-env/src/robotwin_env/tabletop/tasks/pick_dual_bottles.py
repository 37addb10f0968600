"""Pick up two bottles at once, one with each arm, and hold them side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from ...visual import Color, Vector3
from ..appearance import Appearance, Hue
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, box
from ..world import World
from .base import Instructions, Task, askew, heading, upright_share

WIDTH: tuple[float, float] = (0.046, 0.02)
"""Half extents (m); wider than the fingers open."""
LAYERS: tuple[tuple[Hue, float], ...] = (("green", 0.05), ("dark", 0.012), ("green", 0.032))
"""What a bottle is made of, and how high (m), from below."""
GRASP_HEIGHT = 0.055
TARGET = (0.09, -0.10, 0.10)
"""Where the right bottle's foot is to be held, the left one's mirrored: x, y, height over the table (m)."""
OFF_TARGET = 0.045
"""How far from there along each axis (m)."""
BOTTLES = {Side.LEFT: "left_bottle", Side.RIGHT: "right_bottle"}


class PickDualBottles(Task):
    """RoboTwin's `pick_dual_bottles`."""

    name = "pick_dual_bottles"
    instructions = Instructions(
        seen=(
            "Pick up both bottles and hold them side by side in front of the robot.",
            "Lift the two green bottles, one with each arm, and bring them together.",
            "Grab the left bottle with the left arm, the right one with the right arm, and hold both in the middle.",
            "Take both green bottles off the table and hold them next to each other.",
            "Grasp a bottle with every arm and bring the two together.",
            "Both green bottles should be held in the middle.",
            "Collect the two bottles, left and right, and hold them up side by side.",
            "Get both bottles off the table and next to one another.",
        ),
        unseen=(
            "Raise the two bottles and keep them side by side.",
            "Each arm picks up one bottle and holds it over the middle.",
        ),
    )
    max_steps = 90

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """One bottle in each half."""
        colors: dict[Hue, Color] = {"green": appearance.color("green"), "dark": appearance.color("dark")}
        tops = accumulate(height for _, height in LAYERS)
        shapes = tuple(
            box((*WIDTH, height / 2), colors[hue], (0, 0, top - height / 2))
            for (hue, height), top in zip(LAYERS, tops, strict=True)
        )
        return tuple(
            SceneObject(
                name=name,
                shapes=shapes,
                position=(side.outward * rng.uniform(0.12, 0.27), rng.uniform(-0.04, 0.12)),
                yaw=askew(rng, least=0.95, most=1.45),
            )
            for side, name in BOTTLES.items()
        )

    def success(self, world: World) -> bool:
        """Both bottles are held upright, within 37 degrees, side by side above the near middle of the table."""
        poses = {side: world.pose(name) for side, name in BOTTLES.items()}
        return all(
            bool((np.abs(pose[:3] - _target(side, world.table_height)) < OFF_TARGET).all())
            and upright_share(pose) > 0.8
            and math.dist(world.tool(side).position[:2], pose[:2]) < 0.04
            for side, pose in poses.items()
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Both arms at once: hover, descend, close, lift, bring together."""
        places = {side: world.pose(name) for side, name in BOTTLES.items()}
        turns = {side: heading(pose) for side, pose in places.items()}

        def both(above: float, *, speed: float, rough: bool = False) -> dict[Side, Waypoint]:
            return {
                side: Waypoint(
                    position=(pose[0], pose[1], pose[2] + GRASP_HEIGHT + above),
                    yaw=turns[side],
                    speed=speed,
                    rough=rough,
                )
                for side, pose in places.items()
            }

        yield from motion.move(both(0.10, speed=0.6, rough=True))
        yield from motion.move(both(0.0, speed=0.35))
        yield from motion.grip(dict.fromkeys(Side, 0.0))
        yield from motion.move(both(0.05, speed=0.4))
        goals = {side: _target(side, world.table_height + GRASP_HEIGHT) for side in Side}
        yield from motion.move(
            {side: Waypoint(position=(x, y, z), yaw=turns[side]) for side, (x, y, z) in goals.items()}
        )
        yield from motion.hold(0.2)


def _target(side: Side, height: float) -> Vector3:
    return (side.outward * TARGET[0], TARGET[1], TARGET[2] + height)

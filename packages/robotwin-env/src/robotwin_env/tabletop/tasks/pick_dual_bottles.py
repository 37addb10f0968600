"""Pick up two bottles at once, one with each arm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, cylinder
from ..world import World
from .base import Instructions, Task, upright_share

RADIUS, HEIGHT = 0.027, 0.085
NECK_RADIUS, NECK = 0.013, 0.025
"""m."""
GRASP_HEIGHT = 0.065
LIFTED = 0.06
LIFT = 0.11
BOTTLES = {Side.LEFT: "left_bottle", Side.RIGHT: "right_bottle"}


class PickDualBottles(Task):
    """RoboTwin's `pick_dual_bottles`."""

    name = "pick_dual_bottles"
    instructions = Instructions(
        seen=(
            "Pick up both bottles.",
            "Lift the two green bottles, one with each arm.",
            "Grab the left bottle with the left arm and the right bottle with the right arm.",
            "Take both green bottles off the table.",
        ),
        unseen=("Raise the two bottles together.", "Each arm picks up one bottle."),
    )
    max_steps = 90

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """One bottle in each half."""
        glass, cap = appearance.color("green"), appearance.color("dark")
        shapes = (
            cylinder(RADIUS, HEIGHT / 2, glass, (0, 0, HEIGHT / 2)),
            cylinder(NECK_RADIUS, NECK / 2, cap, (0, 0, HEIGHT + NECK / 2)),
        )
        return tuple(
            SceneObject(
                name=name,
                shapes=shapes,
                position=(side.outward * rng.uniform(0.08, 0.27), rng.uniform(-0.08, 0.12)),
            )
            for side, name in BOTTLES.items()
        )

    def success(self, world: World) -> bool:
        """Both bottles are in the air and upright within 37 degrees."""
        poses = [world.pose(name) for name in BOTTLES.values()]
        return all(pose[2] - world.table_height > LIFTED and upright_share(pose) > 0.8 for pose in poses)

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Both arms at once: hover, descend, close, lift."""
        height = world.table_height + GRASP_HEIGHT
        places = {side: world.pose(name) for side, name in BOTTLES.items()}

        def both(above: float, *, speed: float, rough: bool = False) -> dict[Side, Waypoint]:
            return {
                side: Waypoint(position=(pose[0], pose[1], height + above), speed=speed, rough=rough)
                for side, pose in places.items()
            }

        yield from motion.move(both(0.10, speed=0.6, rough=True))
        yield from motion.move(both(0.0, speed=0.35))
        yield from motion.grip(dict.fromkeys(Side, 0.0))
        yield from motion.move(both(LIFT, speed=0.4))
        yield from motion.hold(0.2)

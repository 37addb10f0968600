"""Put a green block on a red one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion
from ..objects import SceneObject, box
from ..world import World
from .base import Instructions, Task, heading, side_of
from .pick_place import pick, place

LOWER: tuple[float, float, float] = (0.03, 0.03, 0.02)
UPPER: tuple[float, float, float] = (0.025, 0.025, 0.025)
"""Half extents (m)."""
OFF_CENTER = 0.03
"""Farther than this from the lower block's middle the upper one would fall (m)."""


class StackBlocksTwo(Task):
    """RoboTwin's `stack_blocks_two`: its first block is already in place, since one arm can reach both."""

    name = "stack_blocks_two"
    instructions = Instructions(
        seen=(
            "Stack the green block on the red block.",
            "Put the green block on top of the red block.",
            "Pick up the green block and place it on the red block.",
            "Build a tower with the red block below and the green block above.",
        ),
        unseen=(
            "The green block goes on top of the red one.",
            "Lift the green cube and set it down onto the red block.",
        ),
    )
    max_steps = 130

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """The green block in one arm's half, the red one where that arm reaches it."""
        outward = float(rng.choice((-1, 1)))
        while True:
            green = (outward * rng.uniform(0.05, 0.27), rng.uniform(-0.08, 0.12))
            red = (outward * rng.uniform(-0.10, 0.27), rng.uniform(-0.06, 0.10))
            if math.dist(green, red) > 0.13:
                break
        upper, lower = appearance.color("green"), appearance.color("red")
        turns = rng.uniform(-0.4, 0.4, 2)
        return (
            SceneObject(name="green", shapes=(box(UPPER, upper, (0, 0, UPPER[2])),), position=green, yaw=turns[0]),
            SceneObject(name="red", shapes=(box(LOWER, lower, (0, 0, LOWER[2])),), position=red, yaw=turns[1]),
        )

    def success(self, world: World) -> bool:
        """Green rests on red, and nobody holds it."""
        green, red = world.pose("green"), world.pose("red")
        return bool(
            math.dist(green[:2], red[:2]) < OFF_CENTER
            and abs(green[2] - red[2] - 2 * LOWER[2]) < 0.01
            and min(world.gripper(side) for side in Side) > 0.7
            and world.speed("green") < 0.05
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Pick green up with the arm of its half and set it down on red."""
        green, red = world.pose("green"), world.pose("red")
        side, bottom = side_of(green[0]), world.table_height + 2 * LOWER[2]
        yield from pick(
            motion,
            side,
            (green[0], green[1], world.table_height + UPPER[2]),
            yaw=heading(green),
            lift=0.13,
        )
        yield from place(motion, side, (red[0], red[1], bottom + UPPER[2] + 0.004), yaw=heading(red))

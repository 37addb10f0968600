"""Lift a pot by its two handles, one arm each."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, box
from ..world import World
from .base import Instructions, Task, heading, upright_share

BODY: tuple[float, float, float] = (0.06, 0.055, 0.035)
HANDLE: tuple[float, float, float] = (0.025, 0.013, 0.012)
"""Half extents (m)."""
HANDLE_HEIGHT = 0.055
GRASP = 0.09
"""From the pot's middle to where a handle is held (m)."""
LIFTED = 0.06
LIFT = 0.11


class LiftPot(Task):
    """RoboTwin's `lift_pot`."""

    name = "lift_pot"
    instructions = Instructions(
        seen=(
            "Lift the pot with both arms.",
            "Grab the pot by its two handles and lift it.",
            "Use both grippers to raise the grey pot.",
            "Pick up the pot by the handles.",
        ),
        unseen=("Take the pot off the table with both hands.", "Raise the pot, one arm on each handle."),
    )
    max_steps = 90

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """A pot in the middle, its handles to the left and right."""
        body, handle, inside = appearance.color("grey"), appearance.color("orange"), appearance.color("dark")
        shapes = (
            box(BODY, body, (0, 0, BODY[2])),
            box((BODY[0] - 0.012, BODY[1] - 0.012, 0.001), inside, (0, 0, 2 * BODY[2] + 0.001)),
            *(box(HANDLE, handle, (end * (BODY[0] + HANDLE[0]), 0, HANDLE_HEIGHT)) for end in (-1, 1)),
        )
        position = (rng.uniform(-0.07, 0.07), rng.uniform(-0.06, 0.10))
        return (SceneObject(name="pot", shapes=shapes, position=position, yaw=rng.uniform(-0.35, 0.35), density=400.0),)

    def success(self, world: World) -> bool:
        """The pot is in the air and level within 20 degrees."""
        pot = world.pose("pot")
        return bool(pot[2] - world.table_height > LIFTED and upright_share(pot) > math.cos(math.radians(20)))

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Both arms at once: hover, descend, close, lift."""
        pot = world.pose("pot")
        yaw, height = heading(pot), world.table_height + HANDLE_HEIGHT

        def both(above: float, *, speed: float, rough: bool = False) -> dict[Side, Waypoint]:
            return {
                side: Waypoint(
                    position=(
                        pot[0] + side.outward * GRASP * math.cos(yaw),
                        pot[1] + side.outward * GRASP * math.sin(yaw),
                        height + above,
                    ),
                    yaw=yaw,
                    speed=speed,
                    rough=rough,
                )
                for side in Side
            }

        yield from motion.move(both(0.09, speed=0.6, rough=True))
        yield from motion.move(both(0.0, speed=0.35))
        yield from motion.grip(dict.fromkeys(Side, 0.0), seconds=0.28)
        yield from motion.move(both(LIFT, speed=0.3))
        yield from motion.hold(0.2)

"""Lift a pot by its two handles, one arm each."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, box
from ..world import World
from .base import Instructions, Task, askew, heading, point_of, upright_share

BODY: tuple[float, float, float] = (0.06, 0.055, 0.035)
HANDLE: tuple[float, float, float] = (0.025, 0.013, 0.012)
"""Half extents (m)."""
HANDLE_HEIGHT = 0.055
GRASP = 0.09
"""From the pot's middle to where a handle is held (m)."""
OFF_GRASP = 0.03
"""How far a tool may be from where a handle is to be held (m); RoboTwin's number."""
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
            "Hoist the pot using two arms.",
            "Grip both handles and bring the grey pot up.",
            "The pot must leave the table, held by its handles.",
            "Get the pot up into the air with both grippers.",
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
        return (
            SceneObject(
                name="pot", shapes=shapes, position=position, yaw=askew(rng, least=0.4, most=0.75), density=1000.0
            ),
        )

    def success(self, world: World) -> bool:
        """The pot is in the air, level within 20 degrees, and each tool is at its handle."""
        pot = world.pose("pot")
        return bool(
            pot[2] - world.table_height > LIFTED
            and upright_share(pot) > math.cos(math.radians(20))
            and all(math.dist(world.tool(side).position, _grasp(pot, side)) < OFF_GRASP for side in Side)
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Both arms at once: hover, descend, close, lift."""
        pot = world.pose("pot")
        yaw = heading(pot)

        def both(above: float, *, speed: float, rough: bool = False) -> dict[Side, Waypoint]:
            places = {side: _grasp(pot, side) for side in Side}
            return {
                side: Waypoint(position=(x, y, z + above), yaw=yaw, speed=speed, rough=rough)
                for side, (x, y, z) in places.items()
            }

        yield from motion.move(both(0.09, speed=0.6, rough=True))
        yield from motion.move(both(0.0, speed=0.35))
        yield from motion.grip(dict.fromkeys(Side, 0.0), seconds=0.28)
        yield from motion.move(both(LIFT, speed=0.3))
        yield from motion.hold(0.2)


def _grasp(pot: Float[np.ndarray, " 7"], side: Side) -> Float[np.ndarray, " 3"]:
    """Return where an arm holds its handle (m)."""
    return point_of(pot, (side.outward * GRASP, 0.0, HANDLE_HEIGHT))

"""Grab a rolling roller by its ends and lift it with both arms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ...visual import Pose, Shape
from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, sphere
from ..world import World
from .base import Instructions, Task, point_of

WHEEL, ROD, HALF_LENGTH = 0.026, 0.013, 0.125
"""Radii of the balls on which it rolls and of the rod between them, and half the rod's length (m)."""
GRASP = 0.085
"""From the roller's middle to where it is held (m)."""
ROLLING_DRAG = 12.0
SLOWING = 2.6
"""At which rolling speed dies away (1/s)."""
NEAR, FAR = 0.07, 0.15
"""How far it rolls (m)."""
SLOW = 0.03
"""The expert goes down when the roller is slower than this (m/s)."""
OFF_GRASP = 0.035
LIFTED, LIFT, HOVER = 0.05, 0.10, 0.09


class GrabRoller(Task):
    """RoboTwin's `grab_roller`, except that the roller rolls.

    Hidden: which way, to the robot or away from it, and how fast. The first picture is the same whatever the answer;
    the roller comes to rest within two seconds, 7 to 15 cm from where it was first seen.
    """

    name = "grab_roller"
    instructions = Instructions(
        seen=(
            "Grab the rolling roller with both arms and lift it.",
            "Use both arms to catch the orange roller and pick it up.",
            "Hold the roller by its two ends and raise it.",
            "Wait for the roller, then lift it with both hands.",
            "Lift the roller that is rolling across the table.",
            "Catch the rod with one gripper on either end.",
            "Grasp the moving roller and bring it up.",
            "Get hold of the orange rod on both sides and raise it.",
        ),
        unseen=("Pick the orange roller up, one gripper at each end.", "Both arms take the roller off the table."),
    )
    max_steps = 90

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """A roller across the table, under way to somewhere within both arms' reach."""
        while True:
            end, travel = rng.uniform(-0.10, 0.10), rng.choice((-1, 1)) * rng.uniform(NEAR, FAR)
            yaw = float(rng.uniform(-0.25, 0.25))
            across = np.array([-math.sin(yaw), math.cos(yaw)])
            start = np.array([rng.uniform(-0.03, 0.03), end]) - travel * across
            if -0.13 < start[1] < 0.16:
                break
        orange, dark = appearance.color("orange"), appearance.color("dark")
        along = Pose(quaternion=(math.sqrt(0.5), 0, math.sqrt(0.5), 0))
        rod = Shape(kind="cylinder", size=(ROD, ROD, HALF_LENGTH), color=orange, pose=along)
        wheels = tuple(sphere(WHEEL, dark, (end * HALF_LENGTH, 0, 0)) for end in (-1, 1))
        speed = travel * SLOWING
        turn = -speed / WHEEL
        return (
            SceneObject(
                name="roller",
                shapes=(rod, *wheels),
                position=(float(start[0]), float(start[1])),
                height=WHEEL,
                yaw=yaw,
                velocity=(float(speed * across[0]), float(speed * across[1]), 0.0),
                spin=(turn * math.cos(yaw), turn * math.sin(yaw), 0.0),
                rolling_drag=ROLLING_DRAG,
            ),
        )

    def keep_clear(self, objects: tuple[SceneObject, ...]) -> tuple[tuple[float, float, float], ...]:
        """Where it comes to rest; between there and its start nothing else has room."""
        (roller,) = objects
        x, y = (at + speed / SLOWING for at, speed in zip(roller.position, roller.velocity, strict=False))
        return ((x, y, HALF_LENGTH + 2 * WHEEL),)

    def success(self, world: World) -> bool:
        """The roller is in the air and level, each end in a gripper."""
        ends = _ends(world.pose("roller"))
        return all(
            end[2] - world.table_height - WHEEL > LIFTED
            and math.dist(world.tool(side).position, end) < OFF_GRASP
            and world.gripper(side) < 0.7
            for side, end in ends.items()
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Follow the roller from above until it is slow, descend, close, lift."""
        yield from motion.move(_waypoints(_ends(world.pose("roller")), HOVER, speed=0.7, rough=True))
        for _ in range(30):
            if world.speed("roller") < SLOW:
                break
            yield from motion.move(_waypoints(_ends(world.pose("roller")), HOVER, speed=0.6))
        ends = _ends(world.pose("roller"))
        yield from motion.move(_waypoints(ends, 0.0, speed=0.35))
        yield from motion.grip(dict.fromkeys(Side, 0.0))
        yield from motion.move(_waypoints(ends, LIFT, speed=0.4))
        yield from motion.hold(0.2)


def _ends(roller: Float[np.ndarray, " 7"]) -> dict[Side, Float[np.ndarray, " 3"]]:
    return {side: point_of(roller, (side.outward * GRASP, 0.0, 0.0)) for side in Side}


def _waypoints(
    ends: dict[Side, Float[np.ndarray, " 3"]], above: float, *, speed: float, rough: bool = False
) -> dict[Side, Waypoint]:
    x, y, _ = ends[Side.RIGHT] - ends[Side.LEFT]
    yaw = math.atan2(y, x)
    return {
        side: Waypoint(position=(end[0], end[1], end[2] + above), yaw=yaw, speed=speed, rough=rough)
        for side, end in ends.items()
    }

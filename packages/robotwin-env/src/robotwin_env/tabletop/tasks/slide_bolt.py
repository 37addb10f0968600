"""Slide a bolt open by its knob; it gives way to one side only."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..motion import Action, Motion, Waypoint
from ..objects import MovingPart, SceneObject, box, cylinder
from ..world import World
from .base import Instructions, Task, askew, heading, point_of, side_of

PLATE: tuple[float, float, float] = (0.135, 0.03, 0.008)
SLIDER: tuple[float, float, float] = (0.02, 0.016, 0.008)
"""Half extents (m)."""
KNOB_RADIUS, KNOB, GRASP_HEIGHT = 0.012, 0.05, 0.045
"""Radius and length of the knob, and where over the table it is held (m)."""
TRAVEL, OPEN, PUSHED = 0.10, 0.08, 0.10
"""How far the bolt slides, must slide, and is pushed (m)."""
TRY, GIVES = 0.04, 0.015
"""How far the expert pushes to try a way, and from where on it believes that the bolt gives (m)."""


class SlideBolt(Task):
    """A task of our own: a bolt of which nobody sees which way it opens.

    Hidden: the stop that blocks one way, the same look either way. Only pushing tells.
    """

    name = "slide_bolt"
    instructions = Instructions(
        seen=(
            "Open the bolt.",
            "Take the green knob and slide the bolt to the side that gives way.",
            "Find out which way the bolt opens and slide it there.",
            "Grip the knob of the bolt and push it to its end.",
            "Try the bolt and open it.",
            "Push or pull the green knob until the bolt is open.",
            "Move the knob to the open end.",
            "Get the bolt open, to whichever side it moves.",
        ),
        unseen=("Unlock the bolt by its green knob.", "Slide the bolt whichever way it goes."),
    )
    max_steps = 90

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """A plate askew in one arm's half, its bolt in the middle."""
        position = (float(rng.choice((-1, 1)) * rng.uniform(0.08, 0.20)), float(rng.uniform(-0.03, 0.06)))
        yaw, way = askew(rng, least=0.8, most=1.25), int(rng.choice((-1, 1)))
        plate, slider, knob = appearance.color("grey"), appearance.color("dark"), appearance.color("green")
        bolt = MovingPart(
            name="knob",
            kind="prismatic",
            shapes=(box(SLIDER, slider, (0, 0, SLIDER[2])), cylinder(KNOB_RADIUS, KNOB / 2, knob, (0, 0, KNOB / 2))),
            axis=(1.0, 0.0, 0.0),
            origin=(0.0, 0.0, 2 * PLATE[2] + 0.001),
            lower=min(0.0, way * TRAVEL),
            upper=max(0.0, way * TRAVEL),
            damping=25.0,
        )
        return (
            SceneObject(
                name="bolt",
                shapes=(box(PLATE, plate, (0, 0, PLATE[2])),),
                position=position,
                yaw=yaw,
                motion="fixed",
                parts=(bolt,),
            ),
        )

    def success(self, world: World) -> bool:
        """The bolt is open, its knob between the fingers of the arm that opened it."""
        knob = world.pose("knob")
        side = side_of(world.pose("bolt")[0])
        return (
            abs(world.joint("knob")) > OPEN
            and 0.15 < world.gripper(side) < 0.5
            and math.dist(world.tool(side).position[:2], knob[:2]) < 0.02
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Take the knob with a finger on either side of its way, push to the right and, where that is barred, back."""
        plate, height = world.pose("bolt"), world.table_height + GRASP_HEIGHT
        side, along = side_of(plate[0]), heading(plate)
        yaw = along - math.copysign(math.pi / 2, along)

        def at(travel: float, *, above: float = 0.0, speed: float = 0.3, rough: bool = False) -> Iterator[Action]:
            x, y, _ = point_of(plate, (travel, 0.0, 0.0))
            return motion.move({side: Waypoint(position=(x, y, height + above), yaw=yaw, speed=speed, rough=rough)})

        yield from at(0.0, above=0.09, speed=0.7, rough=True)
        yield from at(0.0, above=0.0, speed=0.35)
        yield from motion.grip({side: 0.0})
        yield from at(TRY)
        way = 1 if world.joint("knob") > GIVES else -1
        yield from at(way * PUSHED)
        yield from motion.hold(0.2)

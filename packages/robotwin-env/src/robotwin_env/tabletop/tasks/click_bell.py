"""Press the button of a bell with a closed gripper."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..motion import Action, Motion, Waypoint
from ..objects import SceneObject, box, cylinder
from ..world import World
from .base import Instructions, Task, side_of

BELL_TOP = 0.06
"""Height of the unpressed button's top above the table (m)."""
PRESSED = 0.006


class ClickBell(Task):
    """RoboTwin's `click_bell`."""

    name = "click_bell"
    instructions = Instructions(
        seen=(
            "Click the bell.",
            "Press the yellow bell on the table.",
            "Push the top of the bell down.",
            "Ring the bell with the gripper.",
            "Move an arm over the bell and press its button.",
        ),
        unseen=("Hit the bell's button once.", "Make the golden bell ring."),
    )
    max_steps = 60

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """A bell that stands still and its button, in one arm's half."""
        x, y = rng.choice((-1, 1)) * rng.uniform(0.05, 0.27), rng.uniform(-0.08, 0.12)
        base, cap = appearance.color("dark"), appearance.color("yellow")
        return (
            SceneObject(
                name="bell_base",
                shapes=(box((0.032, 0.032, 0.012), base, (0, 0, 0.012)),),
                position=(x, y),
                motion="fixed",
            ),
            SceneObject(
                name="bell",
                shapes=(cylinder(0.03, 0.011, cap, (0, 0, BELL_TOP - 0.011)),),
                position=(x, y),
                motion="button",
            ),
        )

    def success(self, world: World) -> bool:
        """The button is at least half way down."""
        return world.pressed("bell") > PRESSED

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Close while moving over the bell, then press."""
        x, y, _ = world.pose("bell")[:3]
        side, top = side_of(x), world.table_height + BELL_TOP
        yield from motion.move({side: Waypoint(position=(x, y, top + 0.08), grip=0.0, rough=True)})
        yield from motion.move({side: Waypoint(position=(x, y, top - 0.005), speed=0.3)})
        yield from motion.hold(0.2)

"""Put a red block beside a blue cylinder, on the board on which the cylinder stands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion
from ..objects import SceneObject, box, cylinder
from ..world import World
from .base import Instructions, Task, askew, heading, side_of, upright_share
from .pick_place import pick, place

BAR: tuple[float, float, float] = (0.047, 0.02, 0.025)
BOARD: tuple[float, float, float] = (0.155, 0.05, 0.01)
"""Half extents (m); a bar is longer than the fingers open, and no push lifts it onto the board."""
NEAREST, FARTHEST, ASIDE = 0.05, 0.16, 0.05
"""The bar's centre must come to rest in this band beside the cylinder's, this little in front or behind (m)."""
DISTANCE = 0.10
REACH = 0.12
"""How far an arm places beyond the table's middle (m)."""


class _PlaceBeside(Task):
    direction: float
    """-1: to the left of B, 1: to its right."""
    max_steps = 130

    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """A in one arm's half, B in the middle of a board that leaves the goal in that arm's reach."""
        outward = float(rng.choice((-1, 1)))
        while True:
            a = (outward * rng.uniform(0.05, 0.26), rng.uniform(-0.12, 0.13))
            goal = (outward * rng.uniform(-REACH, 0.26), rng.uniform(-0.08, 0.10))
            b = (goal[0] - self.direction * DISTANCE, goal[1])
            if abs(b[0]) < 0.26 and (abs(a[1] - b[1]) > 0.115 or abs(a[0] - b[0]) > 0.22):
                break
        red, blue, pale = appearance.color("red"), appearance.color("blue"), appearance.color("grey")
        top = 2 * BOARD[2]
        bar, can = box(BAR, red, (0, 0, BAR[2])), cylinder(0.024, 0.02, blue, (0, 0, top + 0.02))
        return (
            SceneObject(name="a", shapes=(bar,), position=a, yaw=askew(rng, least=0.95, most=1.45)),
            SceneObject(name="b", shapes=(box(BOARD, pale, (0, 0, BOARD[2])), can), position=b, motion="fixed"),
        )

    def success(self, world: World) -> bool:
        """A rests flat on the board in the band beside B, and nobody holds it."""
        a, b = world.pose("a"), world.pose("b")
        return bool(
            NEAREST < self.direction * (a[0] - b[0]) < FARTHEST
            and abs(a[1] - b[1]) < ASIDE
            and abs(a[2] - world.table_height - 2 * BOARD[2]) < 0.005
            and upright_share(a) > 0.99
            and min(world.gripper(side) for side in Side) > 0.7
            and world.speed("a") < 0.05
        )

    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Pick A up across its length with the arm of its half and set it down beside B."""
        a, b = world.pose("a"), world.pose("b")
        side, height, yaw = side_of(a[0]), world.table_height + BAR[2], heading(a)
        yield from pick(motion, side, (a[0], a[1], height), yaw=yaw)
        goal = (b[0] + self.direction * DISTANCE, b[1], height + 2 * BOARD[2] + 0.004)
        yield from place(motion, side, goal, yaw=yaw)


class PlaceA2BLeft(_PlaceBeside):
    """RoboTwin's `place_a2b_left`."""

    name = "place_a2b_left"
    direction = -1.0
    instructions = Instructions(
        seen=(
            "Place the red block to the left of the blue cylinder.",
            "Put the red block on the left side of the blue cylinder.",
            "Pick up the red block and set it down left of the blue cylinder.",
            "Move the red block so that it stands to the left of the blue can.",
            "Set the red cube down beside the blue cylinder, on its left.",
            "To the left of the blue can goes the red block.",
            "Bring the red block over to the left of the cylinder.",
            "Let the red block end up left of the blue cylinder.",
        ),
        unseen=(
            "The red block belongs on the blue cylinder's left.",
            "Grab the red cube and leave it just left of the blue cylinder.",
        ),
    )


class PlaceA2BRight(_PlaceBeside):
    """RoboTwin's `place_a2b_right`."""

    name = "place_a2b_right"
    direction = 1.0
    instructions = Instructions(
        seen=(
            "Place the red block to the right of the blue cylinder.",
            "Put the red block on the right side of the blue cylinder.",
            "Pick up the red block and set it down right of the blue cylinder.",
            "Move the red block so that it stands to the right of the blue can.",
            "Set the red cube down beside the blue cylinder, on its right.",
            "To the right of the blue can goes the red block.",
            "Bring the red block over to the right of the cylinder.",
            "Let the red block end up right of the blue cylinder.",
        ),
        unseen=(
            "The red block belongs on the blue cylinder's right.",
            "Grab the red cube and leave it just right of the blue cylinder.",
        ),
    )

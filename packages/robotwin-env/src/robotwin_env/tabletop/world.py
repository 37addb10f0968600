"""The state of a running episode, as tasks and experts read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float

from .kinematics import Side

if TYPE_CHECKING:
    from .motion import Action


class World(Protocol):
    """What a success check or an expert may look at; all of it is privileged."""

    @property
    def table_height(self) -> float:
        """Height of the table's top (m)."""

    @property
    def command(self) -> Action:
        """The drive targets in force."""

    def pose(self, name: str) -> Float[np.ndarray, " 7"]:
        """Return a body's position (m) and quaternion `(w, x, y, z)`."""

    def speed(self, name: str) -> float:
        """Return how fast a free object moves (m/s)."""

    def pressed(self, name: str) -> float:
        """Return how far a button is down (m)."""

    def gripper(self, side: Side) -> float:
        """Return how far a gripper is open: measured, 0 to 1."""

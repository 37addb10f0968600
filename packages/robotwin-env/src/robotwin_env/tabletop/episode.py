"""One running episode: a scene in motion."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from ..errors import ActionError
from .kinematics import Side, ToolPose, inverse, joint_limits
from .motion import Action
from .scene import Scene

CONTROL_HZ = 25
SUBSTEPS = 10
"""Physics steps of 1/250 s in one control step."""
SETTLE_STEPS = 25
"""Physics steps before an episode starts, for objects to come to rest."""
HOME_FORWARD, HOME_HEIGHT = 0.28, 0.20
"""Where a tool waits: so far in front of its arm's base and above the nominal table (m)."""


class Episode:
    """The physics of a scene and the command in force; a `World` to tasks and experts."""

    def __init__(self, scene: Scene, start: Action) -> None:
        """Build the scene with the robot at rest at `start`."""
        from ._sapien import Physics  # SAPIEN loads Vulkan on import: not before somebody simulates.

        self.scene = scene
        self._physics = Physics((*scene.objects, *scene.distractors), scene.table, scene.table_height)
        self._command = start.astype(np.float64)
        self._physics.place(self._command)
        self._physics.advance(SETTLE_STEPS)

    @property
    def table_height(self) -> float:
        """Height of the table's top (m)."""
        return self.scene.table_height

    @property
    def command(self) -> Action:
        """The drive targets in force."""
        return self._command.copy()

    def act(self, action: Action) -> None:
        """Play one checked action for 40 ms."""
        self._command = action.astype(np.float64)
        self._physics.command(self._command)
        self._physics.advance(SUBSTEPS)

    def pose(self, name: str) -> Float[np.ndarray, " 7"]:
        """Return a body's position (m) and quaternion `(w, x, y, z)`."""
        return self._physics.pose(name)

    def speed(self, name: str) -> float:
        """Return how fast a free object moves (m/s)."""
        return math.hypot(*self._physics.velocity(name))

    def pressed(self, name: str) -> float:
        """Return how far a button is down (m)."""
        return self._physics.pressed(name)

    def gripper(self, side: Side) -> float:
        """Return how far a gripper is open: measured, 0 to 1."""
        return float(self.measured()[side.gripper])

    def measured(self) -> Action:
        """Return where the joints are, in the action's order."""
        return self._physics.measured()

    def poses(self) -> dict[str, Float[np.ndarray, " 7"]]:
        """Return every body's pose, as a renderer wants them."""
        return {name: self._physics.pose(name) for name in self._physics.names}

    def close(self) -> None:
        """Free the physics."""
        self._physics.close()


def home(rng: np.random.Generator, spread: float) -> Action:
    """Return the pose in which an episode starts: tools down, grippers open.

    Args:
        rng: draws the displacement of each tool.
        spread: largest displacement along each axis (m).
    """
    action = np.ones(14)
    for side in Side:
        x, y, _ = side.base
        dx, dy, dz = spread * rng.uniform(-1, 1, 3)
        action[side.joints] = inverse(side, ToolPose((x + dx, y + HOME_FORWARD + dy, HOME_HEIGHT + dz)))
    return action


def action_limits() -> tuple[Float[np.ndarray, " 14"], Float[np.ndarray, " 14"]]:
    """Return the least and greatest action, in float32 so that a float32 action at a limit passes."""
    low, high = joint_limits()
    return (
        np.concatenate([low, [0.0], low, [0.0]]).astype(np.float32),
        np.concatenate([high, [1.0], high, [1.0]]).astype(np.float32),
    )


def checked_action(action: Float[np.ndarray, " 14"]) -> Action:
    """Return the action as float64.

    Raises:
        ActionError: a wrong shape, a NaN or infinity, or a number outside the limits.
    """
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (14,):
        raise ActionError(
            f"an action of shape {values.shape} was given; it needs 14 numbers: left 6 joints, left gripper, "
            "right 6 joints, right gripper."
        )
    if not np.isfinite(values).all():
        raise ActionError(f"action[{int(np.flatnonzero(~np.isfinite(values))[0])}] is not finite; nothing was moved.")
    low, high = action_limits()
    outside = np.flatnonzero((values < low - 1e-6) | (values > high + 1e-6))
    if outside.size:
        index = int(outside[0])
        raise ActionError(
            f"action[{index}] is {values[index]:.4f}; it must lie between {low[index]:.4f} and {high[index]:.4f}. "
            "Clip actions to `action_space.low` and `action_space.high`."
        )
    return values.clip(low, high)

"""What an action is allowed to be, and the one in which an episode starts."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

from ..errors import ActionError
from .kinematics import Side, ToolPose, inverse, joint_limits
from .motion import Action

HOME_FORWARD, HOME_HEIGHT = 0.28, 0.20
"""Where a tool waits: so far in front of its arm's base and above the nominal table (m)."""


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


@cache
def action_limits() -> tuple[Float[np.ndarray, " 14"], Float[np.ndarray, " 14"]]:
    """Return the least and greatest action, in float32 so that a float32 action at a limit passes."""
    low, high = joint_limits()
    return (
        np.concatenate([low, [0.0], low, [0.0]]).astype(np.float32),
        np.concatenate([high, [1.0], high, [1.0]]).astype(np.float32),
    )


def checked_action(action: Float[np.ndarray, " 14"], command: Action, max_delta: float | None = None) -> Action:
    """Return the action as float64.

    Args:
        action: what is to be played.
        command: the action before it.
        max_delta: how far a joint's target may move from one action to the next (rad); None for any way.

    Raises:
        ActionError: a wrong shape, a NaN or infinity, a number outside the limits, or a joint that turns too far.
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
    values = values.clip(low, high)
    if max_delta is not None:
        turns = np.abs(values - command)
        turns[[side.gripper for side in Side]] = 0.0
        if turns.max() > max_delta:
            index = int(turns.argmax())
            raise ActionError(
                f"action[{index}] turns a joint by {turns[index]:.4f} rad at once; `max_delta` is {max_delta:g}. "
                "Go there in smaller steps."
            )
    return values

"""Other ways to say what the arms shall do, for both worlds: gripper poses, and steps from where they are.

Every wrapper turns its actions into those of the environment below, for `step` and for `step_chunk`:
`DeltaActions(TabletopEnv(...))` takes steps of joints, `DeltaActions(EndEffectorActions(TabletopEnv(...)))` and
`DeltaActions(RoboTwinEnv(RoboTwinConfig(action_mode="ee")))` steps of the grippers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray

from .conventions import ChunkOutcome, Info, Observation
from .errors import ActionError, RobotwinEnvError, UnknownNameError, UnreachableError
from .render.meshes import rotation_matrices
from .tabletop.end_effector import HAND_LENGTH, endpose
from .tabletop.env import TabletopEnv
from .tabletop.kinematics import Side, forward, joint_limits, near_enough
from .tabletop.views import quaternion_of

REACH = 2.0
"""Gripper poses lie within this of the origin along every axis (m), as RoboTwin's."""
_TOLERANCE = np.array([1e-3] * 3 + [1e-2] * 3)
"""How far a pose may be missed (m, rad)."""
_ITERATIONS, _DAMPING, _NUDGE = 60, 1e-4, 1e-6

Poses = Float[np.ndarray, " 16"]
Unreachable = Literal["hold", "refuse"]


class _Translated(gymnasium.Wrapper[Observation, NDArray[Any], Observation, NDArray[Any]], ABC):
    """Plays actions after turning them into those of the environment below."""

    def __init__(self, env: gymnasium.Env[Observation, NDArray[Any]], low: list[float], high: list[float]) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)
        self._size = len(low)
        self._low, self._high = np.array(low), np.array(high)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(observation)
        return observation, info

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, Info]:
        """Play one action.

        Raises:
            ActionError: the action is malformed, outside `action_space`, or refused below; nothing was moved.
        """
        outcome = self.step_chunk(np.asarray(action)[None])
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    def step_chunk(self, actions: Float[np.ndarray, "time action"], *, record_every: int | None = None) -> ChunkOutcome:
        """Play actions until they end, the task succeeds or the step limit comes.

        Raises:
            ActionError: one of the actions is malformed, outside `action_space`, or refused below; none was played.
        """
        if np.ndim(actions) != 2 or len(actions) == 0 or np.shape(actions)[1] != self._size:
            raise ActionError(f"actions of shape {np.shape(actions)} were given; they must be (time, {self._size}).")
        given = np.asarray(actions, np.float64)
        outside = ~np.isfinite(given) | (given < self._low - 1e-6) | (given > self._high + 1e-6)
        if outside.any():
            step, place = np.argwhere(outside)[0]
            raise ActionError(
                f"number {place} of action {step} is {given[step, place]:.4g}; it must lie between "
                f"{self._low[place]:.4g} and {self._high[place]:.4g}. Clip actions to `action_space.low` and "
                "`action_space.high`."
            )
        before = self._mark()
        try:
            translated = np.stack([self._translate(action) for action in given])
            below: Any = self.env
            outcome: ChunkOutcome = below.step_chunk(translated, record_every=record_every)
        except ActionError:
            self._return_to(before)
            raise
        return outcome

    @abstractmethod
    def _begin(self, observation: Observation) -> None:
        """Take note of where an episode starts."""

    @abstractmethod
    def _translate(self, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " below"]:
        """Turn one action into one of the environment below."""

    @abstractmethod
    def _mark(self) -> NDArray[np.float64]:
        """Return what actions are counted from."""

    @abstractmethod
    def _return_to(self, mark: NDArray[np.float64]) -> None:
        """Count from `mark` again."""


class EndEffectorActions(_Translated):
    """Gripper poses for the tabletop: for each arm `[x, y, z (m), qw, qx, qy, qz, gripper]`, as RoboTwin's `ee` mode.

    The frame is that of `env.endpose()`. Quaternions need not be of length 1, but of some. An arm that cannot take a
    pose keeps the command that it has, as RoboTwin's does, while its gripper and the other arm go on:
    `info["plan_failures"]` counts arms that did, in all actions that were just played.

    Args:
        env: The tabletop. Where it has a `max_delta`, poses that turn a joint further at once are refused.
        unreachable: `refuse` raises an `ActionError` instead of holding the arm.

    Raises:
        UnknownNameError: `unreachable` is something else.
    """

    def __init__(self, env: TabletopEnv, *, unreachable: Unreachable = "hold") -> None:
        if unreachable not in get_args(Unreachable):
            raise UnknownNameError(f"`unreachable` is `{unreachable}`; choose `hold` or `refuse`.")
        low, high = ([-REACH] * 3 + [-1.0] * 4 + [0.0]) * 2, ([REACH] * 3 + [1.0] * 4 + [1.0]) * 2
        super().__init__(env, low, high)
        self._joints: NDArray[np.float64] | None = None
        self._unreachable = unreachable
        self._held: list[int] = []

    def step_chunk(self, actions: Float[np.ndarray, "time 16"], *, record_every: int | None = None) -> ChunkOutcome:
        """Play poses until they end, the task succeeds or the step limit comes.

        Raises:
            ActionError: one of the poses is malformed, outside `action_space`, or refused; none was played.
        """
        self._held = []
        outcome = super().step_chunk(actions, record_every=record_every)
        return replace(outcome, info={**outcome.info, "plan_failures": sum(self._held[: outcome.executed])})

    def commanded_pose(self) -> Poses:
        """Where the last command puts the grippers."""
        return endpose(self._command())

    def _begin(self, observation: Observation) -> None:
        self._joints = observation["state"].astype(np.float64)

    def _command(self) -> NDArray[np.float64]:
        if self._joints is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        return self._joints

    def _translate(self, action: Float[np.ndarray, " 16"]) -> Float[np.ndarray, " 14"]:
        joints, held = self._command().copy(), 0
        for side, pose in zip(Side, action.reshape(2, 8), strict=True):
            try:
                joints[side.joints] = _solve(side, pose, joints[side.joints])
            except UnreachableError as error:
                if self._unreachable == "refuse":
                    raise ActionError(f"{error} Nothing was moved.") from error
                held += 1
            joints[side.gripper] = pose[7]
        self._joints = joints
        self._held.append(held)
        return joints

    def _mark(self) -> NDArray[np.float64]:
        return self._command()

    def _return_to(self, mark: NDArray[np.float64]) -> None:
        self._joints = mark


class DeltaActions(_Translated):
    """Steps from the last command instead of absolute targets; grippers stay absolute, 0 closed to 1 open.

    Above joint targets: for each arm the change of its joints (rad), then the gripper. Above gripper poses: for each
    arm the change of its position (m) and a rotation vector (rad), both along the world's axes, then the gripper; after
    a pose that an arm could not take, the next chunk's steps are counted from where the grippers are. Sums are kept
    within the limits of what is below.

    Args:
        env: An environment of either world, or `EndEffectorActions`.
        limit: Largest change of a joint or a rotation at once (rad), and ten times that of a position (m).
    """

    def __init__(self, env: gymnasium.Env[Observation, NDArray[Any]], *, limit: float = 0.1) -> None:
        if not 0 < limit < np.inf:
            raise ActionError(f"`limit` is {limit}; it must be positive.")
        below = env.action_space
        assert isinstance(below, spaces.Box)
        self._poses = below.shape == (16,) and _takes_poses(env)
        moves = [limit / 10] * 3 + [limit] * 3 if self._poses else [limit] * (below.shape[0] // 2 - 1)
        super().__init__(env, ([-move for move in moves] + [0.0]) * 2, ([*moves, 1.0]) * 2)
        self._below = below
        self._from: NDArray[np.float64] | None = None

    def step_chunk(self, actions: Float[np.ndarray, "time action"], *, record_every: int | None = None) -> ChunkOutcome:
        """Play steps until they end, the task succeeds or the step limit comes.

        Raises:
            ActionError: one of the steps is malformed, outside `action_space`, or refused below; none was played.
        """
        outcome = super().step_chunk(actions, record_every=record_every)
        if self._poses and outcome.info["plan_failures"]:
            self._begin(outcome.observation)
        return outcome

    def _begin(self, observation: Observation) -> None:
        if not self._poses:
            self._from = observation["state"].astype(np.float64)
            return
        below: Any = self.env
        pose = below.commanded_pose() if isinstance(self.env, EndEffectorActions) else below.endpose()
        self._from = np.asarray(pose, np.float64)

    def _translate(self, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " below"]:
        if self._from is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        before, steps = self._from.reshape(2, -1), action.reshape(2, -1)
        after = before.copy()
        after[:, -1] = steps[:, -1]
        if self._poses:
            after[:, :3] = (after[:, :3] + steps[:, :3]).clip(-REACH, REACH)
            for arm, turn in zip(after, steps[:, 3:6], strict=True):
                arm[3:7] = _turned(arm[3:7], turn)
        else:
            after[:, :-1] += steps[:, :-1]
            after = after.reshape(-1).clip(self._below.low, self._below.high).reshape(2, -1)
        self._from = after.reshape(-1)
        return self._from

    def _mark(self) -> NDArray[np.float64]:
        if self._from is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        return self._from

    def _return_to(self, mark: NDArray[np.float64]) -> None:
        self._from = mark


def _takes_poses(env: Any) -> bool:
    """Whether sixteen numbers are gripper poses, not two arms of seven joints."""
    if isinstance(env, EndEffectorActions):
        return True
    return getattr(getattr(env, "config", None), "action_mode", "qpos") == "ee"


def _turned(quaternion: Float[np.ndarray, " 4"], turn: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 4"]:
    """Turn a pose's quaternion `(w, x, y, z)` by a rotation vector along the world's axes."""
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle > 0 else turn
    w1, (x1, y1, z1) = np.cos(angle / 2), np.sin(angle / 2) * axis
    w2, x2, y2, z2 = quaternion
    product = np.array(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ]
    )
    return product / float(np.linalg.norm(product))


def _solve(side: Side, pose: Float[np.ndarray, " 8"], start: Float[np.ndarray, " 6"]) -> Float[np.ndarray, " 6"]:
    """Find joints near `start` that put the gripper at `pose`: damped least squares (Wampler 1986).

    Raises:
        ActionError: the quaternion says nothing of a rotation.
        UnreachableError: there are none.
    """
    length = float(np.linalg.norm(pose[3:7]))
    if length < 1e-3:
        raise ActionError(f"the {side.name.lower()} quaternion has length {length:.4g}; it must not be zero.")
    axes = rotation_matrices(pose[None, 3:7] / length)[0]
    rotation = axes[:, [1, 2, 0]]  # a gripper's x, y, z are the tool's z, x, y
    position = pose[:3] + HAND_LENGTH * axes[:, 0]
    low, high = joint_limits()
    refusal = UnreachableError(f"the {side.name.lower()} arm cannot take the pose {pose[:7].round(3).tolist()}.")
    if not near_enough(side, position, axes[:, 0]):
        raise refusal

    def miss(joints: Float[np.ndarray, " 6"]) -> Float[np.ndarray, " 6"]:
        found, turned = forward(side, joints)
        return np.concatenate([position - found, _rotation_vector(rotation @ turned.T)])

    joints = start.copy()
    for _ in range(_ITERATIONS):
        off = miss(joints)
        if np.abs(off).max() < 1e-7:
            break
        slopes = np.stack([(off - miss(joints + nudge)) / _NUDGE for nudge in _NUDGE * np.eye(6)], axis=1)
        step = slopes.T @ np.linalg.solve(slopes @ slopes.T + _DAMPING * np.abs(off).max() * np.eye(6), off)
        joints = (joints + step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-9))).clip(low, high)
    if (np.abs(miss(joints)) > _TOLERANCE).any():
        raise refusal
    return joints


def _rotation_vector(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    quaternion = np.array(quaternion_of(rotation))
    quaternion *= np.copysign(1.0, quaternion[0])
    half = float(np.linalg.norm(quaternion[1:]))
    if half < 1e-9:
        return 2.0 * quaternion[1:]
    vector: Float[np.ndarray, " 3"] = quaternion[1:] * (2.0 * np.arctan2(half, quaternion[0]) / half)
    return vector

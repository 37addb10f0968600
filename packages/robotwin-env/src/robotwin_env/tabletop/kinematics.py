"""Where an arm's tool is, and which joint angles put it somewhere, in closed form.

The tool always points straight down: with the forearm roll at zero the arm moves in one vertical plane, so yaw aims,
two links of equal length reach, the wrist's pitch levels and its roll turns the fingers. Closed form is exact,
continuous and costs microseconds, so that an expert can solve every 40 ms step of a straight line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
from jaxtyping import Float

from ..errors import UnreachableError
from ..visual import Vector3
from .urdf import Joint, arm_links

ARM_JOINTS = 6


class Side(Enum):
    """One of the two arms, seen by somebody who stands behind the robot and looks along +y."""

    LEFT = 0
    RIGHT = 1

    @property
    def base(self) -> Vector3:
        """Where the arm stands (m); it faces +y."""
        return (-0.3 if self is Side.LEFT else 0.3, -0.4, 0.0)

    @property
    def other(self) -> Side:
        """The opposite arm."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT

    @property
    def outward(self) -> float:
        """The sign of x on this side of the table."""
        return -1.0 if self is Side.LEFT else 1.0

    @property
    def joints(self) -> slice:
        """This arm's six joints in the 14-number action."""
        return slice(7 * self.value, 7 * self.value + ARM_JOINTS)

    @property
    def numbers(self) -> slice:
        """This arm's joints and gripper in the 14-number action."""
        return slice(7 * self.value, 7 * self.value + 7)

    @property
    def gripper(self) -> int:
        """This gripper's index in the 14-number action."""
        return 7 * self.value + ARM_JOINTS


@dataclass(frozen=True, slots=True)
class ToolPose:
    """A tool that points down."""

    position: Vector3
    """Between the finger pads, in the world (m)."""
    yaw: float = 0.0
    """Counter-clockwise turn seen from above (rad); at 0 the fingers open along the world's y axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    shoulder: float
    upper: float
    lower: float
    tool: float


@cache
def arm_joints() -> tuple[Joint, ...]:
    """The six joints of an arm in the action's order."""
    return tuple(link.joint for link in arm_links() if link.joint is not None and link.joint.kind == "revolute")


@cache
def joint_limits() -> tuple[Float[np.ndarray, " 6"], Float[np.ndarray, " 6"]]:
    """Lower and upper limits of an arm's joints (rad)."""
    return np.array([joint.lower for joint in arm_joints()]), np.array([joint.upper for joint in arm_joints()])


@cache
def speed_limits() -> Float[np.ndarray, " 14"]:
    """How fast the drives' targets move, in the action's order: rad/s, and shares of a gripper's way per second."""
    finger = next(link.joint for link in arm_links() if link.joint is not None and link.joint.kind == "prismatic")
    arm = [*(joint.velocity for joint in arm_joints()), finger.velocity / finger.upper]
    return np.array([*arm, *arm])


@cache
def _lengths() -> _Lengths:
    yaw, shoulder, elbow, roll, pitch, wrist_roll = (joint.origin[2] for joint in arm_joints())
    tool = next(link.joint.origin[2] for link in arm_links() if link.joint is not None and link.name == "tool")
    return _Lengths(shoulder=yaw + shoulder, upper=elbow, lower=roll + pitch, tool=wrist_roll + tool)


def inverse(side: Side, pose: ToolPose) -> Float[np.ndarray, " 6"]:
    """Solve for the joint angles (rad) of the elbow-up arm that put the tool at `pose`.

    Raises:
        UnreachableError: the point is too far, too near, or outside a joint's limits.
    """
    lengths = _lengths()
    base = side.base
    forward, leftward = pose.position[1] - base[1], base[0] - pose.position[0]
    reach = math.hypot(forward, leftward)
    height = pose.position[2] + lengths.tool - lengths.shoulder - base[2]
    distance = math.hypot(reach, height)
    if not abs(lengths.upper - lengths.lower) < distance < lengths.upper + lengths.lower:
        raise UnreachableError(
            f"the {side.name.lower()} arm cannot put its tool at {_text(pose.position)}: the wrist would be "
            f"{distance:.3f} m from the shoulder and reaches {lengths.upper + lengths.lower:.3f} m; move the target."
        )
    bend = math.acos((lengths.upper**2 + distance**2 - lengths.lower**2) / (2 * lengths.upper * distance))
    upper = math.atan2(reach, height) - bend
    lower = math.atan2(reach - lengths.upper * math.sin(upper), height - lengths.upper * math.cos(upper))
    yaw = math.atan2(leftward, forward)
    joints = np.array([yaw, upper, lower - upper, 0.0, math.pi - lower, yaw - pose.yaw])
    low, high = joint_limits()
    outside = (joints < low) | (joints > high)
    if outside.any():
        names = ", ".join(f"`{joint.name}`" for joint, out in zip(arm_joints(), outside, strict=True) if out)
        raise UnreachableError(
            f"the {side.name.lower()} arm cannot put its tool at {_text(pose.position)} with yaw {pose.yaw:.2f}: "
            f"{names} would leave the limits; move or turn the target."
        )
    return joints


def forward(side: Side, joints: Float[np.ndarray, " 6"]) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
    """Compute the tool's position (m) and rotation matrix in the world for any joint angles (rad)."""
    base = side.base
    rotation = _rotation((0.0, 0.0, 1.0), math.pi / 2)
    position = np.array(base)
    for joint, angle in zip(arm_joints(), joints, strict=True):
        position = position + rotation @ np.array(joint.origin)
        rotation = rotation @ _rotation(joint.axis, float(angle))
    tool = next(link.joint.origin for link in arm_links() if link.joint is not None and link.name == "tool")
    return position + rotation @ np.array(tool), rotation


def near_enough(side: Side, position: Float[np.ndarray, " 3"], ahead: Float[np.ndarray, " 3"]) -> bool:
    """Whether the arm is long enough, or at most 1 cm too short, for a tool at `position` (m) that points `ahead`.

    Where it is not, no joints put the tool there; where it is, their limits may still forbid it.
    """
    lengths = _lengths()
    shoulder = np.add(side.base, (0.0, 0.0, lengths.shoulder))
    away = float(np.linalg.norm(position - lengths.tool * ahead - shoulder))
    return away < lengths.upper + lengths.lower + 0.01


def tool_pose(side: Side, joints: Float[np.ndarray, " 6"]) -> ToolPose:
    """Describe where `joints` put the tool; a tilt is left out."""
    position, rotation = forward(side, joints)
    x, y, _ = rotation[:, 0]
    yaw = math.atan2(x, -y)
    return ToolPose((float(position[0]), float(position[1]), float(position[2])), yaw)


def _rotation(axis: Vector3, angle: float) -> Float[np.ndarray, "3 3"]:
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: Float[np.ndarray, "3 3"] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation


def _text(position: Vector3) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in position) + ")"

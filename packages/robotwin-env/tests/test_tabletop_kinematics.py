from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robotwin_env import UnreachableError
from robotwin_env.tabletop.kinematics import (
    Side,
    ToolPose,
    arm_joints,
    forward,
    inverse,
    joint_limits,
    near_enough,
    tool_pose,
)
from robotwin_env.tabletop.objects import SceneObject, box

sides = st.sampled_from(list(Side))
inward = st.floats(-0.12, 0.28)
"""From the table's middle towards the arm's own side (m): what the tasks ask of an arm."""
across = st.floats(-0.15, 0.17)
heights = st.floats(0.0, 0.20)
yaws = st.floats(-1.6, 1.6)


@given(side=sides, inward=inward, y=across, z=heights, yaw=yaws)
def test_the_tool_arrives_where_the_inverse_was_asked_to_put_it(
    side: Side, inward: float, y: float, z: float, yaw: float
) -> None:
    wanted = ToolPose((side.outward * inward, y, z), yaw)
    position, rotation = forward(side, inverse(side, wanted))
    np.testing.assert_allclose(position, wanted.position, atol=1e-9)
    np.testing.assert_allclose(rotation[:, 2], (0, 0, -1), atol=1e-9)  # the tool points down
    np.testing.assert_allclose(rotation[:, 0], (math.sin(yaw), -math.cos(yaw), 0), atol=1e-9)  # fingers along y
    assert tool_pose(side, inverse(side, wanted)).yaw == pytest.approx(yaw, abs=1e-9)


@given(side=sides, inward=inward, y=across, z=heights, yaw=yaws)
def test_every_place_that_tasks_use_stays_within_the_joint_limits(
    side: Side, inward: float, y: float, z: float, yaw: float
) -> None:
    low, high = joint_limits()
    joints = inverse(side, ToolPose((side.outward * inward, y, z), yaw))
    assert (joints > low).all()
    assert (joints < high).all()


@given(side=sides, y=across, z=heights)
def test_a_centimetre_of_motion_never_asks_for_a_jump_of_the_joints(side: Side, y: float, z: float) -> None:
    path = [inverse(side, ToolPose((side.outward * x, y, z))) for x in np.arange(-0.12, 0.28, 0.01)]
    assert np.abs(np.diff(path, axis=0)).max() < 0.12


@pytest.mark.parametrize("position", [(0.9, 0.0, 0.1), (-0.3, 0.6, 0.1), (-0.3, -0.4, 0.0)])
def test_points_out_of_reach_are_refused_with_their_coordinates(position: tuple[float, float, float]) -> None:
    where = f"{position[0]:.3f}, {position[1]:.3f}"
    with pytest.raises(UnreachableError, match=rf"left arm cannot put its tool at \({where}"):
        inverse(Side.LEFT, ToolPose(position))


@given(side=sides, shares=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_no_pose_that_joints_make_is_too_far(side: Side, shares: list[float]) -> None:
    low, high = joint_limits()
    position, rotation = forward(side, low + np.array(shares) * (high - low))
    assert near_enough(side, position, rotation[:, 2])


def test_a_pose_two_centimetres_beyond_a_straight_arm_is_too_far() -> None:
    straight = np.array([0.0, math.pi / 2, 0.0, 0.0, 0.0, 0.0])
    position, rotation = forward(Side.RIGHT, straight)
    assert near_enough(Side.RIGHT, position, rotation[:, 2])
    assert not near_enough(Side.RIGHT, position + 0.02 * rotation[:, 2], rotation[:, 2])


@pytest.fixture(scope="module")
def pinocchio() -> Iterator[Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """SAPIEN's own forward kinematics of the right arm: joint angles to the tool's 4x4 pose in the world."""
    from robotwin_env.tabletop._sapien import Physics

    table = SceneObject(name="table", shapes=(box((0.5, 0.5, 0.02), (1, 1, 1)),), position=(0.0, 0.0), motion="fixed")
    physics = Physics((), table, 0.0)
    arm = physics._arms[Side.RIGHT].articulation
    model = arm.create_pinocchio_model()
    tool = next(index for index, link in enumerate(arm.links) if link.name == "tool")
    names = [joint.name for joint in arm.active_joints]

    def tool_matrix(joints: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.zeros(len(names))
        full[[names.index(joint.name) for joint in arm_joints()]] = joints
        model.compute_forward_kinematics(full)
        matrix: NDArray[np.float64] = (arm.root_pose * model.get_link_pose(tool)).to_transformation_matrix()
        return matrix

    yield tool_matrix
    physics.close()


@pytest.mark.sim
@given(shares=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_our_forward_kinematics_agree_with_pinocchio(
    pinocchio: Callable[[NDArray[np.float64]], NDArray[np.float64]], shares: list[float]
) -> None:
    low, high = joint_limits()
    joints = low + np.array(shares) * (high - low)
    position, rotation = forward(Side.RIGHT, joints)
    matrix = pinocchio(joints)
    np.testing.assert_allclose(matrix[:3, 3], position, atol=2e-6)
    np.testing.assert_allclose(matrix[:3, :3], rotation, atol=5e-6)

from __future__ import annotations

import numpy as np
import pytest

from robotwin_env import SplitError, TabletopConfig, TabletopEnv
from robotwin_env.episodes import episode_path, read_episode, write_episode
from robotwin_env.render.meshes import rotation_matrices
from robotwin_env.tabletop.end_effector import endpose
from robotwin_env.tabletop.kinematics import Side
from robotwin_env.tabletop.recording import record


def test_grippers_are_where_the_physics_has_them_and_their_axes_are_robotwins() -> None:
    env = TabletopEnv(TabletopConfig(task="lift_pot", cameras=()))
    env.reset(seed=3)
    action = env.world.command + np.tile([0.2, -0.1, 0.1, 0.3, -0.2, 0.4, -0.7], 2)
    for _ in range(40):
        env.step(action)
    measured = np.concatenate([env.step(action)[4]["measured_state"]]).astype(np.float64)
    poses = env.world.poses()
    for arm, side in zip(endpose(measured).reshape(2, 8), Side, strict=True):
        axes = rotation_matrices(arm[None, 3:7])[0]
        tool = poses[f"{side.name.lower()}_tool"]
        between = arm[:3] + 0.12 * axes[:, 0]
        np.testing.assert_allclose(between, tool[:3], atol=2e-3)
        # The tool leaves the hand along its z, and its fingers open along its x.
        np.testing.assert_allclose(axes[:, :2], rotation_matrices(tool[None, 3:])[0][:, [2, 0]], atol=2e-2)
        assert arm[3] >= 0
        assert arm[7] == measured[side.gripper]


def test_a_gripper_that_points_down_has_its_first_axis_down() -> None:
    env = TabletopEnv(TabletopConfig(cameras=()))
    observation, _ = env.reset(seed=0)
    left = endpose(observation["state"].astype(np.float64))[:8]
    down = rotation_matrices(left[None, 3:7])[0][:, 0]
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-6)
    assert left[7] == 1.0


def test_nothing_of_an_evaluation_is_recorded() -> None:
    env = TabletopEnv(TabletopConfig(task="lift_pot", split="eval", cameras=()))
    with pytest.raises(SplitError, match="`split` is `eval`; demonstrations are of training's scenes"):
        record(env, 100_000, noise=0.0, frame_stride=1)
    with pytest.raises(SplitError, match="seed 100000"):
        record(TabletopEnv(TabletopConfig(task="lift_pot", cameras=())), 100_000, noise=0.0, frame_stride=1)


@pytest.mark.sim
def test_a_recording_holds_gripper_poses_and_every_cameras_matrices(tmp_path) -> None:
    env = TabletopEnv(TabletopConfig(task="lift_pot", image_size=32))
    write_episode(episode_path(tmp_path, 0), record(env, 4, noise=0.0, frame_stride=1))
    episode = read_episode(episode_path(tmp_path, 0))
    assert episode.success
    assert (episode.frequency, episode.steps_per_second) == (10, 25.0)  # physics steps between two rows, as RoboTwin's
    assert episode.ee_poses is not None
    ends = np.concatenate([episode.states, episode.actions[-1:]])
    for row, poses in zip(ends, episode.ee_poses, strict=True):
        expected = endpose(row.astype(np.float64)).reshape(2, 8)[:, :7]
        np.testing.assert_allclose(poses, expected, atol=1e-5)
    assert set(episode.camera_matrices) == {"head", "left_wrist", "right_wrist"}
    env.reset(seed=4)
    first = env.camera_matrices()
    for camera, poses in episode.camera_matrices.items():
        assert len(poses.intrinsics) == len(episode.images[camera])
        np.testing.assert_allclose(poses.intrinsics[0], first[camera].intrinsics, rtol=1e-6)
        np.testing.assert_allclose(poses.extrinsics[0], first[camera].extrinsics, atol=1e-5)
    assert np.ptp(episode.camera_matrices["head"].extrinsics, axis=0).max() < 1e-5
    assert np.ptp(episode.camera_matrices["right_wrist"].extrinsics, axis=0).max() > 0.05  # it moves with the arm

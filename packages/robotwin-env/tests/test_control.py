"""Gripper poses and steps, on both worlds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotwin_env import RoboTwinConfig, RoboTwinEnv, TabletopConfig, TabletopEnv
from robotwin_env.control import DeltaActions, EndEffectorActions, _solve
from robotwin_env.errors import ActionError, RobotwinEnvError, UnknownNameError
from robotwin_env.tabletop.end_effector import endpose
from robotwin_env.tabletop.kinematics import Side, joint_limits

pytestmark = pytest.mark.sim


@pytest.fixture
def tabletop():
    env = TabletopEnv(TabletopConfig(task="lift_pot", cameras=()))
    yield env
    env.close()


@pytest.fixture
def robotwin(fake_simulator):
    """`robotwin("ee")`: the fake simulator, which keeps the last joint targets."""
    made = []

    def make(mode):
        config = RoboTwinConfig(
            root=fake_simulator.parent, simulator=fake_simulator, action_mode=mode, cameras=(), max_steps=200
        )
        made.append(RoboTwinEnv(config))
        return made[-1]

    yield make
    for env in made:
        env.close()


@settings(max_examples=40, deadline=None)
@given(side=st.sampled_from(Side), shares=st.lists(st.floats(0.2, 0.8), min_size=6, max_size=6), seed=st.integers(0, 9))
def test_a_pose_that_joints_make_is_solved_from_nearby(side, shares, seed):
    low, high = joint_limits()
    joints = low + np.array(shares) * (high - low)
    command = np.zeros(14)
    command[side.joints] = joints
    pose = endpose(command).reshape(2, 8)[0 if side is Side.LEFT else 1]
    near = (joints + np.random.default_rng(seed).uniform(-0.1, 0.1, 6)).clip(low, high)
    found = command.copy()
    found[side.joints] = _solve(side, pose, near)
    np.testing.assert_allclose(endpose(found), endpose(command), atol=1e-3)


def test_the_grippers_go_where_they_are_told(tabletop):
    env = EndEffectorActions(tabletop)
    with pytest.raises(RobotwinEnvError, match="reset"):
        env.step(np.tile([0, 0, 0, 1, 0, 0, 0, 1.0], 2))
    env.reset(seed=3)
    target = tabletop.endpose()
    target[:3] += [0.03, 0.04, -0.05]
    target[11:15] *= 0.7  # of any length
    target[7] = 0.5
    outcome = env.step_chunk(np.tile(target, (30, 1)))
    assert outcome.executed == 30
    reached = tabletop.endpose()
    np.testing.assert_allclose(reached[:3], target[:3], atol=4e-3)
    np.testing.assert_allclose(reached[8:11], target[8:11], atol=4e-3)
    np.testing.assert_allclose(abs(reached[3:7] @ target[3:7]), 1.0, atol=1e-3)
    assert outcome.observation["state"][6] == 0.5


def out_of_reach(pose):
    return np.concatenate([[1.5, 1.5, 1.5], pose[3:]])


def test_an_arm_that_cannot_take_a_pose_is_held_while_all_else_goes_on(tabletop):
    env = EndEffectorActions(tabletop)
    start, _ = env.reset(seed=3)
    good = tabletop.endpose()
    good[8] += 0.02
    far = out_of_reach(good)
    far[[7, 15]] = 0.5
    outcome = env.step_chunk(np.stack([good, far, good]))
    assert (outcome.executed, outcome.info["plan_failures"]) == (3, 1)
    state = env.step(far)[0]["state"]
    np.testing.assert_array_equal(state[:6], outcome.observation["state"][:6])
    assert state[6] == state[13] == 0.5
    assert abs(state[7:13] - start["state"][7:13]).max() > 0.01
    np.testing.assert_allclose(env.commanded_pose()[8:11], good[8:11], atol=1e-3)
    both = np.concatenate([far[:8], out_of_reach(far[8:])])
    assert env.step(both)[4]["plan_failures"] == 2
    assert env.step(good)[4]["plan_failures"] == 0


def test_held_arms_are_counted_in_what_was_played_alone():
    env = EndEffectorActions(TabletopEnv(TabletopConfig(task="lift_pot", cameras=(), max_steps=2)))
    env.reset(seed=3)
    outcome = env.step_chunk(np.tile(out_of_reach(env.commanded_pose()), (5, 1)))
    assert (outcome.executed, outcome.info["plan_failures"]) == (2, 2)


@pytest.mark.parametrize("world", ["tabletop", "robotwin"])
@pytest.mark.parametrize("kind", ["poses", "steps of joints", "steps of poses"])
def test_whatever_an_action_space_holds_is_taken(tabletop, robotwin, world, kind):
    if world == "tabletop":
        below = tabletop if kind == "steps of joints" else EndEffectorActions(tabletop)
    else:
        below = robotwin("qpos" if kind == "steps of joints" else "ee")
    env = below if kind == "poses" else DeltaActions(below)
    env.reset(seed=3)
    env.action_space.seed(0)
    for action in (*(env.action_space.sample() for _ in range(4)), env.action_space.low, env.action_space.high):
        env.step(action)


def test_steps_are_counted_from_where_a_held_arm_is(tabletop):
    env = DeltaActions(EndEffectorActions(tabletop))
    env.reset(seed=3)
    away = np.where(np.isin(np.arange(14), [6, 13]), 1.0, 0.0)
    away[2] = 0.01
    while not env.step_chunk(np.tile(away, (10, 1))).info["plan_failures"]:
        pass
    top = env.env.commanded_pose()
    back = away * np.where(np.arange(14) == 2, -1, 1)
    assert env.step(back)[4]["plan_failures"] == 0
    np.testing.assert_allclose(env.env.commanded_pose()[2], top[2] - 0.01, atol=1e-3)


def test_a_pose_out_of_reach_is_refused_where_that_is_asked_for_and_nothing_moves(tabletop):
    with pytest.raises(UnknownNameError, match="`unreachable` is `skip`"):
        EndEffectorActions(tabletop, unreachable="skip")
    env = EndEffectorActions(tabletop, unreachable="refuse")
    env.reset(seed=3)
    good = tabletop.endpose()
    far = out_of_reach(good)
    with pytest.raises(ActionError, match="the left arm cannot take the pose"):
        env.step_chunk(np.stack([good, far]))
    outcome = env.step_chunk(good[None])
    assert outcome.info["steps"] == 1
    np.testing.assert_allclose(outcome.observation["state"], tabletop.world.command, atol=1e-6)
    for wrong, told in (
        (np.zeros(14), r"must be \(time, 16\)"),
        (np.where(np.arange(16) == 2, np.nan, good), "number 2 of action 0 is nan"),
        (np.where(np.arange(16) == 7, 1.1, good), r"number 7 of action 0 is 1\.1"),
        (np.where(np.arange(16) // 4 == 1, 0.0, good) * (np.arange(16) != 3), "quaternion has length"),
    ):
        with pytest.raises(ActionError, match=told):
            env.step(wrong)


def joints_of(observation):
    return observation["state"].astype(np.float64)


@pytest.mark.parametrize("world", ["tabletop", "robotwin"])
def test_steps_of_joints_add_up_in_both_worlds(tabletop, robotwin, world):
    env = DeltaActions(tabletop if world == "tabletop" else robotwin("qpos"), limit=0.05)
    assert env.action_space.shape == (14,)
    before, _ = env.reset(seed=3)
    steps = np.zeros((4, 14))
    steps[:, 0], steps[:, 9] = 0.02, -0.01
    steps[:, [6, 13]] = 0.75
    outcome = env.step_chunk(steps)
    moved = joints_of(outcome.observation) - joints_of(before)
    np.testing.assert_allclose(moved[[0, 9]], [0.08, -0.04], atol=1e-6)
    assert outcome.observation["state"][6] == outcome.observation["state"][13] == 0.75
    after = env.step(steps[0])[0]
    np.testing.assert_allclose((joints_of(after) - joints_of(before))[0], 0.1, atol=1e-6)
    with pytest.raises(ActionError, match=r"number 0 of action 0 is 0\.06"):
        env.step(np.where(np.arange(14) == 0, 0.06, steps[0]))
    far = np.zeros((80, 14))
    far[:, 1] = 0.05
    last = env.step_chunk(far).observation["state"]
    assert last[1] == env.env.action_space.high[1]  # and no further


def test_steps_of_grippers_turn_and_move_them(tabletop):
    env = DeltaActions(EndEffectorActions(tabletop))
    assert env.action_space.shape == (14,)
    env.reset(seed=3)
    before = tabletop.endpose()
    step = np.zeros(14)
    step[[6, 13]] = 1.0
    step[1], step[5] = 0.005, 0.1  # 5 mm along the world's y, a tenth of a radian about its z
    env.step_chunk(np.tile(step, (4, 1)))
    rest = np.where(np.isin(np.arange(14), [6, 13]), 1.0, 0.0)
    env.step_chunk(np.tile(rest, (20, 1)))
    after = tabletop.endpose()
    np.testing.assert_allclose(after[:3] - before[:3], [0, 0.02, 0], atol=4e-3)
    np.testing.assert_allclose(after[8:15], before[8:15], atol=4e-3)
    turned = 2 * np.arccos(np.clip(abs(before[3:7] @ after[3:7]), 0, 1))
    np.testing.assert_allclose(turned, 0.4, atol=0.02)


def test_steps_of_robotwins_grippers_reach_it_as_poses(robotwin, monkeypatch):
    below = robotwin("ee")
    env = DeltaActions(below)
    assert env.action_space.shape == (14,)
    env.reset(seed=3)
    before = below.endpose()
    sent = []
    play = below.step_chunk
    monkeypatch.setattr(below, "step_chunk", lambda actions, **rest: sent.append(actions) or play(actions, **rest))
    step = np.zeros(14)
    step[0], step[10] = 0.01, 0.1
    env.step_chunk(np.tile(step, (2, 1)))
    (poses,) = sent
    assert poses.shape == (2, 16)
    np.testing.assert_allclose(poses[1, :3] - before[:3], [0.02, 0, 0], atol=1e-9)
    half = 0.1  # of two steps about x
    np.testing.assert_allclose(poses[1, 11:15], [np.cos(half), np.sin(half), 0, 0], atol=1e-9)
    assert poses[1, 7] == 0.0
    env.step_chunk(np.tile(np.where(step == 0.01, step, 0.0), (250, 1)))
    assert sent[1][-1, 0] == below.action_space.high[0]  # and no further

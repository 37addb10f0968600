from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from robotwin_env import (
    TASKS,
    ActionError,
    RobotwinEnvError,
    TabletopConfig,
    TabletopEnv,
    UnknownNameError,
)
from robotwin_env.tabletop import Side

pytestmark = pytest.mark.sim

BlindEnv = Callable[[str], TabletopEnv]
MakeEnv = Callable[[TabletopConfig], TabletopEnv]
PlayExpert = Callable[[TabletopEnv, int], NDArray[np.float64]]


def test_the_observation_is_the_cameras_and_the_last_command(make_env: MakeEnv) -> None:
    env = make_env(TabletopConfig(task="lift_pot", image_size=48))
    observation, info = env.reset(seed=1)
    assert {name: (value.shape, value.dtype.name) for name, value in observation.items()} == {
        "head": ((48, 48, 3), "uint8"),
        "left_wrist": ((48, 48, 3), "uint8"),
        "right_wrist": ((48, 48, 3), "uint8"),
        "state": ((14,), "float32"),
    }
    assert info["instruction"] in env.task.instructions.seen
    action = observation["state"] + np.float32(0.02) * (np.arange(14) % 7 < 6)
    observation, reward, terminated, truncated, info = env.step(action)
    np.testing.assert_array_equal(observation["state"], action)
    assert (reward, terminated, truncated, info["steps"], info["seed"]) == (0.0, False, False, 1, 1)
    lag = np.abs(info["measured_state"] - action)
    assert 0.0005 < lag[:6].max() < 0.03  # on its way, not teleported


def test_the_same_seed_is_the_same_episode_bit_for_bit_whatever_ran_between(
    blind_env: BlindEnv, play_expert: PlayExpert
) -> None:
    for task in TASKS:
        env, other = blind_env(task.name), blind_env("stack_blocks_two")
        first = play_expert(env, 3)
        play_expert(env, 4)
        play_expert(other, 5)
        np.testing.assert_array_equal(first, play_expert(env, 3))
        np.testing.assert_array_equal(first, play_expert(blind_env(task.name), 3))


def test_another_process_plays_the_same_episode(blind_env: BlindEnv, play_expert: PlayExpert) -> None:
    program = (
        "import numpy as np\n"
        "from robotwin_env import TabletopConfig, TabletopEnv\n"
        "env = TabletopEnv(TabletopConfig(task='stack_blocks_two', cameras=()))\n"
        "env.reset(seed=7)\n"
        "for action in env.expert(noise=0.02):\n"
        "    *_, info = env.step(action)\n"
        "    if info['success']: break\n"
        "print(np.concatenate(list(env.object_poses().values())).tobytes().hex())\n"
    )
    env = blind_env("stack_blocks_two")
    play_expert(env, 7)
    here = np.concatenate(list(env.object_poses().values())).tobytes().hex()
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda action: action[:13], r"shape \(13,\).*needs 14 numbers"),
        (lambda action: np.stack([action, action]), r"shape \(2, 14\)"),
        (lambda action: np.where(np.arange(14) == 9, np.nan, action), r"action\[9\] is not finite"),
        (lambda action: np.where(np.arange(14) == 2, np.inf, action), r"action\[2\] is not finite"),
        (lambda action: np.where(np.arange(14) == 6, 1.2, action), r"action\[6\] is 1\.2000; it must lie between 0"),
        (lambda action: np.where(np.arange(14) == 7, -9, action), r"action\[7\] is -9\.0000"),
    ],
)
def test_a_refused_action_moves_nothing(
    blind_env: BlindEnv, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], message: str
) -> None:
    env, untouched = blind_env("place_a2b_left"), blind_env("place_a2b_left")
    for one in (env, untouched):
        one.reset(seed=2)
    action = env.world.command
    with pytest.raises(ActionError, match=message):
        env.step(change(action))
    with pytest.raises(ActionError):
        env.step_chunk(np.stack([action, np.full(14, np.nan)]))
    assert env.step(action)[4]["steps"] == 1
    untouched.step(action)
    np.testing.assert_array_equal(env.object_poses()["a"], untouched.object_poses()["a"])
    np.testing.assert_array_equal(env.world.measured(), untouched.world.measured())


def test_a_jump_takes_as_long_as_the_urdf_says(blind_env: BlindEnv) -> None:
    """3.14 rad/s for a joint, 0.25 m/s of 0.045 m for a finger: what the drives are told, and what the joints do."""
    env = blind_env("click_bell")
    env.reset(seed=0)
    yaw, grip = 0, Side.RIGHT.gripper
    action = env.world.command
    start = action[yaw]
    action[yaw], action[grip] = -2.4, 0.0
    states = [env.world.measured()]
    for _ in range(30):
        env.world.act(action)
        states.append(env.world.measured())
    positions, grips = np.array(states)[:, yaw], np.array(states)[:, grip]
    speeds = -np.diff(positions) * 25
    assert 3.0 < speeds.max() < 3.14 * 1.02
    due = (start + 2.4) / 3.14 * 25  # control steps
    arrived = int(np.flatnonzero(positions < -2.35)[0])
    assert due - 0.5 < arrived < due + 4
    closed = int(np.flatnonzero(grips < 0.05)[0])
    assert 0.045 / 0.25 * 25 - 0.5 < closed < 0.045 / 0.25 * 25 + 4


def test_an_action_further_than_max_delta_is_refused_by_its_joint(make_env: MakeEnv) -> None:
    env = make_env(TabletopConfig(task="click_bell", cameras=(), max_delta=0.1))
    env.reset(seed=0)
    action = env.world.command
    before = env.world.measured()
    action[3] += 0.09
    action[6] = 0.0  # a gripper may go any way
    twice = action.copy()
    twice[3] += 0.11
    with pytest.raises(ActionError, match=r"action\[3\] turns a joint by 0\.1100 rad at once; `max_delta` is 0\.1"):
        env.step_chunk(np.stack([action, twice]))
    np.testing.assert_array_equal(env.world.measured(), before)
    env.step(action)
    with pytest.raises(ActionError, match=r"action\[3\] turns"):
        env.step(twice)
    with pytest.raises(ValueError, match="`max_delta` is 0 rad"):
        TabletopConfig(max_delta=0)


def test_a_chunk_is_its_steps_and_stops_at_success(blind_env: BlindEnv) -> None:
    env = blind_env("click_bell")
    env.reset(seed=0)
    actions = list(env.expert())
    env.reset(seed=0)
    outcomes = []
    for action in actions:
        outcomes.append(env.step(action))
        if outcomes[-1][2]:
            break
    env.reset(seed=0)
    chunk = env.step_chunk(np.stack(actions + actions[-1:] * 5), record_every=4)
    assert chunk.executed == len(outcomes) < len(actions) + 5
    assert (chunk.reward, chunk.terminated, chunk.truncated) == (1.0, True, False)
    assert chunk.info["success"]
    np.testing.assert_array_equal(chunk.observation["state"], outcomes[-1][0]["state"])
    np.testing.assert_array_equal(chunk.info["measured_state"], outcomes[-1][4]["measured_state"])
    assert [frame["state"].tolist() for frame in chunk.frames] == [o[0]["state"].tolist() for o in outcomes[3::4]]


def test_an_episode_is_cut_off_at_the_step_limit_and_then_over(make_env: MakeEnv) -> None:
    env = make_env(TabletopConfig(task="lift_pot", cameras=(), max_steps=5))
    env.reset(seed=0)
    chunk = env.step_chunk(np.stack([env.world.command] * 9))
    assert (chunk.executed, chunk.truncated, chunk.terminated, chunk.reward) == (5, True, False, 0.0)
    with pytest.raises(RobotwinEnvError, match="call `reset`"):
        env.step(env.world.command)


def test_an_unseeded_reset_draws_another_scene_and_says_which(blind_env: BlindEnv) -> None:
    env = blind_env("click_bell")
    env.reset(seed=11)
    _, first = env.reset()
    poses = env.object_poses()["bell"]
    _, second = env.reset()
    assert first["seed"] != second["seed"]
    env.reset(seed=first["seed"])
    np.testing.assert_array_equal(env.object_poses()["bell"], poses)


def test_the_start_can_be_spread(blind_env: BlindEnv) -> None:
    env = blind_env("click_bell")
    (home, _), (spread, _) = env.reset(seed=0), env.reset(seed=0, options={"start_spread": 0.03})
    assert 0.005 < np.abs(home["state"] - spread["state"]).max() < 0.3
    for silent in ("", " ", 3):
        with pytest.raises(RobotwinEnvError, match="the option `instruction` is"):
            env.reset(seed=0, options={"instruction": silent})
    with pytest.raises(RobotwinEnvError, match="start_spread"):
        env.reset(options={"spread": 1})


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"no task `click_bells`; choose one of `click_bell`, .*`lift_pot`"):
        TabletopConfig(task="click_bells")
    with pytest.raises(UnknownNameError, match="no scene `hard`; choose one of `clean`, `random`"):
        TabletopConfig(scene="hard")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no renderer `blender`; choose one of `panda3d`, `sapien`"):
        TabletopConfig(renderer="blender")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no camera `front`"):
        TabletopConfig(cameras=("front",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="each may be named once"):
        TabletopConfig(cameras=("head", "head"))
    with pytest.raises(UnknownNameError, match="no render mode `human`; choose `rgb_array` or None"):
        TabletopEnv(TabletopConfig(), render_mode="human")


@pytest.mark.parametrize("every", [0, -1])
def test_a_chunk_that_is_recorded_every_zeroth_step_is_refused(blind_env: BlindEnv, every: int) -> None:
    env = blind_env("click_bell")
    env.reset(seed=0)
    with pytest.raises(ActionError, match=f"`record_every` is {every}; it must be at least 1"):
        env.step_chunk(env.world.command[None], record_every=every)


def test_nothing_can_be_asked_before_reset(blind_env: BlindEnv) -> None:
    with pytest.raises(RobotwinEnvError, match="call `reset` first"):
        blind_env("click_bell").object_poses()

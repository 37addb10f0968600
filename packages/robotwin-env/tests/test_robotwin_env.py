from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

from robotwin_env import TabletopConfig, TabletopEnv
from robotwin_env.errors import ActionError, RobotwinEnvError, SimulatorHangError, SplitError
from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv
from robotwin_env.robotwin.process.actions import ActionLimits
from robotwin_env.splits import split_of
from robotwin_env.vector import BatchedCalls, EnvironmentPool, Job, PoolError

STILL = np.zeros(14)


def goal(observation):
    """What the head camera shows of the fake task."""
    return float(observation["head"][0, 0, 0]) / 255 - 0.5


def towards(observation, *, steps):
    """Actions from the command in force to the goal."""
    start = observation["state"].astype(float)
    end = start.copy()
    end[0] = goal(observation)
    return start + (end - start) * np.linspace(1 / steps, 1.0, steps)[:, None]


def test_an_episode_is_told_as_the_tabletop_tells_it(make_fake):
    env = make_fake({}, task="lift_pot")
    observation, info = env.reset(seed=3)
    tabletop = TabletopEnv(TabletopConfig(task="lift_pot"))
    assert set(observation) == set(tabletop.observation_space)
    assert observation["state"].dtype == np.float32
    assert observation["head"].dtype == np.uint8
    assert env.observation_space.contains(observation)
    told = {"instruction", "task", "seed", "success", "steps", "measured_state"}
    assert told <= set(info)
    assert (info["task"], info["seed"], info["steps"], info["success"]) == ("lift_pot", 3, 0, False)
    assert (info["status"], info["control"], info["action_mode"]) == ("ok", "step", "qpos")

    action = np.linspace(0.0, 0.5, 14)
    observation, reward, terminated, truncated, info = env.step(action)
    np.testing.assert_array_equal(observation["state"], action.astype(np.float32))
    np.testing.assert_array_equal(info["measured_state"], (action / 2).astype(np.float32))
    assert (reward, terminated, truncated, info["steps"], info["physics_steps"]) == (0.0, False, False, 1, 70)
    assert info["endpose"].shape == (16,)
    np.testing.assert_array_equal(env.render(), observation["head"])


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
def test_gymnasiums_own_check_finds_nothing(make_fake):
    check_env(make_fake({}), skip_render_check=True)


def test_success_ends_the_episode_with_a_reward(make_fake):
    env = make_fake({})
    observation, _ = env.reset(seed=3)
    outcome = env.step_chunk(np.concatenate([towards(observation, steps=4), np.zeros((5, 14))]))
    assert (outcome.executed, outcome.reward, outcome.terminated, outcome.truncated) == (4, 1.0, True, False)
    with pytest.raises(RobotwinEnvError, match="over"):
        env.step(STILL)
    env.reset(seed=3)
    env.step(STILL)


def test_the_limit_truncates(make_fake):
    env = make_fake({"step_limit": 3})
    env.reset(seed=3)
    ended = [env.step(np.full(14, 0.9))[2:4] for _ in range(3)]
    assert ended == [(False, False), (False, False), (False, True)]
    env = make_fake({"step_limit": 3}, max_steps=2)
    env.reset(seed=3)
    outcome = env.step_chunk(np.full((5, 14), 0.9))
    assert (outcome.executed, outcome.terminated, outcome.truncated) == (2, False, True)
    assert outcome.info["step_limit"] == 2


def test_a_chunk_shows_what_its_actions_show_one_by_one(make_fake):
    one, chunked = make_fake({}), make_fake({})
    observation, _ = one.reset(seed=8)
    chunked.reset(seed=8)
    actions = towards(observation, steps=6)[:5]
    seen = [one.step(action)[0] for action in actions]
    outcome = chunked.step_chunk(actions, record_every=2)
    assert len(outcome.frames) == 2
    for frame, expected in zip((*outcome.frames, outcome.observation), (seen[1], seen[3], seen[4]), strict=True):
        assert set(frame) == set(expected)
        for name, value in frame.items():
            np.testing.assert_array_equal(value, expected[name])


def test_the_control_mode_labels_every_result(make_fake):
    env = make_fake({}, control="chunk")
    _, info = env.reset(seed=0)
    outcome = env.step_chunk(np.zeros((3, 14)))
    assert (info["control"], outcome.info["control"], outcome.info["physics_steps"]) == ("chunk", "chunk", 60)


def test_an_instruction_can_be_given(make_fake):
    env = make_fake({})
    assert env.reset(seed=0)[1]["instruction"].endswith("(train).")
    assert env.reset(seed=0, options={"instruction": "Do it."})[1]["instruction"] == "Do it."
    with pytest.raises(RobotwinEnvError, match="`expert`"):
        env.reset(seed=0, options={"start_spread": 0.1})


@pytest.mark.parametrize(("split", "foreign", "own"), [("train", 100_000, 99_999), ("eval", 1_000_000, 999_999)])
def test_a_seed_of_the_other_split_is_refused_before_anything_starts(make_fake, tmp_path, split, foreign, own):
    env = make_fake({}, split=split)
    for call in (lambda: env.reset(seed=foreign), lambda: env.run_expert(foreign)):
        with pytest.raises(SplitError, match=f"seed {foreign} does not belong to"):
            call()
    assert env.simulation.starts == 0
    assert env.reset(seed=own)[1]["split"] == split
    assert env.describe()["split"] == split
    drawn = [env.reset()[1]["seed"] for _ in range(20)]
    assert {split_of(seed) for seed in drawn} == {split}


def test_an_evaluations_scene_is_never_recorded(make_fake, tmp_path):
    env = make_fake({}, split="eval")
    with pytest.raises(SplitError, match="`record` is given"):
        env.run_expert(100_000, record=tmp_path / "episode.hdf5")
    assert env.simulation.starts == 0


def test_the_same_seed_is_the_same_episode_and_no_seed_is_drawn(make_fake):
    env = make_fake({})
    first, again, other = (env.reset(seed=seed)[0]["head"] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    env.reset(seed=5)
    drawn = env.reset()[1]["seed"]
    env.reset(seed=5)
    assert env.reset()[1]["seed"] == drawn != 5


def test_a_seed_that_robotwin_cannot_take_is_refused(make_fake):
    env = make_fake({})
    with pytest.raises(RobotwinEnvError, match=r"0 to 2\*\*32 - 1"):
        env.reset(seed=2**32)
    with pytest.raises(RobotwinEnvError, match="the seed is -1"):
        env.run_expert(-1)
    assert env.simulation.starts == 0


def test_images_are_scaled_where_a_size_is_named(make_fake):
    env = make_fake({"image": [24, 32]}, image_size=(16, 12), cameras=("left_wrist", "head"))
    observation, _ = env.reset(seed=1)
    assert {name: value.shape for name, value in observation.items()} == {
        "left_wrist": (16, 12, 3),
        "head": (16, 12, 3),
        "state": (14,),
    }
    assert env.observation_space.contains(observation)
    full, _ = make_fake({"image": [24, 32]}).reset(seed=1)
    assert goal(observation) == goal(full)


def test_spaces_tell_what_the_simulator_told(make_fake):
    env = make_fake({})
    space = env.action_space
    assert isinstance(space, Box)
    assert (space.low[0], space.high[0], space.low[6], space.high[6]) == (-3.0, 3.0, 0.0, 1.0)
    assert env.observation_space["head"].shape == (24, 32, 3)
    assert gymnasium.wrappers.TimeLimit(env, 5).action_space == space


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (np.zeros(13), r"shape \(time, 14\)"),
        (np.zeros(16), r"shape \(time, 14\)"),
        (np.zeros((2, 14)), "must be a vector"),
        (np.full(14, np.nan), "number 0 of action 0 is nan"),
        (np.where(np.arange(14) == 3, np.inf, 0.0), "number 3 of action 0 is inf"),
        (np.where(np.arange(14) == 2, 100.0, 0.0), "between -3 and 3"),
        (np.where(np.arange(14) == 6, 1.6, 0.0), "between 0 and 1"),
    ],
)
def test_a_malformed_action_is_refused_and_nothing_moves(make_fake, action, told):
    env = make_fake({})
    env.reset(seed=3)
    with pytest.raises(ActionError, match=told):
        env.step(action)
    with pytest.raises(ActionError):
        env.step_chunk(np.stack([STILL, np.full(14, 50.0)]))
    assert env.step(STILL)[4]["steps"] == 1


@pytest.mark.parametrize(("place", "value"), [(0, 3.01), (6, 1.001), (13, -0.001)])
def test_beyond_a_limit_is_refused_as_on_the_tabletop_whatever_the_unit(make_fake, place, value):
    env = make_fake({})
    env.reset(seed=3)
    with pytest.raises(ActionError, match=rf"number {place} of action 0 .*Clip actions"):
        env.step(np.where(np.arange(14) == place, value, 0.0))
    limit = env.action_space.high
    np.testing.assert_array_equal(env.step(limit)[0]["state"], limit)  # single precision is no offence


def test_joints_may_be_kept_from_jumping(make_fake):
    env = make_fake({}, max_delta=0.3)
    env.reset(seed=3)
    grippers_only = np.where(np.arange(14) % 7 == 6, 1.0, 0.0)
    env.step(grippers_only)
    env.step_chunk(np.stack([STILL + 0.2, STILL + 0.4]))
    with pytest.raises(ActionError, match=r"action 1 turns joint 0 by 0.4 rad; `max_delta` is 0.3"):
        env.step_chunk(np.stack([STILL + 0.4, STILL + 0.8]))
    with pytest.raises(ActionError, match=r"action 0 turns"):
        env.step(STILL)


def test_gripper_poses_are_checked_too(make_fake):
    env = make_fake({}, action_mode="ee")
    env.reset(seed=3)
    pose = np.tile([0.3, 0.1, 0.9, 1.02, 0.0, 0.0, 0.0, 0.5], 2)
    assert env.step(pose)[4]["action_mode"] == "ee"
    assert env.action_space.shape == (16,)
    for place, value, told in ((3, 0.0, "left quaternion of action 0 has length 0"), (8, 2.1, "between -2 and 2")):
        wrong = pose.copy()
        wrong[place] = value
        with pytest.raises(ActionError, match=told):
            env.step(wrong)


def test_quaternions_reach_the_simulator_with_length_one():
    quaternion = np.array([0.8, 0.0, -0.6, 0.0])
    pose = np.concatenate([[0.3, 0.1, 0.9], 1.08 * quaternion, [0.5]])
    checked = ActionLimits.of_poses().checked(np.tile(pose, 2)[None], command=np.zeros(14))
    np.testing.assert_allclose(checked[0, [3, 4, 5, 6]], quaternion, atol=1e-12)
    np.testing.assert_allclose(checked[0, [11, 12, 13, 14]], quaternion, atol=1e-12)


def test_calls_before_reset_are_refused(make_fake):
    env = make_fake({})
    with pytest.raises(RobotwinEnvError, match="call `reset` first"):
        env.step(STILL)
    with pytest.raises(RobotwinEnvError, match="no picture"):
        env.render()


def test_the_expert_tells_which_seeds_are_any_good(make_fake, tmp_path):
    when = {"reset 1": "unstable", "expert 2": "plan_failure", "expert 3": "check_failure", "expert 4": "hang"}
    env = make_fake({"when": when}, reset_timeout=1.0, expert_timeout=1.0)
    runs = [env.run_expert(seed, record=tmp_path / "episode.hdf5") for seed in range(4)]
    assert [run.status for run in runs] == ["ok", "unstable", "plan_failure", "check_failure"]
    assert runs[0].path == tmp_path / "episode.hdf5"
    assert [bool(run.reason) for run in runs] == [False, True, True, True]
    with pytest.raises(SimulatorHangError):
        env.run_expert(4)
    assert env.run_expert(0).status == "ok"
    with pytest.raises(RobotwinEnvError, match="call `reset`"):
        env.step(STILL)


def test_results_say_what_they_were_made_with(make_fake):
    told = make_fake({}).describe()
    assert told["commit"] == "fake"
    assert {"python", "numpy", "fake"} <= set(told["versions"])


class CountedPolicy:
    """Goes to the goal; counts its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, observations):
        self.batches.append(len(observations))
        return [towards(observation, steps=3) for observation in observations]


def play_all(config, seeds, *, simulators, in_threads):
    """Episodes in lockstep on so many simulators; outcomes and last observations in the order of the seeds."""
    played = {}
    workers = 0 if in_threads else simulators
    with EnvironmentPool(RoboTwinEnv, num_envs=simulators, workers=workers, threads=in_threads) as pool:
        for place in range(0, len(seeds), simulators):
            batch = dict(enumerate(seeds[place : place + simulators]))
            started = pool.reset({slot: Job(spec=config, seed=seed) for slot, seed in batch.items()})
            actions = {slot: towards(observation, steps=3)[:2] for slot, (observation, _) in started.items()}
            for slot, outcome in pool.step_chunk(actions).items():
                state = outcome.observation["state"].tolist()
                played[batch[slot]] = (outcome.executed, state, outcome.info["instruction"])
    return [played[seed] for seed in seeds]


def test_results_do_not_depend_on_how_many_simulators_play(fake_simulator):
    config = RoboTwinConfig(root=fake_simulator.parent, simulator=fake_simulator)
    seeds = [1_000_000 + number for number in range(6)]
    alone = play_all(config, seeds, simulators=1, in_threads=True)
    assert len({instruction for _, _, instruction in alone}) > 3
    assert play_all(config, seeds, simulators=4, in_threads=True) == alone
    assert play_all(config, seeds, simulators=2, in_threads=False) == alone


def test_a_pool_tells_which_simulator_failed_how_and_goes_on(fake_simulator):
    script = json.dumps({"when": {"reset 1": "unstable", "action 1 2": "segfault"}})
    config = RoboTwinConfig(root=fake_simulator.parent, simulator=fake_simulator, variables={"FAKE_SIMULATOR": script})
    with EnvironmentPool(RoboTwinEnv, num_envs=3, threads=True) as pool:
        with pytest.raises(PoolError) as caught:
            pool.reset({slot: Job(spec=config, seed=slot) for slot in range(3)})
        assert {slot: failure.status for slot, failure in caught.value.failures.items()} == {1: "unstable"}
        pool.reset({1: Job(spec=config, seed=5)})
        with pytest.raises(PoolError) as caught:
            pool.step_chunk({slot: np.zeros((2, 14)) for slot in range(3)})
        assert {slot: failure.status for slot, failure in caught.value.failures.items()} == {2: "signal"}
        assert sorted(caught.value.results) == [0, 1]
        pool.reset({2: Job(spec=config, seed=6)})
        assert len(pool.step_chunk({slot: np.zeros((2, 14)) for slot in range(3)})) == 3


@pytest.mark.parametrize("how", [{"threads": True}, {"workers": 1}])
def test_a_pool_keeps_the_process_of_a_seed_without_a_scene_and_of_an_action_that_was_refused(fake_simulator, how):
    script = json.dumps({"when": {"reset 1": "unstable", "reset 3": "exception"}})
    config = RoboTwinConfig(root=fake_simulator.parent, simulator=fake_simulator, variables={"FAKE_SIMULATOR": script})

    def start(seed):
        info = pool.reset({0: Job(spec=config, seed=seed)})[0][1]
        return info["starts"], info["episode_info"]["resets"]

    with EnvironmentPool(RoboTwinEnv, num_envs=1, **how) as pool:
        assert start(0) == (1, 1)
        with pytest.raises(PoolError, match="UnstableSceneError"):
            start(1)
        assert start(2) == (1, 3)
        with pytest.raises(PoolError, match="ActionError"):
            pool.step_chunk({0: np.full((1, 14), np.nan)})
        assert start(4) == (1, 4)
        with pytest.raises(PoolError, match="ZeroDivisionError"):
            start(3)
        assert start(5)[1] == 1


def test_one_policy_answers_all_simulators_that_wait(make_fake):
    policy = CountedPolicy()
    plan = BatchedCalls(policy, max_batch=3, max_wait=5.0)
    envs = [make_fake({}) for _ in range(3)]
    for env in envs:
        env.reset(seed=0)

    def play(env):
        successes = 0
        for seed in range(4):
            observation, _ = env.reset(seed=seed)
            outcome = env.step_chunk(plan(observation))
            successes += outcome.terminated
        return successes

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(play, envs)) == [4, 4, 4]
    assert policy.batches == [3, 3, 3, 3]
    assert plan.report().longest_wait < 5.0


def test_an_equal_configuration_keeps_the_process_and_another_one_does_not(fake_simulator):
    config = RoboTwinConfig(root=fake_simulator.parent, simulator=fake_simulator)
    with EnvironmentPool(RoboTwinEnv, num_envs=1, threads=True) as pool:
        served = [
            pool.reset({0: Job(spec=spec, seed=0)})[0][1]["episode_info"]["resets"]
            for spec in (config, replace(config), replace(config, task="lift_pot"))
        ]
    assert served == [1, 2, 1]

"""RoboTwin's official evaluation: which seeds count, whatever the simulators do."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotwin_env import ChunkOutcome
from robotwin_env.errors import (
    ActionError,
    EvaluationError,
    PlanFailureError,
    SetupRaisedError,
    SimulatorError,
    SimulatorExceptionError,
    SimulatorHangError,
    SimulatorSignalError,
    UnstableSceneError,
)
from robotwin_env.robotwin.evaluation import OfficialProtocol, SeedRecord, evaluate_task
from robotwin_env.robotwin.seeds import PoolKey, SeedPool

PROTOCOL = OfficialProtocol(episodes=6)
KEY = PoolKey(
    task="stack_blocks_two",
    task_config="demo_clean",
    config_hash="0",
    embodiment="a",
    commit="c",
    planner="mplib",
    split="eval",
)
IDENTITY = {"task": "stack_blocks_two", "policy": "counting"}


class CheckFailure(SimulatorError):
    status = "check_failure"
    lost = False


SCENE_FAILURES = {"unstable": UnstableSceneError, "plan_failure": PlanFailureError, "check_failure": CheckFailure}
EXPERT = ("ok", "check_failure", "ok", "unstable", "ok", "ok", "plan_failure")


def expert_status(seed):
    return EXPERT[seed % len(EXPERT)]


def solvable(seed):
    return seed % 3 != 0


class Task:
    """An environment whose seeds say what happens: the policy succeeds on its third chunk where a seed is solvable."""

    def __init__(self, *, delay=None, failures=None, log=None, wordless=()):
        self.delay = delay or (lambda seed: 0.0)
        self.failures = {} if failures is None else failures  # (stage, seed) to exceptions still to raise; shared
        self.log = [] if log is None else log
        self.wordless = wordless  # seeds whose words the expert tells while it moves alone
        self.seed = None
        self.aborted = threading.Event()

    def abort(self):
        self.aborted.set()

    def _fail(self, stage, seed):
        waiting = self.failures.get((stage, seed), [])
        if waiting:
            raise waiting.pop(0)

    def reset(self, *, seed=None, options=None):
        expert = bool((options or {}).get("expert"))
        self.log.append(("expert" if expert else "reset", seed))
        if self.aborted.wait(self.delay(seed)):
            raise RuntimeError("aborted")
        if expert:
            self._fail("expert", seed)
            if expert_status(seed) != "ok":
                raise SCENE_FAILURES[expert_status(seed)]("the scene")
        self._fail("reset", seed)
        self.seed, self.chunks = seed, 0
        if seed in self.wordless and not expert:
            problem = "the expert's code, run without motions, raised KeyError"
            return self._observation(), {"instruction": "t", "instruction_problem": problem, "episode_info": {}}
        return self._observation(), {"instruction": f"solve {seed}", "episode_info": {"{A}": "cup"}}

    def step_chunk(self, actions, *, record_every=None):
        self._fail("step", self.seed)
        if not np.isfinite(actions).all():
            raise ActionError("not finite")
        self.chunks += 1
        success = self.chunks == 3 and solvable(self.seed)
        return ChunkOutcome(
            observation=self._observation(),
            reward=float(success),
            terminated=success,
            truncated=not success and self.chunks == 4,
            info={},
            executed=len(actions),
            frames=(),
        )

    def _observation(self):
        return {"state": np.full(14, self.seed % 1000 + self.chunks, np.float32)}


def counting(request):
    """Checks what it is asked, and answers with two actions."""
    assert request.instruction == f"solve {request.seed}"
    assert request.observation["state"][0] == request.seed % 1000 + request.chunk
    assert request.step == 2 * request.chunk
    return np.zeros((2, 14))


def accepted(count, first=100_000):
    return [seed for seed in range(first, first + 20 * count) if expert_status(seed) == "ok"][:count]


def evaluate(tmp_path, envs=None, **changes):
    given = {"record": tmp_path / "record.json", "identity": IDENTITY, **changes}
    protocol = given.pop("protocol", PROTOCOL)
    plan = given.pop("plan", counting)
    return evaluate_task(envs or [Task()], plan, protocol, **given)


# Which seeds count


def test_the_first_seeds_that_the_expert_solves_are_played_in_their_order(tmp_path):
    result = evaluate(tmp_path)
    seeds = accepted(6)
    assert [episode.seed for episode in result.episodes] == seeds
    assert result.outcomes == [solvable(seed) for seed in seeds]
    assert {episode.steps for episode in result.episodes} == {6, 8}
    assert result.tried == seeds[-1] - 100_000 + 1
    assert sum(result.rejected.values()) == result.tried - 6
    assert set(result.rejected) == {"check_failure", "unstable", "plan_failure"}
    assert result.env_failures == ()


@pytest.mark.parametrize(("seed", "first"), [(0, 100_000), (1, 200_000), (8, 900_000)])
def test_scene_seeds_start_where_robotwins_script_starts_them(tmp_path, seed, first):
    result = evaluate(tmp_path, protocol=replace(PROTOCOL, seed=seed))
    assert [episode.seed for episode in result.episodes] == accepted(6, first)


@settings(max_examples=20, deadline=None)
@given(simulators=st.integers(2, 5), delays=st.lists(st.floats(0, 0.004), min_size=7, max_size=7))
def test_results_do_not_depend_on_the_number_of_simulators_or_their_speed(tmp_path_factory, simulators, delays):
    alone = evaluate(tmp_path_factory.mktemp("alone"))
    log = []
    envs = [Task(delay=lambda seed: delays[seed % 7], log=log) for _ in range(simulators)]
    together = evaluate(tmp_path_factory.mktemp("together"), envs)
    assert together == alone
    tried = [seed for _, seed in log]
    assert len(tried) == len(set(tried))
    assert len(tried) < alone.tried + 4 * simulators  # an overtaken seed now and then, no more


def test_simulators_play_at_the_same_time(tmp_path):
    together = threading.Barrier(3, timeout=20)

    def plan(request):
        if request.chunk == 0 and request.seed in accepted(3):
            together.wait()  # passes only when three episodes are in play
        return counting(request)

    assert len(evaluate(tmp_path, [Task() for _ in range(3)], plan=plan).episodes) == 6


def test_without_the_experts_check_every_stable_seed_counts(tmp_path):
    failures = {("reset", 100_002): [UnstableSceneError("it fell over")]}
    log = []
    result = evaluate(tmp_path, [Task(failures=failures, log=log)], protocol=replace(PROTOCOL, expert_check=False))
    assert [episode.seed - 100_000 for episode in result.episodes] == [0, 1, 3, 4, 5, 6]
    assert result.rejected == {"unstable": 1}
    assert {call for call, _ in log} == {"reset"}


def test_too_few_accepted_seeds_are_an_error_that_says_why(tmp_path):
    with pytest.raises(EvaluationError, match=r"of 7 seeds from 100000 only 4 were accepted; 6 are needed"):
        evaluate(tmp_path, protocol=replace(PROTOCOL, max_tries=7))


# Failures


def test_a_scene_that_falls_over_after_the_expert_is_dropped_and_named(tmp_path):
    first = accepted(1)[0]
    result = evaluate(tmp_path, [Task(failures={("reset", first): [UnstableSceneError("it fell over")]})])
    assert [episode.seed for episode in result.episodes] == accepted(7)[1:]
    assert result.env_failures == ()


@pytest.mark.parametrize("stage", ["expert", "reset", "step"])
def test_a_simulator_that_fails_once_is_given_another_chance(tmp_path, stage):
    failures = {(stage, accepted(2)[1]): [SimulatorHangError("no answer")]}
    assert evaluate(tmp_path, [Task(failures=failures)]) == evaluate(tmp_path / "sound")
    assert not any(failures.values())


def test_a_simulator_that_fails_twice_in_an_episode_counts_as_configured_and_is_listed(tmp_path):
    lost = accepted(2)[1]

    def failing():
        errors = [SimulatorSignalError("segmentation fault"), SimulatorSignalError("segmentation fault")]
        return [Task(failures={("step", lost): errors})]

    counted = evaluate(tmp_path / "counted", failing())
    assert [episode.seed for episode in counted.episodes] == accepted(6)
    assert counted.outcomes == [solvable(seed) and seed != lost for seed in accepted(6)]
    (failure,) = counted.env_failures
    assert (failure.seed, failure.outcome, failure.failure) == (lost, "env_failure", "signal")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("stage", ["expert", "reset"])
def test_a_seed_that_was_being_played_when_its_simulator_was_lost_counts_whatever_comes_then(tmp_path, stage, known):
    lost = accepted(2)[1]
    pool = SeedPool.open(tmp_path / "pools", KEY)
    if known:
        pool.note(lost, "ok")
    failures = {("step", lost): [SimulatorHangError("no answer")]}

    def plan(request):
        if request.seed == lost:
            failures.setdefault((stage, lost), [PlanFailureError("no path, this time")])  # after the first reset
        return counting(request)

    log = []
    result = evaluate(tmp_path, [Task(failures=failures, log=log)], plan=plan, pool=pool)
    assert [episode.seed for episode in result.episodes] == accepted(6)
    assert [call for call, seed in log if seed == lost] == ["reset" if known else "expert", "reset"]
    assert pool.statuses[lost] == "ok"
    failed = {} if stage == "expert" else {lost: "plan_failure"}  # no expert is asked again
    assert {episode.seed: episode.failure for episode in result.env_failures} == failed


@pytest.mark.parametrize("how", [SimulatorHangError, SimulatorExceptionError])
@pytest.mark.parametrize("stage", ["expert", "reset"])
def test_a_simulator_that_is_lost_twice_before_the_policy_acts_never_changes_which_seeds_count(tmp_path, stage, how):
    lost = accepted(2)[1]
    failures = {(stage, lost): [how("CUDA out of memory"), how("CUDA out of memory")]}
    pool = SeedPool.open(tmp_path / "pools", KEY)
    with pytest.raises(EvaluationError, match=rf"lost twice on seed {lost} \({how.status}\)"):
        evaluate(tmp_path, [Task(failures=failures)], pool=pool)
    assert lost not in pool.statuses
    log = []
    assert evaluate(tmp_path, [Task(log=log)], pool=pool) == evaluate(tmp_path / "sound")
    assert [seed for _, seed in log] == [lost]  # all else was kept
    failures = {(stage, lost): [how("CUDA out of memory"), how("CUDA out of memory")]}
    dropping = replace(PROTOCOL, undecided="drop")
    dropped = evaluate(tmp_path / "dropped", [Task(failures=failures)], protocol=dropping)
    assert [episode.seed for episode in dropped.episodes] == [seed for seed in accepted(7) if seed != lost]
    assert dropped.rejected[how.status] == 1


def test_a_lost_process_in_an_old_scan_drops_no_seed(tmp_path):
    pool = SeedPool.open(tmp_path / "pools", KEY)
    for status, seed in zip(("hang", "memory", "signal", "exit", "exception", "listed"), accepted(6), strict=True):
        pool.note(seed, status)
    assert evaluate(tmp_path, pool=pool) == evaluate(tmp_path / "sound")
    assert {pool.statuses[seed] for seed in accepted(6)} == {"ok"}


def test_a_scene_that_cannot_be_built_drops_the_seed_as_robotwins_script_does(tmp_path):
    lost = accepted(2)[1]
    result = evaluate(tmp_path, [Task(failures={("expert", lost): [SetupRaisedError("LinAlgError")]})])
    assert [episode.seed for episode in result.episodes] == [seed for seed in accepted(7) if seed != lost]
    assert result.rejected["setup_error"] == 1


def test_actions_that_are_refused_are_the_policys_failure(tmp_path):
    def plan(request):
        return np.full((2, 14), np.nan) if request.seed == accepted(2)[1] else counting(request)

    second = evaluate(tmp_path, plan=plan).episodes[1]
    assert (second.outcome, second.failure) == ("failure", "action")


def test_a_policy_that_raises_ends_the_evaluation_and_nothing_is_lost(tmp_path):
    def plan(request):
        if request.seed == accepted(4)[3]:
            raise ZeroDivisionError
        return counting(request)

    with pytest.raises(ZeroDivisionError):
        evaluate(tmp_path, [Task(), Task(), Task()], plan=plan)
    log = []
    assert evaluate(tmp_path, [Task(log=log)]) == evaluate(tmp_path / "sound")
    assert accepted(1)[0] not in [seed for _, seed in log]


# Records


def test_an_evaluation_that_was_cut_short_goes_on(tmp_path):
    done = []

    def stop_after_five(seed):
        done.append(seed.seed)
        if len(done) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, on_seed=stop_after_five)
    log = []
    result = evaluate(tmp_path, [Task(log=log)])
    assert result == evaluate(tmp_path / "sound")
    assert not {seed for _, seed in log} & set(done)
    log.clear()
    assert evaluate(tmp_path, [Task(log=log)]) == result
    assert log == []


def test_ctrl_c_ends_an_evaluation_amid_long_resets_and_keeps_what_is_done(tmp_path, interrupt):
    done, log = [], []
    slow = accepted(6)[3]
    envs = [Task(delay=lambda seed: 300.0 if seed >= slow else 0.0, log=log) for _ in range(3)]
    interrupt(1.0)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, envs, on_seed=lambda seed: done.append(seed.seed))
    assert time.monotonic() - began < 10.0
    assert sorted(seed for seed in done if expert_status(seed) == "ok") == accepted(3)
    assert max(seed for _, seed in log) < slow + 20
    log.clear()
    assert evaluate(tmp_path, [Task(log=log)]) == evaluate(tmp_path / "sound")
    assert not {seed for _, seed in log} & set(done)


@pytest.mark.parametrize("stage", ["expert", "step"])
def test_ctrl_c_amid_a_second_attempt_fails_no_episode_and_leaves_no_seed_undecided(tmp_path, interrupt, stage):
    lost = accepted(2)[1]
    attempts, done = [], []

    class Ended(Task):
        def _fail(self, now, seed):
            if (now, seed) != (stage, lost):
                return
            attempts.append(seed)
            if len(attempts) == 2:
                interrupt(0.0)
                assert self.aborted.wait(60)
            raise SimulatorSignalError("killed")

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, [Ended()], on_seed=lambda seed: done.append(seed.seed))
    assert len(attempts) == 2
    kept = json.loads((tmp_path / "record.json").read_text())["seeds"]
    assert [seed["seed"] for seed in kept] == done == list(range(100_000, lost))
    assert evaluate(tmp_path) == evaluate(tmp_path / "sound")


@pytest.mark.parametrize("stubborn", [0, 1])
def test_a_simulator_that_cannot_be_aborted_spares_no_other(tmp_path, interrupt, caplog, stubborn):
    class Stubborn(Task):
        def abort(self):
            super().abort()
            raise OSError("no such process")

    kinds = [Stubborn if place == stubborn else Task for place in range(2)]
    envs = [kind(delay=lambda seed: 40.0) for kind in kinds]
    interrupt(0.5)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, envs)
    assert time.monotonic() - began < 30.0
    assert "OSError: no such process" in caplog.text
    assert all(env.aborted.is_set() for env in envs)


def test_more_episodes_go_on_from_fewer(tmp_path):
    evaluate(tmp_path, protocol=replace(PROTOCOL, episodes=3))
    assert evaluate(tmp_path) == evaluate(tmp_path / "sound")


def test_a_record_of_another_policy_is_refused(tmp_path):
    evaluate(tmp_path)
    with pytest.raises(EvaluationError, match=r"`policy` is 'counting' there and 'another' here"):
        evaluate(tmp_path, identity={**IDENTITY, "policy": "another"})
    with pytest.raises(EvaluationError, match="`expert_check` is True there and False here"):
        evaluate(tmp_path, protocol=replace(PROTOCOL, expert_check=False))


def test_two_evaluations_never_write_one_record(tmp_path):
    def plan(request):
        if request.seed == accepted(1)[0]:
            with pytest.raises(EvaluationError, match=r"another evaluation is writing .*record\.json"):
                evaluate(tmp_path)
            evaluate(tmp_path / "elsewhere")
        return counting(request)

    assert evaluate(tmp_path, plan=plan) == evaluate(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": 2, "identity": {}, "seeds": []}'])
def test_a_damaged_record_is_refused_by_name(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"record\.json"):
        evaluate(tmp_path)


def test_a_record_says_what_happened_to_every_seed(tmp_path):
    result = evaluate(tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["identity"] == {**IDENTITY, "expert_check": True}
    assert [seed["seed"] for seed in record["seeds"]] == list(range(100_000, 100_000 + result.tried))
    assert SeedRecord(**record["seeds"][0]) == result.episodes[0]


# Pools


def test_a_pool_spares_the_expert_and_learns_from_it(tmp_path):
    pool = SeedPool.open(tmp_path, KEY)
    pool.note(100_000, "check_failure")
    pool.note(100_001, "ok")
    pool.note(100_002, "listed")
    log = []
    result = evaluate(tmp_path, [Task(log=log)], pool=pool)
    assert result.episodes[0].seed == 100_001  # the pool's word counts
    tried = [seed for call, seed in log if call == "expert"]
    assert tried[0] == 100_002  # but not that of a list
    assert len(tried) == result.tried - 2
    saved = SeedPool.open(tmp_path, KEY)
    assert {seed: saved.statuses[seed] for seed in tried} == {seed: expert_status(seed) for seed in tried}


def test_words_that_only_a_moving_expert_tells_are_had_from_it_though_the_pool_spares_it(tmp_path):
    pool = SeedPool.open(tmp_path, KEY)
    first, second = accepted(2)
    for seed in (first, second):
        pool.note(seed, "ok")
    failures = {("expert", second): [PlanFailureError("no path, this time")]}
    heard = []

    def plan(request):
        heard.append((request.seed, request.instruction))
        return np.zeros((2, 14))

    env = Task(wordless=(first, second), failures=failures)
    result = evaluate(tmp_path, [env], plan=plan, pool=pool)
    assert [episode.seed for episode in result.episodes] == accepted(6)
    assert dict(heard)[first] == f"solve {first}"
    assert dict(heard)[second] == "t"
    assert [bool(episode.instruction_problem) for episode in result.episodes] == [False, True, *[False] * 4]
    assert pool.statuses[second] == "ok"


def test_without_the_experts_check_no_expert_is_run_for_its_words(tmp_path):
    log = []
    env = Task(wordless=range(100_000, 100_010), log=log)
    unchecked = replace(PROTOCOL, expert_check=False)
    result = evaluate(tmp_path, [env], plan=lambda _: np.zeros((2, 14)), protocol=unchecked)
    assert {call for call, _ in log} == {"reset"}
    assert all("KeyError" in episode.instruction_problem for episode in result.episodes)


def test_protocols_that_cannot_be_are_refused(tmp_path):
    for change in ({"seed": -1}, {"seed": 9}, {"episodes": 0}, {"max_tries": 5}):
        with pytest.raises(EvaluationError, match="must be"):
            replace(PROTOCOL, **change)
    with pytest.raises(EvaluationError, match="no simulator"):
        evaluate_task([], counting, PROTOCOL, record=tmp_path / "record.json", identity=IDENTITY)

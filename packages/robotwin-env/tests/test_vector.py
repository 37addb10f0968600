from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from robotwin_env.errors import RobotwinEnvError, VectorEnvError
from robotwin_env.tabletop import TabletopConfig, TabletopEnv
from robotwin_env.vector import EnvironmentPool, Job, PoolError, worker_client
from robotwin_env.vector.worker_client import Worker

WALKS = '''
import os, signal, threading, time
import numpy as np

RAISE, DIE, HANG = 97.0, 98.0, 99.0
made = 0


class Walk:
    """A random walk; some actions break it."""

    def __init__(self, spec):
        global made
        made += 1
        self.spec = spec

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng([seed, len(self.spec)])
        self.position = self.rng.normal(size=3)
        return self.position, {"seed": seed, "spec": self.spec, "options": options}

    def step_chunk(self, actions, *, record_every=None):
        for action in actions:
            if action[0] == RAISE:
                raise ValueError("the walker fell")
            if action[0] == DIE:
                os._exit(3)
            if action[0] == HANG:
                time.sleep(1000)
            self.position += self.rng.normal(size=3) + action
        return {"position": self.position, "record_every": record_every}

    def close(self):
        pass


class Refuser:
    def __init__(self, spec):
        raise RuntimeError("no such floor")


def facts(env, names):
    return {
        "pid": os.getpid(),
        "made": made,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "sigint": signal.getsignal(signal.SIGINT),
        "asked": names,
    }


def unpicklable(env, argument):
    return threading.Lock()
'''

CONSTANT = np.full((4, 3), 0.5)


@pytest.fixture
def walks(tmp_path, monkeypatch):
    """A module of fake environments that workers can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "walks.py").write_text(WALKS)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("walks", None)
    yield __import__("walks")
    sys.modules.pop("walks", None)


@pytest.fixture
def pool(walks):
    """Four walks in two workers: 0 and 2 share one, 1 and 3 the other."""
    with EnvironmentPool(walks.Walk, num_envs=4, workers=2, timeout=60.0) as made:
        yield made


def jobs(*indices, spec="floor"):
    return {index: Job(spec=spec, seed=100 + index) for index in indices}


def history(pool):
    """Observations and outcomes of a run that asks for different environments in different orders."""
    started = pool.reset(
        {index: Job(spec="a" * (index % 2), seed=index, options={"n": 1}) for index in (4, 0, 2, 1, 3)}
    )
    outcomes = [pool.step_chunk({index: CONSTANT * index for index in (3, 0, 4)}, record_every=2)]
    again = pool.reset({0: Job(spec="b", seed=9)})
    outcomes += [pool.step_chunk(dict.fromkeys(order, CONSTANT)) for order in ((0, 1, 2, 3, 4), (2, 1))]
    return [started, again, *outcomes]


def assert_same(left, right):
    if isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for name, value in left.items():
            assert_same(value, right[name])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_do_not_depend_on_the_number_of_workers(walks, workers):
    with EnvironmentPool(walks.Walk, num_envs=5) as here:
        expected = history(here)
    with EnvironmentPool(walks.Walk, num_envs=5, workers=workers) as spread:
        assert len(spread.worker_pids) == min(workers, 5)
        assert_same(history(spread), expected)
    assert list(expected[0]) == [4, 0, 2, 1, 3]
    assert not np.array_equal(expected[3][1]["position"], expected[3][3]["position"])


@pytest.mark.sim
def test_the_tabletop_plays_the_same_here_and_in_workers():
    config = TabletopConfig(task="click_bell", scene="random", image_size=32)
    chunk = np.tile(TabletopEnv(config).reset(seed=1)[0]["state"], (4, 1))
    chunk[:, 0] += [0.02, 0.04, 0.06, 0.08]

    def play(workers):
        with EnvironmentPool(TabletopEnv, num_envs=3, workers=workers) as pool:
            started = pool.reset({index: Job(spec=config, seed=index) for index in range(3)})
            outcomes = pool.step_chunk(dict.fromkeys(range(3), chunk), record_every=2)
            observed = {index: outcome.observation for index, outcome in outcomes.items()}
            return [started, observed, [outcome.executed for outcome in outcomes.values()]]

    here = play(0)
    assert here[1][0]["head"].std() > 5
    assert not np.array_equal(here[1][0]["head"], here[1][1]["head"])
    assert_same(play(2), here)


def test_results_share_no_memory_with_the_environment(walks):
    with EnvironmentPool(walks.Walk, num_envs=1) as pool:
        observation, _ = pool.reset(jobs(0))[0]
        before = observation.copy()
        pool.step_chunk({0: CONSTANT})
        np.testing.assert_array_equal(observation, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_names_its_environment_and_spares_the_others(walks, workers):
    with EnvironmentPool(walks.Walk, num_envs=4, workers=workers) as pool:
        pool.reset(jobs(0, 1, 2, 3))
        with pytest.raises(PoolError, match=r"environment 2 \(seed 102\): ValueError: the walker fell") as caught:
            pool.step_chunk({0: CONSTANT, 1: CONSTANT, 2: np.full((1, 3), walks.RAISE)})
        assert set(caught.value.failures) == set(pool.failures) == {2}
        assert "step_chunk" in caught.value.failures[2].traceback
        assert set(caught.value.results) == {0, 1}
        assert set(pool.step_chunk({0: CONSTANT, 1: CONSTANT, 3: CONSTANT})) == {0, 1, 3}
        with pytest.raises(VectorEnvError, match="lost until it is reset"):
            pool.step_chunk({2: CONSTANT})
        first = pool.reset(jobs(2))[2][0]
        assert pool.failures == {}
        np.testing.assert_array_equal(first, pool.reset(jobs(2))[2][0])


def test_a_dead_worker_takes_only_its_own_environments(walks, pool):
    begun = pool.reset(jobs(0, 1, 2, 3))
    with pytest.raises(PoolError, match="exit status 3") as caught:
        pool.step_chunk({0: CONSTANT, 1: np.full((1, 3), walks.DIE), 2: CONSTANT})
    assert {index: failure.seed for index, failure in caught.value.failures.items()} == {1: 101, 3: 103}
    assert set(caught.value.results) == {0, 2}
    assert set(pool.step_chunk({0: CONSTANT, 2: CONSTANT})) == {0, 2}
    with pytest.raises(VectorEnvError, match="`restart`"):
        pool.reset(jobs(1))
    with pytest.raises(VectorEnvError, match="environment 3"):
        pool.step_chunk({3: CONSTANT})
    pool.restart()
    assert_same(pool.reset(jobs(1, 3)), {index: begun[index] for index in (1, 3)})
    assert set(pool.step_chunk(dict.fromkeys(range(4), CONSTANT))) == {0, 1, 2, 3}


def test_a_worker_killed_while_idle_is_noticed_at_the_next_call(pool):
    pool.reset(jobs(0, 1))
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(PoolError, match=r"environment 0 \(seed 100\): its worker ended with exit status -9"):
        pool.step_chunk({0: CONSTANT, 1: CONSTANT})
    pool.restart()
    assert set(pool.reset(jobs(0))) == {0}


def test_a_silent_worker_is_ended_and_the_others_keep_their_results(walks):
    with EnvironmentPool(walks.Walk, num_envs=2, workers=2, timeout=2.0) as pool:
        pool.reset(jobs(0, 1))
        with pytest.raises(PoolError, match=r"environment 1 \(seed 101\): no answer within 2 s") as caught:
            pool.step_chunk({0: CONSTANT, 1: np.full((1, 3), walks.HANG)})
        assert set(caught.value.results) == {0}
        assert len(pool.worker_pids) == 1
        pool.restart()
        assert len(pool.worker_pids) == 2


def test_an_interrupted_call_loses_only_what_it_waited_for(walks, pool):
    pool.reset(jobs(0, 1))

    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            pool.step_chunk({0: CONSTANT, 1: np.full((1, 3), walks.HANG)})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert set(pool.failures) == {1}
    assert set(pool.step_chunk({0: CONSTANT})) == {0}
    pool.restart()
    pool.reset(jobs(1))


def test_a_function_runs_where_the_environment_lives(walks, pool):
    pool.reset(jobs(0, 1, 2))
    answers = pool.call(walks.facts, {0: "a", 1: "b", 2: "c"})
    assert [answer["asked"] for answer in answers.values()] == ["a", "b", "c"]
    assert [answers[index]["pid"] for index in (0, 1, 2)] == [pool.worker_pids[index % 2] for index in (0, 1, 2)]
    assert {answer["threads"] for answer in answers.values()} == {"1"}
    assert {answer["sigint"] for answer in answers.values()} == {signal.SIG_IGN}


def test_an_environment_is_kept_while_its_spec_stays_equal(walks, pool):
    for spec, made in (("floor", 1), ("floor", 1), ("roof", 2), ("floor", 3)):
        pool.reset(jobs(0, spec=spec))
        assert pool.call(walks.facts, {0: None})[0]["made"] == made


def test_an_environment_that_cannot_be_made_is_a_failure(walks):
    with EnvironmentPool(walks.Refuser, num_envs=1) as pool, pytest.raises(PoolError, match="no such floor"):
        pool.reset(jobs(0))


def test_a_result_that_cannot_travel_is_a_failure(walks, pool):
    pool.reset(jobs(0, 2))
    with pytest.raises(PoolError, match=r"environment 0.*pickle"):
        pool.call(walks.unpicklable, {0: None})
    assert set(pool.step_chunk({2: CONSTANT})) == {2}


def test_what_workers_cannot_import_is_refused(walks, pool, tmp_path):
    with pytest.raises(VectorEnvError, match="cannot be sent"):
        EnvironmentPool(lambda spec: walks.Walk(spec), num_envs=1, workers=1)
    pool.reset(jobs(0))
    with pytest.raises(VectorEnvError, match="cannot be sent"):
        pool.call(lambda env, argument: None, {0: None})
    assert set(pool.step_chunk({0: CONSTANT})) == {0}
    hidden = type("Hidden", (), {"__module__": "hidden"})
    sys.modules["hidden"] = type(sys)("hidden")
    sys.modules["hidden"].Hidden = hidden
    try:
        with pytest.raises(VectorEnvError, match="No module named 'hidden'"):
            EnvironmentPool(hidden, num_envs=2, workers=2)
        with pytest.raises(PoolError, match="No module named 'hidden'"):
            pool.reset({0: Job(spec=hidden(), seed=1)})
    finally:
        del sys.modules["hidden"]


def test_calls_that_make_no_sense_are_refused(walks, pool):
    with pytest.raises(VectorEnvError, match=r"no environments \[4\]"):
        pool.reset(jobs(4))
    with pytest.raises(VectorEnvError, match="environment 1 has no episode"):
        pool.step_chunk({1: CONSTANT})
    for numbers in ({"num_envs": 0}, {"num_envs": 1, "workers": -1}, {"num_envs": 1, "timeout": 0.0}):
        with pytest.raises(VectorEnvError, match="`num_envs`"):
            EnvironmentPool(walks.Walk, **numbers)
    pool.close()
    pool.close()
    with pytest.raises(VectorEnvError, match="closed"):
        pool.reset(jobs(0))
    assert issubclass(PoolError, RobotwinEnvError)


def gone(pid):
    """Whether a process has ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pids):
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


def test_closing_ends_the_workers(walks):
    pool = EnvironmentPool(walks.Walk, num_envs=2, workers=2)
    pids = pool.worker_pids
    assert not any(gone(pid) for pid in pids)
    pool.close()
    wait_until_gone(pids)


SCRIPT = """
import sys, os, signal
print("main script runs", flush=True)
import numpy as np, walks
from robotwin_env.vector import EnvironmentPool, Job
pool = EnvironmentPool(walks.Walk, num_envs=2, workers=2)
pool.reset({i: Job(spec="floor", seed=i) for i in range(2)})
print(*pool.worker_pids, flush=True)
if sys.argv[1] == "busy":
    signal.alarm(1)  # SIGALRM kills this process while it waits
    pool.step_chunk({i: np.full((1, 3), walks.HANG) for i in range(2)})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_die_with_their_parent_and_never_run_its_script(walks, tmp_path, state):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(script), state],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == -(signal.SIGALRM if state == "busy" else signal.SIGKILL)
    assert run.stdout.count("main script runs") == 1
    pids = [int(word) for word in run.stdout.splitlines()[-1].split()]
    assert len(pids) == 2
    wait_until_gone(pids)


def test_a_worker_that_is_killed_while_it_starts_is_no_mistake_of_the_caller():
    worker = Worker(TabletopEnv)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(VectorEnvError, match="killed by signal 9 while it started, perhaps for want of memory"):
        worker.wait_ready()


def test_a_worker_that_says_nothing_while_it_starts_is_ended(monkeypatch):
    monkeypatch.setattr(worker_client, "START_SECONDS", 0.3)
    worker = Worker(TabletopEnv)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(VectorEnvError, match=r"a worker did not start(.|\n)*no answer"):
        worker.wait_ready()
    assert gone(worker.pid)

"""Ray actors: whose cluster it is, and that nothing is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from grpo_core import RayExecutor
from grpo_core.errors import ConfigError, ExecutorError
from grpo_core.executors import FaultTolerance
from grpo_core.executors.scheduling import Answer

WORKERS = Path(__file__).parent / "workers"
KILLED = """
import os, signal, sys
from faulty_rollout import OnRecord
from grpo_core import GroupSpec, RayExecutor

executor = RayExecutor(OnRecord(sys.argv[1], simulators=0), workers=1)
executor.submit(GroupSpec(group=0, task="hang", seed=0, size=2).jobs())
executor.poll()  # member 0; member 1 hangs from now on
os.kill(os.getpid(), signal.SIGKILL)
"""
GUEST = """
import time, pytest, ray
from faulty_rollout import WalkRollout
from grpo_core import GroupSpec, RayExecutor
from grpo_core.errors import ExecutorError

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False)  # counted, not looked for
with pytest.raises(ExecutorError, match="in use already"):
    RayExecutor(WalkRollout, workers=1, address="192.0.2.7:6379")
with RayExecutor(WalkRollout, workers=1, address="auto", gpus=0.75) as executor:
    assert executor.poll(0.0) == []
    executor.submit(GroupSpec(group=0, task="walk", seed=0, size=1).jobs())
    assert [trajectory.status for trajectory in executor.poll()] == ["ok"]
    assert executor.poll() == []
    end = time.monotonic() + 60.0
    while ray.available_resources().get("GPU") != 0.25:
        assert time.monotonic() < end, ray.available_resources()
        time.sleep(0.1)
assert ray.is_initialized(), "a cluster was shut down that somebody else had started"
"""


def run(tmp_path, program, *arguments):
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(WORKERS), *sys.path])}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_without_ray_the_error_says_what_to_install(monkeypatch, rollouts):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"pip install 'grpo-core\[ray\]'"):
        RayExecutor(rollouts.WalkRollout, workers=1)


@pytest.mark.parametrize(("field", "value"), [("workers", 0), ("threads", 0), ("cpus", -1.0), ("gpus", -1.0)])
def test_numbers_out_of_range_are_refused(rollouts, field, value):
    with pytest.raises(ConfigError, match=f"`{field}` is {value}"):
        RayExecutor(rollouts.WalkRollout, **({"workers": 1} | {field: value}))


class Cluster:
    """A stand-in for Ray, whose actors answer at once; like Ray it returns no more answers than were asked for."""

    exceptions = types.SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ZeroDivisionError)
    cloudpickle = pickle

    def __init__(self):
        self.killed = 0

    def is_initialized(self):
        return True

    def get_runtime_context(self):
        return types.SimpleNamespace(gcs_address="here")

    def remote(self, kind):
        def method(name):
            return types.SimpleNamespace(remote=lambda *arguments: Answered(getattr(kind, name), arguments))

        def make(*arguments):
            return types.SimpleNamespace(start=method("start"), answer=method("answer"))

        return types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=make))

    def wait(self, refs, *, num_returns, timeout):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        return pickle.dumps(Answer("ready"))

    def kill(self, actor, *, no_restart):
        self.killed += 1


class Answered:
    """A reference to an answer."""

    def __init__(self, *_):
        pass


def test_workers_that_were_ready_before_anybody_looked_are_not_overdue(monkeypatch, rollouts):
    cluster = Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    executor = RayExecutor(rollouts.WalkRollout, workers=6, tolerance=FaultTolerance(start_deadline=0.01))
    time.sleep(0.02)
    executor.poll()
    assert cluster.killed == 0
    assert executor.events["failed_starts"] == 0
    executor.close()


@pytest.mark.slow
def test_a_cluster_that_was_there_before_is_used_for_what_is_asked_and_left_running(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: install grpo-core[ray]")
    done = run(tmp_path, GUEST)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_program_that_is_killed_leaves_no_process(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: install grpo-core[ray]")
    record = tmp_path / "record"
    assert run(tmp_path, KILLED, record).returncode == -signal.SIGKILL
    worker = int(record.read_text())
    end = time.monotonic() + 60.0
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < end, "the worker is still there"
        time.sleep(0.1)

"""Worker processes: how they start, and that none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_core import GroupSpec, ProcessExecutor
from grpo_core.errors import ConfigError, ExecutorError
from grpo_core.executors import FaultTolerance
from grpo_core.executors.processes import _send
from grpo_core.executors.scheduling import Answer, unpacked

WORKERS = Path(__file__).parent / "workers"
SCRIPT = """
import os, signal, sys
from faulty_rollout import OnRecord
from grpo_core import GroupSpec, ProcessExecutor

if __name__ == "__main__":
    executor = ProcessExecutor(OnRecord(sys.argv[1]), workers=1)
    executor.submit(GroupSpec(group=0, task="hang", seed=0, size=2).jobs())
    executor.poll()  # member 0; member 1 hangs from now on
    {end}
"""


def is_running(process):
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(processes, *, seconds=30.0):
    end = time.monotonic() + seconds
    while left := [process for process in processes if is_running(process)]:
        assert time.monotonic() < end, f"processes {left} are still there"
        time.sleep(0.05)


def noted(record):
    return [int(process) for process in record.read_text().split()]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("raise KeyError('a bug in the caller')", 1),
    ],
    ids=["killed", "raised"],
)
def test_a_program_that_ends_without_closing_leaves_no_process(tmp_path, end, status):
    script, record = tmp_path / "program.py", tmp_path / "record"
    script.write_text(SCRIPT.format(end=end))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(WORKERS), *sys.path])}
    done = subprocess.run([sys.executable, str(script), str(record)], env=environment, timeout=400, check=False)
    assert done.returncode == status
    worker, simulator = noted(record)
    wait_until_gone([worker, simulator])


def test_closing_ends_a_worker_in_the_middle_of_a_call_with_all_it_started(rollouts, tmp_path):
    record = tmp_path / "record"
    with ProcessExecutor(rollouts.OnRecord(str(record)), workers=1) as executor:
        executor.submit(GroupSpec(group=0, task="hang", seed=0, size=2).jobs())
        executor.poll()
        assert all(is_running(process) for process in noted(record))
    wait_until_gone(noted(record))


def test_a_factory_that_raises_is_reported_with_its_traceback(rollouts):
    tolerance = FaultTolerance(max_failed_starts=1)
    with ProcessExecutor(rollouts.broken_factory, workers=1, tolerance=tolerance) as executor:
        executor.submit(GroupSpec(group=0, task="walk", seed=0, size=1).jobs())
        with pytest.raises(ExecutorError, match=r"(?s)failed.*to start.*in broken_factory.*no weights at `nowhere`"):
            executor.poll()


def test_a_trajectory_that_cannot_travel_is_an_exception_of_its_call():
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        _send(theirs, Answer("done", trajectories=[lambda: None]))
        answer = unpacked(ours.recv_bytes())
    assert answer.outcome == "exceptions"
    assert "the trajectories cannot be pickled" in answer.error


def test_a_factory_that_cannot_travel_is_refused():
    with pytest.raises(ExecutorError, match="cannot travel"):
        ProcessExecutor(lambda: None, workers=1)


@pytest.mark.parametrize("field", ["workers", "threads"])
def test_numbers_below_one_are_refused(rollouts, field):
    with pytest.raises(ConfigError, match=f"`{field}` is 0"):
        ProcessExecutor(rollouts.WalkRollout, **({"workers": 1} | {field: 0}))

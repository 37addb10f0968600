from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from grpo_core import (
    Decisions,
    InProcessExecutor,
    Job,
    RolloutError,
    RoundRobin,
    Trajectory,
)
from grpo_core.errors import ExecutorError
from grpo_core.executors import Executor, FaultTolerance


class Recorder:
    """A rollout whose reward is the member's number, answering in reverse order."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int]]] = []
        self.error: BaseException | None = None
        self.heal_after: int | None = None

    def __call__(self, jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        self.calls.append([(job.spec.group, job.member) for job in jobs])
        if self.error is not None and (self.heal_after is None or len(self.calls) <= self.heal_after):
            raise self.error
        one = torch.zeros(1, 1)
        decisions = Decisions(states=one, actions=one, log_prob=one)
        return [Trajectory(job=job, decisions=decisions, reward=float(job.member)) for job in reversed(jobs)]


@pytest.fixture
def source() -> RoundRobin:
    return RoundRobin(["bell"], [1, 2], size=3)


def test_a_poll_rolls_out_one_group_at_once(source):
    rollout = Recorder()
    executor: Executor[Tensor, Tensor] = InProcessExecutor(rollout)
    executor.set_weights(5, {})
    first, second = source.next().jobs(), source.next().jobs()
    executor.submit([first[0], second[0], first[1], first[2], second[1], second[2]])
    found = executor.poll()
    assert rollout.calls == [[(0, 0), (0, 1), (0, 2)]]
    assert [trajectory.job for trajectory in found] == list(first)
    assert [trajectory.reward for trajectory in found] == [0.0, 1.0, 2.0]
    assert {trajectory.version for trajectory in found} == {5}
    assert [trajectory.job for trajectory in executor.poll(0.1)] == list(second)
    assert executor.poll() == []


def test_a_call_that_lost_its_simulator_is_made_again(source):
    rollout = Recorder()
    executor = InProcessExecutor(rollout)
    rollout.error = RolloutError("the simulator ran out of memory")
    rollout.heal_after = 2
    executor.submit(source.next().jobs())
    found = executor.poll()
    assert [(trajectory.status, trajectory.job.attempt) for trajectory in found] == [("ok", 2)] * 3
    assert (executor.events["rollout_errors"], executor.events["resubmissions"]) == (2, 6)
    assert executor.quarantined == frozenset()


def test_a_group_that_always_fails_comes_back_failed_with_the_reason(source):
    rollout = Recorder()
    executor = InProcessExecutor(rollout, tolerance=FaultTolerance(max_attempts=2, max_votes=1))
    first, second = source.next(), source.next()
    executor.submit(first.jobs())
    executor.submit(second.jobs())
    rollout.error = RolloutError("the simulator ran out of memory")
    failed = executor.poll()
    assert [trajectory.status for trajectory in failed] == ["crash"] * 3
    assert {trajectory.error for trajectory in failed} == {"the simulator ran out of memory"}
    assert {trajectory.reward for trajectory in failed} == {None}
    assert executor.quarantined == {(first.task, first.seed)}
    rollout.error = None
    assert [trajectory.status for trajectory in executor.poll()] == ["ok"] * 3


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt("impatience")])
def test_any_other_error_goes_up_and_the_call_is_made_again(source, error):
    rollout = Recorder()
    rollout.error = error
    executor = InProcessExecutor(rollout)
    executor.submit(source.next().jobs())
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            executor.poll()
    rollout.error = None
    found = executor.poll()
    assert [(trajectory.status, trajectory.job.attempt) for trajectory in found] == [("ok", 0)] * 3
    executor.set_weights(1, {})
    assert executor.quarantined == frozenset()


def test_calls_can_be_smaller_than_groups(source):
    rollout = Recorder()
    executor = InProcessExecutor(rollout, jobs_per_call=2)
    executor.submit(source.next().jobs())
    assert [[trajectory.job.member for trajectory in executor.poll()] for _ in range(3)] == [[0, 1], [2], []]
    assert rollout.calls == [[(0, 0), (0, 1)], [(0, 2)]]


def test_cancelled_jobs_are_not_rolled_out(source):
    rollout = Recorder()
    with InProcessExecutor(rollout, jobs_per_call=1, load_weights=lambda _: None) as executor:
        executor.submit(source.next().jobs())
        executor.poll()
        executor.cancel()
        assert executor.poll() == []
        executor.set_weights(1, {})
    assert rollout.calls == [[(0, 0)]]
    assert executor.events["cancelled"] == 2


@pytest.mark.parametrize("cut", [slice(1, None), slice(0, 0)])
def test_a_rollout_that_forgets_a_job_is_refused(source, cut):
    rollout = Recorder()
    executor = InProcessExecutor(lambda jobs: rollout(jobs)[cut])
    executor.submit(source.next().jobs())
    with pytest.raises(ExecutorError, match=r"of the 3 asked for.*group 0 member 0"):
        executor.poll()


def test_weights_are_loaded_and_never_under_queued_jobs(source):
    loaded: list[dict[str, Tensor]] = []
    executor = InProcessExecutor(Recorder(), load_weights=loaded.append)
    executor.set_weights(1, {"w": torch.ones(1)})
    assert loaded == [{"w": torch.ones(1)}]
    executor.submit(source.next().jobs())
    with pytest.raises(ExecutorError, match="3 jobs wait for version 1"):
        executor.set_weights(2, {})


def test_a_closed_executor_takes_nothing(source):
    executor = InProcessExecutor(Recorder())
    executor.close()
    for use in (lambda: executor.submit(source.next().jobs()), executor.poll, lambda: executor.set_weights(1, {})):
        with pytest.raises(ExecutorError, match="closed"):
            use()

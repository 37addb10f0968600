"""Workers killed, hung, raising and poisoned in the middle of a rollout: what is learned does not change."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from grpo_core import (
    GroupSpec,
    InProcessExecutor,
    ProcessExecutor,
    RayExecutor,
    Trajectory,
)
from grpo_core.executors import FaultTolerance

# Long enough for a call on a busy machine, short enough to wait for where a worker hangs.
TOLERANCE = FaultTolerance(deadline=6.0, max_votes=1)


@pytest.fixture(scope="module", params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request, rollouts) -> Iterator[ProcessExecutor | RayExecutor]:
    """Two workers of either kind, which all tests share: their tasks say what goes wrong."""
    if request.param == "ray":
        pytest.importorskip("ray", reason="needs Ray: install grpo-core[ray]")
        made = RayExecutor(rollouts.WalkRollout, workers=2, tolerance=TOLERANCE)
    else:
        made = ProcessExecutor(rollouts.WalkRollout, workers=2, tolerance=TOLERANCE)
    with made:
        both_at_work(made)
        yield made


def both_at_work(executor):
    """Roll out until either worker has had a turn: one may be ready long before the other."""
    seen, group = set(), 1000
    while len(seen) < 2:
        executor.submit(GroupSpec(group=group, task="walk", seed=0, size=2).jobs())
        seen |= {trajectory.info["process"] for trajectory in everything(executor, 2)}
        group += 1


def everything(executor, count):
    found = []
    while len(found) < count:
        polled = executor.poll()
        assert polled, "nothing is outstanding any more"
        found += polled
    return found


@pytest.fixture
def happened(executor):
    """What an executor has counted since the test began."""
    before = executor.events
    return lambda: executor.events - before


def in_process(rollouts):
    rollout = rollouts.WalkRollout(trouble=False)
    return InProcessExecutor(rollout, load_weights=rollout.load_weights)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def outcome(trajectories):
    return [(trajectory.reward, trajectory.status, trajectory.version) for trajectory in trajectories]


def test_workers_learn_the_same_weights_as_one_process(executor, rollouts, train, happened):
    weights, trajectories = train(executor, ["walk", "climb"])
    expected, reference = train(in_process(rollouts), ["walk", "climb"])
    assert same(weights, expected)
    assert not same(weights, rollouts.Walker().state_dict()), "nothing was learned"
    assert outcome(trajectories) == outcome(reference)
    assert {trajectory.version for trajectory in trajectories} == {0, 1, 2}
    assert happened() == {}


def test_lost_calls_are_made_again_to_the_same_weights(executor, rollouts, train, happened):
    troubles = ["hang", "kill", "raise", "lose"]  # together: while one call hangs, the other worker goes on
    weights, trajectories = train(executor, ["walk", *troubles])
    expected, reference = train(in_process(rollouts), ["walk", *troubles])
    assert same(weights, expected)
    assert outcome(trajectories) == outcome(reference)
    events = dict.fromkeys(["deaths", "exceptions", "rollout_errors", "timeouts"], 1)
    assert happened() == {**events, "resubmissions": 4, "restarts": 3}
    again = [trajectory.job for trajectory in trajectories if trajectory.job.attempt]
    assert [(job.spec.task, job.spec.seed, job.member, job.attempt) for job in again] == [
        (trouble, 0, 1, 1) for trouble in troubles
    ]
    assert executor.quarantined == frozenset()


def test_a_poisoned_scene_is_given_up_and_the_survivors_teach(executor, rollouts, train, happened):
    weights, trajectories = train(executor, ["walk", "poison"])
    (lost,) = [trajectory for trajectory in trajectories if trajectory.status != "ok"]
    assert (lost.job.spec.task, lost.job.spec.seed, lost.job.member, lost.job.attempt) == ("poison", 0, 1, 2)
    assert (lost.status, lost.reward, lost.decisions) == ("crash", None, None)
    assert "died" in lost.error
    assert executor.quarantined == {("poison", 0)}
    assert happened() == {"deaths": 3, "resubmissions": 2, "restarts": 3, "given_up": 1, "quarantined": 1}

    rollout = rollouts.WalkRollout(trouble=False)

    def survivors(jobs):
        poisoned = [("poison", *rollouts.UNLUCKY) == (job.spec.task, job.spec.seed, job.member) for job in jobs]
        return [
            Trajectory.failed(job, error="left out") if out else rollout.walk(job)
            for job, out in zip(jobs, poisoned, strict=True)
        ]

    expected, _ = train(InProcessExecutor(survivors, load_weights=rollout.load_weights), ["walk", "poison"])
    assert same(weights, expected)

    executor.submit(GroupSpec(group=90, task="poison", seed=0, size=2).jobs())
    later = executor.poll()
    assert [(trajectory.status, trajectory.job.attempt) for trajectory in later] == [("crash", 0)] * 2
    assert "quarantined" in later[0].error
    assert happened()["skipped"] == 2


def test_workers_that_die_between_calls_lose_nothing(executor, happened):
    executor.submit(GroupSpec(group=91, task="walk", seed=5, size=6).jobs())
    for process in {int(trajectory.info["process"]) for trajectory in everything(executor, 6)}:
        os.kill(process, signal.SIGKILL)
    executor.submit(GroupSpec(group=92, task="walk", seed=6, size=4).jobs())
    assert {trajectory.status for trajectory in everything(executor, 4)} == {"ok"}
    assert happened()["restarts"] >= 1


def test_cancelled_jobs_never_come_back_and_hanging_workers_are_freed(executor, happened):
    executor.submit(GroupSpec(group=93, task="hang", seed=0, size=4).jobs())
    executor.poll()
    executor.cancel()
    executor.submit(GroupSpec(group=94, task="walk", seed=8, size=2).jobs())
    found = everything(executor, 2)
    assert {trajectory.job.spec.group for trajectory in found} == {94}
    assert executor.poll(0.0) == []
    assert happened()["cancelled"] > 0
    assert "timeouts" not in happened()

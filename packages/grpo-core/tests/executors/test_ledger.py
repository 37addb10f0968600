"""The bookkeeping of jobs: each is settled once, whatever happens in whatever order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Decisions, GroupSpec, Trajectory
from grpo_core.errors import ConfigError, ExecutorError
from grpo_core.executors import FaultTolerance
from grpo_core.executors.ledger import JobLedger, Weights

ROW = Decisions(states=torch.zeros(1, 1), actions=torch.zeros(1, 1), log_prob=torch.zeros(1, 1))


def ledger(*, jobs_per_call=1, max_attempts=2, max_votes=1):
    tolerance = FaultTolerance(max_attempts=max_attempts, max_votes=max_votes)
    return JobLedger(jobs_per_call=jobs_per_call, tolerance=tolerance)


def spec(group, *, seed=None, size=4):
    return GroupSpec(group=group, task="walk", seed=group if seed is None else seed, size=size)


def answers(call, reward=1.0):
    return [Trajectory(job=job, decisions=ROW, reward=reward) for job in call.jobs]


def key(job):
    return job.spec.group, job.member


acts = st.tuples(st.sampled_from(["take", "finish", "fail", "put_back", "repeat"]), st.integers(0, 3))
drain = [("take", 0), ("finish", 0)] * 30


@given(acts=st.lists(acts, max_size=40), jobs_per_call=st.sampled_from([1, 2, 3, None]), tries=st.integers(1, 3))
def test_every_job_is_settled_exactly_once(acts, jobs_per_call, tries):
    books = ledger(jobs_per_call=jobs_per_call, max_attempts=tries)
    groups = [spec(group, seed=group % 3, size=1 + group) for group in range(4)]
    for group in groups:
        books.submit(group.jobs(), version=7)
    running, answered, settled = [], [], []
    for act, choice in acts + drain:
        if act == "take" and (call := books.next()) is not None:
            running.append(call)
        elif act in ("finish", "fail") and running:
            answered.append(running.pop(choice % len(running)))
            if act == "finish":
                books.finish(answered[-1], answers(answered[-1]))
            else:
                books.fail(answered[-1], "lost")
        elif act == "put_back" and running:
            books.put_back(running.pop(choice % len(running)))
        elif act == "repeat" and answered:
            books.finish(answered[choice % len(answered)], answers(answered[choice % len(answered)]))
        settled += books.take()
    assert (books.outstanding, running) == ((), [])
    assert sorted(key(t.job) for t in settled) == sorted(key(job) for group in groups for job in group.jobs())
    assert {t.version for t in settled} <= {7}
    assert all((t.reward is None) == (t.status != "ok") for t in settled)
    assert len([t for t in settled if t.status != "ok"]) == books.events["given_up"] + books.events["skipped"]


def test_second_tries_come_last_and_keep_seeds_version_and_weights():
    books = ledger()
    books.submit(spec(0, size=2).jobs(), version=3, weights=Weights(9, None))
    first = books.next()
    books.fail(first, "the simulator died")
    second, again = books.next(), books.next()
    assert [job.member for job in (second.jobs[0], again.jobs[0])] == [1, 0]
    (before,), (after,) = first.jobs, again.jobs
    assert (after.attempt, after.policy_seed) == (1, before.policy_seed)
    assert (again.version, again.weights) == (3, Weights(9, None))
    assert books.next() is None


def test_a_late_answer_to_a_call_that_was_made_again_is_dropped():
    books = ledger()
    books.submit(spec(0, size=1).jobs(), version=0)
    slow = books.next()
    books.fail(slow, "no answer within 1 s", status="timeout")
    again = books.next()
    books.finish(slow, answers(slow, reward=0.0))
    assert books.take() == []
    books.finish(again, answers(again, reward=1.0))
    books.finish(again, answers(again, reward=0.0))
    assert [trajectory.reward for trajectory in books.take()] == [1.0]


def test_the_last_failure_decides_the_status_and_quarantines_the_scene():
    books = ledger()
    books.submit(spec(0, seed=5, size=1).jobs(), version=4)
    books.fail(books.next(), "the worker died")
    books.fail(books.next(), "no answer within 1 s", status="timeout")
    (lost,) = books.take()
    assert (lost.status, lost.error, lost.version, lost.job.attempt) == ("timeout", "no answer within 1 s", 4, 1)
    assert books.quarantined == {("walk", 5)}
    books.submit(spec(1, seed=5).jobs() + spec(2, seed=6, size=1).jobs(), version=5)
    assert books.next().scene == ("walk", 6)
    assert [(trajectory.status, trajectory.job.spec.group) for trajectory in books.take()] == [("crash", 1)] * 4
    assert (books.events["given_up"], books.events["quarantined"], books.events["skipped"]) == (1, 1, 4)


def test_a_call_is_tried_again_whole():
    books = ledger(jobs_per_call=3)
    books.submit(spec(0, size=4).jobs(), version=0)
    whole, rest = books.next(), books.next()
    assert [job.member for job in whole.jobs + rest.jobs] == [0, 1, 2, 3]
    books.fail(whole, "lost")
    assert [(job.member, job.attempt) for job in books.next().jobs] == [(0, 1), (1, 1), (2, 1)]


def test_a_scene_is_given_up_by_the_votes_of_several_jobs_and_not_of_one():
    """One sequence of actions may crash a simulator, and its tries repeat it."""
    books = ledger(max_attempts=2, max_votes=2)
    books.submit(spec(0, seed=5, size=3).jobs(), version=0)
    bad, good, other = books.next(), books.next(), books.next()
    books.fail(bad, "the worker died")
    books.finish(good, answers(good))
    books.fail(books.next(), "the worker died")
    assert books.quarantined == frozenset()
    assert sorted((t.job.member, t.status) for t in books.take()) == [(0, "crash"), (1, "ok")]
    books.fail(other, "the worker died")
    books.fail(books.next(), "the worker died")
    assert books.quarantined == {("walk", 5)}
    assert (books.events["given_up"], books.events["quarantined"]) == (2, 1)


def test_cancelled_calls_may_fail_or_finish_unheard():
    books = ledger(max_attempts=1)
    books.submit(spec(0, size=3).jobs(), version=0)
    one, two = books.next(), books.next()
    books.cancel()
    books.finish(one, answers(one))
    books.fail(two, "lost")
    books.put_back(two)
    assert (books.take(), books.next(), books.outstanding, books.quarantined) == ([], None, (), frozenset())
    assert (books.events["given_up"], books.events["cancelled"]) == (0, 3)


def test_a_call_that_is_put_back_is_the_next_one():
    books = ledger()
    books.submit(spec(0, size=2).jobs(), version=0)
    first = books.next()
    books.put_back(first)
    assert books.next() is first


def test_a_job_that_is_outstanding_cannot_be_submitted_again():
    books = ledger()
    jobs = spec(0).jobs()
    books.submit(jobs[:2], version=0)
    with pytest.raises(ExecutorError, match=r"member 1.* outstanding already"):
        books.submit(jobs[1:], version=0)
    books.submit(jobs[2:], version=0)


@pytest.mark.parametrize("name", ["jobs_per_call", "max_attempts", "max_votes"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"`{name}` is 0; it must be at least 1"):
        ledger(**{name: 0})

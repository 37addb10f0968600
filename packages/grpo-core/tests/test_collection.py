"""Rolling out groups of coins until enough of them are mixed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from grpo_core import (
    Decisions,
    GroupSpec,
    InProcessExecutor,
    Job,
    MixedAllocation,
    RoundRobin,
    Trajectory,
    are_mixed,
    collate,
    collect_groups,
)
from grpo_core.collection import every_group
from grpo_core.errors import ConfigError, ExecutorError

CHANCES = {"hard": 0.03, "fair": 0.4, "easy": 0.97}


def outcome(job: Job) -> float | None:
    draw = torch.rand(2, generator=torch.Generator().manual_seed(job.policy_seed))
    return None if draw[1] < 0.05 else float(draw[0] < CHANCES[job.spec.task])


def trajectory_of(job: Job) -> Trajectory[Tensor, Tensor]:
    reward = outcome(job)
    if reward is None:
        return Trajectory.failed(job, error="the coin rolled away")
    one = torch.tensor([[reward]])
    return Trajectory(job=job, decisions=Decisions(states=one, actions=one, log_prob=one), reward=reward)


class Shuffled:
    """An executor whose members come back one by one, in a random order, those of all groups mixed up."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[Job] = []
        self.rounds = 0
        self.quarantined: frozenset[tuple[str, int]] = frozenset()

    def submit(self, jobs: Sequence[Job], /) -> None:
        self.rounds += 1
        self.queue += jobs

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[Tensor, Tensor]]:
        if not self.queue:
            return []
        return [trajectory_of(self.queue.pop(int(torch.randint(len(self.queue), (), generator=self.generator))))]

    def cancel(self) -> None:
        self.queue.clear()


def in_process() -> InProcessExecutor[Tensor, Tensor]:
    return InProcessExecutor(lambda jobs: [trajectory_of(job) for job in jobs])


def round_robin() -> RoundRobin:
    return RoundRobin([*CHANCES], range(100), size=8, run_seed=5)


def shape(collected: object) -> list[tuple[int, int, float | None]]:
    return [(own.job.spec.group, own.job.member, own.reward) for own in collected.trajectories]


def test_without_options_a_collection_is_the_next_groups_in_full():
    collected = collect_groups(round_robin(), in_process(), groups=5)
    jobs = [job for _, spec in zip(range(5), iter(round_robin().next, None), strict=False) for job in spec.jobs()]
    assert [own.job for own in collected.trajectories] == jobs
    assert (collected.kept, collected.tried, collected.episodes) == (5, 5, 40)
    groups = [[outcome(job) for job in jobs[start : start + 8]] for start in range(0, 40, 8)]
    assert collected.mixed == sum(len(set(group) - {None}) > 1 for group in groups)
    assert collected.acceptance == collected.mixed / 5 < 1
    assert collected.failed == sum(outcome(job) is None for job in jobs) > 0
    scored = [outcome(job) for job in jobs if outcome(job) is not None]
    assert collected.reward_mean == pytest.approx(sum(scored) / len(scored))


@pytest.mark.parametrize("provision", [1.0, 2.5])
def test_dropped_groups_are_refilled_until_enough_are_mixed(provision):
    executor = Shuffled(0)
    collected = collect_groups(round_robin(), executor, groups=6, max_episodes=480, keep=are_mixed, provision=provision)
    specs = [spec for _, spec in zip(range(collected.tried), iter(round_robin().next, None), strict=False)]
    mixed = [spec.group for spec in specs if len({outcome(job) for job in spec.jobs()} - {None}) > 1]
    assert sorted({own.job.spec.group for own in collected.trajectories}) == mixed
    assert collected.kept == collected.mixed == len(mixed) >= 6
    assert collected.acceptance == len(mixed) / len(specs) < 1
    if provision > 1:
        assert executor.rounds == 1, "15 groups at 2.5 for each that is wanted"
    else:
        assert executor.rounds > 2
        assert collected.kept == 6


def test_refilling_ends_at_the_cap_and_says_so():
    source = RoundRobin(["hard"], range(100), size=2, run_seed=5)
    collected = collect_groups(source, in_process(), groups=6, max_episodes=16, keep=are_mixed, provision=3.0)
    assert (collected.tried, collected.episodes) == (8, 16)
    assert collected.kept < 6
    assert source.next().group == 8


def test_a_collection_without_any_group_to_keep_is_a_batch_of_nothing():
    collected = collect_groups(RoundRobin(["hard"], [0], size=1), in_process(), groups=2, keep=are_mixed)
    assert (collected.trajectories, collected.kept, collected.tried) == ((), 0, 2)
    assert len(collate(collected.trajectories)) == 0


@pytest.mark.parametrize("keep", [every_group, are_mixed])
def test_the_executor_and_its_timing_change_nothing(keep):
    def run(executor: object) -> tuple[object, ...]:
        source = MixedAllocation([*CHANCES], range(100), size=8, run_seed=5)
        found = []
        for _ in range(3):
            collected = collect_groups(source, executor, groups=4, max_episodes=160, keep=keep, provision=1.5)
            found.append((shape(collected), collected.tried, collected.episodes))
        return *found, source.state_dict()

    expected = run(in_process())
    assert run(Shuffled(0)) == run(Shuffled(1)) == expected


def test_scenes_that_the_executor_gave_up_are_excluded_whenever_that_was():
    executor, source = Shuffled(0), round_robin()
    executor.quarantined = frozenset({("fair", 1), ("a scene of another source", 1)})
    collect_groups(source, executor, groups=1)
    assert source.state_dict()["excluded"] == [["fair", 1]]
    played = executor.poll

    def poll(timeout: float | None = None) -> list[Trajectory[Tensor, Tensor]]:
        executor.quarantined |= {("hard", 9)}
        return played(timeout)

    executor.poll = poll
    collect_groups(source, executor, groups=1)
    assert source.state_dict()["excluded"] == [["fair", 1], ["hard", 9]]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_executor_and_source_can_be_used_again(error, monkeypatch):
    broken = True

    def rollout(jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        if broken and jobs[0].spec.group == 1:
            raise error("a bug, or an impatient user")
        return [trajectory_of(job) for job in jobs]

    executor = InProcessExecutor(rollout)
    source = MixedAllocation([*CHANCES], range(100), size=8, run_seed=5)
    reported, report = [], source.report
    monkeypatch.setattr(
        source, "report", lambda spec, rewards: (reported.append((spec, rewards)), report(spec, rewards))
    )
    with pytest.raises(error):
        collect_groups(source, executor, groups=3)
    assert [spec.group for spec, _ in reported] == [0, 1, 2]  # else their arms would be under way for ever
    assert all(rewards == [None] * 8 for _, rewards in reported)
    broken = False
    executor.set_weights(1, {})
    collected = collect_groups(source, executor, groups=3)
    assert [spec.group for spec in dict.fromkeys(own.job.spec for own in collected.trajectories)] == [3, 4, 5]
    assert {own.version for own in collected.trajectories} == {1}


class Shared(Shuffled):
    """Also brings back what somebody else has asked it for."""

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[Tensor, Tensor]]:
        foreign = Job(spec=GroupSpec(group=77, task="easy", seed=0, size=8), member=len(self.queue) % 8)
        return [*super().poll(timeout), trajectory_of(foreign)]


def test_what_others_have_asked_an_executor_for_is_not_counted():
    found, alone = (collect_groups(round_robin(), executor(3), groups=2) for executor in (Shared, Shuffled))
    assert shape(found) == shape(alone)
    assert (found.episodes, found.reward_mean) == (alone.episodes, alone.reward_mean) == (16, alone.reward_mean)


class Forgetful(Shuffled):
    def poll(self, timeout: float | None = None, /) -> list[Trajectory[Tensor, Tensor]]:
        self.queue = self.queue[:-1]
        return super().poll(timeout)


def test_an_executor_that_loses_jobs_is_found_out():
    with pytest.raises(ExecutorError, match="lost jobs"):
        collect_groups(round_robin(), Forgetful(0), groups=2)


@pytest.mark.parametrize("options", [{"groups": 0}, {"max_episodes": 0}, {"provision": 0.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        collect_groups(round_robin(), in_process(), **{"groups": 1} | options)

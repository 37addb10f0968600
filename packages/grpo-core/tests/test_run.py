"""The loop, and a run that is saved and taken up again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo_core import (
    AdaptiveLearningRate,
    Decisions,
    Evaluation,
    GRPOConfig,
    InProcessExecutor,
    Job,
    Learner,
    MixedAllocation,
    Staleness,
    Trajectory,
    are_mixed,
    load,
    save,
    train,
)
from grpo_core.collection import Replay
from grpo_core.errors import ConfigError, StateError


class Aim(nn.Module):
    """Throws at a hole; a throw counts if it goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.register_buffer("throws", torch.zeros((), dtype=torch.long))

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        normal = torch.distributions.Normal(self.mean.expand_as(actions), 1.0, validate_args=False)
        return Evaluation(normal.log_prob(actions), normal.entropy().sum(dim=1))

    @torch.no_grad()
    def rollout(self, jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        found = []
        for job in jobs:
            self.throws += 1
            noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(job.policy_seed))
            actions = self.mean + noise
            decisions = Decisions(
                states=torch.zeros(1, 1), actions=actions, log_prob=self.evaluate(noise, actions).log_prob
            )
            reward = float((actions - 1.0).norm() < 1)
            found.append(Trajectory(job=job, decisions=decisions, reward=reward))
        return found


class Run:
    """Everything of a run, new."""

    def __init__(self) -> None:
        self.policy = Aim()
        optimizer = torch.optim.AdamW(self.policy.parameters(), lr=0.02)
        adaptive = AdaptiveLearningRate(low=1e-3, high=1e-2)
        self.learner = Learner(self.policy, optimizer, GRPOConfig(learning_rate=adaptive))
        self.source = MixedAllocation(["throw"], range(100), size=4, run_seed=5)
        self.log: list[dict[str, Any]] = []
        self.seen: list[tuple[int, int]] = []

    def train(self, updates: int) -> None:
        train(
            self.source,
            InProcessExecutor(self.policy.rollout),
            self.learner,
            updates=updates,
            groups=2,
            max_episodes=16,
            keep=are_mixed,
            on_collect=lambda collected: self.seen.append((collected.kept, len(collected.dropped))),
            on_update=lambda metrics, collected: self.log.append(dataclasses.asdict(metrics)),
        )


def test_the_loop_learns_and_shows_what_was_dropped_too():
    run = Run()
    run.train(20)
    assert [line["update"] for line in run.log] == list(range(20))
    assert (run.policy.mean - 1.0).norm() < 0.7
    assert run.policy.throws == sum(4 * kept + dropped for kept, dropped in run.seen)
    assert sum(dropped for _, dropped in run.seen) > 0


def test_a_run_goes_on_bit_for_bit_where_it_was_saved(tmp_path):
    whole, first, second = Run(), Run(), Run()
    whole.train(12)
    first.train(5)
    save(tmp_path / "run.pt", first.learner, first.source)
    with torch.no_grad():
        second.policy.mean.fill_(9.0)
    load(tmp_path / "run.pt", second.learner, second.source)
    second.train(12)
    assert first.log + second.log == whole.log
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(second.policy.state_dict()[name], value)
    assert second.source.state_dict() == whole.source.state_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_run_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    kept, synced, sync = tmp_path / "run.pt", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(kept.exists()) or sync(number))
    save(kept, Run().learner)
    assert synced == [False]


def test_a_file_of_another_run_is_refused(tmp_path):
    run, path = Run(), tmp_path / "run.pt"
    save(path, run.learner)
    with pytest.raises(StateError, match="without a source"):
        load(path, run.learner, run.source)
    save(path, run.learner, run.source)
    with pytest.raises(StateError, match="with a source"):
        load(path, run.learner)
    other = nn.Linear(3, 1)
    learner = Learner(other, torch.optim.AdamW(other.parameters()))
    with pytest.raises(StateError, match="another policy"):
        load(path, learner, run.source)
    data = path.read_bytes()
    for damaged in (b"", data[:-1], b"x" * len(data), data[:40], b"abc"):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match="not a saved run"):
            load(path, run.learner, run.source)
    for other, message in (([1], "not a saved run"), ({"policy": 3, "learner": 4, "source": 5}, "policy")):
        torch.save(other, path)
        with pytest.raises(StateError, match=message):
            load(path, run.learner, run.source)


def test_a_policy_without_weights_cannot_be_trained_in_the_loop():
    class Bare:
        evaluate = None

    weight = nn.Parameter(torch.zeros(1))
    learner = Learner(Bare(), torch.optim.SGD([weight], lr=0.1))
    with pytest.raises(ConfigError, match=r"`Bare`; it must be an `nn\.Module`"):
        train(Run().source, InProcessExecutor(lambda jobs: []), learner, updates=1, groups=1)


class Leak:
    """What a file must not be able to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("leak"),)


def test_a_file_that_holds_more_than_tensors_and_plain_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"policy": Leak(), "learner": {}, "source": None}, "run.pt")
    with pytest.raises(StateError, match="not a saved run"):
        load("run.pt", Run().learner)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_mixed_groups_are_learned_from_again_while_they_are_not_too_old():
    run = Run()
    config = GRPOConfig(staleness=Staleness(), log_prob_tolerance=None)
    learner = Learner(run.policy, torch.optim.AdamW(run.policy.parameters(), lr=0.1), config)
    replay = Replay(groups=3, max_age=2)
    fresh, batches = [], []

    def on_update(metrics: Any, collected: Any) -> None:
        fresh.append(collected.mixed)
        batches.append(metrics)

    executor = InProcessExecutor(run.policy.rollout)
    train(run.source, executor, learner, updates=12, groups=2, keep=are_mixed, replay=replay, on_update=on_update)
    for number, metrics in enumerate(batches):
        known = [(version, mixed) for version, mixed in enumerate(fresh[:number])]
        kept = [version for version, mixed in known for _ in range(mixed)][-3:]
        again = sum(number - version <= 2 for version in kept)
        assert metrics.groups == fresh[number] + again
        assert metrics.stale_decisions == 4 * again
        if again:
            assert 0.1 < metrics.effective_sample_share <= 1.0
    assert sum(metrics.stale_decisions > 0 for metrics in batches) > 3


def test_a_group_whose_update_was_refused_is_not_replayed():
    run = Run()
    config = GRPOConfig(staleness=Staleness(), on_refusal="skip", max_refusals=1)
    learner = Learner(run.policy, torch.optim.AdamW(run.policy.parameters(), lr=0.02), config)
    refused: list[bool] = []

    def rollout(jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        found = run.policy.rollout(jobs)
        if jobs[0].spec.group == 4:
            found[0] = dataclasses.replace(found[0], reward=float("nan"))
        return found

    def note(metrics: Any, _: Any) -> None:
        refused.append(metrics.refused is not None)

    executor, replay = InProcessExecutor(rollout), Replay(groups=8, max_age=3)
    train(run.source, executor, learner, updates=8, groups=2, replay=replay, on_update=note)
    assert refused == [number == 2 for number in range(8)]


def test_a_replay_needs_staleness_and_room():
    run = Run()
    with pytest.raises(ConfigError, match="staleness"):
        train(run.source, InProcessExecutor(run.policy.rollout), run.learner, updates=1, groups=1,
              replay=Replay(groups=1, max_age=1))  # fmt: skip
    with pytest.raises(ConfigError, match="`max_age` is 0"):
        Replay(groups=1, max_age=0)

"""Rewards and log-probabilities at the edge of what says anything, through the whole loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from grpo_core import (
    Decisions,
    Evaluation,
    InProcessExecutor,
    Learner,
    RoundRobin,
    Trajectory,
    UpdateMetrics,
    collate,
    collect_groups,
)
from grpo_core.errors import LogProbMismatchError, NonFiniteError


class Aim(nn.Module):
    """A Gaussian around one point."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        normal = torch.distributions.Normal(self.mean.expand_as(actions), 1.0)
        return Evaluation(normal.log_prob(actions), normal.entropy())


def update(policy: Aim, rewards: list[float], *, shift: float = 0.0) -> UpdateMetrics:
    """An update of one group with these rewards, whose log-probabilities were recorded with a shift."""

    def rollout(jobs):
        trajectories = []
        for job in jobs:
            actions = torch.randn(3, 2, generator=torch.Generator().manual_seed(job.policy_seed))
            log_prob = policy.evaluate(actions, actions).log_prob.detach() + shift
            decisions = Decisions(states=torch.zeros(3, 1), actions=actions, log_prob=log_prob)
            trajectories.append(Trajectory(job=job, decisions=decisions, reward=rewards[job.member]))
        return trajectories

    source = RoundRobin(["task"], range(4), size=len(rewards))
    collected = collect_groups(source, InProcessExecutor(rollout), groups=1)
    return Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.01)).update(collate(collected.trajectories))


ADDED_UP, AT_ONCE = sum([0.1] * 100_000), 0.1 * 100_000


@pytest.mark.parametrize("rewards", [[0.3] * 8, [1.0], [ADDED_UP, AT_ONCE] * 4], ids=["equal", "alone", "rounding"])
def test_what_says_nothing_moves_nothing(rewards):
    assert ADDED_UP != AT_ONCE
    policy = Aim()
    metrics = update(policy, rewards)
    assert (metrics.mixed_groups, metrics.optimizer_steps) == (0, 0)
    assert (policy.mean == 0).all()
    assert update(policy, [1.0, 0.0] * 4).optimizer_steps == 4
    assert (policy.mean != 0).all()


@pytest.mark.parametrize(
    ("rewards", "shift", "error"),
    [
        ([0.0, math.inf, 1.0, 0.0], 0.0, NonFiniteError),
        ([0.0, math.nan, 1.0, 0.0], 0.0, NonFiniteError),
        ([0.0, 1.0, 0.0, 1.0], -200.0, LogProbMismatchError),
        ([0.0, 1.0, 0.0, 1.0], 200.0, LogProbMismatchError),
    ],
    ids=["infinite", "no number", "200 below", "200 above"],
)
def test_what_is_no_number_or_not_reproduced_is_refused_by_name(rewards, shift, error):
    policy = Aim()
    with pytest.raises(error, match="group 0 member"):
        update(policy, rewards, shift=shift)
    assert (policy.mean == 0).all()

"""The whole loop learns: source, executor, batch, learner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from grpo_core import (
    Decisions,
    Evaluation,
    GRPOConfig,
    InProcessExecutor,
    Job,
    Learner,
    RatioLevel,
    RoundRobin,
    Trajectory,
    collate,
    collect_groups,
)


class Lock(nn.Module):
    """A lock of three wheels, in four colours that have a combination each; binary reward, as in the paper."""

    COMBINATION = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1], [0, 0, 2]])

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(4, 3, 3))

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        wheels = torch.distributions.Categorical(logits=self.logits[states])
        return Evaluation(wheels.log_prob(actions), wheels.entropy().sum(dim=1))

    @torch.no_grad()
    def rollout(self, jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        if jobs[0].spec.group % 17 == 16:
            return [Trajectory.failed(job, error="the lock was stolen") for job in jobs]
        states = torch.tensor([job.spec.seed for job in jobs])
        draws = [torch.rand(3, 1, generator=torch.Generator().manual_seed(job.policy_seed)) for job in jobs]
        actions = (torch.stack(draws) > self.logits[states].softmax(dim=-1).cumsum(dim=-1)).sum(dim=-1).clamp(max=2)
        log_prob = self.evaluate(states, actions).log_prob
        rows = [slice(row, row + 1) for row in range(len(jobs))]
        opened = (actions == self.COMBINATION[states]).all(dim=1).tolist()
        decisions = [Decisions(states=states[row], actions=actions[row], log_prob=log_prob[row]) for row in rows]
        return [
            Trajectory(job=job, decisions=own, reward=float(reward))
            for job, own, reward in zip(jobs, decisions, opened, strict=True)
        ]

    @torch.no_grad()
    def chance(self) -> float:
        """Probability of opening, averaged over the colours."""
        odds = self.logits.softmax(dim=-1).gather(2, self.COMBINATION.unsqueeze(2))
        return float(odds.prod(dim=1).mean())


@pytest.mark.parametrize(("seed", "level"), [(0, RatioLevel.COMPONENT), (1, RatioLevel.TRAJECTORY_GEOMEAN)])
def test_a_lock_that_opens_by_chance_once_in_27_is_learned(seed, level):
    policy = Lock()
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.05), GRPOConfig(level=level, seed=seed))
    source = RoundRobin(["lock"], range(4), size=16, run_seed=seed)
    executor = InProcessExecutor(policy.rollout)
    assert policy.chance() == pytest.approx(1 / 27)
    idle = 0
    for _ in range(30):
        executor.set_weights(learner.updates, policy.state_dict())
        collected = collect_groups(source, executor, groups=4)
        idle += learner.update(collate(collected.trajectories)).failed_trajectories
    assert idle == 16 * (120 // 17)
    assert policy.chance() > 0.95

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
    RolloutError,
    RoundRobin,
    Trajectory,
    collate,
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
            raise RolloutError("the lock was stolen")
        trajectories = []
        for job in jobs:
            generator = torch.Generator().manual_seed(job.policy_seed)
            state = torch.tensor([job.spec.seed])
            odds = self.logits[state].softmax(dim=-1)
            action = torch.multinomial(odds[0], 1, generator=generator).T
            decisions = Decisions(states=state, actions=action, log_prob=self.evaluate(state, action).log_prob)
            opened = torch.equal(action[0], self.COMBINATION[job.spec.seed])
            trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(opened)))
        return trajectories

    @torch.no_grad()
    def chance(self) -> float:
        """Probability of opening, averaged over the colours."""
        odds = self.logits.softmax(dim=-1).gather(2, self.COMBINATION.unsqueeze(2))
        return float(odds.prod(dim=1).mean())


@pytest.mark.parametrize("level", [RatioLevel.COMPONENT, RatioLevel.TRAJECTORY_GEOMEAN])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_lock_that_opens_by_chance_once_in_27_is_learned(seed, level):
    policy = Lock()
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.05), GRPOConfig(level=level, seed=seed))
    source = RoundRobin(["lock"], range(4), size=16, run_seed=seed)
    executor = InProcessExecutor(policy.rollout)
    assert policy.chance() == pytest.approx(1 / 27)
    idle = 0
    for _ in range(30):
        executor.set_weights(learner.updates, policy.state_dict())
        executor.submit([job for _ in range(4) for job in source.next().jobs()])
        trajectories = [trajectory for _ in range(4) for trajectory in executor.poll()]
        metrics = learner.update(collate(trajectories))
        idle += metrics.failed_trajectories
    assert idle == 16 * (120 // 17)
    assert policy.chance() > 0.95

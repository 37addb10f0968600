"""A few numbers per episode, trained by the learner like any other policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from grpo_core import (
    ConstantWeight,
    Decisions,
    EpisodePolicy,
    GRPOConfig,
    InProcessExecutor,
    Job,
    Learner,
    RoundRobin,
    Trajectory,
    collate,
    collect_groups,
)
from grpo_core.errors import ConfigError

TASKS = ["left", "right"]
GOALS = torch.tensor([[-1.0, 0.5, 0.2], [1.0, -0.5, 0.2]])


def test_numbers_are_drawn_from_the_gaussian_of_their_class():
    policy = EpisodePolicy(classes=2, size=3, std=0.3)
    with torch.no_grad():
        policy.mean.copy_(GOALS)
    noise = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    classes = torch.tensor([1, 0])
    numbers, log_prob = policy.act(classes, noise)
    torch.testing.assert_close(numbers, GOALS[classes] + 0.3 * noise)
    normal = Normal(GOALS[classes], 0.3)
    torch.testing.assert_close(log_prob, normal.log_prob(numbers))
    evaluated = policy.evaluate(classes, numbers)
    torch.testing.assert_close(evaluated.log_prob.detach(), log_prob)
    torch.testing.assert_close(evaluated.entropy.detach(), normal.entropy())


def train(seed: int, *, antithetic: bool, updates: int = 25) -> EpisodePolicy:
    policy = EpisodePolicy(classes=2, size=3)

    def rollout(jobs: Sequence[Job]) -> list[Trajectory[Any, Tensor]]:
        trajectories = []
        for job in jobs:
            classes = torch.tensor([TASKS.index(job.spec.task)])
            noise = job.noise_sign * torch.randn(1, 3, generator=torch.Generator().manual_seed(job.noise_seed))
            numbers, log_prob = policy.act(classes, noise)
            luck = torch.randn((), generator=torch.Generator().manual_seed(job.spec.common_seed))
            near = (numbers[0] - GOALS[classes[0]]).norm() < 0.8 + 0.3 * luck
            decisions = Decisions(states=classes, actions=numbers, log_prob=log_prob)
            trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(near)))
        return trajectories

    config = GRPOConfig(entropy_weight=ConstantWeight(0.0), seed=seed)
    learner = Learner(policy, torch.optim.Adam(policy.parameters(), lr=0.1), config)
    source = RoundRobin(TASKS, range(1000), size=8, run_seed=seed, antithetic=antithetic)
    executor = InProcessExecutor(rollout)
    for _ in range(updates):
        learner.update(collate(collect_groups(source, executor, groups=2).trajectories))
    return policy


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_learner_finds_the_goal_of_every_class_in_400_episodes(antithetic):
    for seed in range(2):
        distance = (train(seed, antithetic=antithetic).mean.detach() - GOALS).norm(dim=1)
        assert distance.max() < 0.6, f"from {GOALS.norm(dim=1).max():.2f} at the start"


def test_deviations_stay_within_their_bounds():
    policy = EpisodePolicy(classes=1, size=1, std=1.0, log_std_range=(-1.0, 0.5))
    with torch.no_grad():
        policy.log_std.fill_(-9.0)
    one = torch.zeros(1, dtype=torch.long)
    log_prob = policy.evaluate(one, torch.zeros(1, 1)).log_prob
    torch.testing.assert_close(log_prob.detach(), Normal(0.0, torch.tensor([[-1.0]]).exp()).log_prob(torch.zeros(1, 1)))


@pytest.mark.parametrize(("log_std", "action"), [(-3.5, 1.0), (1.5, 0.0)], ids=["too small", "too large"])
def test_a_deviation_that_left_its_bounds_can_return_and_is_not_driven_further_out(log_std, action):
    """A likely action far from the mean asks for a larger deviation, one at the mean for a smaller one."""
    one = torch.zeros(1, dtype=torch.long)
    for sign, returns in ((1.0, True), (-1.0, False)):
        policy = EpisodePolicy(classes=1, size=1)
        with torch.no_grad():
            policy.log_std.fill_(log_std)
        loss = -sign * policy.evaluate(one, torch.full((1, 1), action)).log_prob.sum()
        loss.backward()
        inward = -policy.log_std.grad.item() * (1 if log_std < 0 else -1)
        assert (inward > 0) if returns else (inward == 0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": 0}, "`classes` is 0"),
        ({"size": 0}, "`size` is 0"),
        ({"std": 0.0}, "`std` is 0.0"),
        ({"std": 0.01}, "`std` is 0.01"),
        ({"log_std_range": (1.0, 1.0)}, "low < high"),
    ],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        EpisodePolicy(**{"classes": 1, "size": 1} | options)

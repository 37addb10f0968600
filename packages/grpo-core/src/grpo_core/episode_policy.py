"""A policy of a few numbers per episode: the smallest thing that GRPO can train, and often the quickest to learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from grpo_core.errors import ConfigError, at_least_one
from grpo_core.trajectory import Evaluation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class EpisodePolicy(nn.Module):
    """Draws a vector of numbers once per episode, from a Gaussian of the episode's class; nothing else is a decision.

    Whatever plays the episode makes of the numbers what it likes: a schedule, gains, a waypoint. Exploration that lasts
    for the whole episode, and one ratio per number, make this parameter-exploring policy gradients: with groups of
    antithetic pairs it is the same update as an evolution strategy, through the learner, and a probe of what can be
    gained at all. Its density is exact, unlike that of a policy whose decisions are scored alone while noise is held
    over several of them. Record one decision per episode:

        job_noise = job.noise_sign * torch.randn(policy.size, generator=torch.Generator().manual_seed(job.noise_seed))
        numbers, log_prob = policy.act(classes, noise)  # (episodes,), (episodes, numbers)
        Decisions(states=classes[i:i + 1], actions=numbers[i:i + 1], log_prob=log_prob[i:i + 1])

    Args:
        classes: Kinds of episodes with a Gaussian of their own, such as tasks; at least 1.
        size: Numbers per episode; at least 1.
        std: Standard deviation at the start, the same for all; its logarithm is within the bounds.
        log_std_range: Bounds of the logarithm of the standard deviations. One that a step carries out can return.

    References:
        Sehnke et al. 2010, "Parameter-exploring policy gradients"; antithetic pairs: §3.3 there.
    """

    def __init__(
        self, *, classes: int, size: int, std: float = 0.5, log_std_range: tuple[float, float] = (-3.0, 1.0)
    ) -> None:
        super().__init__()
        at_least_one(classes=classes, size=size)
        low, high = log_std_range
        if not (std > 0 and low < high and low <= math.log(std) <= high):
            raise ConfigError(f"`std` is {std}, its logarithm must be between {low} and {high}, with low < high.")
        self.size = size
        self.mean = nn.Parameter(torch.zeros(classes, size))
        self.log_std = nn.Parameter(torch.full((classes, size), std).log())
        self._log_std_range = log_std_range

    @torch.no_grad()
    def act(
        self, classes: Int[Tensor, " episodes"], noise: Float[Tensor, "episodes numbers"]
    ) -> tuple[Float[Tensor, "episodes numbers"], Float[Tensor, "episodes numbers"]]:
        """Makes numbers of standard normal noise, zeros for the mean; with the log-probability of each."""
        normal: Any = self._normal(classes)  # torch annotates no method of it
        numbers = normal.mean + normal.stddev * noise
        return numbers, normal.log_prob(numbers)

    def evaluate(self, states: Int[Tensor, " episodes"], actions: Float[Tensor, "episodes numbers"]) -> Evaluation:
        """Scores recorded numbers, given the class of each episode."""
        normal: Any = self._normal(states)
        return Evaluation(normal.log_prob(actions), normal.entropy())

    def _normal(self, classes: Tensor) -> Normal:
        log_std, (low, high) = self.log_std[classes], self._log_std_range
        bounded: Any = log_std + (log_std.clamp(low, high) - log_std).detach()  # torch annotates no hooks of it
        if bounded.requires_grad:  # gradients that lead back inside pass, those that lead out do not
            out = torch.stack([log_std > high, log_std < low])
            bounded.register_hook(lambda grad: grad * ~(out & torch.stack([grad < 0, grad > 0])).any(dim=0))
        return Normal(self.mean[classes], bounded.exp(), validate_args=False)

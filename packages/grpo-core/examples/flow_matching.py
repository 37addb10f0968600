"""A flow-matching generator steered by a reward: every denoising step is a decision with a Gaussian density.

The points lie around a ring, and the reward wants them on the right; sampling as in Flow-GRPO (arXiv 2505.05470).
pip install grpo-core && python flow_matching.py --seed 0
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import grpo_core as grpo

STEPS, NOISE = 10, 0.7
CLUSTERS = torch.view_as_real(torch.polar(torch.ones(8), torch.arange(8) * torch.pi / 4 + 0.2))


def transition(points: Tensor, velocity: Tensor, time: Tensor, lapse: float = 1 / STEPS) -> torch.distributions.Normal:
    """Where points (n, 2) are at `time - lapse`; times (n, 1) run from 1, noise, to 0, data."""
    scale = NOISE * (time / (1 - time).clamp(min=1 / STEPS)).sqrt()
    drift = velocity + scale**2 / (2 * time) * (points + (1 - time) * velocity)
    return torch.distributions.Normal(points - lapse * drift, scale * lapse**0.5, validate_args=False)


class Generator(nn.Module):
    """Its network gives the velocity of points at times; as a policy it says where the sampler takes them next."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def evaluate(self, states: tuple[Tensor, Tensor], actions: Tensor) -> grpo.Evaluation:
        """Scores recorded steps; the states are points and times."""
        normal = transition(states[0], self.net(torch.cat(states, dim=1)), states[1])
        return grpo.Evaluation(normal.log_prob(actions), normal.entropy())

    def fit(self, *, steps: int) -> None:
        """Learns to draw points of the ring, by flow matching."""
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        for _ in range(steps):
            data = CLUSTERS[torch.randint(8, (512,))] + 0.05 * torch.randn(512, 2)
            noise, time = torch.randn(512, 2), torch.rand(512, 1)
            optimizer.zero_grad()
            mixed = torch.cat([(1 - time) * data + time * noise, time], dim=1)
            (self.net(mixed) - noise + data).square().mean().backward()
            optimizer.step()

    @torch.no_grad()
    def rollout(self, jobs: Sequence[grpo.Job]) -> list[grpo.Trajectory[tuple[Tensor, Tensor], Tensor]]:
        """Draws one point per job; all of a group start from the same noise."""
        start = torch.randn(1, 2, generator=torch.Generator().manual_seed(jobs[0].spec.common_seed))
        noise = [torch.randn(STEPS, 2, generator=torch.Generator().manual_seed(job.policy_seed)) for job in jobs]
        points, log_probs, times = [start.expand(len(jobs), 2)], [], 1 - torch.arange(STEPS).unsqueeze(1) / STEPS
        for time, own in zip(times, torch.stack(noise, dim=1), strict=True):
            normal = transition(points[-1], self.net(torch.cat([points[-1], time.expand(len(jobs), 1)], dim=1)), time)
            points.append(normal.mean + normal.stddev * own)
            log_probs.append(normal.log_prob(points[-1]))
        trajectories = []
        for job, path, log_prob in zip(jobs, torch.stack(points, dim=1), torch.stack(log_probs, dim=1), strict=True):
            decisions = grpo.Decisions(states=(path[:-1], times), actions=path[1:], log_prob=log_prob)
            trajectories.append(grpo.Trajectory(job=job, decisions=decisions, reward=float(path[-1, 0] > 0)))
        return trajectories

    @torch.no_grad()
    def quality(self) -> tuple[float, float]:
        """Of 2000 points, without sampler noise: how many lie on the right, and their distance to a cluster."""
        points = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        for step in range(STEPS):
            points = points - self.net(torch.cat([points, torch.full((2000, 1), 1 - step / STEPS)], dim=1)) / STEPS
        return float((points[:, 0] > 0).float().mean()), float(torch.cdist(points, CLUSTERS).amin(dim=1).mean())


def steer(generator: Generator, seed: int, *, updates: int, kl_weight: float) -> None:
    """Moves the points to the right; a KL penalty holds the generator to what it was."""
    config = grpo.GRPOConfig(kl_weight=kl_weight, seed=seed)
    optimizer, reference = torch.optim.Adam(generator.parameters(), lr=3e-4), copy.deepcopy(generator)
    learner = grpo.Learner(generator, optimizer, config, reference=reference)
    source = grpo.RoundRobin(["ring"], range(1_000_000), size=16, run_seed=seed)
    for _ in range(updates):
        collected = grpo.collect_groups(source, grpo.InProcessExecutor(generator.rollout), groups=16)
        metrics = learner.update(grpo.collate(collected.trajectories))
        print(f"update {metrics.update}: {metrics.reward_mean:.1%} on the right, KL {metrics.kl_penalty or 0:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kl-weight", type=float, default=0.05)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = Generator()
    generator.fit(steps=2000)
    print("before: {:.1%} on the right, distance to a cluster {:.3f}".format(*generator.quality()))
    steer(generator, arguments.seed, updates=40, kl_weight=arguments.kl_weight)
    print("after: {:.1%} on the right, distance to a cluster {:.3f}".format(*generator.quality()))

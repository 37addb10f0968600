"""One of two gloo processes that train a policy together; what it ends with goes to a file.

Usage: two_processes.py KIND RANK FOLDER, with KIND `ddp` or `fsdp`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import grpo_core as grpo
from grpo_core.distributed import gather
from grpo_core.errors import ConfigError, NonFiniteError


class Gaussian(nn.Module):
    """A small network with a Gaussian over two components, in float64; evaluates when it is called, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        self.log_std = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def evaluate(self, states: Tensor, actions: Tensor) -> grpo.Evaluation:
        normal = torch.distributions.Normal(self.body(states), self.log_std.exp(), validate_args=False)
        return grpo.Evaluation(normal.log_prob(actions), normal.entropy())

    def forward(self, states: Tensor, actions: Tensor) -> grpo.Evaluation:
        return self.evaluate(states, actions)


class Called(nn.Module):
    """The same, which evaluates only when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussian = Gaussian()

    def forward(self, states: Tensor, actions: Tensor) -> grpo.Evaluation:
        return self.gaussian.evaluate(states, actions)


def trajectories(policy: Gaussian, group: int, *, poison: bool = False) -> list[grpo.Trajectory]:
    """Four members of a group, of unequal lengths."""
    found = []
    for job in grpo.GroupSpec(group=group, task="t", seed=group, size=4).jobs():
        generator = torch.Generator().manual_seed(job.policy_seed)
        states = torch.randn(1 + job.member + group % 2, 3, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            noise = torch.randn(len(states), 2, generator=generator, dtype=torch.float64)
            actions = policy.body(states) + policy.log_std.exp() * noise
            log_prob = policy.evaluate(states, actions).log_prob
        if poison and job.member == 2:
            log_prob = log_prob * float("nan")
        decisions = grpo.Decisions(states=states, actions=actions, log_prob=log_prob)
        found.append(grpo.Trajectory(job=job, decisions=decisions, reward=float(job.member % 2)))
    return found


def config() -> grpo.GRPOConfig:
    """Uneven minibatches and micro-batches, so that a process has at times no part of a step."""
    return grpo.GRPOConfig(
        minibatches=3,
        micro_rows=4,
        learning_rate=grpo.AdaptiveLearningRate(low=1e-4, high=2e-4),
        aggregation=grpo.trajectory_mean,
        log_prob_tolerance=None,
    )


def penalised() -> grpo.GRPOConfig:
    """A policy is held close to its reference."""
    return grpo.GRPOConfig(kl_weight=0.5, log_prob_tolerance=None)


def main(kind: str, rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    from torch.distributed.fsdp import fully_shard

    spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel if kind == "ddp" else fully_shard
    acting, policy = Gaussian(), spread(Gaussian())
    learner = grpo.Learner(policy, torch.optim.AdamW(policy.parameters(), lr=1e-2), config())
    # Each process plays a group of its own; the second time only one of them does.
    metrics = [
        learner.update(grpo.collate(gather(trajectories(acting, rank)))),
        learner.update(grpo.collate(gather(trajectories(acting, 2) if rank else []))),
    ]
    called = spread(Called())
    held = grpo.Learner(called, torch.optim.SGD(called.parameters(), lr=0.1), penalised(), reference=spread(Gaussian()))
    metrics.append(held.update(grpo.collate(gather(trajectories(acting, rank)))))
    with pytest.raises(ConfigError, match="gather"):
        grpo.train(grpo.RoundRobin(["t"], [0], size=4), grpo.InProcessExecutor(list), learner, updates=9, groups=1)
    failed = ""
    try:
        learner.update(grpo.collate(gather(trajectories(acting, 3 + rank, poison=rank == 1))))
    except NonFiniteError as error:
        failed = str(error)
    weights = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in policy.state_dict().items()
    }
    torch.save((weights, [asdict(one) for one in metrics], failed), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

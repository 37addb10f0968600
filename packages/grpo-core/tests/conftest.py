from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from grpo_core import (
    Batch,
    Decisions,
    Evaluation,
    GroupSpec,
    GRPOConfig,
    Job,
    Learner,
    Trajectory,
    collate,
)

# The first call into torch takes seconds, whichever example makes it.
settings.register_profile("grpo-core", deadline=None, max_examples=30)
settings.load_profile("grpo-core")

# Tensors here are tiny: threads would wait for each other longer than they work.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, Any]]:
    """The recorded vectors by name."""
    cases = json.loads((GOLDEN / "grpo_vectors.json").read_text())["cases"]
    return {case["id"]: case for case in cases}


class TablePolicy(nn.Module):
    """Its parameters are the log-probabilities (and entropies) themselves; the state of a decision is its row."""

    def __init__(self, log_prob: Tensor, entropy: Tensor | None = None) -> None:
        super().__init__()
        self.log_prob = nn.Parameter(log_prob.clone())
        self.entropy = entropy
        self.rows_seen: list[int] = []

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        self.rows_seen.append(len(states))
        return Evaluation(self.log_prob[states], None if self.entropy is None else self.entropy[states])


class GaussianPolicy(nn.Module):
    """A small network with a Gaussian over two action components, in float64."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64) * 0.5)
        self.log_std = nn.Parameter(torch.full((2,), -0.5, dtype=torch.float64))

    def distribution(self, states: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal((states @ self.weight).tanh(), self.log_std.exp(), validate_args=False)

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        normal = self.distribution(states)
        return Evaluation(normal.log_prob(actions), normal.entropy().expand(len(states), 2).sum(dim=1))

    @torch.no_grad()
    def act(self, states: Tensor, seed: int) -> Decisions[Tensor, Tensor]:
        noise = torch.randn(len(states), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        normal = self.distribution(states)
        actions = normal.mean + normal.stddev * noise
        return Decisions(states=states, actions=actions, log_prob=normal.log_prob(actions))


def as_given(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """Takes rewards for advantages, so that a test can choose these."""
    return torch.where(valid, rewards, 0)


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., tuple[Batch[Tensor, Tensor], Tensor]]:
    """Random decisions of equally long trajectories, with log-probabilities near the recorded ones."""

    def draw(rows: int, components: int, trajectories: int, *, seed: int) -> tuple[Batch[Tensor, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        log_prob = normal(rows, components)
        old = log_prob - 0.3 * normal(rows, components)
        owner = torch.arange(trajectories).repeat_interleave(rows // trajectories)
        blank = torch.zeros(rows, 1)
        spec = GroupSpec(group=0, task="task", seed=0, size=trajectories)
        mask = torch.rand(rows, components, generator=generator) < 0.8
        reference = log_prob - 0.2 * normal(rows, components)
        drawn = Batch(
            decisions=Decisions(states=blank, actions=blank, log_prob=old, mask=mask),
            owner=owner,
            groups=torch.zeros(trajectories, dtype=torch.long),
            rewards=torch.zeros(trajectories, dtype=torch.float64),
            valid=torch.ones(trajectories, dtype=torch.bool),
            versions=torch.zeros(trajectories, dtype=torch.long),
            jobs=spec.jobs(),
            advantages=normal(trajectories)[owner].unsqueeze(1),
            reference=reference,
        )
        return drawn, log_prob

    return draw


@pytest.fixture(scope="session")
def table_policy() -> type[TablePolicy]:
    return TablePolicy


@pytest.fixture(scope="session")
def gaussian_policy() -> type[GaussianPolicy]:
    return GaussianPolicy


@pytest.fixture(scope="session")
def advantages_as_given() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return as_given


@pytest.fixture(scope="session")
def episodes() -> Callable[..., list[Trajectory[Tensor, Tensor]]]:
    """Rolls a `GaussianPolicy` out: one list of rewards per group, None for a failed member."""

    def roll_out(
        policy: GaussianPolicy, rewards: Sequence[Sequence[float | None]], *, seed: int = 0
    ) -> list[Trajectory[Tensor, Tensor]]:
        trajectories: list[Trajectory[Tensor, Tensor]] = []
        for group, members in enumerate(rewards):
            spec = GroupSpec(group=group, task="task", seed=group, size=len(members), run_seed=seed)
            for member, reward in enumerate(members):
                job = Job(spec=spec, member=member)
                if reward is None:
                    trajectories.append(Trajectory.failed(job, error="the simulator died"))
                    continue
                length = 1 + (3 * group + 2 * member) % 5
                generator = torch.Generator().manual_seed(job.policy_seed)
                states = torch.randn(length, 3, generator=generator, dtype=torch.float64)
                trajectories.append(
                    Trajectory(job=job, decisions=policy.act(states, job.policy_seed + 1), reward=reward)
                )
        return trajectories

    return roll_out


class OneStep:
    """One plain gradient step of the learner over a recorded case, each sequence a trajectory of one-number actions."""

    def __init__(self, case: dict[str, Any], config: GRPOConfig, table_policy: Any, padded: bool) -> None:
        inputs = {key: torch.tensor(value, dtype=torch.float64) for key, value in case["inputs"].items()}
        mask = inputs["mask"].bool()
        rows = torch.arange(mask.numel()).view_as(mask)
        flat = inputs["logp"].view(-1, 1)
        entropy = inputs["entropy"].view(-1, 1) if "entropy" in inputs else None
        self.policy = table_policy(flat, entropy)
        trajectories = []
        for member, advantage in enumerate(inputs["advantages"].tolist()):
            kept = slice(None) if padded else mask[member]
            decisions = Decisions(
                states=rows[member][kept],
                actions=rows[member][kept],
                log_prob=inputs["old_logp"][member][kept].unsqueeze(1),
                mask=mask[member].unsqueeze(1) if padded else None,
            )
            job = Job(spec=GroupSpec(group=0, task="case", seed=0, size=len(mask)), member=member)
            trajectories.append(Trajectory(job=job, decisions=decisions, reward=advantage))
        optimizer = torch.optim.SGD(self.policy.parameters(), lr=1.0)
        reference = table_policy(inputs["ref_logp"].view(-1, 1)) if "ref_logp" in inputs else None
        self.metrics = Learner(self.policy, optimizer, config, reference=reference).update(collate(trajectories))
        self.gradient = (flat - self.policy.log_prob.detach()).view_as(mask)


@pytest.fixture
def one_step(table_policy, advantages_as_given) -> Callable[..., OneStep]:
    def run(
        case: dict[str, Any], config: GRPOConfig, *, padded: bool = False, micro_rows: int | None = None
    ) -> OneStep:
        options = {field: getattr(config, field) for field in GRPOConfig.__dataclass_fields__}
        options |= {
            "advantage": advantages_as_given,
            "inner_epochs": 1,
            "max_grad_norm": None,
            "log_prob_tolerance": None,
            "micro_rows": micro_rows,
        }
        return OneStep(case, GRPOConfig(**options), table_policy, padded)

    return run

"""How far 400 episodes carry, technique by technique, where few of them can teach anything.

The world is that of `tests/test_learning_machinery.py`, with ten denoising steps, diluted to look like a benchmark with
simulators: in 85% of the scenes no schedule changes the outcome, and an episode has four chunks of which one decides.
Groups of eight share scene and initial noise; the best schedule is the same in all scenes. Each line is one technique,
its success on held-out scenes of the undiluted world over three seeds, and how many groups were mixed.

    uv run python benchmarks/bench_sample_efficiency.py [NAME ...]
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from grpo_core import (
    AdaptiveLearningRate,
    ConstantWeight,
    Decisions,
    EpisodePolicy,
    GRPOConfig,
    InProcessExecutor,
    Job,
    Learner,
    MixedAllocation,
    RoundRobin,
    Staleness,
    Trajectory,
    are_mixed,
    collate,
    collect_groups,
)
from grpo_core.collection import Replay
from grpo_core.groups import GroupSource, stable_seed
from noisegate_gpn import (
    ConstantSchedule,
    GatingPolicyConfig,
    GatingPolicyNetwork,
    LearnedSchedule,
    ScheduleDecisions,
    schedule_noise,
)

EPISODES, CHUNKS, FIXED, STEPS = 400, 4, 0.85, 10
SEEDS = (0, 1, 2)


def load_world() -> ModuleType:
    """The analytic world of the test, with the paper's number of denoising steps."""
    path = Path(__file__).parents[1] / "tests" / "test_learning_machinery.py"
    spec = importlib.util.spec_from_file_location("learning_machinery", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.STEPS = STEPS
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """One way to spend the episodes; the defaults are the paper's."""

    held: Literal["step", "chunk", "episode"] = "step"
    rate: float = 3e-4
    adapt: AdaptiveLearningRate | None = None
    antithetic: bool = False
    revisit: float | None = None
    """Share of the groups that go back to fragile arms; None takes scenes in turn."""
    refill: int = 1
    """Mixed groups that an update waits for."""
    replay: int | None = None
    """Versions during which an update may also learn from earlier mixed groups; None for its own alone."""
    numbers: bool = False
    """Two numbers per episode instead of the network."""


KL = AdaptiveLearningRate(low=0.01, high=0.05)
TECHNIQUES = {
    "paper": Technique(),
    "rate": Technique(rate=3e-3),
    "held": Technique(held="episode"),
    "held+rate": Technique(held="episode", rate=3e-3),
    "held+kl": Technique(held="episode", rate=1e-3, adapt=KL),
    "held+kl+antithetic": Technique(held="episode", rate=1e-3, adapt=KL, antithetic=True),
    "held+kl+revisit": Technique(held="episode", rate=1e-3, adapt=KL, revisit=0.5),
    "held+kl+revisit+antithetic": Technique(held="episode", rate=1e-3, adapt=KL, revisit=0.5, antithetic=True),
    "held+kl+revisit+refill": Technique(held="episode", rate=1e-3, adapt=KL, revisit=0.5, refill=2),
    "held+kl+replay": Technique(held="episode", rate=1e-3, adapt=KL, replay=8),
    "held+kl+revisit+replay": Technique(held="episode", rate=1e-3, adapt=KL, revisit=0.5, replay=8),
    "numbers": Technique(rate=0.1, numbers=True),
    "numbers+antithetic": Technique(rate=0.1, numbers=True, antithetic=True),
    "numbers+antithetic+revisit": Technique(rate=0.1, numbers=True, antithetic=True, revisit=0.5),
}


@dataclass(frozen=True, slots=True)
class Diluted:
    """Plays jobs with a policy's schedule and records what it decided."""

    world: ModuleType
    policy: GatingPolicyNetwork | EpisodePolicy
    technique: Technique

    def __call__(self, jobs: Sequence[Job]) -> list[Trajectory[object, Tensor]]:
        """Plays the jobs side by side, chunk by chunk."""
        scenes = self.world.Scenes.draw([job.spec.seed for job in jobs], cued=False)
        numbers = self._numbers(jobs)
        recorded: list[ScheduleDecisions] = []
        won = torch.zeros(CHUNKS, len(jobs), dtype=torch.bool)
        for chunk in range(CHUNKS):
            schedule = self._schedule(jobs, chunk) if numbers is None else ConstantSchedule(scales(numbers[0]))
            noise = [stable_seed(job.spec.common_seed, chunk) for job in jobs]
            won[chunk] = scenes.success(scenes.plan(schedule, noise))
            if isinstance(schedule, LearnedSchedule):
                recorded.append(schedule.decisions())
        found = []
        for row, job in enumerate(jobs):
            draw = torch.rand(3, generator=torch.Generator().manual_seed(stable_seed("fate", job.spec.seed)))
            success = draw[1] < 0.5 if draw[0] < FIXED else won[int(draw[2] * CHUNKS), row]
            if numbers is None:
                own = ScheduleDecisions.concatenate([decisions.of_row(row) for decisions in recorded])
                decisions = Decisions(states=own.states, actions=own.u, log_prob=own.log_prob, mask=own.mask)
            else:
                decisions = Decisions(
                    states=torch.zeros(1, dtype=torch.long), actions=numbers[0][row : row + 1],
                    log_prob=numbers[1][row : row + 1],
                )  # fmt: skip
            found.append(Trajectory(job=job, decisions=decisions, reward=float(success)))
        return found

    def _numbers(self, jobs: Sequence[Job]) -> tuple[Tensor, Tensor] | None:
        if not isinstance(self.policy, EpisodePolicy):
            return None
        draws = [torch.randn(2, generator=torch.Generator().manual_seed(job.noise_seed)) for job in jobs]
        signs = torch.tensor([[float(job.noise_sign)] for job in jobs])
        return self.policy.act(torch.zeros(len(jobs), dtype=torch.long), signs * torch.stack(draws))

    def _schedule(self, jobs: Sequence[Job], chunk: int) -> LearnedSchedule:
        assert isinstance(self.policy, GatingPolicyNetwork)
        noise = schedule_noise(
            [torch.Generator().manual_seed(job.noise_seed) for job in jobs],
            steps=STEPS, frames=2, chunks=[chunk] * len(jobs), held=self.technique.held,
        )  # fmt: skip
        signs = torch.tensor([float(job.noise_sign) for job in jobs]).view(-1, 1, 1)
        return LearnedSchedule(self.policy, noise=noise * signs)


def scales(numbers: Tensor) -> Tensor:
    """Relative scales in (0, 2) of numbers per latent."""
    return 2 * torch.sigmoid(2 * numbers)


def train(world: ModuleType, technique: Technique, seed: int) -> tuple[float, int]:
    """Spends the episodes; returns the success on held-out scenes and the number of mixed groups."""
    torch.manual_seed(seed)
    policy: GatingPolicyNetwork | EpisodePolicy
    if technique.numbers:
        policy = EpisodePolicy(classes=1, size=2)
        weight, optimizer = ConstantWeight(0.0), torch.optim.Adam(policy.parameters(), lr=technique.rate)
        config = GRPOConfig(seed=seed, learning_rate=technique.adapt, entropy_weight=weight)
    else:
        policy = GatingPolicyNetwork(GatingPolicyConfig(latent_channels=world.CHANNELS, frames=2))
        optimizer = torch.optim.AdamW(policy.parameters(), lr=technique.rate)
        staleness = None if technique.replay is None else Staleness(max_age=technique.replay)
        config = GRPOConfig(seed=seed, learning_rate=technique.adapt, staleness=staleness)
    learner = Learner(policy, optimizer, config)
    source: GroupSource
    if technique.revisit is None:
        source = RoundRobin(["target"], range(10_000), size=8, run_seed=seed, antithetic=technique.antithetic)
    else:
        source = MixedAllocation(
            ["target"], range(10_000), size=8, run_seed=seed, antithetic=technique.antithetic,
            revisit=technique.revisit,
        )  # fmt: skip
    executor = InProcessExecutor(Diluted(world, policy, technique))
    replay: Replay[object, Tensor] | None = None
    if technique.replay is not None:
        replay = Replay(groups=technique.replay, max_age=technique.replay)
    spent = mixed = 0
    while spent < EPISODES:
        executor.set_weights(learner.updates, policy.state_dict())
        cap = 8 if technique.refill == 1 else EPISODES - spent
        found = collect_groups(source, executor, groups=technique.refill, max_episodes=cap, keep=are_mixed)
        again = [] if replay is None else replay.take(learner.updates)
        learner.update(collate([*found.trajectories, *again]))
        if replay is not None:
            replay.add(found.trajectories)
        spent, mixed = spent + found.episodes, mixed + found.mixed
    with torch.no_grad():
        schedule = (
            ConstantSchedule(scales(policy.mean[0]))
            if isinstance(policy, EpisodePolicy)
            else LearnedSchedule(policy, record=False)
        )
        return world.held_out_success(schedule, cued=False), mixed


def main(names: Sequence[str]) -> None:
    """Prints one line per technique."""
    torch.set_num_threads(1)
    world = load_world()
    print(f"shared schedule: {world.held_out_success(world.SharedSchedule(), cued=False):.3f}")
    for name in names or TECHNIQUES:
        start = time.perf_counter()
        found = [train(world, TECHNIQUES[name], seed) for seed in SEEDS]
        success = " ".join(f"{value:.2f}" for value, _ in found)
        mixed = " ".join(str(count) for _, count in found)
        print(f"{name:28} {success}   mixed groups {mixed}   {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

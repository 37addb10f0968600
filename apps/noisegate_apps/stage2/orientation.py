"""What a gate learns before it is rewarded: to see whether an imagined latent follows from the observation.

An untrained gate's features hardly depend on what is imagined. A policy gradient on them moves all chunks together, and
those in which imagination is worse than none close the eyes of all. Imagined latents beside the observation that they
were imagined from, and beside another episode's, teach the difference at every noise level: nobody has to say which
imagination is wrong. After that success can say what a latent that does not follow is worth. No reward and no schedule
is learned here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from noisegate_apps.play.episodes import EpisodeJob, PlayedEpisode, play
from noisegate_apps.play.imagination import UnreliableImagination
from noisegate_apps.play.worlds import Pool
from noisegate_apps.policy.world import Plan, WorldPolicy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.progress import progress_bar
from noisegate_apps.runs.seeds import generator_of
from noisegate_apps.stage2.gate import seen_by
from noisegate_gpn import GatingPolicyNetwork
from robotwin_env.vector import PoolError
from wam_backbone import Schedule, SharedSchedule
from wam_backbone.flow import add_noise

PASSES, BATCH, LEARNING_RATE = 128, 256, 1e-3
HELD_OUT = 8
"""One in so many episodes is kept to see how well the gate tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagined:
    """What the frozen policy imagined in some episodes, a row for each chunk."""

    observation: Float[Tensor, "chunks channels 1 height width"]
    latents: Float[Tensor, "chunks channels frames height width"]
    """Without noise."""
    conditions: Mapping[str, Tensor]
    """What the gate sees beside: `context` and `state`, where it does."""
    scene: Int[Tensor, " chunks"]
    """Number of the scene, different for different tasks."""
    task: Int[Tensor, " chunks"]
    """Number of the task."""


class Orientation(NamedTuple):
    """How well a gate tells what follows from the observation."""

    accuracy: float
    """Share of the latents of held-out episodes, at times drawn evenly, of which it is right."""

    chance: float
    """What always giving the commoner answer would reach."""


def imagine(
    policy: WorldPolicy,
    gate: GatingPolicyNetwork,
    pool: Pool,
    jobs: Sequence[EpisodeJob],
    *,
    imagination: UnreliableImagination | None,
    replan_after: int | None,
) -> Imagined:
    """Play episodes under the shared schedule, which leaves no noise, and keep what is imagined.

    Episodes that a lost simulator takes along are left out.

    Args:
        policy: The frozen policy.
        gate: Says what it sees beside the latents.
        pool: Environments.
        jobs: Episodes, of which as many as the pool has places are planned together.
        imagination: Makes latents lie, for stress tests.
        replan_after: Actions of a chunk that are played before the next plan; all where None.

    Raises:
        RunError: If no episode was played.
    """
    kept: dict[str, list[Tensor]] = defaultdict(list)
    scenes: list[tuple[str, int]] = []

    def keep(rows: Sequence[PlayedEpisode], _: Schedule, plan: Plan) -> None:
        scenes.extend((row.task, row.job.seed) for row in rows)
        context, state = seen_by(gate, policy, rows)
        found = {"observation": plan.observation, "latents": plan.chunk.latents, "context": context, "state": state}
        for name, tensor in found.items():
            if tensor is not None:
                kept[name].append(tensor.cpu())

    with progress_bar() as bar:
        at_once = pool.num_envs
        for start in bar.track(range(0, len(jobs), at_once), description="episodes to learn to see from"):
            try:
                for _ in play(
                    policy,
                    pool,
                    jobs[start : start + at_once],
                    lambda _: SharedSchedule(),
                    on_chunk=keep,
                    replan_after=replan_after,
                    imagination=imagination,
                ):
                    pass
            except PoolError as error:  # the others suffice
                pool.restart()
                Console(stderr=True).print(f"note: up to {at_once} episodes were cut short: {error}")
    if not scenes:
        raise RunError("no episode came back to learn to see from; let `orient` be 0 to go without.")
    numbers = {scene: number for number, scene in enumerate(sorted(set(scenes)))}
    tasks = sorted({task for task, _ in scenes})
    joined = {name: torch.cat(parts) for name, parts in kept.items()}
    return Imagined(
        observation=joined.pop("observation"),
        latents=joined.pop("latents"),
        conditions=joined,
        scene=torch.tensor([numbers[scene] for scene in scenes]),
        task=torch.tensor([tasks.index(task) for task, _ in scenes]),
    )


def orient(gate: GatingPolicyNetwork, seen: Imagined, *, seed: int) -> Orientation:
    """Train what the gate sees by, with a read-out that is thrown away: does this latent follow from the observation?

    Of the latents that are shown half come from another scene of the same task, each latent by itself.

    Args:
        gate: Trained in place, but for its last layers: an untrained one decides the same as before.
        seen: What was imagined, on any device.
        seed: Decides the read-out's start and what a step shows.

    Raises:
        RunError: If no task was seen in two scenes.
    """
    generator = generator_of(seed, "orientation")
    scenes = sorted(set(zip(seen.task.tolist(), seen.scene.tolist(), strict=True)))
    kept = torch.isin(seen.scene, torch.tensor([scene for _, scene in scenes[HELD_OUT // 2 :: HELD_OUT]]))
    learned, held_out = (~kept).nonzero()[:, 0], kept.nonzero()[:, 0]
    if not bool(kept.any()) or not _has_others(seen, learned):
        raise RunError(
            f"{len(scenes)} scenes of {len({task for task, _ in scenes})} tasks came back, too few to tell the future "
            f"of one from another's; let `orient` be at least {HELD_OUT} episodes and two for each task, or 0."
        )
    read = nn.Linear(gate.config.width, 1)
    with torch.no_grad():
        for weights in read.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    read.to(gate.log_std.device)
    optimizer = torch.optim.AdamW([*gate.parameters(), *read.parameters()], lr=LEARNING_RATE)
    steps = ceil(PASSES * len(learned) / BATCH)
    for _ in track(range(steps), description="learning to see what follows", transient=True):
        rows = learned[torch.randint(len(learned), (BATCH,), generator=generator)]
        states, foreign = _shown(gate, seen, rows, learned, generator)
        said: Tensor = read(gate.features_in(states))[..., 0]
        loss = functional.binary_cross_entropy_with_logits(said, foreign.float())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    everything = torch.arange(len(seen.scene))
    right: list[Tensor] = []
    truth: list[Tensor] = []
    with torch.no_grad():
        for rows in torch.split(held_out.repeat(8), BATCH):
            states, foreign = _shown(gate, seen, rows, everything, generator)
            right.append((read(gate.features_in(states))[..., 0] > 0) == foreign)
            truth.append(foreign)
    rows = learned[torch.randint(len(learned), (4 * BATCH,), generator=generator)]
    gate.standardize_features(_shown(gate, seen, rows, learned, generator)[0])
    share = float(torch.cat(truth).float().mean())
    return Orientation(accuracy=float(torch.cat(right).float().mean()), chance=max(share, 1 - share))


def _shown(
    gate: GatingPolicyNetwork,
    seen: Imagined,
    rows: Int[Tensor, " taken"],
    others: Int[Tensor, " known"],
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], Bool[Tensor, "taken decided"]]:
    """States of some chunks under fresh noise, and for each decision whether it is of a latent of one of the others."""
    frames, device = seen.latents.shape[2], gate.log_std.device
    exchanged, foreign = _exchanged(seen, rows, others, generator)
    clean = torch.where(rearrange(foreign, "b f -> b 1 f 1 1"), seen.latents[exchanged], seen.latents[rows])
    times = torch.rand(len(rows), frames, generator=generator)
    together = torch.rand(len(rows), 1, generator=generator) < 0.5  # as under schedules that treat latents alike
    times = torch.where(together, times[:, :1], times)
    noise = torch.randn(clean.shape, generator=generator)
    states = {name: tensor[rows] for name, tensor in seen.conditions.items()}
    states["latents"] = add_noise(clean, noise, rearrange(times, "b f -> b 1 f 1 1"))
    states["observation"], states["times"] = seen.observation[rows], times
    decided = [foreign] * (gate.config.scales == "latent")
    if gate.config.scales == "chunk" or gate.config.stops:
        decided.append(foreign.any(dim=1, keepdim=True))
    return {name: tensor.to(device) for name, tensor in states.items()}, torch.cat(decided, dim=1).to(device)


def _exchanged(
    seen: Imagined, rows: Int[Tensor, " taken"], others: Int[Tensor, " known"], generator: torch.Generator
) -> tuple[Int[Tensor, " taken"], Bool[Tensor, "taken frames"]]:
    """For each row a chunk of the same task, and which of its latents are shown: none where it is of the same scene."""
    by_task = others[torch.argsort(seen.task[others], stable=True)]
    counts = seen.task[others].bincount(minlength=int(seen.task.max()) + 1)
    starts = counts.cumsum(0) - counts
    drawn = (torch.rand(len(rows), generator=generator) * counts[seen.task[rows]]).long()
    chosen = by_task[(starts[seen.task[rows]] + drawn).clamp(max=len(by_task) - 1)]
    possible = (seen.task[chosen] == seen.task[rows]) & (seen.scene[chosen] != seen.scene[rows])
    half = torch.rand(len(rows), seen.latents.shape[2], generator=generator) < 0.5
    return chosen, half & possible[:, None]


def _has_others(seen: Imagined, known: Int[Tensor, " known"]) -> bool:
    """Whether a task is among them with two scenes."""
    scenes = set(zip(seen.task[known].tolist(), seen.scene[known].tolist(), strict=True))
    return len(scenes) > len({task for task, _ in scenes})

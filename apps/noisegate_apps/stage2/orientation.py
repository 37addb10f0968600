"""What a gate learns before it is rewarded: to tell from what it sees which task a chunk belongs to.

The features of an untrained gate hardly differ between tasks. A policy gradient on them moves all tasks together, and
those in which imagination is worse than none close the eyes of all. After a few hundred states whose task is named the
features differ, and success can say of each task what it wants. No reward and no schedule is learned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from grpo_core import Batch
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.seeds import generator_of
from noisegate_gpn import GatingPolicyNetwork

STEPS, BATCH, LEARNING_RATE = 400, 256, 1e-3
HELD_OUT = 8
"""One in so many episodes is kept to see how well its task is told."""


class Orientation(NamedTuple):
    """How well a gate tells tasks apart."""

    accuracy: float
    """Share of the held-out episodes' states in which its features name the task."""

    chance: float
    """What naming the commonest task would reach."""


def orient(gate: GatingPolicyNetwork, batch: Batch[Mapping[str, Tensor], Tensor], *, seed: int) -> Orientation:
    """Train what the gate sees by, with a read-out of the task that is thrown away.

    Args:
        gate: Trained in place, but for its last layer: an untrained one decides the same as before.
        batch: Of episodes, on the gate's device.
        seed: Decides the read-out's start and which states a step takes.

    Raises:
        RunError: If there are too few episodes, or they are of one task.
    """
    device, generator = gate.log_std.device, generator_of(seed, "orientation")
    played = sorted(set(batch.owner.tolist()))
    tasks = sorted({batch.jobs[place].spec.task for place in played})
    if len(tasks) < 2 or len(played) < HELD_OUT:
        raise RunError(
            f"{len(played)} episodes of {tasks} came back, too few to learn to tell tasks apart from; let `orient` be "
            f"at least {HELD_OUT} episodes of two tasks or more, or 0."
        )
    labels = torch.tensor([tasks.index(batch.jobs[place].spec.task) for place in batch.owner.tolist()], device=device)
    mixed = [played[place] for place in torch.randperm(len(played), generator=generator).tolist()]
    by_task = sorted(mixed, key=lambda place: batch.jobs[place].spec.task)
    kept = torch.isin(batch.owner, torch.tensor(by_task[HELD_OUT // 2 :: HELD_OUT], device=device))
    learned, held_out = (~kept).nonzero()[:, 0], kept.nonzero()[:, 0]

    read = nn.Linear(gate.config.width, len(tasks))
    with torch.no_grad():
        for weights in read.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    read.to(device)

    def named(rows: Int[Tensor, " taken"]) -> Float[Tensor, "taken decided tasks"]:
        found: Tensor = read(gate.features_in({name: seen[rows] for name, seen in batch.decisions.states.items()}))
        return found

    optimizer = torch.optim.AdamW([*gate.parameters(), *read.parameters()], lr=LEARNING_RATE)
    for _ in track(range(STEPS), description="telling tasks apart", transient=True):
        taken = learned[torch.randint(len(learned), (BATCH,), generator=generator).to(device)]
        guesses = named(taken)
        wanted = labels[taken].repeat_interleave(guesses.shape[1])
        loss = functional.cross_entropy(guesses.flatten(0, 1), wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        right = named(held_out).argmax(-1) == labels[held_out][:, None]
    commonest = labels[held_out].bincount().max()
    return Orientation(accuracy=float(right.float().mean()), chance=float(commonest / len(held_out)))

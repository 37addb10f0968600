"""A gate to start from: it imitates, task by task, the fixed schedules that a lattice found best on other scenes.

A search over a handful of constant schedules says in few episodes which tasks want their imagination and which do not.
The gate learns to say it from what it sees of a chunk, and GRPO goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from grpo_core import Batch
from noisegate_apps.evaluation.lattice import paces_of
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import read_json
from noisegate_apps.runs.seeds import generator_of
from noisegate_gpn import GatingPolicyNetwork

STEPS, BATCH, LEARNING_RATE = 400, 256, 1e-3
FURTHEST = 1.5
"""Largest magnitude of an imitated mean before the squash, where the gate itself has no bound."""


def imitated(lattice: Path, tasks: Sequence[str], gate: GatingPolicyNetwork) -> dict[str, Float[Tensor, " frames"]]:
    """Return each task's means before the squash: of the constant scales that end where its best schedule ends.

    Raises:
        RunError: If the lattice does not know a task.
    """
    best: Mapping[str, str] = read_json(lattice)["ceiling"]["best_by_task"]
    missing = sorted(set(tasks) - set(best))
    if missing:
        raise RunError(f"`{lattice}` says nothing of {missing}; play it with `--tasks {' '.join(tasks)}`.")
    bound = gate.config.max_mean or FURTHEST
    found = {}
    for task in tasks:
        scale, end = paces_of(best[task]).unbind(dim=1)
        median = (scale * (1.0 - end)).clamp(0.0, gate.config.alpha_max)
        found[task] = torch.atanh(2.0 * median / gate.config.alpha_max - 1.0).clamp(-bound, bound)
    return found


def imitate(
    gate: GatingPolicyNetwork,
    batch: Batch[Mapping[str, Tensor], Tensor],
    means: Mapping[str, Float[Tensor, " frames"]],
    *,
    seed: int,
) -> float:
    """Regress the gate's means, in the states of some episodes, on those of each episode's task.

    Args:
        gate: Trained in place; its deviations stay.
        batch: Of the episodes, on the gate's device.
        means: By task.
        seed: Decides which states a step takes.

    Returns:
        Mean squared error over the last tenth of the steps.

    Raises:
        RunError: If there are no states.
    """
    if not len(batch.decisions):
        raise RunError("no episode came back in whose states the gate could imitate the lattice; try again.")
    wanted = torch.stack([means[job.spec.task] for job in batch.jobs])[batch.owner].to(gate.log_std)
    states = batch.decisions.states
    optimizer = torch.optim.AdamW(gate.parameters(), lr=LEARNING_RATE)
    generator = generator_of(seed, "imitation")
    errors = []
    for _ in track(range(STEPS), description="imitating the lattice", transient=True):
        rows: Int[Tensor, " batch"] = torch.randint(len(wanted), (BATCH,), generator=generator).to(wanted.device)
        policy = gate.policy_in({name: tensor[rows] for name, tensor in states.items()})
        loss = functional.mse_loss(policy.mean, wanted[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        errors.append(float(loss.detach()))
    last = errors[-STEPS // 10 :]
    return sum(last) / len(last)

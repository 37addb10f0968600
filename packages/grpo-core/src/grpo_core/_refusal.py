"""Updates that are refused: the trajectories to blame, and what has to be taken back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grpo_core._tensors import HostCopy, copied
from grpo_core.config import GRPOConfig
from grpo_core.distributed import Ranks
from grpo_core.errors import LogProbMismatchError, NonFiniteError, ShapeError, TrajectoryError
from grpo_core.trajectory import Batch

NORMAL_ENTROPY = 1.4189385
"""Entropy of a standard normal distribution in nats: minus its mean log-density."""


def refuse_batch(batch: Batch[Any, Any], version: int | None) -> None:
    """Raises `NonFiniteError` for rewards that are not finite, `TrajectoryError` for weights newer than a version."""
    wrong = (batch.valid & ~batch.rewards.isfinite()).nonzero().squeeze(1)
    if len(wrong):
        found = f"The reward is {float(batch.rewards[wrong[0]])} in {names(batch, wrong)}"
        raise NonFiniteError(f"{found}; nothing was trained. Mark episodes that cannot be scored as failed.")
    if version is not None and (batch.versions > version).any():
        newer = names(batch, (batch.versions > version).nonzero().squeeze(1))
        raise TrajectoryError(
            f"Decisions come from weights of version {int(batch.versions.max())}, the learner's are of version "
            f"{version}: {newer}. Give `update` the version that the executor was given."
        )


def refuse_advantages(batch: Batch[Any, Any], advantages: Tensor) -> None:
    """Raises `ShapeError` or `NonFiniteError` for advantages that do not fit the batch or are not finite."""
    rows, components = batch.decisions.log_prob.shape
    if advantages.shape not in ((len(batch),), (rows, 1), (rows, components)):
        raise ShapeError(
            f"There are advantages of shape {tuple(advantages.shape)}; needed is one for each of {len(batch)} "
            f"trajectories, or ({rows}, 1) or ({rows}, {components}) for each decision or component."
        )
    owner = torch.arange(len(batch)) if advantages.ndim == 1 else batch.owner
    finite = advantages.isfinite() if advantages.ndim == 1 else advantages.isfinite().all(dim=1)
    wrong = torch.unique(owner[~finite & batch.valid[owner]])
    if len(wrong):
        raise NonFiniteError(f"The advantage is not finite in {names(batch, wrong)}; nothing was trained.")


class RecordCheck:
    """Compares recorded log-probabilities with those of the weights before the first optimiser step.

    The log-density of a Gaussian changes by shift / sigma, so differences count in units of what a density as wide as
    this one makes of a small shift. How narrow it is shows in the mean log-density of a component, the smaller one of
    the recorded and the re-evaluated, over all rows, however they are cut.

    Args:
        config: The tolerance.
        rows: All rows of the update.
        fresh: Those that the current weights made; others are not compared.
    """

    def __init__(self, config: GRPOConfig, rows: Batch[Any, Any], fresh: Tensor) -> None:
        self._rows, self._fresh = rows, fresh
        self._tolerance = float("inf") if config.log_prob_tolerance is None else config.log_prob_tolerance
        self._differences = torch.zeros(rows.mask.shape, device=rows.mask.device)
        self._sums = self._differences.new_zeros(2, rows.mask.shape[1])
        self._copy: HostCopy | None = None
        self._largest: float | None = None

    def note(self, part: Batch[Any, Any], place: slice, log_prob: Tensor) -> None:
        """Takes the re-evaluated log-probabilities of a part of the rows."""
        recorded, now = (torch.where(part.mask, values, 0) for values in (part.decisions.log_prob, log_prob))
        self._differences[place] = (now - recorded).abs()
        self._sums += torch.stack([recorded.sum(dim=0), now.sum(dim=0)])

    def send(self, ranks: Ranks) -> None:
        """Starts the way of the differences to the host."""
        difference, sums = ranks.sum(self._differences), ranks.sum(self._sums)
        density = sums.amin(dim=0) / self._rows.mask.sum(dim=0).clamp(min=1)
        # A density of NaN leaves the difference as it is, NaN or not.
        narrowness = (density.nan_to_num(0.0, 0.0, 0.0) + NORMAL_ENTROPY).clamp(min=0.0, max=20.0).exp()
        self._copy = HostCopy(torch.stack([difference, difference / narrowness]).amax(dim=2).T)

    def settle(self, *, wait: bool = True) -> float | None:
        """The largest difference among decisions of the current weights; None if there are none, or before it is known.

        Raises:
            NonFiniteError: A log-probability is not finite.
            LogProbMismatchError: A difference exceeds the tolerance.
        """
        if self._copy is None or not (wait or self._copy.has_arrived()):
            return self._largest
        found, fresh, owner = self._copy.wait(), self._fresh, self._rows.owner
        self._copy = None
        wrong = torch.unique(owner[~found[:, 0].isfinite()])
        if len(wrong):
            culprits = f"not finite in {names(self._rows, wrong)}"
            raise NonFiniteError(f"Log-probabilities, recorded or re-evaluated, are {culprits}; nothing was trained.")
        if not fresh.any():
            return None
        self._largest = float(found[fresh, 0].max())
        wrong = torch.unique(owner[fresh & (found[:, 1] > self._tolerance)])
        if len(wrong):
            raise LogProbMismatchError(
                f"Re-evaluated log-probabilities differ from the recorded ones by up to {self._largest:.3g} "
                f"(tolerance {self._tolerance:g}, more for narrow densities) in {names(self._rows, wrong)}; nothing "
                "was trained. `evaluate` must see what `act` saw: the same weights, action, precision and mode "
                "(dropout off)."
            )
        return self._largest


def names(batch: Batch[Any, Any], members: Tensor) -> str:
    """Up to three jobs by name, and how many more there are."""
    shown = [str(batch.jobs[member]) for member in members[:3].tolist()]
    return "; ".join(shown) + (f"; and {len(members) - 3} more" if len(members) > 3 else "")


class Snapshot:
    """An optimiser's parameters and state as they are now, and a policy's buffers, which a forward pass may change."""

    def __init__(self, optimizer: torch.optim.Optimizer, policy: object) -> None:
        self._optimizer = optimizer
        buffers = list(policy.buffers()) if isinstance(policy, nn.Module) else []
        self._live = [*parameters_of(optimizer), *buffers]
        self._copies = [tensor.detach().clone() for tensor in self._live]
        self._state = copied(optimizer.state_dict())

    def restore(self) -> None:
        """Puts everything back, bit for bit, and drops the gradients."""
        with torch.no_grad():
            for tensor, saved in zip(self._live, self._copies, strict=True):
                tensor.copy_(saved)
        self._optimizer.load_state_dict(self._state)
        self._optimizer.zero_grad(set_to_none=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimiser trains, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

"""What an update reports, and how it is gathered on the device and brought to the host in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_core._tensors import HostCopy
from grpo_core.distributed import Ranks
from grpo_core.losses import RatioLevel, units_of
from grpo_core.objective import Terms, importance_weights
from grpo_core.trajectory import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMetrics:
    """Numbers of one update, JSON-able with `dataclasses.asdict`.

    What is averaged is averaged over the optimiser steps of the update, each of which averages over its own units.
    Numbers about optimiser steps are None if none was made.
    """

    update: int = 0
    """Number of the update, from 0."""
    optimizer_steps: int = 0
    inner_epochs: int = 0
    """Passes over the batch; fewer than configured after a target-KL stop or without a step."""
    groups: int = 0
    mixed_groups: int = 0
    """Groups with two different valid rewards; of all that were rolled out, see `Collected.acceptance`."""
    trajectories: int = 0
    """Trajectories in the batch, failed ones included."""
    failed_trajectories: int = 0
    decisions: int = 0
    """Decisions that took part in the passes."""
    effective_decisions: int = 0
    """Those among them with an advantage and a component that counts."""
    stale_decisions: int = 0
    """Those among them that older weights made; counted only with `GRPOConfig.staleness`."""
    too_old_decisions: int = 0
    """Decisions left out for their age."""
    reward_mean: float | None = None
    """Mean reward of the valid trajectories; None without any."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus in the first optimiser step."""
    learning_rate: float = 0.0
    """Learning rate of the optimiser's first parameter group."""
    refused: str | None = None
    """Why the update was taken back (`GRPOConfig.on_refusal`)."""
    loss: float | None = None
    """Loss that was minimised."""
    surrogate: float | None = None
    """Its surrogate part."""
    entropy: float | None = None
    """Entropy in nats, per decision (or per component, if the policy gives it so)."""
    kl_penalty: float | None = None
    """KL estimate to the reference, before its weight."""
    approx_kl: float | None = None
    """Mean k3 estimate of KL(policy before the update || policy after it) per component: after the last step with
    `GRPOConfig.learning_rate`, before the step that a target-KL stop left out, else before those of the last pass."""
    clip_fraction_low: float | None = None
    """Share of ratios without gradient because they fell below the lower clip."""
    clip_fraction_high: float | None = None
    """Share of ratios stopped above the upper clip."""
    ratio_min: float | None = None
    ratio_max: float | None = None
    """Extremes of the ratio, at the configured level."""
    log_prob_error: float | None = None
    """Largest difference of recorded and re-evaluated log-probabilities before the first step; None if all are old."""
    importance_weight_mean: float | None = None
    importance_weight_max: float | None = None
    """Importance weights of what a ratio covers; None without `GRPOConfig.staleness`."""
    effective_sample_share: float | None = None
    """Effective sample size of these weights, (sum w)^2 / sum w^2, as a share of their number."""
    grad_norm: float | None = None
    grad_norm_max: float | None = None
    """Mean and largest norm of the gradients before clipping."""


_COLUMNS = (*Terms._fields, "grad_norm")
_ADDED = len(Terms._fields) - 2
"""The first columns add up over parts of a step; the next two are the smallest and the largest ratio."""
_MEANS = [name for name in _COLUMNS if name not in ("approx_kl", "effective", "ratio_min", "ratio_max")]


class Report:
    """Numbers of the passes and optimiser steps made so far, by a process that has seen a part of every step."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._steps: list[Tensor] = []
        self._epoch_starts: list[int] = []
        self._table = torch.zeros(0, len(_COLUMNS))
        self._weights: list[Tensor] = []
        self.divergence: Tensor | None = None  # mean k3 after the last step, or that which stopped the update
        self.approx_kl: float | None = None  # the last one that was measured; known after `read`

    @property
    def steps(self) -> int:
        """Optimiser steps so far."""
        return len(self._steps)

    def begin_epoch(self) -> None:
        """Marks the begin of a pass."""
        self._epoch_starts.append(self.steps)

    def note_weights(self, rows: Batch[Any, Any], level: RatioLevel, high: float) -> None:
        """Takes the importance weights of the whole update, which every process has."""
        units, _ = units_of(rows.mask, rows.trajectory, len(rows), level)
        weights, count = torch.where(units, importance_weights(rows, level, high), 0), units.sum().clamp(min=1)
        share = weights.sum().square() / weights.square().sum() / count
        self._weights = [weights.sum() / count, weights.max(), share]

    def note_step(self, parts: Sequence[Terms], grad_norm: Tensor) -> None:
        """Adds an optimiser step, given the terms of its micro-batches."""
        table = torch.stack([torch.stack([value.to(part.loss.dtype) for value in part]) for part in parts])
        added, (smallest, largest) = table[:, :_ADDED].sum(dim=0), table[:, _ADDED:].unbind(dim=1)
        extremes = torch.stack([smallest.min(), largest.max(), grad_norm.to(table.dtype)])
        self._steps.append(torch.cat([added, extremes]))

    def read(self) -> None:
        """Brings everything to the host, in one copy; every process then knows the same."""
        table = torch.stack(self._steps) if self._steps else self._table
        table = self._ranks.combined(table, _ADDED)
        others = ([] if self.divergence is None else [self.divergence]) + self._weights
        host = HostCopy(torch.cat([table.flatten(), *(value.reshape(1).to(table) for value in others)])).wait()
        self._table, rest = host[: table.numel()].view(-1, len(_COLUMNS)), host[table.numel() :]
        if self.divergence is not None:
            self.approx_kl, rest = float(rest[0]), rest[1:]
        elif self.steps:
            self.approx_kl = float(self._column("approx_kl")[self._epoch_starts[-1] :].mean())
        self._weights = list(rest)

    def first_bad_step(self) -> int | None:
        """The first optimiser step whose loss or gradient is not finite."""
        bad = ~(self._column("loss").isfinite() & self._column("grad_norm").isfinite())
        return int(bad.nonzero()[0]) if bad.any() else None

    def complete(self, metrics: UpdateMetrics) -> UpdateMetrics:
        """The metrics with everything that optimiser steps report."""
        names = ("importance_weight_mean", "importance_weight_max", "effective_sample_share")
        found: dict[str, Any] = dict(zip(names, map(float, self._weights), strict=False))  # there may be none
        if not self.steps:
            return replace(metrics, **found)
        found |= {name: float(self._column(name).mean()) for name in _MEANS}
        return replace(
            metrics,
            **found,
            optimizer_steps=self.steps,
            inner_epochs=sum(start < self.steps for start in self._epoch_starts),
            approx_kl=self.approx_kl,
            effective_decisions=int(self._column("effective")[: [*self._epoch_starts, self.steps][1]].sum()),
            ratio_min=float(self._column("ratio_min").min()),
            ratio_max=float(self._column("ratio_max").max()),
            grad_norm_max=float(self._column("grad_norm").max()),
        )

    def _column(self, name: str) -> Tensor:
        return self._table[:, _COLUMNS.index(name)]

"""What an update gathers on the device, brought to the host in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo_core._device import to_host
from grpo_core.metrics import UpdateMetrics
from grpo_core.objective import Record, Terms

_ADDED = ("loss", "surrogate", "entropy", "penalty", "k3", "clipped_low", "clipped_high", "capped")
_COLUMNS = (*_ADDED, "ratio_min", "ratio_max", "grad_norm")


class Report:
    """Numbers of the passes and optimiser steps made so far; those on the device are unread until `read`."""

    def __init__(self) -> None:
        self.first_pass_source: Tensor | None = None
        """Rows of the material in the first optimiser step; None for all."""
        self._steps: list[Tensor] = []
        self._epoch_starts: list[int] = []
        self._errors: list[Tensor] = []
        self._read: Tensor | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps so far."""
        return len(self._steps)

    @property
    def epochs(self) -> int:
        """Passes so far."""
        return len(self._epoch_starts)

    def begin_epoch(self) -> None:
        """Marks the begin of a pass."""
        self._epoch_starts.append(self.steps)

    def note_first_pass(self, source: Tensor | None, record: Record, log_prob: Tensor) -> None:
        """Compares log-probabilities; call it for each micro-batch of the first step."""
        difference = torch.where(record.mask, log_prob.detach() - record.log_prob, 0).abs()
        self.first_pass_source = source
        self._errors.append(difference.amax(dim=1))

    def note_step(self, parts: Sequence[Terms], grad_norm: Tensor) -> None:
        """Adds an optimiser step, given the terms of its micro-batches."""
        row = [torch.stack([getattr(part, name) for part in parts]).sum() for name in _ADDED]
        row.append(torch.stack([part.ratio_min for part in parts]).min())
        row.append(torch.stack([part.ratio_max for part in parts]).max())
        row.append(grad_norm)
        self._steps.append(torch.stack([value.to(row[0].dtype) for value in row]))

    def k3_of_epoch(self) -> float:
        """Mean k3 of the pass just made; waits for the device."""
        column = torch.stack(self._steps[self._epoch_starts[-1] :])[:, _COLUMNS.index("k3")]
        return float(to_host(column.mean()))

    def read(self) -> None:
        """Brings everything to the host, in one copy."""
        table = torch.cat(self._steps)
        self._read = to_host(torch.cat([table, torch.cat(self._errors).to(table.dtype)]))

    @property
    def first_pass_errors(self) -> Tensor:
        """Largest difference of log-probabilities in each row of the first optimiser step."""
        assert self._read is not None, "`read` comes first"
        return self._read[self.steps * len(_COLUMNS) :]

    def first_bad_step(self) -> int | None:
        """The first optimiser step whose loss or gradient is not finite."""
        bad = ~(self._column("loss").isfinite() & self._column("grad_norm").isfinite())
        return int(bad.nonzero()[0]) if bad.any() else None

    def complete(self, metrics: UpdateMetrics) -> UpdateMetrics:
        """The metrics with everything that optimiser steps report."""
        return replace(
            metrics,
            loss=float(self._column("loss").mean()),
            surrogate=float(self._column("surrogate").mean()),
            entropy=float(self._column("entropy").mean()),
            kl_penalty=float(self._column("penalty").mean()),
            k3=float(self._column("k3").mean()),
            k3_last_epoch=float(self._column("k3")[self._epoch_starts[-1] :].mean()),
            clip_fraction_low=float(self._column("clipped_low").mean()),
            clip_fraction_high=float(self._column("clipped_high").mean()),
            capped_fraction=float(self._column("capped").mean()),
            ratio_min=float(self._column("ratio_min").min()),
            ratio_max=float(self._column("ratio_max").max()),
            log_prob_error=float(self.first_pass_errors.max()),
            grad_norm=float(self._column("grad_norm").mean()),
            grad_norm_max=float(self._column("grad_norm").max()),
        )

    def _column(self, name: str) -> Tensor:
        assert self._read is not None, "`read` comes first"
        return self._read[: self.steps * len(_COLUMNS)][_COLUMNS.index(name) :: len(_COLUMNS)]

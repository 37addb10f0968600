"""What one probability ratio covers, its loss, and how the losses of many become one number; losses are minimised.

A unit is what one ratio covers. A log-ratio is the log-probability now minus the recorded one. An aggregation takes the
number of units of each trajectory that count, perhaps 0, and returns what to divide their losses by, never 0, once for
an update. However its rows are then divided into optimiser steps, micro-batches and processes, the weights of a step's
units add up to those of the whole update, so surrogate, entropy bonus and gradient norm keep their sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from grpo_core.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Real


class RatioLevel(Enum):
    """What one probability ratio covers. The logarithms of a level's ratios are sums or means of the components'."""

    COMPONENT = "component"
    """One ratio per component of every action (NoiseGate eq. (8)): units (rows, components)."""
    STEP_SUM = "step_sum"
    """The ratio of whole actions: units (rows,)."""
    STEP_MEAN = "step_mean"
    """The geometric mean over an action's components: units (rows,)."""
    TRAJECTORY_GEOMEAN = "trajectory_geomean"
    """The geometric mean over all components of a trajectory (GSPO, arXiv 2507.18071): units (trajectories,)."""
    TRAJECTORY_SUM = "trajectory_sum"
    """The ratio of whole trajectories: units (trajectories,)."""

    @property
    def whole_trajectories(self) -> bool:
        """Whether a ratio needs all decisions of its trajectory at once."""
        return self in (RatioLevel.TRAJECTORY_GEOMEAN, RatioLevel.TRAJECTORY_SUM)

    @property
    def mean(self) -> RatioLevel:
        """The level of the same units that averages over their components."""
        if self is RatioLevel.COMPONENT:
            return self
        return RatioLevel.TRAJECTORY_GEOMEAN if self.whole_trajectories else RatioLevel.STEP_MEAN


def to_level(
    values: Float[Tensor, "rows components"],
    mask: Bool[Tensor, "rows components"],
    trajectory: Int[Tensor, " rows"],
    count: int,
    level: RatioLevel,
) -> Float[Tensor, "*units"]:
    """Takes log-ratios or log-probabilities of the components that count to `level`, given each row's trajectory.

    Returns:
        Values of the level's units; 0 for units without components.
    """
    values = torch.where(mask, values, 0)
    if level is RatioLevel.COMPONENT:
        return values
    sums, counts = values.sum(dim=1), mask.sum(dim=1)
    if level.whole_trajectories:
        sums = sums.new_zeros(count).index_add(0, trajectory, sums)
        counts = counts.new_zeros(count).index_add(0, trajectory, counts)
    return sums / counts.clamp(min=1) if level is level.mean else sums


def units_of(
    mask: Bool[Tensor, "rows components"], trajectory: Int[Tensor, " rows"], count: int, level: RatioLevel
) -> tuple[Bool[Tensor, "*units"], Int[Tensor, "*units"]]:
    """The units of `level`: which of them hold any component that counts, and the trajectory of each."""
    if level is RatioLevel.COMPONENT:
        return mask, trajectory.unsqueeze(1).expand_as(mask)
    rows = mask.any(dim=1)
    if not level.whole_trajectories:
        return rows, trajectory
    filled = trajectory.new_zeros(count).index_add(0, trajectory, rows.to(trajectory.dtype))
    return filled > 0, torch.arange(count, device=mask.device)


Aggregation = Callable[[Tensor], Tensor]
"""One of this module's functions, perhaps with options bound, or one's own."""


def element_mean(lengths: Int[Tensor, " trajectories"]) -> Real[Tensor, " trajectories"]:
    """The mean over all units: long trajectories weigh more (DAPO, arXiv 2503.14476; NoiseGate eq. (9))."""
    return lengths.sum().clamp(min=1).expand_as(lengths)


def trajectory_mean(lengths: Int[Tensor, " trajectories"]) -> Real[Tensor, " trajectories"]:
    """The mean over trajectories of their means (GRPO, arXiv 2402.03300 eq. (3)); empty ones do not enter it."""
    return lengths.clamp(min=1) * _present(lengths)


def constant_length(lengths: Int[Tensor, " trajectories"], *, length: float) -> Real[Tensor, " trajectories"]:
    """The mean over trajectories of their sums divided by one constant: no bias towards short ones.

    The constant `length` is for example the most units that a trajectory can have. Empty ones do not enter the mean.

    References:
        Liu et al. 2025, Dr.GRPO (arXiv 2503.20783).
    """
    if not length > 0:
        raise ConfigError(f"`length` is {length}; it must be positive.")
    return (_present(lengths) * length).expand_as(lengths)


def _present(lengths: Tensor) -> Tensor:
    return (lengths > 0).sum().clamp(min=1)


class SurrogateLoss(NamedTuple):
    """The loss of each unit, and where a clip was in force."""

    loss: Float[Tensor, "*units"]
    clipped_low: Bool[Tensor, "*units"]
    """Units without gradient because their ratio fell below the lower clip."""
    clipped_high: Bool[Tensor, "*units"]
    """Units whose ratio exceeded the upper clip and was stopped there."""


Surrogate = Callable[[Tensor, Tensor, Tensor], SurrogateLoss]
"""Log-ratios, advantages and log-probabilities to losses: `clipped` with its options bound, or one's own."""


def clipped(
    log_ratio: Float[Tensor, "*units"],
    advantages: Float[Tensor, "*units"],
    log_prob: Float[Tensor, "*units"],
    *,
    low: float = 0.2,
    high: float | None = None,
) -> SurrogateLoss:
    """`-min(r A, clip(r, 1 - low, 1 + high) A)`, the pessimistic surrogate of PPO; `-r A` with `low=1.0, high=inf`.

    Args:
        log_ratio: Log of the ratio r.
        advantages: Advantage A.
        log_prob: Not used; for surrogates of one's own, such as CISPO's.
        low: Distance of the lower clip from 1, in [0, 1].
        high: Distance of the upper clip from 1; at least 0, None for `low` (symmetric).

    References:
        Schulman et al. 2017 (arXiv 1707.06347) eq. (7); NoiseGate eq. (9). `high` above `low`: DAPO (arXiv 2503.14476).
    """
    high = low if high is None else high
    if not 0 <= low <= 1 or not high >= 0:
        raise ConfigError(f"`low` is {low}, `high` is {high}; needed are 0 <= low <= 1 and high >= 0.")
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return SurrogateLoss(loss, (advantages < 0) & (ratio < 1 - low), (advantages > 0) & (ratio > 1 + high))


def k3(log_prob: Float[Tensor, "*units"], reference: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """`exp(d) - d - 1` with `d = reference - log_prob`, bounded to 20 in magnitude: unbiased, never negative.

    References:
        Schulman 2020, "Approximating KL divergence"; in the loss: Shao et al. 2024 (arXiv 2402.03300) eq. (4).
    """
    difference = (reference - log_prob).clamp(-20.0, 20.0)
    return difference.expm1() - difference

"""Losses of single ratios, and the divergence from a reference: nothing is reduced here, and losses are minimised.

A log-ratio is the log-probability now minus the recorded one, at whatever level the ratio is taken (`ratios`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from grpo_core.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class SurrogateLoss(NamedTuple):
    """The loss of each unit, and where a clip was in force."""

    loss: Float[Tensor, "*units"]
    clipped_low: Bool[Tensor, "*units"]
    """Units without gradient because their ratio fell below the lower clip."""
    clipped_high: Bool[Tensor, "*units"]
    """Units whose ratio exceeded the upper clip and was stopped there."""
    capped: Bool[Tensor, "*units"]
    """Units stopped by a second bound (dual)."""


Surrogate = Callable[[Tensor, Tensor, Tensor], SurrogateLoss]
"""Log-ratios, advantages and log-probabilities to losses: `clipped` with its options bound, or one's own."""


def clipped(
    log_ratio: Float[Tensor, "*units"],
    advantages: Float[Tensor, "*units"],
    log_prob: Float[Tensor, "*units"],
    *,
    low: float = 0.2,
    high: float | None = None,
    dual: float | None = None,
) -> SurrogateLoss:
    """`-min(r A, clip(r, 1 - low, 1 + high) A)`, the pessimistic surrogate of PPO; `-r A` with `low=1.0, high=inf`.

    Args:
        log_ratio: Log of the ratio r.
        advantages: Advantage A.
        log_prob: Not used; for surrogates of one's own, such as CISPO's.
        low: Distance of the lower clip from 1, in [0, 1].
        high: Distance of the upper clip from 1; at least 0, None for `low` (symmetric).
        dual: For A < 0 the loss is at most `dual * |A|`, which bounds the ratio by `dual`; above 1.

    References:
        Schulman et al. 2017 (arXiv 1707.06347) eq. (7); NoiseGate eq. (9). `high` above `low`: DAPO (arXiv 2503.14476).
        `dual`: Ye et al. 2020 (arXiv 1912.09729); two-sided clipping in INTELLECT-2 (arXiv 2505.07291).
    """
    high = low if high is None else high
    if not 0 <= low <= 1 or not high >= 0:
        raise ConfigError(f"`low` is {low}, `high` is {high}; needed are 0 <= low <= 1 and high >= 0.")
    if dual is not None and not dual > 1:
        raise ConfigError(f"`dual` is {dual}; it must be above 1.")
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    negative = advantages < 0
    capped = torch.zeros_like(negative)
    if dual is not None:
        cap = -dual * advantages
        capped = negative & (loss > cap)
        loss = torch.where(negative, torch.minimum(loss, cap), loss)
    return SurrogateLoss(loss, negative & (ratio < 1 - low), (advantages > 0) & (ratio > 1 + high), capped)


def k3(log_prob: Float[Tensor, "*units"], reference: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """`exp(d) - d - 1` with `d = reference - log_prob`, bounded to 20 in magnitude: unbiased, never negative.

    References:
        Schulman 2020, "Approximating KL divergence"; in the loss: Shao et al. 2024 (arXiv 2402.03300) eq. (4).
    """
    difference = (reference - log_prob).clamp(-20.0, 20.0)
    return difference.expm1() - difference

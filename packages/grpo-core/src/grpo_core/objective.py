"""The objective: a loss of plain tensors for loops of one's own, and the same with all options for the learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from grpo_core.config import GRPOConfig
from grpo_core.errors import ConfigError, PrecisionError, ShapeError
from grpo_core.losses import RatioLevel, clipped, k3, to_level, units_of
from grpo_core.trajectory import Batch, Evaluated

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LARGEST_LOG_RATIO = 20.0
"""Ratios are taken from log-ratios no larger than this in magnitude, so that they cannot overflow."""


def grpo_loss(
    log_prob: Float[Tensor, "*units"],
    old_log_prob: Float[Tensor, "*units"],
    advantages: Float[Tensor, "*units"],
    mask: Bool[Tensor, "*units"] | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
) -> Float[Tensor, ""]:
    """`-mean(min(r A, clip(r, 1 - clip_low, 1 + clip_high) A))` with `r = exp(log_prob - old_log_prob)`.

    What the learner's defaults minimise, without its entropy bonus, for those who have a loop of their own.

    Advantages have a shape that expands to that of the log-probabilities; `mask` says what counts, None that everything
    does. `clip_high` is `clip_low` where None.

    References:
        NoiseGate §4.4, eqs. (8) and (9).
    """
    mask = torch.ones_like(log_prob, dtype=torch.bool) if mask is None else mask
    log_ratio = bound_log_ratio(torch.where(mask, log_prob - old_log_prob, 0))
    losses = clipped(log_ratio, advantages.expand_as(log_ratio), log_prob, low=clip_low, high=clip_high).loss
    return torch.where(mask, losses, 0).sum() / mask.sum().clamp(min=1)


def bound_log_ratio(log_ratio: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """Bounds the value alone: the gradient passes, so that a bad action of a large ratio is still pushed down."""
    return log_ratio + (log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO) - log_ratio).detach()


class Average(NamedTuple):
    """What an optimiser step's losses are weighed by, by trajectory, and how much of it counts."""

    loss: Float[Tensor, " trajectories"]
    """Weight of each unit's loss."""
    penalty: Float[Tensor, " trajectories"]
    """Weight of each component's KL penalty."""
    units: Int[Tensor, ""]
    components: Int[Tensor, ""]
    rows: Int[Tensor, ""]

    @classmethod
    def of(cls, config: GRPOConfig, everything: Batch[Any, Any], step: Batch[Any, Any]) -> Average:
        """The weights of a whole step: those of the update, scaled so that a step's add up to what all rows' do."""

        def weights_at(level: RatioLevel) -> tuple[Tensor, Tensor]:
            lengths = unit_counts(everything, level)
            own = lengths if step is everything else unit_counts(step, level)
            weights = 1 / config.aggregation(lengths).to(_scores(everything).dtype)
            total, share = (lengths * weights).sum(), (own * weights).sum()
            return weights * (total / torch.where(share > 0, share, 1)), own.sum()

        penalty, components = weights_at(RatioLevel.COMPONENT)
        loss, units = (penalty, components) if config.level is RatioLevel.COMPONENT else weights_at(config.level)
        rows = step.mask.any(dim=1).sum()
        return cls(loss, penalty, units.clamp(min=1), components.clamp(min=1), rows.clamp(min=1))


class Terms(NamedTuple):
    """The loss, and what to report of it under the names of `UpdateMetrics`; but for the extremes, parts add up."""

    loss: Float[Tensor, ""]
    """What to minimise: surrogate + kl_weight * kl_penalty - entropy_weight * entropy."""
    surrogate: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    kl_penalty: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    clip_fraction_low: Float[Tensor, ""]
    clip_fraction_high: Float[Tensor, ""]
    effective: Float[Tensor, ""]
    """Decisions with a component that counts and an advantage."""
    ratio_min: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]


def terms_of(
    config: GRPOConfig, rows: Batch[Any, Any], evaluated: Evaluated, average: Average, *, entropy_weight: float
) -> Terms:
    """The loss of some rows of an optimiser step, given their evaluation and `average` of the whole step.

    Raises:
        ShapeError: The re-evaluation has another shape than the record.
        PrecisionError: Its log-probabilities are in half precision.
        ConfigError: A bonus asks for entropies that are not there.

    References:
        NoiseGate §4.4, eqs. (8) and (9).
    """
    mask, trajectory, level = rows.mask, rows.trajectory, config.level
    log_prob = torch.where(mask, checked(evaluated.log_prob, rows), 0)
    old = torch.where(mask, rows.old.to(log_prob.dtype), 0)
    advantages = _scores(rows).to(log_prob.dtype).expand_as(log_prob)

    def at(values: Tensor, level: RatioLevel) -> Tensor:
        return to_level(values, mask, trajectory, len(rows), level)

    ratios = bound_log_ratio(at(log_prob - old, level))
    units, owners = units_of(mask, trajectory, len(rows), level)
    losses = config.surrogate(ratios, at(advantages, level.mean), at(log_prob, level))
    unit_losses = torch.where(units, losses.loss, 0)
    if config.staleness is not None:
        unit_losses = unit_losses * importance_weights(rows, level, config.staleness.high).to(unit_losses.dtype)

    surrogate = (unit_losses * average.loss[owners]).sum()
    entropy = _mean_entropy(evaluated.entropy, rows, average, needed=entropy_weight > 0)
    penalty = log_prob.new_zeros(())
    loss = surrogate
    if entropy_weight > 0:
        loss = loss - entropy_weight * entropy
    if config.kl_weight > 0:
        assert rows.reference is not None, "the learner looks it up"
        reference = torch.where(mask, rows.reference.to(log_prob.dtype), 0)
        penalty = (k3(log_prob, reference) * average.penalty[trajectory].unsqueeze(1)).sum()
        loss = loss + config.kl_weight * penalty
    with torch.no_grad():
        ratio = torch.where(units, ratios, 0).exp()
        return Terms(
            loss=loss,
            surrogate=surrogate.detach(),
            entropy=entropy.detach(),
            kl_penalty=penalty.detach(),
            approx_kl=k3(old, log_prob).sum() / average.components,
            clip_fraction_low=(losses.clipped_low & units).sum() / average.units,
            clip_fraction_high=(losses.clipped_high & units).sum() / average.units,
            effective=(mask & (advantages != 0)).any(dim=1).sum(),
            ratio_min=torch.where(units, ratio, float("inf")).min(),
            ratio_max=torch.where(units, ratio, 0).max(),
        )


def importance_weights(rows: Batch[Any, Any], level: RatioLevel, high: float) -> Float[Tensor, "*units"]:
    """How much likelier what a ratio covers was at the start of the update than when it was chosen, at most `high`."""
    drift = rows.old - rows.decisions.log_prob.to(rows.old.dtype)
    drift = to_level(drift, rows.mask, rows.trajectory, len(rows), level).clamp(max=LARGEST_LOG_RATIO)
    return drift.exp().clamp(max=high)


def unit_counts(rows: Batch[Any, Any], level: RatioLevel) -> Int[Tensor, " trajectories"]:
    """Units of each trajectory that count."""
    mask, owners = units_of(rows.mask, rows.trajectory, len(rows), level)
    units = mask.flatten().long()
    return units.new_zeros(len(rows)).index_add(0, owners.flatten(), units)


def checked(log_prob: Tensor, rows: Batch[Any, Any]) -> Tensor:
    """The log-probabilities, if they have the recorded ones' shape and are precise enough for ratios."""
    recorded = rows.decisions.log_prob
    if log_prob.shape != recorded.shape:
        shapes = f"shape {tuple(log_prob.shape)} for recorded ones of shape {tuple(recorded.shape)}"
        need = "both need one row per decision and one column per component"
        raise ShapeError(f"`evaluate` returned log-probabilities of {shapes}; {need}.")
    if log_prob.dtype in (torch.float16, torch.bfloat16):
        wrong = f"`evaluate` returned log-probabilities in {log_prob.dtype}, which cannot tell ratios near 1 apart"
        raise PrecisionError(f"{wrong}; take what the network returns to float32 first, when acting too.")
    return log_prob


def _scores(rows: Batch[Any, Any]) -> Tensor:
    assert rows.advantages is not None, "the learner gives its batches advantages"
    return rows.advantages


def _mean_entropy(entropy: Tensor | None, rows: Batch[Any, Any], average: Average, *, needed: bool) -> Tensor:
    if entropy is None:
        if needed:
            raise ConfigError("`evaluate` returned no entropy; return it, or set `entropy_weight` to a weight of 0.")
        return average.loss.new_zeros(())
    if entropy.dtype in (torch.float16, torch.bfloat16):
        entropy = entropy.float()
    if entropy.shape == rows.mask.shape:
        return torch.where(rows.mask, entropy, 0).sum() / average.components
    if entropy.shape == rows.mask.shape[:1]:
        return torch.where(rows.mask.any(dim=1), entropy, 0).sum() / average.rows
    shape = tuple(rows.mask.shape)
    raise ShapeError(f"Entropies have shape {tuple(entropy.shape)}; needed is {shape[:1]} or {shape}.")

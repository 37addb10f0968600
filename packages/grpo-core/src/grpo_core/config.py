"""The learner's settings; what is not set is the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from grpo_core.advantages import AdvantageFn, group_std
from grpo_core.errors import ConfigError, at_least_one
from grpo_core.losses import Surrogate, clipped
from grpo_core.ratios import Aggregation, RatioLevel, element_mean
from grpo_core.schedules import AdaptiveLearningRate, EntropySchedule, ExponentialDecay


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """How decisions of older weights, such as those of groups that are replayed, are trained on.

    Ratios are taken to the weights at the start of the update, and losses are multiplied by importance weights,
    `exp(log-probability then - recorded one)` of what a ratio covers: the clip then limits how far one update goes, not
    how old its data are. It also serves rollout engines that compute log-probabilities differently at the same version.
    Costs one forward pass per update.

    References:
        Hilton et al. 2022, the decoupled objective (arXiv 2110.00641); truncated importance sampling: Yao et al. 2025.
    """

    max_age: int | None = None
    """Decisions of weights more versions ago than this take no part, though the reward of their trajectory still counts
    in its group. At least 0; None for no limit."""
    high: float = 2.0
    """Largest importance weight; positive, infinite for no truncation."""

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age < 0:
            raise ConfigError(f"`max_age` is {self.max_age}; it must be at least 0, or None.")
        if not self.high > 0:
            raise ConfigError(f"`high` is {self.high}; it must be positive.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig:
    """How a batch of trajectories becomes optimiser steps; functions get their options bound by `functools.partial`.

    Raises:
        ConfigError: A field is outside its range.

    References:
        NoiseGate §4.4, eqs. (7) to (9), and appendix D.
    """

    advantage: AdvantageFn = group_std
    """How rewards become advantages."""
    drop_degenerate: bool = True
    """Whether decisions of groups in which every advantage is 0, since all rewards are equal, take no part: not in the
    averages, not in the entropy bonus, not in a KL penalty. An update without any other group then makes no step.
    Otherwise bonus and penalty are all that moves it."""
    level: RatioLevel = RatioLevel.COMPONENT
    """What one probability ratio covers. Ratios cannot overflow: see `bound_log_ratio`."""
    surrogate: Surrogate = clipped
    """The loss of one ratio."""
    aggregation: Aggregation = element_mean
    """How the losses of single ratios become one."""
    entropy_weight: EntropySchedule = field(default_factory=ExponentialDecay)
    """Weight of the entropy bonus at step n. The bonus is the plain mean over decisions (or over components, if the
    policy gives their entropies), whatever `aggregation` is."""
    entropy_decay_per_update: bool = False
    """Whether n counts updates, also those that made no step, and not optimiser steps."""
    kl_weight: float = 0.0
    """Weight of the KL penalty, estimated per component by k3, to the learner's reference policy; at least 0."""
    staleness: Staleness | None = None
    """What becomes of decisions of older weights; None trusts that there are none."""
    inner_epochs: int = 4
    """Passes over the batch; at least 1."""
    minibatches: int = 1
    """Optimiser steps per pass, over parts drawn anew in every pass; at least 1. The weights of a part's losses add up
    to those of the whole, whatever `aggregation` is."""
    micro_rows: int | None = None
    """Most decisions in one forward pass; None for all of an optimiser step. Changes memory, not results. Levels that
    need whole trajectories exceed it by as much as one trajectory does."""
    max_grad_norm: float | None = 1.0
    """Norm to which gradients are clipped; positive, None for no clipping."""
    target_kl: float | None = None
    """No further step of the update once the mean k3 between the acting and the current policy exceeds this; read
    before the step, which is then not made. None for never. Costs one device-to-host copy per step."""
    learning_rate: AdaptiveLearningRate | None = None
    """How the optimiser's learning rates follow the measured KL of an update; None leaves them alone. Costs one forward
    pass per update."""
    bfloat16: bool = False
    """Whether the policy is evaluated under bfloat16 autocast, as it then should act too. Ratios and losses stay in
    float32: `evaluate` must take what its network returns to float32 before it computes log-probabilities."""
    log_prob_tolerance: float | None = 1e-3
    """Largest difference between recorded and re-evaluated log-probabilities before the first optimiser step, for a
    density as wide as a standard normal one; a narrower one, whose log-density changes faster, is allowed as much more
    as it is narrower. None to accept any. With `staleness`, decisions of older weights are not compared."""
    on_refusal: Literal["raise", "skip"] = "raise"
    """What becomes of an update with something that is not finite or not reproduced: it raises, or it is taken back and
    counted, and `UpdateMetrics.refused` says why."""
    max_refusals: int = 3
    """Updates skipped one after another before the next one raises after all; at least 1."""
    seed: int = 42
    """Seed of the minibatches."""

    def __post_init__(self) -> None:
        for name in ("inner_epochs", "minibatches", "micro_rows", "max_refusals"):
            at_least_one(**{name: getattr(self, name)})
        for name in ("max_grad_norm", "target_kl", "log_prob_tolerance"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ConfigError(f"`{name}` is {limit}; it must be positive, or None.")
        if not 0 <= self.kl_weight < float("inf"):
            raise ConfigError(f"`kl_weight` is {self.kl_weight}; it must be finite and at least 0.")

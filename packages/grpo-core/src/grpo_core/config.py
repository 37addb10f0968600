"""The learner's settings; what is not set is the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from grpo_core.advantages import AdvantageFn, group_std
from grpo_core.errors import ConfigError, at_least_one
from grpo_core.losses import Aggregation, RatioLevel, Surrogate, clipped, element_mean

EntropySchedule = Callable[[int], float]
"""The weight of the entropy bonus, at least 0, at step n, counted from 0."""


@dataclass(frozen=True, slots=True)
class ConstantWeight:
    """The same weight throughout; at least 0."""

    weight: float

    def __post_init__(self) -> None:
        _check(weight=self.weight)

    def __call__(self, n: int, /) -> float:
        """The weight at step `n`."""
        return self.weight


@dataclass(frozen=True, slots=True)
class ExponentialDecay:
    """`max(start * decay^n, floor)` (NoiseGate eq. (9) and appendix D)."""

    start: float = 0.01
    """Weight at step 0; at least 0."""
    decay: float = 0.999
    """Factor per step, in (0, 1]."""
    floor: float = 0.0
    """Smallest weight; at least 0."""

    def __post_init__(self) -> None:
        _check(start=self.start, floor=self.floor)
        if not 0 < self.decay <= 1:
            raise ConfigError(f"`decay` is {self.decay}; it must be in (0, 1].")

    def __call__(self, n: int, /) -> float:
        """The weight at step `n`."""
        return max(self.start * self.decay**n, self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLearningRate:
    """Holds the KL divergence of an update, acting policy to updated one, in a band.

    Measured after the last step, as the mean k3 per component. Above the band, all learning rates of the optimiser are
    divided by `factor`, below it they are multiplied. They are part of the optimiser's state, which
    `Learner.state_dict` saves. Do not combine it with a scheduler, which would overwrite them.

    Raises:
        ConfigError: Not `0 <= low < high`, `1 < factor` or `0 < minimum <= maximum`.

    References:
        Rudin et al. 2021 (arXiv 2109.11978) and RSL-RL; of a penalty: Schulman et al. 2017 (arXiv 1707.06347) §4.
    """

    low: float = 0.01
    """Divergence in nats per component below which steps are too small."""
    high: float = 0.05
    """Divergence above which they are too large."""
    factor: float = 1.5
    """By how much the rate changes after an update."""
    minimum: float = 1e-6
    """Smallest rate."""
    maximum: float = 1e-1
    """Largest rate."""

    def __post_init__(self) -> None:
        rates = 0 < self.minimum <= self.maximum < float("inf")
        if not 0 <= self.low < self.high or not rates or not 1 < self.factor < float("inf"):
            raise ConfigError(f"{self}; needed are 0 <= low < high, 0 < minimum <= maximum and 1 < factor, all finite.")

    def after(self, rate: float, divergence: float) -> float:
        """The rate after an update with `rate` that measured a divergence; one of 0 says nothing."""
        if divergence > self.high:
            return max(rate / self.factor, min(rate, self.minimum))
        if 0 < divergence < self.low:
            return min(rate * self.factor, max(rate, self.maximum))
        return rate

    def apply(self, optimizer: torch.optim.Optimizer, divergence: float) -> None:
        """Changes the learning rates of all parameter groups after an update that measured a divergence."""
        for group in optimizer.param_groups:
            rate = self.after(float(group["lr"]), divergence)
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def _check(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"`{name}` is {weight}; a weight must be finite and at least 0.")


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
    kl_weight: float = 0.0
    """Weight of the KL penalty, estimated per component by k3, to the learner's reference policy; at least 0."""
    staleness: Staleness | None = None
    """What becomes of decisions of older weights; None trusts that there are none."""
    inner_epochs: int = 4
    """Passes over the batch; at least 1."""
    minibatches: int = 1
    """Optimiser steps per pass, over equal parts drawn anew in every pass; at least 1, and fewer where there is less to
    divide. The weights of a part's losses add up to those of the whole, whatever `aggregation` is. More than 1 cost one
    more forward pass per update, which compares all decisions with their record before the weights move."""
    micro_rows: int | None = None
    """Most decisions in one forward pass; None for all of an optimiser step. Changes memory, not results. Levels that
    need whole trajectories exceed it by as much as one trajectory does."""
    max_grad_norm: float | None = 1.0
    """Norm to which gradients are clipped; positive, None for no clipping."""
    target_kl: float | None = None
    """No further step of the update once the mean k3 between the acting and the current policy exceeds this; read
    before the step, which is then not made. None for never. Costs one device-to-host copy per step."""
    learning_rate: AdaptiveLearningRate | None = None
    """How learning rates follow the measured KL of an update, at one more forward pass; None leaves them alone."""
    bfloat16: bool = False
    """Whether the policy is evaluated under bfloat16 autocast, as it then should act too. Ratios and losses stay in
    float32: `evaluate` must take what its network returns to float32 before it computes log-probabilities."""
    log_prob_tolerance: float | None = 1e-3
    """Largest difference between recorded and re-evaluated log-probabilities before the first optimiser step, for a
    density as wide as a standard normal one; a narrower one, whose log-density changes faster, is allowed as much more
    as it is narrower. None to accept any. With `staleness`, decisions of older weights are not compared."""
    on_refusal: Literal["raise", "skip"] = "raise"
    """An update with anything not finite or not reproduced raises, or is skipped; `UpdateMetrics.refused` says why."""
    max_refusals: int = 3
    """Updates skipped one after another before the next one raises after all; at least 1."""
    seed: int = 42
    """Seed of the minibatches."""

    def __post_init__(self) -> None:
        at_least_one(inner_epochs=self.inner_epochs, minibatches=self.minibatches)
        at_least_one(micro_rows=self.micro_rows, max_refusals=self.max_refusals)
        for name in ("max_grad_norm", "target_kl", "log_prob_tolerance"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ConfigError(f"`{name}` is {limit}; it must be positive, or None.")
        _check(kl_weight=self.kl_weight)
        if self.on_refusal not in ("raise", "skip"):
            raise ConfigError(f"`on_refusal` is `{self.on_refusal}`; it must be `raise` or `skip`.")

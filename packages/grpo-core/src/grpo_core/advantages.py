"""Advantages of ragged groups: flat rewards with group numbers, no padding, no loop over groups.

Each function takes rewards (members,), group numbers (members,) from 0 without gaps in any order, and a mask of valid
members, all of one shape (`ShapeError` otherwise). An invalid member, such as a failed rollout, counts in no statistic
and gets advantage 0. Where all valid rewards of a group are equal, the group says nothing about what is better, and its
advantages are exactly 0. Rewards count as equal if they differ by no more than rounding does, `TIE` of their size:
dividing by a small standard deviation would blow that up to a full signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grpo_core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

TIE = 1e-6
"""Rewards of a group are equal if none differs from another by more than this share of the largest magnitude."""

AdvantageFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""How rewards become advantages: one of this module's functions, perhaps with options bound, or one's own."""


def group_std(
    rewards: Float[Tensor, " members"],
    groups: Int[Tensor, " members"],
    valid: Bool[Tensor, " members"],
    *,
    eps: float = 1e-6,
    ddof: int = 1,
) -> Float[Tensor, " members"]:
    """`(R - mean(group)) / (std(group) + eps)`, with the standard deviation of the sample, or by `ddof=0` as it is.

    Raises:
        ConfigError: `eps` is not finite and at least 0, or `ddof` neither 0 nor 1.

    References:
        Shao et al. 2024 (arXiv 2402.03300) §4.1.2; NoiseGate §4.4, eq. (7).
    """
    table = _GroupTable(rewards, groups, valid)
    return table.scored(table.deviations / (table.std(ddof, eps)[groups] + eps))


def mean_only(
    rewards: Float[Tensor, " members"], groups: Int[Tensor, " members"], valid: Bool[Tensor, " members"]
) -> Float[Tensor, " members"]:
    """`R - mean(group)`: no division by a deviation, so hard and easy groups are not blown up.

    References:
        Liu et al. 2025, Dr.GRPO (arXiv 2503.20783).
    """
    table = _GroupTable(rewards, groups, valid)
    return table.scored(table.deviations)


def leave_one_out(
    rewards: Float[Tensor, " members"], groups: Int[Tensor, " members"], valid: Bool[Tensor, " members"]
) -> Float[Tensor, " members"]:
    """`R - mean(the other members)`: a baseline that does not depend on the member's own reward.

    References:
        Ahmadian et al. 2024, RLOO (arXiv 2402.14740).
    """
    table = _GroupTable(rewards, groups, valid)
    scale = table.counts / (table.counts - 1).clamp(min=1)
    return table.scored(table.deviations * scale[groups])


def greedy_baseline(
    rewards: Float[Tensor, " members"], groups: Int[Tensor, " members"], valid: Bool[Tensor, " members"]
) -> Float[Tensor, " members"]:
    """`R - R(the group's first member)`, which played without the policy's noise (`GroupSpec.greedy`).

    Under common noise this says which exploration beats what the policy would do anyway. The first member's own
    advantage is 0; if it failed, so are those of its group. Members come in the order that `Batch` has them in.

    References:
        Li et al. 2023, ReMax (arXiv 2310.10505).
    """
    table = _GroupTable(rewards, groups, valid)
    places = torch.arange(len(groups), device=groups.device)
    first = places.new_full((table.size,), len(groups)).scatter_reduce(0, groups, places, "amin")[groups]
    return table.scored(torch.where(valid[first], table.rewards - table.rewards[first], 0))


def are_mixed(rewards: Sequence[float | None]) -> bool:
    """Whether a group has two different rewards, so that something can be learned from it.

    Args:
        rewards: Of its members; None for one that failed. One that is not finite counts as different, so that the
            group reaches the learner, which refuses it by name.
    """
    scored = [reward for reward in rewards if reward is not None]
    if not all(map(math.isfinite, scored)):
        return True
    return len(scored) > 1 and max(scored) - min(scored) > TIE * max(map(abs, scored))


def mixed_groups(
    rewards: Float[Tensor, " members"], groups: Int[Tensor, " members"], valid: Bool[Tensor, " members"]
) -> Bool[Tensor, " groups"]:
    """The groups with two different valid rewards, whatever advantages these get."""
    return _GroupTable(rewards, groups, valid).mixed


class _GroupTable:
    """Statistics of the valid members of each group."""

    def __init__(self, rewards: Tensor, groups: Tensor, valid: Tensor) -> None:
        if not rewards.ndim == 1 or not rewards.shape == groups.shape == valid.shape:
            raise ShapeError(
                f"`rewards`, `groups` and `valid` have shapes {tuple(rewards.shape)}, {tuple(groups.shape)} and "
                f"{tuple(valid.shape)}; needed is one entry per member in each."
            )
        rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
        self.groups = groups
        self.valid = valid
        self.size = int(groups.max()) + 1 if len(groups) else 0
        self.rewards = torch.where(valid, rewards, 0)
        self.counts = self._sums(valid.to(rewards.dtype))
        mean = self._sums(self.rewards / self.counts.clamp(min=1)[groups])
        self.deviations = torch.where(valid, rewards - mean[groups], 0)
        high = self._largest(torch.where(valid, rewards, -math.inf), -math.inf)
        low = -self._largest(torch.where(valid, -rewards, -math.inf), -math.inf)
        self.mixed = (high - low > TIE * torch.maximum(high.abs(), low.abs())) & (self.counts > 1)

    def std(self, ddof: int, eps: float) -> Tensor:
        """The standard deviation of each group; squares are taken of shares of the widest, which never overflow."""
        if not 0 <= eps < float("inf"):
            raise ConfigError(f"`eps` is {eps}; it must be finite and at least 0.")
        if ddof not in (0, 1):
            raise ConfigError(f"`ddof` is {ddof}; it must be 0 (population) or 1 (sample).")
        widest = self._largest(self.deviations.abs(), 0.0)
        unit = widest.clamp(min=torch.finfo(widest.dtype).tiny)
        squares = self._sums((self.deviations / unit[self.groups]).square())
        return unit * (squares / (self.counts - ddof).clamp(min=1)).sqrt()

    def scored(self, values: Tensor) -> Tensor:
        """The values of valid members of mixed groups, 0 elsewhere."""
        return torch.where(self.valid & self.mixed[self.groups], values, 0)

    def _sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.size).index_add(0, self.groups, values)

    def _largest(self, values: Tensor, start: float) -> Tensor:
        return values.new_full((self.size,), start).scatter_reduce(0, self.groups, values, "amax")

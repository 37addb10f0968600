from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_core import RatioLevel, constant_length, element_mean, trajectory_mean
from grpo_core.errors import ConfigError
from grpo_core.losses import to_level, units_of

NESTED = [[[0.1, 0.2], [0.3, None]], [[None, None]], [[None, 0.5], [0.6, 0.7], [0.8, 0.9]]]


def ragged() -> tuple[Tensor, Tensor, Tensor]:
    rows = [row for trajectory in NESTED for row in trajectory]
    mask = torch.tensor([[value is not None for value in row] for row in rows])
    values = torch.tensor([[float("nan") if value is None else value for value in row] for row in rows])
    trajectory = torch.arange(3).repeat_interleave(torch.tensor([len(rows) for rows in NESTED]))
    return values, mask, trajectory


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (RatioLevel.COMPONENT, [[0.1, 0.2], [0.3, 0], [0, 0], [0, 0.5], [0.6, 0.7], [0.8, 0.9]]),
        (RatioLevel.STEP_SUM, [0.3, 0.3, 0, 0.5, 1.3, 1.7]),
        (RatioLevel.STEP_MEAN, [0.15, 0.3, 0, 0.5, 0.65, 0.85]),
        (RatioLevel.TRAJECTORY_SUM, [0.6, 0, 3.5]),
        (RatioLevel.TRAJECTORY_GEOMEAN, [0.2, 0, 0.7]),
    ],
)
def test_levels_sum_or_average_what_is_not_masked(level, expected):
    values, mask, trajectory = ragged()
    torch.testing.assert_close(to_level(values, mask, trajectory, 3, level), torch.tensor(expected))
    units, owners = units_of(mask, trajectory, 3, level)
    assert units.shape == owners.shape == torch.tensor(expected).shape
    assert torch.equal(units, torch.tensor(expected) != 0)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6), data=st.data())
def test_divisors_are_those_of_a_loop(lengths, data):
    total = sum(lengths)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=torch.bool)
    trajectory = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    losses = torch.arange(1.0, total + 1, dtype=torch.float64)
    kept = [own[flags].tolist() for own, flags in zip(losses.split(lengths), mask.split(lengths), strict=True)]
    full = [own for own in kept if own]

    def loss(divisors: Tensor) -> float:
        return float((torch.where(mask, losses, 0) / divisors[trajectory]).sum())

    counts = torch.tensor([len(own) for own in kept])
    flat = [value for own in full for value in own]
    assert loss(element_mean(counts)) == pytest.approx(sum(flat) / max(len(flat), 1))
    by_trajectory = sum(sum(own) / len(own) for own in full) / max(len(full), 1)
    assert loss(trajectory_mean(counts)) == pytest.approx(by_trajectory)
    by_constant = sum(sum(own) for own in full) / (max(len(full), 1) * 2.5)
    assert loss(constant_length(counts, length=2.5)) == pytest.approx(by_constant)


def test_a_length_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="length"):
        constant_length(torch.zeros(1, dtype=torch.long), length=0.0)

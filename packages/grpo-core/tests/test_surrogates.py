"""Losses and gradients of single ratios against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from grpo_core import ConstantWeight, Evaluation, GRPOConfig, RatioLevel, clipped, trajectory_mean
from grpo_core.losses import k3
from grpo_core.objective import Average, terms_of

RATIOS = torch.tensor([0.1, 0.5, 1.0, 1.5, 4.0], dtype=torch.float64)


def scored(surrogate, advantage, **options):
    """Losses, gradients with respect to the log-probability, and flags, of all ratios."""
    log_prob = RATIOS.log().requires_grad_()
    advantages = torch.full_like(RATIOS, advantage)
    found = surrogate(log_prob, advantages, log_prob, **options)
    (gradient,) = torch.autograd.grad(found.loss.sum(), log_prob)
    flags = [[int(flag) for flag in row] for row in (found.clipped_low, found.clipped_high)]
    return found.loss.tolist(), gradient.tolist(), flags


def test_a_clip_stops_good_actions_above_and_bad_ones_below():
    loss, gradient, flags = scored(clipped, 2.0, low=0.2, high=0.3)
    assert loss == pytest.approx([-0.2, -1.0, -2.0, -2.6, -2.6])
    assert gradient == pytest.approx([-0.2, -1.0, -2.0, 0.0, 0.0])
    assert flags == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    loss, gradient, flags = scored(clipped, -2.0, low=0.2, high=0.3)
    assert loss == pytest.approx([1.6, 1.6, 2.0, 3.0, 8.0])
    assert gradient == pytest.approx([0.0, 0.0, 2.0, 3.0, 8.0])
    assert flags == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_a_clip_without_bounds_is_the_ratio_itself():
    loss, gradient, flags = scored(clipped, 2.0, low=1.0, high=math.inf)
    assert loss == gradient == pytest.approx([-0.2, -1.0, -2.0, -3.0, -8.0])
    assert sum(map(sum, flags)) == 0


@pytest.mark.parametrize("level", RatioLevel)
def test_a_penalty_is_averaged_over_components_whatever_a_ratio_covers(rows_of, level):
    rows, log_prob = rows_of(6, 2, 2, seed=11)
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True], [False, True], [False, False]])
    rows = replace(rows, decisions=replace(rows.decisions, mask=mask))
    config = GRPOConfig(level=level, aggregation=trajectory_mean, kl_weight=1.0, entropy_weight=ConstantWeight(0.0))
    average = Average.of(config, rows, rows)
    found = terms_of(config, rows, Evaluation(log_prob), average, entropy_weight=0.0).kl_penalty
    estimates = k3(log_prob, rows.reference)
    means = [estimates[own][rows.mask[own]].mean() for own in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(found, sum(means) / 2)

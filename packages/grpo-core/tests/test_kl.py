"""The penalty that holds a policy to a reference."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from grpo_core import ConstantWeight, GRPOConfig, Learner, collate
from grpo_core.errors import ConfigError
from grpo_core.losses import k3

MIXED = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0]]


@given(logits=st.lists(st.floats(-2, 2), min_size=3, max_size=6), shift=st.floats(-1, 1))
def test_k3_is_unbiased_and_never_negative(logits, shift):
    current = Categorical(logits=torch.tensor(logits, dtype=torch.float64))
    moved = torch.tensor(logits, dtype=torch.float64)
    moved[0] += 0.5 + shift
    reference = Categorical(logits=moved)
    estimates = k3(current.logits, reference.logits)
    expected = kl_divergence(current, reference)
    torch.testing.assert_close((current.probs * estimates).sum(), expected, atol=1e-12, rtol=1e-9)
    assert (estimates >= 0).all()


def drifted(gaussian_policy):
    """A policy and a reference that differ."""
    policy, reference = gaussian_policy(), gaussian_policy(seed=3)
    with torch.no_grad():
        reference.log_std += 0.2
    return policy, reference


def step(policy, trajectories, *, reference=None, **options):
    """One plain gradient step; returns the change of the weights and the metrics."""
    policy = copy.deepcopy(policy)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])
    config = GRPOConfig(inner_epochs=1, max_grad_norm=None, entropy_weight=ConstantWeight(0.0), **options)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=1.0), config, reference=reference)
    metrics = learner.update(collate(trajectories))
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]) - before, metrics


def test_the_penalty_pulls_towards_the_reference_as_autograd_says(gaussian_policy, episodes):
    policy, reference = drifted(gaussian_policy)
    trajectories = episodes(policy, MIXED)
    without, _ = step(policy, trajectories)
    found, metrics = step(policy, trajectories, reference=reference, kl_weight=0.3)
    states, actions = (
        torch.cat([getattr(trajectory.decisions, name) for trajectory in trajectories])
        for name in ("states", "actions")
    )
    drift = reference.distribution(states).log_prob(actions) - policy.distribution(states).log_prob(actions)
    penalty = (drift.exp() - drift - 1).mean()
    expected = torch.autograd.grad(0.3 * penalty, list(policy.parameters()))
    torch.testing.assert_close(found - without, -torch.cat([part.flatten() for part in expected]))
    assert metrics.kl_penalty == pytest.approx(penalty.item())
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_micro_batches_do_not_change_a_penalty(gaussian_policy, episodes, micro_rows):
    policy, reference = drifted(gaussian_policy)
    trajectories = episodes(policy, MIXED)
    expected, _ = step(policy, trajectories, reference=reference, kl_weight=0.3)
    found, _ = step(policy, trajectories, reference=reference, kl_weight=0.3, micro_rows=micro_rows)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_a_penalty_without_a_reference_is_refused(gaussian_policy, episodes):
    with pytest.raises(ConfigError, match="there is no `reference`"):
        step(gaussian_policy(), episodes(gaussian_policy(), MIXED), kl_weight=0.1)


def test_k3_is_bounded_where_its_exponential_would_overflow():
    zero = torch.zeros(1)
    assert k3(zero, torch.tensor([500.0])).item() == pytest.approx(math.expm1(20.0) - 20.0)
    assert k3(zero, torch.tensor([-500.0])).item() == pytest.approx(math.expm1(-20.0) + 20.0)

"""Decisions of older weights: how old they are, which take part, and with what weight."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from grpo_core import (
    ConstantWeight,
    Decisions,
    GroupSpec,
    GRPOConfig,
    Job,
    Learner,
    RatioLevel,
    Staleness,
    Trajectory,
    collate,
)
from grpo_core.errors import ConfigError, LogProbMismatchError, NonFiniteError, TrajectoryError

MIXED: list[list[float | None]] = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0]]


def changes(policy, trajectories, *, version=None, **options):
    """What one plain step of a copy of `policy` changes, and its metrics."""
    policy = copy.deepcopy(policy)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])
    config = GRPOConfig(**{"inner_epochs": 1, "max_grad_norm": None} | options)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), config)
    metrics = learner.update(collate(trajectories), version=version)
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]) - before, metrics


def of_version(trajectories, version, *, groups=(0, 1, 2)):
    """The same trajectories, those of some groups made by weights of `version`."""
    return [
        dataclasses.replace(trajectory, version=version) if trajectory.job.spec.group in groups else trajectory
        for trajectory in trajectories
    ]


def test_one_decoupled_step_is_the_formula(table_policy):
    """Two decisions with log-probability 0 now; the ratio is 1 and the gradient the importance weight."""
    policy = table_policy(torch.zeros(2, 1, dtype=torch.float64))
    behaviour = torch.tensor([[math.log(0.8)], [math.log(0.25)]], dtype=torch.float64)
    spec = GroupSpec(group=0, task="t", seed=0, size=2)
    trajectories = [
        Trajectory(
            job=Job(spec=spec, member=row),
            decisions=Decisions(states=torch.tensor([row]), actions=torch.tensor([row]), log_prob=behaviour[[row]]),
            reward=reward,
            version=3,
        )
        for row, reward in enumerate([1.0, 0.0])
    ]

    def gradient(staleness: Staleness | None) -> tuple[list[float], object]:
        change, metrics = changes(
            policy,
            trajectories,
            version=4,
            staleness=staleness,
            entropy_weight=ConstantWeight(0.0),
            log_prob_tolerance=None,
            advantage=lambda rewards, groups, valid: 2 * rewards - 1,
        )
        return (change * 10 * 2).tolist(), metrics

    # exp(0 - log 0.8) = 1.25 and exp(0 - log 0.25) = 4, which the bound of 2 stops.
    found, metrics = gradient(Staleness())
    assert found == pytest.approx([1.25, -2.0])
    assert (metrics.importance_weight_mean, metrics.importance_weight_max) == (1.625, 2.0)
    assert metrics.effective_sample_share == pytest.approx(3.25**2 / (1.25**2 + 2**2) / 2)
    assert (metrics.ratio_max, metrics.stale_decisions, metrics.log_prob_error) == (1.0, 2, None)
    assert gradient(Staleness(high=math.inf))[0] == pytest.approx([1.25, -4.0])
    # Taken to the recorded log-probabilities, 1.25 and 4 are ratios: the first is clipped, the second not (A < 0).
    found, metrics = gradient(None)
    assert found == pytest.approx([0.0, -4.0])
    assert metrics.importance_weight_mean is None


def test_ratios_are_taken_to_the_weights_at_the_start_of_the_update(gaussian_policy, episodes):
    old, policy = gaussian_policy(seed=1), gaussian_policy()
    stale = of_version(episodes(old, MIXED), 2)
    config = GRPOConfig(inner_epochs=1, staleness=Staleness())
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), config)
    metrics = learner.update(collate(stale), version=3)
    assert (metrics.ratio_min, metrics.ratio_max) == pytest.approx((1.0, 1.0))
    assert metrics.approx_kl == pytest.approx(0.0, abs=1e-12)
    assert metrics.importance_weight_max == 2.0
    assert 0 < metrics.importance_weight_mean < 2


@pytest.mark.parametrize("level", RatioLevel)
def test_importance_weights_that_nothing_limits_are_bounded_as_ratios_are(gaussian_policy, episodes, level):
    policy = gaussian_policy()
    aged = of_version(episodes(policy, MIXED), 2)
    foreign = [
        dataclasses.replace(t, decisions=dataclasses.replace(t.decisions, log_prob=t.decisions.log_prob - 500.0))
        for t in aged
    ]
    _, metrics = changes(policy, foreign, version=3, level=level, staleness=Staleness(high=math.inf))
    assert metrics.importance_weight_max == pytest.approx(math.exp(20), rel=1e-6)


@pytest.mark.parametrize("micro_rows", [1, 3])
@pytest.mark.parametrize("level", RatioLevel)
def test_micro_batches_change_nothing_on_stale_data(gaussian_policy, episodes, level, micro_rows):
    old, policy = gaussian_policy(seed=1), gaussian_policy()
    stale = of_version(episodes(old, MIXED), 2, groups=(0, 2))
    stale = [t if t.version else f for t, f in zip(stale, of_version(episodes(policy, MIXED), 3), strict=True)]
    options = {"version": 3, "level": level, "staleness": Staleness(high=1.5), "inner_epochs": 2, "minibatches": 2}
    expected, metrics = changes(policy, stale, **options)
    found, _ = changes(policy, stale, micro_rows=micro_rows, **options)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert 0 < metrics.stale_decisions < metrics.decisions
    assert metrics.log_prob_error < 1e-12


def test_fresh_data_are_trained_on_as_without_staleness(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    expected, _ = changes(policy, trajectories)
    found, metrics = changes(policy, trajectories, staleness=Staleness(max_age=0))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert (metrics.stale_decisions, metrics.too_old_decisions) == (0, 0)
    assert metrics.importance_weight_mean == pytest.approx(1.0)


def test_an_engine_that_computes_otherwise_at_the_same_version_is_corrected(gaussian_policy, episodes):
    """What an inference engine in another precision does to log-probabilities, here by a constant."""
    policy = gaussian_policy()
    trajectories = []
    for trajectory in episodes(policy, MIXED):
        own = trajectory.decisions
        recorded = dataclasses.replace(own, log_prob=own.log_prob + math.log(1.25))
        trajectories.append(dataclasses.replace(trajectory, decisions=recorded))
    options = {"log_prob_tolerance": None, "entropy_weight": ConstantWeight(0.0)}
    found, metrics = changes(policy, trajectories, staleness=Staleness(), **options)
    expected, _ = changes(policy, episodes(policy, MIXED), **options)
    torch.testing.assert_close(found, expected / 1.25)
    assert (metrics.ratio_max, metrics.importance_weight_mean) == pytest.approx((1.0, 0.8))


def test_decisions_that_are_too_old_take_no_part_but_their_reward_counts(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = of_version(episodes(policy, MIXED), 5)
    victim = trajectories[1]
    rows = len(victim.decisions)
    aged = [*trajectories]
    aged[1] = dataclasses.replace(victim, version=2)
    masked = [*trajectories]
    blind = dataclasses.replace(victim.decisions, mask=torch.zeros(rows, 2, dtype=torch.bool))
    masked[1] = dataclasses.replace(victim, decisions=blind)
    staleness = Staleness(max_age=2)
    found, metrics = changes(policy, aged, version=5, staleness=staleness)
    expected, _ = changes(policy, masked, version=5)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)
    assert (metrics.too_old_decisions, metrics.stale_decisions) == (rows, 0)
    _, metrics = changes(policy, aged, version=5, staleness=Staleness(max_age=3))
    assert (metrics.too_old_decisions, metrics.stale_decisions) == (0, rows)


def test_an_update_of_data_that_are_all_too_old_makes_no_step(gaussian_policy, episodes):
    policy = gaussian_policy()
    change, metrics = changes(policy, episodes(policy, MIXED), version=9, staleness=Staleness(max_age=8))
    assert change.abs().max() == 0
    assert (metrics.optimizer_steps, metrics.decisions) == (0, 0)


def test_the_age_is_counted_from_the_number_of_updates(gaussian_policy, episodes):
    policy = gaussian_policy()
    config = GRPOConfig(inner_epochs=1, staleness=Staleness(max_age=1))
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), config)
    trajectories = episodes(policy, MIXED)
    counts = [learner.update(collate(trajectories)) for _ in range(3)]
    assert [metrics.stale_decisions > 0 for metrics in counts] == [False, True, False]
    assert [metrics.optimizer_steps for metrics in counts] == [1, 1, 0]


def test_fresh_decisions_are_still_compared_and_stale_ones_are_not(gaussian_policy, episodes):
    old, policy = gaussian_policy(seed=1), gaussian_policy()
    trajectories = episodes(old, MIXED)
    stale = of_version(trajectories, 2)
    changes(policy, stale, version=3, staleness=Staleness())
    mixed = of_version(stale, 3, groups=(1,))
    with pytest.raises(LogProbMismatchError, match=r"in group 1 member 0 .*; group 1 member 2 .*; nothing was trained"):
        changes(policy, mixed, version=3, staleness=Staleness())
    broken = [*stale]
    log_prob = torch.full_like(stale[2].decisions.log_prob, -math.inf)
    broken[2] = dataclasses.replace(stale[2], decisions=dataclasses.replace(stale[2].decisions, log_prob=log_prob))
    with pytest.raises(NonFiniteError, match="group 0 member 2"):
        changes(policy, broken, version=3, staleness=Staleness())


def test_decisions_from_the_future_are_refused(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = of_version(episodes(policy, MIXED), 4, groups=(1,))
    with pytest.raises(TrajectoryError, match="of version 4, the learner's are of version 3: group 1 member 0"):
        changes(policy, trajectories, version=3, staleness=Staleness())
    changes(policy, trajectories, version=3)


@pytest.mark.parametrize("options", [{"max_age": -1}, {"high": 0.0}, {"high": math.nan}])
def test_staleness_out_of_range_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Staleness(**options)

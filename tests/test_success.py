"""Success rates and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisegate_apps.evaluation.statistics import (
    PairedDifference,
    SuccessRate,
    interquartile_mean,
    stratified_difference,
)

outcomes = st.lists(st.booleans(), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(successes, episodes, low, high):
    assert SuccessRate(successes=successes, episodes=episodes).interval == pytest.approx((low, high), abs=5e-5)


@given(outcomes)
def test_the_interval_holds_the_rate_and_stays_within_zero_and_one(values):
    rate = SuccessRate.of(values)
    low, high = rate.interval
    assert 0.0 <= low <= rate.rate + 1e-12
    assert rate.rate - 1e-12 <= high <= 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_swapping_the_sides_flips_the_difference(pairs):
    first, second = zip(*pairs, strict=True)
    ahead, behind = PairedDifference.of(first, second), PairedDifference.of(second, first)
    assert ahead.difference == pytest.approx(-behind.difference)
    assert ahead.interval == pytest.approx(tuple(-end for end in reversed(behind.interval)))
    assert ahead.difference == pytest.approx(SuccessRate.of(first).rate - SuccessRate.of(second).rate)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_the_interval_of_a_difference_holds_it_and_stays_within_minus_one_and_one(pairs):
    found = PairedDifference.of(*zip(*pairs, strict=True))
    low, high = found.interval
    assert -1.0 <= low <= found.difference <= high <= 1.0


def test_equal_outcomes_still_leave_an_uncertain_difference():
    low, high = PairedDifference.of([True] * 50, [True] * 50).interval
    assert low < 0.0 < high


def test_a_rate_of_no_episodes_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SuccessRate.of([])
    with pytest.raises(ValueError, match="equally many"):
        PairedDifference.of([True], [True, False])


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # Binomial tails by hand: 2 (1 + 10 + 45) / 1024, 2 / 32, and no disagreement at all.
    [(8, 2, 0.109375), (0, 5, 0.0625), (0, 0, 1.0), (3, 3, 1.0)],
)
def test_the_p_value_is_mcnemars_exact_one(gained, lost, p):
    assert PairedDifference(gained=gained, lost=lost, episodes=50).p_value == pytest.approx(p)


def test_thousands_of_disagreeing_pairs_have_a_p_value():
    assert 0 < PairedDifference(gained=900, lost=700, episodes=5000).p_value < 1e-5


def test_the_bootstrap_over_tasks_has_the_width_of_the_normal_approximation():
    first = {"a": [True] * 30 + [False] * 70, "b": [True] * 60 + [False] * 40}
    second = {"a": [False] * 100, "b": [False] * 100}
    found = stratified_difference([(first, second)])
    half = 1.96 * (0.3 * 0.7 / 100 + 0.6 * 0.4 / 100) ** 0.5 / 2
    assert found.value == pytest.approx(0.45)
    assert found.interval == pytest.approx((0.45 - half, 0.45 + half), abs=0.01)


def test_training_seeds_that_disagree_widen_the_interval():
    solved, unsolved = {"a": [True] * 100}, {"a": [False] * 100}
    one = stratified_difference([(solved, unsolved)])
    two = stratified_difference([(solved, unsolved), (unsolved, unsolved)])
    assert one.interval == (1.0, 1.0)
    assert two.value == 0.5
    assert two.interval == (0.0, 1.0)


def test_every_task_weighs_the_same_whatever_its_scenes():
    first = {"a": [True] * 10, "b": [False] * 90}
    assert stratified_difference([(first, {"a": [False] * 10, "b": [False] * 90})]).value == 0.5


def test_the_interquartile_mean_leaves_out_both_quarters():
    found = interquartile_mean(np.array([[0.0, 0.4, 0.5, 9.0], [0.0, 0.4, 0.5, 9.0]]))
    assert found.value == pytest.approx(0.45)
    low, high = interquartile_mean(np.array([[0.2, 0.2], [0.6, 0.6]])).interval
    assert (low, high) == pytest.approx((0.2, 0.6))


def test_pairs_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="same tasks"):
        stratified_difference([({"a": [True]}, {"b": [True]})])

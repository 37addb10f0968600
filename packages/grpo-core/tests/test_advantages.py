from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_core import are_mixed, greedy_baseline, group_std, leave_one_out, mean_only
from grpo_core.advantages import mixed_groups
from grpo_core.errors import ConfigError, ShapeError

EXACT = [group_std, partial(group_std, ddof=0), mean_only, leave_one_out]

# Quarters are exact in binary, so that equal rewards stay equal under shifts.
rewards_of_groups = st.lists(
    st.lists(st.integers(-40, 40).map(lambda quarter: quarter / 4), min_size=1, max_size=9), min_size=1, max_size=6
)


def flat(groups: list[list[float]]) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    rewards = torch.tensor([reward for group in groups for reward in group], dtype=torch.float64)
    return rewards, numbers, torch.ones(len(rewards), dtype=torch.bool)


@pytest.mark.parametrize("advantage", EXACT)
@given(groups=rewards_of_groups, data=st.data())
def test_permuting_members_permutes_advantages(advantage, groups, data):
    rewards, numbers, valid = flat(groups)
    order = torch.tensor(data.draw(st.permutations(range(len(rewards)))))
    found = advantage(rewards[order], numbers[order], valid[order])
    torch.testing.assert_close(found, advantage(rewards, numbers, valid)[order], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("advantage", EXACT)
@given(groups=rewards_of_groups, shift=st.integers(-100, 100))
def test_adding_a_constant_reward_changes_nothing(advantage, groups, shift):
    rewards, numbers, valid = flat(groups)
    found = advantage(rewards + shift, numbers, valid)
    torch.testing.assert_close(found, advantage(rewards, numbers, valid), atol=1e-9, rtol=1e-9)


@given(groups=rewards_of_groups, scale=st.floats(0.01, 100))
def test_scaling_rewards_scales_what_is_not_normalised(groups, scale):
    rewards, numbers, valid = flat(groups)
    for advantage, factor in (
        (partial(group_std, eps=0.0), 1.0),
        (mean_only, scale),
        (leave_one_out, scale),
    ):
        expected = advantage(rewards, numbers, valid)
        found = advantage(rewards * scale, numbers, valid)
        torch.testing.assert_close(found, expected * factor, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("advantage", EXACT)
@given(groups=rewards_of_groups)
def test_ragged_groups_are_scored_as_if_alone(advantage, groups):
    parts = advantage(*flat(groups)).split([len(group) for group in groups])
    for group, part in zip(groups, parts, strict=True):
        torch.testing.assert_close(part, advantage(*flat([group])), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("advantage", EXACT)
@given(groups=rewards_of_groups)
def test_advantages_of_a_group_sum_to_zero_and_rank_as_the_rewards(advantage, groups):
    rewards, numbers, valid = flat(groups)
    found = advantage(rewards, numbers, valid)
    mixed = mixed_groups(rewards, numbers, valid)
    sums = torch.zeros(len(groups), dtype=torch.float64).index_add(0, numbers, found)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-8, rtol=0)
    for group, (members, flag) in enumerate(zip(groups, mixed.tolist(), strict=True)):
        assert flag is are_mixed(members) is (len(set(members)) > 1)
        own = found[numbers == group]
        if not flag:
            assert own.tolist() == [0.0] * len(members)
        else:
            assert torch.equal(own[torch.tensor(members).argsort(stable=True)], own.sort().values)


@pytest.mark.parametrize("advantage", EXACT)
@given(groups=rewards_of_groups, data=st.data())
def test_invalid_members_change_nothing_for_others(advantage, groups, data):
    rewards, numbers, _ = flat(groups)
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(rewards), max_size=len(rewards))))
    junk = data.draw(st.sampled_from([0.0, 1e9, float("nan"), float("inf")]))
    found = advantage(torch.where(valid, rewards, junk), numbers, valid)
    assert found[~valid].tolist() == [0.0] * int((~valid).sum())
    kept = [
        [reward for reward, ok in zip(group, flags.tolist(), strict=True) if ok]
        for group, flags in zip(groups, valid.split([len(group) for group in groups]), strict=True)
    ]
    assert mixed_groups(rewards, numbers, valid).tolist() == [len(set(group)) > 1 for group in kept]
    without = advantage(rewards[valid], numbers[valid], torch.ones(int(valid.sum()), dtype=torch.bool))
    torch.testing.assert_close(found[valid], without, atol=1e-10, rtol=1e-10)


@given(value=st.floats(-1e6, 1e6), size=st.integers(1, 12))
@settings(max_examples=200)
def test_equal_rewards_teach_nothing_whatever_rounding_makes_of_their_mean(value, size):
    for advantage in [*EXACT, greedy_baseline]:
        assert advantage(*flat([[value] * size])).tolist() == [0.0] * size


def test_rewards_that_differ_by_rounding_alone_are_equal():
    added_up, at_once = sum([0.1] * 100_000), 0.1 * 100_000
    assert added_up != at_once
    for rewards in ([added_up, at_once] * 4, [0.1 + 0.2, 0.3], [-1e30, -1e30 * (1 + 1e-15)]):
        assert not are_mixed(rewards)
        for advantage in EXACT:
            assert advantage(*flat([rewards, [0.0, 1.0]]))[: len(rewards)].tolist() == [0.0] * len(rewards)
    for rewards in ([1.0, 1.0 + 1e-5], [0.0, 1e-12], [-1e-9, 1e-9], [1e6, 1e6 + 10.0]):
        assert are_mixed(rewards)
        found = group_std(*flat([rewards]), eps=0.0)
        assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-6)


def test_mixed_is_told_of_scored_rewards_and_what_is_no_number_goes_on_to_the_learner():
    assert not are_mixed([])
    assert not are_mixed([None, 1.0])
    assert are_mixed([None, 1.0, 0.0])
    assert are_mixed([float("nan"), float("nan")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_rewards_do_not_overflow(dtype):
    rewards = torch.tensor([1e30, -1e30, 1e30, -1e30], dtype=dtype)
    groups, valid = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    expected = [0.8660254, -0.8660254, 0.8660254, -0.8660254]
    assert group_std(rewards, groups, valid).tolist() == pytest.approx(expected)


def test_the_deviation_is_that_of_the_sample_or_as_it_is():
    for ddof, expected in ((1, 0.5**0.5), (0, 1.0)):
        assert group_std(*flat([[0.0, 1.0]]), eps=0.0, ddof=ddof).tolist() == pytest.approx([-expected, expected])


def test_the_greedy_member_is_the_baseline_of_its_group():
    rewards, groups, valid = flat([[0.5, 1.0, 0.0], [1.0, 1.0], [0.0, 1.0, 0.0]])
    valid[5] = False
    rewards[5] = float("nan")
    assert greedy_baseline(rewards, groups, valid).tolist() == [0.0, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_whole_numbers_and_no_rewards_at_all_are_scored_too():
    groups, valid = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)
    for advantage in [*EXACT, greedy_baseline]:
        found = advantage(torch.tensor([0, 1]), groups, valid)
        assert found[0] <= 0 < found[1]
        assert advantage(torch.zeros(0), groups[:0], valid[:0]).tolist() == []


def test_a_group_of_one_has_advantage_zero():
    for advantage in EXACT:
        found = advantage(*flat([[1.0], [0.0, 1.0]]))
        assert found[0] == 0 != found[1]


def test_bad_options_and_shapes_are_refused():
    rewards, numbers, valid = flat([[0.0, 1.0]])
    for name, value in (("ddof", 2), ("eps", float("nan")), ("eps", float("inf"))):
        with pytest.raises(ConfigError, match=name):
            group_std(rewards, numbers, valid, **{name: value})
    with pytest.raises(ShapeError, match="one entry per member"):
        mean_only(rewards, numbers[:1], valid)

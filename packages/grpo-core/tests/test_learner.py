from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_core import (
    AdaptiveLearningRate,
    ConstantWeight,
    Decisions,
    Evaluation,
    ExponentialDecay,
    GroupSpec,
    GRPOConfig,
    Job,
    Learner,
    RatioLevel,
    Staleness,
    Trajectory,
    collate,
    constant_length,
    element_mean,
    group_std,
    mean_only,
    trajectory_mean,
)
from grpo_core._tensors import HostCopy
from grpo_core.errors import (
    ConfigError,
    GRPOError,
    LogProbMismatchError,
    NonFiniteError,
    PrecisionError,
    ShapeError,
    StateError,
)
from grpo_core.learner import bounds_of, steps_of
from grpo_core.losses import SurrogateLoss

MIXED: list[list[float | None]] = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0]]


def plain(**options: Any) -> dict[str, Any]:
    """One unclipped gradient step, in which the change of the weights is the gradient."""
    return {"inner_epochs": 1, "max_grad_norm": None} | options


def changes(policy: Any, trajectories: list[Any], options: dict[str, Any], reference: Any = None) -> Tensor:
    """What an update of a copy of `policy` by plain gradient descent does to its weights."""
    policy = copy.deepcopy(policy)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])
    config, optimizer = GRPOConfig(**options), torch.optim.SGD(policy.parameters(), lr=0.1)
    Learner(policy, optimizer, config, reference=reference).update(collate(trajectories))
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]) - before


def weights_of(policy: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def same(left: Any, right: Any) -> bool:
    """Whether two states hold the same, bit for bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


@pytest.mark.parametrize("level", RatioLevel)
@pytest.mark.parametrize("minibatches", [1, 2])
@given(micro_rows=st.integers(1, 30))
@settings(max_examples=2)  # more in the next test but few, at every aggregation
def test_micro_batches_change_nothing(gaussian_policy, episodes, level, minibatches, micro_rows):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    options = {"level": level, "minibatches": minibatches, "inner_epochs": 2}
    expected = changes(policy, trajectories, options)
    found = changes(policy, trajectories, options | {"micro_rows": micro_rows})
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert expected.abs().max() > 1e-3


@given(data=st.data())
@settings(max_examples=20)
def test_failed_members_change_nothing(gaussian_policy, episodes, data):
    policy = gaussian_policy()
    rewards = [list(group) for group in MIXED]
    for group in rewards:
        for _ in range(data.draw(st.integers(0, 2))):
            group.append(None)
    trajectories = episodes(policy, rewards)
    survivors = [trajectory for trajectory in trajectories if trajectory.status == "ok"]
    assert torch.equal(changes(policy, trajectories, plain()), changes(policy, survivors, plain()))


def test_a_failed_member_is_not_a_reward_of_zero(gaussian_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))
    metrics = learner.update(collate(episodes(policy, [[1.0, None, 1.0]])))
    assert (metrics.mixed_groups, metrics.optimizer_steps, metrics.failed_trajectories) == (0, 0, 1)
    assert metrics.reward_mean == 1.0


@given(shift=st.integers(-8, 8), scale=st.sampled_from([0.25, 1.0, 8.0]))
@settings(max_examples=15)
def test_shifting_and_scaling_rewards_changes_nothing(gaussian_policy, episodes, shift, scale):
    policy = gaussian_policy()
    moved = [[None if r is None else scale * r + shift for r in group] for group in MIXED]
    torch.testing.assert_close(
        changes(policy, episodes(policy, moved), plain()),
        changes(policy, episodes(policy, MIXED), plain()),
        atol=1e-5,  # eps of eq. (7) is not scaled with the rewards
        rtol=1e-4,
    )


def test_degenerate_groups_take_no_part_when_dropped(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, [[1.0, 0.0, 1.0], [1.0, 1.0], [0.0, 0.0, 0.0]])
    alone = [trajectory for trajectory in trajectories if trajectory.job.spec.group == 0]
    found = changes(policy, trajectories, plain())
    torch.testing.assert_close(found, changes(policy, alone, plain()), atol=1e-14, rtol=1e-12)


def test_an_update_of_degenerate_groups_makes_no_step(gaussian_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.1))
    before = weights_of(policy)
    metrics = learner.update(collate(episodes(policy, [[1.0, 1.0], [0.0, 0.0], [None, 1.0], [None]])))
    assert equal(weights_of(policy), before)
    assert (metrics.optimizer_steps, metrics.inner_epochs, metrics.decisions) == (0, 0, 0)
    assert (metrics.groups, metrics.mixed_groups) == (4, 0)
    assert (metrics.loss, metrics.ratio_max, metrics.grad_norm) == (None, None, None)
    assert (learner.updates, learner.entropy_weight) == (1, 0.01)
    json.dumps(dataclasses.asdict(metrics))


def test_kept_degenerate_groups_are_moved_by_the_entropy_bonus_alone(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, [[1.0, 1.0, 1.0]])
    kept = {"drop_degenerate": False}
    without = changes(policy, trajectories, plain(**kept, entropy_weight=ConstantWeight(0.0)))
    assert without.abs().max() == 0
    found = changes(policy, trajectories, plain(**kept, entropy_weight=ConstantWeight(0.25)))
    # d entropy / d log_std = 1 per component of each decision, and the weights of the mean have no part in it.
    expected = torch.tensor([0.0] * 6 + [0.1 * 0.25] * 2, dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_a_batch_of_failures_is_counted_and_trains_nothing(gaussian_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))
    metrics = learner.update(collate(episodes(policy, [[None, None]])))
    assert (metrics.trajectories, metrics.failed_trajectories, metrics.reward_mean) == (2, 2, None)
    assert metrics.optimizer_steps == 0


def test_the_first_pass_has_ratio_one(gaussian_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), GRPOConfig(inner_epochs=1))
    metrics = learner.update(collate(episodes(policy, MIXED)))
    assert metrics.log_prob_error < 1e-12
    assert metrics.ratio_min == pytest.approx(1.0)
    assert metrics.ratio_max == pytest.approx(1.0)
    assert (metrics.clip_fraction_low, metrics.clip_fraction_high) == (0.0, 0.0)
    assert metrics.approx_kl == pytest.approx(0.0, abs=1e-12)
    assert metrics.decisions == sum(len(trajectory.decisions) for trajectory in episodes(policy, MIXED))


def test_ratios_move_over_the_inner_epochs(gaussian_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=2.0), GRPOConfig(max_grad_norm=None))
    metrics = learner.update(collate(episodes(policy, MIXED)))
    assert metrics.optimizer_steps == metrics.inner_epochs == 4
    assert metrics.ratio_min < 0.8
    assert metrics.ratio_max > 1.2
    assert metrics.clip_fraction_low + metrics.clip_fraction_high > 0
    assert metrics.approx_kl > 0


def test_gradients_are_clipped_to_the_norm(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    change = changes(policy, trajectories, plain() | {"max_grad_norm": 1e-3})
    assert change.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-4)
    unclipped = changes(policy, trajectories, plain())
    torch.testing.assert_close(change / change.norm(), unclipped / unclipped.norm())


@pytest.mark.parametrize("level", [RatioLevel.COMPONENT, RatioLevel.TRAJECTORY_SUM])
def test_minibatches_cover_every_decision_once_per_pass_in_a_new_order(table_policy, level, gaussian_policy, episodes):
    source = episodes(gaussian_policy(), MIXED)
    total = sum(len(trajectory.decisions) for trajectory in source)
    start, trajectories = 0, []
    for trajectory in source:
        rows = torch.arange(start, start := start + len(trajectory.decisions))
        log_prob = torch.zeros(len(rows), 1, dtype=torch.float64)
        decisions = Decisions(states=rows, actions=rows, log_prob=log_prob)
        trajectories.append(dataclasses.replace(trajectory, decisions=decisions))

    def orders(seed: int, updates: int = 1) -> list[list[int]]:
        seen: list[Tensor] = []
        policy = table_policy(torch.zeros(total, 1, dtype=torch.float64), torch.zeros(total, dtype=torch.float64))
        evaluate = policy.evaluate

        def watch(states: Tensor, actions: Tensor) -> Evaluation:
            if torch.is_grad_enabled():
                seen.append(states)
            return evaluate(states, actions)

        policy.evaluate = watch
        config = GRPOConfig(inner_epochs=2, minibatches=3, level=level, seed=seed, log_prob_tolerance=None)
        learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.0), config)
        for _ in range(updates):
            metrics = learner.update(collate(trajectories))
        assert metrics.optimizer_steps == 6
        return [part.tolist() for part in seen]

    parts = orders(seed=1, updates=2)
    passes = [parts[start : start + 3] for start in range(0, 12, 3)]
    for one_pass in passes:
        assert sorted(row for part in one_pass for row in part) == list(range(total))
    assert len({str(one_pass) for one_pass in passes}) == 4
    assert orders(seed=1, updates=2) == parts
    assert orders(seed=2, updates=2) != parts
    if level.whole_trajectories:
        ends = torch.tensor([len(trajectory.decisions) for trajectory in trajectories]).cumsum(0).tolist()
        whole = [set(range(first, last)) for first, last in zip([0, *ends], ends, strict=False)]
        assert all(not own & set(part) or own <= set(part) for own in whole for part in parts)


@pytest.mark.parametrize(
    ("rows", "minibatches", "sizes"), [(9, 4, [3, 2, 2, 2]), (16, 7, [3, 3, 2, 2, 2, 2, 2]), (2, 3, [1, 1])]
)
def test_a_pass_makes_as_many_steps_as_asked_of_sizes_that_differ_by_one_at_most(
    gaussian_policy, episodes, rows, minibatches, sizes
):
    batch = collate(episodes(gaussian_policy(), [*MIXED, MIXED[0]])).cut(0, rows)
    steps = steps_of(GRPOConfig(minibatches=minibatches), batch, update=0, epoch=0)
    assert [len(step.owner) for step in steps] == sizes


@given(data=st.data(), level=st.sampled_from(RatioLevel))
@settings(max_examples=20)
def test_padding_changes_nothing(gaussian_policy, episodes, data, level):
    """Rows of NaN, masked out, at the end of trajectories: what a padded recorder would hand over."""
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    padded = []
    for trajectory in trajectories:
        rows = data.draw(st.integers(0, 3))
        own = trajectory.decisions
        nothing = torch.full((rows, 2), float("nan"), dtype=torch.float64)
        decisions = Decisions(
            states=torch.cat([own.states, torch.zeros(rows, 3, dtype=torch.float64)]),
            actions=torch.cat([own.actions, torch.zeros(rows, 2, dtype=torch.float64)]),
            log_prob=torch.cat([own.log_prob, nothing]),
            mask=torch.arange(len(own) + rows).unsqueeze(1).expand(-1, 2) < len(own),
        )
        padded.append(dataclasses.replace(trajectory, decisions=decisions))
    options = plain(level=level)
    expected = changes(policy, trajectories, options)
    torch.testing.assert_close(changes(policy, padded, options), expected, atol=1e-12, rtol=1e-9)


def test_advantages_given_with_the_batch_replace_those_of_the_configuration(gaussian_policy, episodes):
    policy = gaussian_policy()
    batch = collate(episodes(policy, MIXED))

    def change(advantages: Tensor | None) -> Tensor:
        own = copy.deepcopy(policy)
        learner = Learner(own, torch.optim.SGD(own.parameters(), lr=0.1), GRPOConfig(**plain()))
        learner.update(batch, advantages)
        return own.weight.detach() - policy.weight.detach()

    scores = group_std(batch.rewards, batch.groups, batch.valid)
    assert torch.equal(change(scores), change(None))
    assert not torch.allclose(change(-scores), change(None))
    per_decision = scores[batch.owner].unsqueeze(1)
    assert torch.equal(change(per_decision), change(None))
    assert torch.equal(change(per_decision.expand(-1, 2)), change(None))
    spoiled = scores.clone()
    spoiled[2] = float("nan")
    for wrong in (spoiled, spoiled[batch.owner].unsqueeze(1)):
        with pytest.raises(NonFiniteError, match=f"advantage is not finite in {NAME}"):
            change(wrong)
    with pytest.raises(ShapeError, match="one for each of 9 trajectories"):
        change(scores[:-1])


def test_credit_goes_to_single_decisions_and_components(table_policy):
    """Four decisions of two components at ratio 1: the gradient of each is its own advantage over the count."""
    policy = table_policy(torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    spec = GroupSpec(group=0, task="t", seed=0, size=2)
    trajectories = []
    for member in range(2):
        rows = torch.arange(2 * member, 2 * member + 2)
        decisions = Decisions(states=rows, actions=rows, log_prob=torch.zeros(2, 2, dtype=torch.float64))
        trajectories.append(Trajectory(job=Job(spec=spec, member=member), decisions=decisions, reward=1.0))
    # So large that any bound of the gradient's norm would show.
    credit = 1e6 * torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.0, 0.0], [3.0, 0.5]], dtype=torch.float64)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=8.0), GRPOConfig(**plain()))
    metrics = learner.update(collate(trajectories), credit)
    torch.testing.assert_close(policy.log_prob.detach(), credit)
    # Credit comes from elsewhere than the rewards, which are equal: no group is mixed, yet there is much to learn.
    assert (metrics.mixed_groups, metrics.decisions, metrics.effective_decisions) == (0, 4, 3)


def test_a_group_teaches_whose_credit_goes_to_its_second_component_alone(table_policy):
    policy = table_policy(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    spec = GroupSpec(group=0, task="t", seed=0, size=2)
    trajectories = []
    for member in range(2):
        row = torch.tensor([member])
        decisions = Decisions(states=row, actions=row, log_prob=torch.zeros(1, 2, dtype=torch.float64))
        trajectories.append(Trajectory(job=Job(spec=spec, member=member), decisions=decisions, reward=1.0))
    credit = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=4.0), GRPOConfig(**plain()))
    assert learner.update(collate(trajectories), credit).decisions == 2
    torch.testing.assert_close(policy.log_prob.detach(), credit)


@pytest.mark.parametrize("minibatches", [1, 2, 4])
@pytest.mark.parametrize("aggregation", [element_mean, trajectory_mean, functools.partial(constant_length, length=7.0)])
def test_minibatches_change_the_number_of_steps_and_not_their_size(table_policy, aggregation, minibatches):
    """One component, a reward each way, and steps too small to move the ratio: M steps add up to M times one.

    The entropy bonus, whose gradient is M times 0.25 whatever the aggregation, must keep its proportion.
    """
    count = 8
    policy = table_policy(torch.zeros(2 * count, 1, dtype=torch.float64))
    policy.log_std = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    evaluate = policy.evaluate
    policy.evaluate = lambda states, actions: evaluate(states, actions)._replace(
        entropy=policy.log_std.expand(len(states))
    )
    spec = GroupSpec(group=0, task="t", seed=0, size=2)
    trajectories = []
    for member in range(2):
        rows = torch.arange(count * member, count * (member + 1))
        decisions = Decisions(states=rows, actions=rows, log_prob=torch.zeros(count, 1, dtype=torch.float64))
        trajectories.append(Trajectory(job=Job(spec=spec, member=member), decisions=decisions, reward=float(member)))
    config = GRPOConfig(
        **plain(aggregation=aggregation, minibatches=minibatches, advantage=mean_only),
        entropy_weight=ConstantWeight(0.25),
    )
    Learner(policy, torch.optim.SGD(policy.parameters(), lr=1e-6), config).update(collate(trajectories))
    moved = policy.log_prob.detach()[count:].sum() / 1e-6
    whole = 0.5 * count / (2 * 7.0 if isinstance(aggregation, functools.partial) else 2 * count)
    assert moved.item() == pytest.approx(minibatches * whole, rel=1e-4)
    assert policy.log_std.item() / 1e-6 == pytest.approx(minibatches * 0.25)


@pytest.mark.parametrize("aggregation", [element_mean, trajectory_mean, functools.partial(constant_length, length=7.0)])
@pytest.mark.parametrize("level", RatioLevel)
def test_micro_batches_change_nothing_whatever_the_aggregation(gaussian_policy, episodes, aggregation, level):
    policy, reference = gaussian_policy(), gaussian_policy(seed=1)
    trajectories = episodes(policy, MIXED)
    options = {"level": level, "aggregation": aggregation, "minibatches": 2, "kl_weight": 0.3}
    expected = changes(policy, trajectories, options, reference)
    for micro_rows in (1, 4, 9):
        found = changes(policy, trajectories, options | {"micro_rows": micro_rows}, reference)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_sums_over_whole_trajectories_never_overflow(table_policy):
    """Twenty rows with a log-ratio of 5 each: the sum of 100 has no exponential in float32."""
    policy = table_policy(torch.zeros(40, 1))
    spec = GroupSpec(group=0, task="t", seed=0, size=2)
    trajectories = []
    for member in range(2):
        rows = torch.arange(20 * member, 20 * member + 20)
        decisions = Decisions(states=rows, actions=rows, log_prob=torch.full((20, 1), -5.0))
        trajectories.append(Trajectory(job=Job(spec=spec, member=member), decisions=decisions, reward=float(member)))
    config = GRPOConfig(
        level=RatioLevel.TRAJECTORY_SUM, entropy_weight=ConstantWeight(0.0), log_prob_tolerance=None, inner_epochs=1
    )
    metrics = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), config).update(collate(trajectories))
    assert metrics.ratio_max == pytest.approx(math.exp(20.0), rel=1e-4)
    # The winner is clipped; the loser's gradient points down.
    assert policy.log_prob.detach()[20:].abs().max() == 0
    assert (policy.log_prob.detach()[:20] < 0).all()


class Perceptron(torch.nn.Module):
    """A Gaussian whose mean comes out of a linear layer, in whatever precision the surroundings ask for."""

    def __init__(self, *, upcast: bool) -> None:
        super().__init__()
        self.mean = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(self.mean.weight, 0.1)
        self.upcast = upcast
        self.precisions: set[torch.dtype] = set()

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        mean = self.mean(states.float())
        self.precisions.add(mean.dtype)
        difference = (mean.float() if self.upcast else mean) - actions.to(torch.float32 if self.upcast else mean.dtype)
        return Evaluation(-difference * difference / 2, torch.zeros(len(states)))


def autocast_episodes(policy: Perceptron) -> list[Trajectory[Tensor, Tensor]]:
    trajectories = []
    for member in range(4):
        states = torch.linspace(-1, 1, 15).view(5, 3) + member
        actions = torch.linspace(1, -1, 10).view(5, 2)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            log_prob = policy.evaluate(states, actions).log_prob.float()
        job = Job(spec=GroupSpec(group=0, task="t", seed=0, size=4), member=member)
        decisions = Decisions(states=states, actions=actions, log_prob=log_prob)
        trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(member % 2)))
    return trajectories


def test_mixed_precision_evaluates_in_bfloat16_and_keeps_ratios_in_float32():
    policy = Perceptron(upcast=True)
    trajectories = autocast_episodes(policy)
    policy.precisions.clear()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    config = GRPOConfig(bfloat16=True, log_prob_tolerance=1e-6)
    metrics = Learner(policy, optimizer, config).update(collate(trajectories))
    assert policy.precisions == {torch.bfloat16}
    assert policy.mean.weight.dtype == torch.float32
    assert metrics.log_prob_error == 0.0
    assert metrics.grad_norm > 0
    exact = Learner(policy, optimizer, GRPOConfig(log_prob_tolerance=1e-6))
    with pytest.raises(LogProbMismatchError, match="precision"):
        exact.update(collate(trajectories))


def test_log_probabilities_that_autocast_left_in_half_precision_are_refused():
    policy = Perceptron(upcast=False)
    trajectories = autocast_episodes(policy)
    before = policy.mean.weight.detach().clone()
    with pytest.raises(PrecisionError, match=r"bfloat16.*float32"):
        Learner(policy, torch.optim.SGD(policy.parameters(), lr=1.0), GRPOConfig(bfloat16=True)).update(
            collate(trajectories)
        )
    assert torch.equal(policy.mean.weight, before)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_target_kl_stops_before_the_step_that_would_go_further(gaussian_policy, episodes, minibatches):
    def run(target_kl: float | None, epochs: int) -> tuple[Tensor, Any, Any]:
        policy = gaussian_policy()
        config = GRPOConfig(inner_epochs=epochs, target_kl=target_kl, max_grad_norm=None, minibatches=minibatches)
        learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.2), config)
        return policy.weight.detach(), learner.update(collate(episodes(gaussian_policy(), MIXED))), learner

    weights, metrics, learner = run(1e-3, 10)
    assert 1 < metrics.optimizer_steps < 10 * minibatches
    assert metrics.approx_kl > 1e-3
    assert learner.entropy_weight == 0.01 * 0.999**metrics.optimizer_steps
    if minibatches == 1:
        expected, other, _ = run(None, metrics.optimizer_steps)
        assert torch.equal(weights, expected), "the step that was read before was made after all"
        assert other.approx_kl < 1e-3
    _, metrics, _ = run(1e-9, 10)
    assert metrics.optimizer_steps == 1, "one step tells how far it goes only before the next"
    assert metrics.inner_epochs == 1, "a pass without a step is none"


def test_target_kl_is_that_of_the_whole_step_whatever_its_micro_batches(gaussian_policy, episodes):
    def run(micro_rows: int | None) -> Any:
        policy = gaussian_policy()
        config = GRPOConfig(inner_epochs=10, target_kl=1e-3, max_grad_norm=None, micro_rows=micro_rows)
        learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.2), config)
        return learner.update(collate(episodes(gaussian_policy(), MIXED)))

    whole = run(None)
    assert 1 < whole.optimizer_steps < 10
    for micro_rows in (1, 4, 15):
        found = run(micro_rows)
        assert found.optimizer_steps == whole.optimizer_steps
        assert found.approx_kl == pytest.approx(whole.approx_kl)


def divergence(policy: Any, trajectories: list[Any]) -> float:
    """Mean k3 from the recorded log-probabilities to those of now, written out."""
    terms = []
    for trajectory in trajectories:
        with torch.no_grad():
            now = policy.evaluate(trajectory.decisions.states, trajectory.decisions.actions).log_prob
        terms += [math.exp(d) - d - 1 for d in (now - trajectory.decisions.log_prob).flatten().tolist()]
    return sum(terms) / len(terms)


def test_the_learning_rate_follows_the_divergence_of_the_whole_update(gaussian_policy, episodes):
    adaptive = AdaptiveLearningRate(low=1e-3, high=5e-3, factor=2.0, minimum=1e-3, maximum=1.0)
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=1e-3), GRPOConfig(learning_rate=adaptive))
    rates, found = [], []
    for number in range(12):
        trajectories = episodes(policy, MIXED, seed=number)
        metrics = learner.update(collate(trajectories))
        assert metrics.approx_kl == pytest.approx(divergence(policy, trajectories), rel=1e-9)
        rates.append(metrics.learning_rate)
        found.append(metrics.approx_kl)
    rates.append(learner.optimizer.param_groups[0]["lr"])
    for before, after, measured in zip(rates, rates[1:], found, strict=False):
        factor = 2.0 if measured < 1e-3 else 0.5 if measured > 5e-3 else 1.0
        assert after == pytest.approx(min(max(before * factor, 1e-3), 1.0))
    assert 1e-3 <= sum(found[-5:]) / 5 <= 5e-3
    assert found[0] < 1e-4
    assert rates[-1] > 10 * rates[0]

    other = gaussian_policy()
    resumed = Learner(other, torch.optim.SGD(other.parameters(), lr=1e-3), GRPOConfig(learning_rate=adaptive))
    resumed.load_state_dict(learner.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == rates[-1]
    learner.update(collate(episodes(policy, [[1.0, 1.0]])))
    assert learner.optimizer.param_groups[0]["lr"] == rates[-1], "an update without a step measures nothing"


def test_learning_rates_stay_within_their_bounds_and_keep_their_kind():
    adaptive = AdaptiveLearningRate(low=0.1, high=0.2, factor=1.5, minimum=0.01, maximum=0.03)
    assert [adaptive.after(0.02, kl) for kl in (0.0, 0.05, 0.15, 0.3)] == pytest.approx([0.02, 0.03, 0.02, 0.02 / 1.5])
    assert adaptive.after(0.01, 0.3) == 0.01
    assert adaptive.after(1.0, 0.05) == 1.0, "a rate that was set beyond the bounds is not moved further out"
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.02))
    adaptive.apply(optimizer, 0.3)
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.02 / 1.5)


@pytest.mark.parametrize(
    "options", [{"low": -0.1}, {"low": 0.1}, {"factor": 1.0}, {"minimum": 0.0}, {"minimum": 1.0, "maximum": 0.5}]
)
def test_adaptive_rates_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        AdaptiveLearningRate(**options)


def test_the_entropy_weight_decays_by_every_optimizer_step(gaussian_policy, episodes):
    policy = gaussian_policy()
    config = GRPOConfig(inner_epochs=3, minibatches=2)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.0), config)
    for _ in range(2):
        metrics = learner.update(collate(episodes(policy, MIXED)))
    assert metrics.entropy_weight == 0.01 * 0.999**6
    assert learner.entropy_weight == 0.01 * 0.999**12


def constant(table_policy: Any, entropy: Tensor, mask: Tensor | None = None) -> tuple[Any, list[Any]]:
    """A policy with entropies that no step changes, and two trajectories of its rows."""
    rows, spec = len(entropy) // 2, GroupSpec(group=0, task="t", seed=0, size=2)
    policy = table_policy(torch.zeros(len(entropy), 2, dtype=torch.float64), entropy)
    trajectories = []
    for job in spec.jobs():
        own = torch.arange(rows * job.member, rows * (job.member + 1))
        log_prob = torch.zeros(rows, 2, dtype=torch.float64)
        decisions = Decisions(states=own, actions=own, log_prob=log_prob, mask=None if mask is None else mask[own])
        trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(job.member)))
    return policy, trajectories


def test_the_entropy_weight_decays_within_an_update_too(table_policy):
    policy, trajectories = constant(table_policy, torch.ones(4, dtype=torch.float64))
    config = GRPOConfig(inner_epochs=3, entropy_weight=ExponentialDecay(start=1.0, decay=0.5))
    metrics = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.0), config).update(collate(trajectories))
    assert metrics.surrogate - metrics.loss == pytest.approx((1.0 + 0.5 + 0.25) / 3)


@pytest.mark.parametrize("micro_rows", [None, 1])
def test_entropies_of_components_are_averaged_over_those_that_count(table_policy, micro_rows):
    entropy = torch.tensor([[1.0, 9.0], [2.0, 3.0], [9.0, 9.0], [4.0, 5.0]], dtype=torch.float64)
    policy, trajectories = constant(table_policy, entropy, entropy < 9)
    config = GRPOConfig(micro_rows=micro_rows)
    metrics = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.0), config).update(collate(trajectories))
    assert metrics.entropy == pytest.approx((1.0 + 2.0 + 3.0 + 4.0 + 5.0) / 5)


def test_an_update_of_nothing_is_an_update(gaussian_policy):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.1))
    before = weights_of(policy)
    metrics = learner.update(collate([]))
    assert (metrics.trajectories, metrics.groups, metrics.optimizer_steps, metrics.reward_mean) == (0, 0, 0, None)
    assert learner.updates == 1
    assert equal(weights_of(policy), before)


def poisoned(trajectories: list[Any], member: int, **change: Any) -> list[Any]:
    changed = list(trajectories)
    victim = changed[member]
    if "reward" in change:
        changed[member] = dataclasses.replace(victim, reward=change["reward"])
    else:
        changed[member] = dataclasses.replace(victim, decisions=dataclasses.replace(victim.decisions, **change))
    return changed


def refused(policy: Any, trajectories: list[Any], error: type[BaseException], match: str, **options: Any) -> None:
    """Asserts that an update raises `error` and changes neither weights nor optimiser, which then go on to learn."""
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=0.1), GRPOConfig(**options))
    healthy = [trajectory for trajectory in trajectories if trajectory.job.spec.group == 1]
    learner.update(collate(healthy))
    before, state = weights_of(policy), learner.state_dict()
    with pytest.raises(error, match=match):
        learner.update(collate(trajectories))
    after = learner.state_dict()
    assert equal(weights_of(policy), before)
    assert same(after, state | {"refusals": int(issubclass(error, GRPOError))})
    assert all(parameter.grad is None for parameter in policy.parameters())


NAME = "group 0 member 2 \\(task `task`, seed 0\\)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_refused_by_name(gaussian_policy, episodes, value):
    policy = gaussian_policy()
    trajectories = poisoned(episodes(policy, MIXED), 2, reward=value)
    refused(policy, trajectories, NonFiniteError, f"reward is {value} in {NAME};", log_prob_tolerance=None)


def test_a_recorded_log_probability_that_is_not_finite_is_refused_by_name(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    log_prob = trajectories[2].decisions.log_prob.clone()
    log_prob[0, 1] = float("nan")
    trajectories = poisoned(trajectories, 2, log_prob=log_prob)
    refused(policy, trajectories, NonFiniteError, f"Log-probabilities.*{NAME};", log_prob_tolerance=None)


@pytest.mark.parametrize("micro_rows", [None, 2])
def test_an_action_without_likelihood_is_refused_by_name(gaussian_policy, episodes, micro_rows):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    trajectories = poisoned(trajectories, 2, actions=torch.full_like(trajectories[2].decisions.actions, float("inf")))
    options = {"log_prob_tolerance": None, "micro_rows": micro_rows}
    refused(policy, trajectories, NonFiniteError, f"Log-probabilities.*{NAME};", **options)


class Spoiled(torch.autograd.Function):
    """The identity, whose gradient is NaN where the second argument says so."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (where,) = ctx.saved_tensors
        return torch.where(where, float("nan"), gradient), None


@pytest.mark.parametrize("micro_rows", [None, 2])
@pytest.mark.parametrize("level", [RatioLevel.COMPONENT, RatioLevel.TRAJECTORY_GEOMEAN])
def test_a_gradient_that_is_not_finite_is_refused_by_name(gaussian_policy, episodes, micro_rows, level):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    marked = trajectories[2].decisions.states[0]
    evaluate = policy.evaluate

    def spoil(states: Tensor, actions: Tensor) -> Evaluation:
        log_prob, entropy = evaluate(states, actions)
        return Evaluation(Spoiled.apply(log_prob, (states == marked).all(dim=1, keepdim=True)), entropy)

    policy.evaluate = spoil
    options = {"micro_rows": micro_rows, "level": level, "log_prob_tolerance": None}
    refused(policy, trajectories, NonFiniteError, f"optimiser step 0 .*found in {NAME};", **options)


def test_a_policy_that_does_not_reproduce_its_log_probabilities_is_refused(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    moved = trajectories[2].decisions.log_prob + 0.01
    refused(policy, poisoned(trajectories, 2, log_prob=moved), LogProbMismatchError, f"up to 0.*in {NAME}",
            inner_epochs=1, minibatches=1, max_grad_norm=1e-12)  # fmt: skip
    other = gaussian_policy(seed=1)
    learner = Learner(other, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(LogProbMismatchError, match="and 6 more; nothing was trained"):
        learner.update(collate(trajectories))
    tolerant = Learner(other, learner.optimizer, GRPOConfig(log_prob_tolerance=None))
    assert tolerant.update(collate(trajectories)).log_prob_error > 0.01


def test_an_update_that_raises_half_way_is_taken_back(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    evaluate, calls = policy.evaluate, []

    def tire(states: Tensor, actions: Tensor) -> Evaluation:
        calls.append(len(states))
        if len(calls) > 7:
            raise KeyboardInterrupt("tired")
        return evaluate(states, actions)

    policy.evaluate = tire
    refused(policy, trajectories, KeyboardInterrupt, "^tired$", log_prob_tolerance=None)
    assert len(calls) == 8


def test_a_refused_update_restores_buffers_too(gaussian_policy, episodes):
    policy = gaussian_policy()
    policy.norm = torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)
    trajectories = episodes(policy, MIXED)
    evaluate = policy.evaluate
    policy.evaluate = lambda states, actions: (policy.norm(states), evaluate(states, actions))[1]
    poison = poisoned(trajectories, 2, log_prob=torch.full_like(trajectories[2].decisions.log_prob, float("nan")))
    before = {name: value.clone() for name, value in policy.norm.named_buffers()}
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))
    with pytest.raises(NonFiniteError):
        learner.update(collate(poison))
    assert equal(dict(policy.norm.named_buffers()), before)
    learner.update(collate(trajectories))
    assert not equal(dict(policy.norm.named_buffers()), before)


def test_refused_updates_are_skipped_and_counted_up_to_a_cap(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    poison = poisoned(trajectories, 2, reward=float("nan"))
    config = GRPOConfig(on_refusal="skip", max_refusals=2)
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=1e-4), config)
    before = weights_of(policy)
    metrics = learner.update(collate(poison))
    assert f"reward is nan in {NAME.replace(chr(92), '')}" in metrics.refused
    assert (metrics.optimizer_steps, metrics.loss, learner.updates) == (0, None, 1)
    learner.update(collate(poison))
    assert equal(weights_of(policy), before)
    resumed = Learner(policy, learner.optimizer, config)
    resumed.load_state_dict(learner.state_dict())
    with pytest.raises(NonFiniteError):
        resumed.update(collate(poison))
    healthy = learner.update(collate(trajectories))
    assert (healthy.refused, healthy.optimizer_steps) == (None, 4)
    assert learner.update(collate(poison)).refused is not None, "the count begins anew after an update that was made"


@pytest.mark.parametrize("micro_rows", [None, 1])
@pytest.mark.parametrize("log_std", [-0.7, -4.0, -5.0])
def test_a_policy_may_sharpen_without_ending_its_run(gaussian_policy, episodes, log_std, micro_rows):
    """A shift of the mean by 2e-5 is what another batch shape makes on a GPU; 0.2 sigma is another policy."""
    policy = gaussian_policy()
    with torch.no_grad():
        policy.log_std.fill_(log_std)
    trajectories = episodes(policy, MIXED * 8)  # so many that some lie far out
    weight = policy.weight

    def shifted(shift: float) -> Any:
        other = copy.deepcopy(policy)
        evaluate = other.evaluate
        other.evaluate = lambda states, actions: evaluate(states, actions + shift)
        optimizer = torch.optim.SGD([*other.parameters()], lr=0.0)
        return Learner(other, optimizer, GRPOConfig(micro_rows=micro_rows)).update(collate(trajectories))

    error = shifted(2e-5).log_prob_error
    assert error > (1e-3 if log_std < -3 else 0)
    with pytest.raises(LogProbMismatchError):
        shifted(0.2 * math.exp(log_std))
    assert weight.requires_grad


def test_a_wide_density_is_held_to_the_tolerance_of_a_standard_normal_one(gaussian_policy, episodes):
    policy = gaussian_policy()
    with torch.no_grad():
        policy.log_std.fill_(3.0)
    trajectories = episodes(policy, MIXED)
    near = poisoned(trajectories, 2, log_prob=trajectories[2].decisions.log_prob + 9e-4)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.0))
    assert learner.update(collate(near)).log_prob_error == pytest.approx(9e-4, rel=1e-3)
    far = poisoned(trajectories, 2, log_prob=trajectories[2].decisions.log_prob + 1.1e-3)
    with pytest.raises(LogProbMismatchError):
        learner.update(collate(far))


def test_a_mismatch_is_found_before_the_first_step(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    other = gaussian_policy(seed=1)
    seen, evaluate = [], other.evaluate
    other.evaluate = lambda states, actions: (seen.append(len(states)), evaluate(states, actions))[1]
    with pytest.raises(LogProbMismatchError):
        Learner(other, torch.optim.SGD(other.parameters(), lr=0.1)).update(collate(trajectories))
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_mismatch_of_few_decisions_is_found_whatever_the_first_minibatch(gaussian_policy, episodes, seed):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), GRPOConfig(minibatches=8, seed=seed))
    assert learner.update(collate(trajectories)).log_prob_error < 1e-6
    trajectories = episodes(policy, MIXED)
    moved = trajectories[2].decisions.log_prob.clone()
    moved[0] += 5.0
    before = weights_of(policy)
    with pytest.raises(LogProbMismatchError, match=f"up to 5 .*in {NAME}"):
        learner.update(collate(poisoned(trajectories, 2, log_prob=moved)))
    assert equal(weights_of(policy), before)


def test_parameters_in_float16_are_refused():
    policy = torch.nn.Linear(2, 2).half()
    with pytest.raises(PrecisionError, match="loss scaler"):
        Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))


def test_an_update_goes_on_bit_for_bit_after_a_save(gaussian_policy, episodes):
    def fresh(seed: int) -> tuple[Any, Learner[Tensor, Tensor]]:
        policy = gaussian_policy(seed)
        groups = [{"params": [policy.weight]}, {"params": [policy.log_std], "lr": torch.tensor(0.01)}]
        optimizer = torch.optim.AdamW(groups, lr=0.03)
        return policy, Learner(policy, optimizer, GRPOConfig(minibatches=2))

    policy, learner = fresh(seed=0)
    for number in range(3):
        learner.update(collate(episodes(policy, MIXED, seed=number)))
    weights, state = weights_of(policy), learner.state_dict()
    for number in range(3, 6):
        expected = learner.update(collate(episodes(policy, MIXED, seed=number)))

    other, resumed = fresh(seed=7)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for number in range(3, 6):
        found = resumed.update(collate(episodes(other, MIXED, seed=number)))
    assert equal(weights_of(other), weights_of(policy))
    assert found == expected
    assert found.update == 5
    assert same(resumed.state_dict(), learner.state_dict())


def test_a_foreign_state_is_refused(gaussian_policy, table_policy, episodes):
    policy = gaussian_policy()
    learner = Learner(policy, torch.optim.AdamW(policy.parameters()))
    learner.update(collate(episodes(policy, MIXED)))
    state = learner.state_dict()
    other = table_policy(torch.zeros(4, 1))
    with pytest.raises(StateError, match=r"shape \(3, 2\), the parameter \(4, 1\)"):
        Learner(other, torch.optim.AdamW(other.parameters())).load_state_dict(state)
    with pytest.raises(StateError, match="updates"):
        learner.load_state_dict({})
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)
    with pytest.raises(StateError, match=r"shape \(5,\), the parameter \(3, 2\)"):
        learner.load_state_dict(state)


def test_an_optimizer_without_trainable_parameters_is_refused(gaussian_policy):
    policy = gaussian_policy().requires_grad_(False)
    with pytest.raises(ConfigError, match="requires_grad"):
        Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))


def test_a_policy_that_drops_a_dimension_is_refused(gaussian_policy, episodes):
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    policy.evaluate = lambda states, actions: Evaluation(actions.sum(dim=1) * policy.log_std.sum())
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1))
    with pytest.raises(ShapeError, match="one row per decision and one column per component"):
        learner.update(collate(trajectories))


def test_metrics_of_an_update_are_those_of_its_steps(table_policy, gaussian_policy, episodes):
    """Two passes over two one-step trajectories, by hand: the ratio is 1, then exp(0.9) and exp(-0.3).

    Advantages of 3 and -1 make the data lopsided, so that a divergence in the wrong direction would show.
    """
    jobs = [trajectory.job for trajectory in episodes(gaussian_policy(), [[1.0, 0.0]])]
    policy = table_policy(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    trajectories = [
        Trajectory(
            job=job,
            decisions=Decisions(
                states=torch.tensor([row]),
                actions=torch.tensor([row]),
                log_prob=torch.zeros(1, 1, dtype=torch.float64),
            ),
            reward=reward,
        )
        for row, (job, reward) in enumerate(zip(jobs, [1.0, 0.0], strict=True))
    ]
    config = GRPOConfig(inner_epochs=2, max_grad_norm=None, advantage=lambda rewards, *_: 4 * rewards - 1)
    metrics = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.6), config).update(collate(trajectories))
    high, low = math.exp(0.9), math.exp(-0.3)
    assert metrics.ratio_max == pytest.approx(high)
    assert metrics.ratio_min == pytest.approx(low)
    # Both are clipped in the second pass: 1.2 of the winner and 0.8 of the loser.
    assert metrics.surrogate == pytest.approx(((-3.0 + 1.0) / 2 + (-3.6 + 0.8) / 2) / 2)
    assert (metrics.clip_fraction_high, metrics.clip_fraction_low) == (0.25, 0.25)
    assert metrics.grad_norm_max == pytest.approx(math.hypot(1.5, 0.5))
    assert metrics.grad_norm == pytest.approx(math.hypot(1.5, 0.5) / 2)
    assert metrics.approx_kl == pytest.approx(((high - 0.9 - 1) + (low + 0.3 - 1)) / 2)
    assert (metrics.decisions, metrics.effective_decisions, metrics.inner_epochs) == (2, 2, 2)


def test_the_divergence_of_an_update_is_the_mean_over_the_steps_of_its_last_pass(table_policy):
    """Each step moves a row of its own, in three passes: by 0.1 each, or -0.05."""
    policy = table_policy(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    trajectories = []
    for job in GroupSpec(group=0, task="t", seed=0, size=2).jobs():
        row, log_prob = torch.tensor([job.member]), torch.zeros(1, 1, dtype=torch.float64)
        decisions = Decisions(states=row, actions=row, log_prob=log_prob)
        trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(job.member)))
    config = GRPOConfig(
        inner_epochs=3,
        minibatches=2,
        max_grad_norm=None,
        advantage=lambda rewards, *_: 1.5 * rewards - 0.5,
        surrogate=lambda ratio, advantages, _: SurrogateLoss(-ratio * advantages, ratio > 9, ratio > 9),
    )
    metrics = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), config).update(collate(trajectories))
    high, low = 2 * 0.1, 2 * -0.05
    assert metrics.approx_kl == pytest.approx((math.exp(high) - high - 1 + math.exp(low) - low - 1) / 2)
    assert (metrics.optimizer_steps, metrics.inner_epochs) == (6, 3)


class HostReads(TorchDispatchMode):
    """Notes operations that need a tensor's value, or a number of rows that depends on it, on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0),
        ({"micro_rows": 4}, 0),
        ({"level": RatioLevel.TRAJECTORY_GEOMEAN}, 0),
        ({"kl_weight": 0.1}, 0),
        ({"staleness": Staleness()}, 0),
        ({"learning_rate": AdaptiveLearningRate()}, 0),
        ({"target_kl": 1e9}, 6),
    ],
    ids=lambda value: next(iter(value), "default") if isinstance(value, dict) else "",
)
def test_the_host_waits_for_no_value_between_the_first_pass_and_the_last_step(
    gaussian_policy, episodes, monkeypatch, options, expected
):
    """As on a GPU, where what is sent to the host is not there at once; on the CPU it would be."""
    monkeypatch.setattr(HostCopy, "has_arrived", lambda _: False)
    policy, host, found, steps = gaussian_policy(), HostReads(), [], []
    batch = collate(episodes(policy, MIXED))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    evaluate, step = policy.evaluate, optimizer.step

    def watch(states: Tensor, actions: Tensor) -> Evaluation:
        if not steps:
            host.found.clear()
        return evaluate(states, actions)

    def unwatched(*args: Any, **options: Any) -> Any:
        before = list(host.found)
        bounds = bounds_of(*args, **options)  # reads `owner`, which lies on the CPU
        host.found[:] = before
        return bounds

    def count() -> None:
        step()
        steps.append(len(host.found))
        found[:] = host.found

    policy.evaluate, optimizer.step = watch, count
    monkeypatch.setattr("grpo_core.learner.bounds_of", unwatched)
    with host:
        Learner(policy, optimizer, GRPOConfig(inner_epochs=6, **options), reference=gaussian_policy()).update(batch)
    assert len(steps) == 6
    assert found == ["_local_scalar_dense"] * expected
    assert len(host.found) > len(found), "the report is read in the end"


def test_a_mismatch_that_comes_back_late_takes_the_whole_update_back(gaussian_policy, episodes, monkeypatch):
    monkeypatch.setattr(HostCopy, "has_arrived", lambda _: False)
    policy = gaussian_policy()
    trajectories = episodes(policy, MIXED)
    moved = trajectories[2].decisions.log_prob + 0.01
    refused(policy, poisoned(trajectories, 2, log_prob=moved), LogProbMismatchError, f"up to 0.*{NAME}",
            inner_epochs=3, max_grad_norm=1e-12)  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"minibatches": 2, "micro_rows": 8}, {"level": RatioLevel.TRAJECTORY_GEOMEAN}])
def test_no_operation_of_an_update_waits_for_the_gpu(gaussian_policy, episodes, options):
    policy = gaussian_policy()
    trajectories = episodes(policy, [*MIXED, [1.0, 1.0], [None, 0.0, 1.0]])
    expected = changes(policy, trajectories, options)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])
    policy.cuda()
    batch = collate(trajectories, device="cuda")
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=0.1), GRPOConfig(**options))
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = torch.cat([parameter.detach().flatten().cpu() for parameter in policy.parameters()]) - before
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)

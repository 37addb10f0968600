from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from grpo_core import (
    ConstantWeight,
    Decisions,
    Evaluation,
    GroupSpec,
    GRPOConfig,
    Job,
    Learner,
    RatioLevel,
    Trajectory,
    clipped,
    collate,
    constant_length,
    element_mean,
    group_std,
    grpo_loss,
    trajectory_mean,
)
from grpo_core.errors import ConfigError, PrecisionError, ShapeError
from grpo_core.objective import Average, bound_log_ratio, terms_of, unit_counts


class SquashedTable(nn.Module):
    """A squashed Gaussian with a mean per decision and component: alpha = alpha_max (1 + tanh u) / 2."""

    def __init__(self, mean: Tensor, log_std: Tensor, alpha_max: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(mean.clone()), nn.Parameter(log_std.clone())
        self.alpha_max = alpha_max

    def log_prob(self, u: Tensor, mean: Tensor) -> Tensor:
        jacobian = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u)) + math.log(self.alpha_max / 2)
        return torch.distributions.Normal(mean, self.log_std.exp()).log_prob(u) - jacobian

    def evaluate(self, states: Tensor, actions: Tensor) -> Evaluation:
        mean = self.mean[states]
        noise = torch.linspace(-9, 9, 1001, dtype=mean.dtype).view(-1, 1, 1)
        u = mean + self.log_std.exp() * noise
        density = (-0.5 * noise**2).exp() / math.sqrt(2 * math.pi)
        entropy = torch.trapezoid(-density * self.log_prob(u, mean), noise.expand_as(u), dim=0)
        return Evaluation(self.log_prob(actions, mean), entropy.sum(dim=1))


def test_the_learner_steps_down_the_objective_of_the_paper():
    case = json.loads((Path(__file__).parent / "golden" / "noisegate_objective.json").read_text())
    inputs = {
        name: torch.tensor(case["inputs"][name], dtype=torch.float64)
        for name in ("u", "old_log_prob", "mean", "log_std")
    }
    options, expected, tolerance = case["options"], case["expected"], case["tolerance"]
    rows = torch.arange(len(inputs["u"])).split(options["lengths"])
    sizes = [options["groups"].count(group) for group in options["groups"]]
    trajectories = []
    for member, (own, reward) in enumerate(zip(rows, case["inputs"]["rewards"], strict=True)):
        spec = GroupSpec(group=options["groups"][member], task="t", seed=0, size=sizes[member])
        job = Job(spec=spec, member=member)
        decisions = Decisions(states=own, actions=inputs["u"][own], log_prob=inputs["old_log_prob"][own])
        failed = Trajectory.failed(job, error="it fell over")
        trajectories.append(failed if reward is None else Trajectory(job=job, decisions=decisions, reward=reward))

    policy = SquashedTable(inputs["mean"], inputs["log_std"], options["alpha_max"])
    # Only what the paper leaves open or what would hide the gradient: one pass without clipping its norm.
    config = GRPOConfig(inner_epochs=1, max_grad_norm=None, log_prob_tolerance=None)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), lr=1.0), config)
    state = learner.state_dict()
    state["optimizer_steps"] = options["optimizer_steps_before"]
    learner.load_state_dict(state)
    metrics = learner.update(collate(trajectories))

    assert math.isclose(metrics.loss, expected["loss"], abs_tol=tolerance)
    for found, before, name in ((policy.mean, "mean", "grad_mean"), (policy.log_std, "log_std", "grad_log_std")):
        gradient = inputs[before] - found.detach()
        torch.testing.assert_close(gradient, torch.tensor(expected[name]).double(), atol=tolerance, rtol=1e-6)
    assert (metrics.mixed_groups, metrics.groups, metrics.failed_trajectories) == (1, 2, 1)
    assert math.isclose(metrics.entropy_weight, 0.01 * 0.999**7)


def test_what_is_masked_out_may_hold_anything(rows_of):
    rows, log_prob = rows_of(12, 3, 4, seed=6)
    config = GRPOConfig(kl_weight=0.1)
    average = Average.of(config, rows, rows)
    log_prob.requires_grad_()
    clean = terms_of(config, rows, Evaluation(log_prob, log_prob), average, entropy_weight=0.1)
    (expected,) = torch.autograd.grad(clean.loss, log_prob)
    dirty_values = torch.where(rows.mask, log_prob.detach(), float("nan")).requires_grad_()
    dirty_rows = replace(rows, old_log_prob=torch.where(rows.mask, rows.old, float("inf")))
    dirty = terms_of(config, dirty_rows, Evaluation(dirty_values, dirty_values), average, entropy_weight=0.1)
    (found,) = torch.autograd.grad(dirty.loss, dirty_values)
    assert dirty.loss == clean.loss
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_probabilities_in_half_precision_are_refused(rows_of, dtype):
    rows, log_prob = rows_of(12, 3, 4, seed=7)
    config = GRPOConfig()
    average = Average.of(config, rows, rows)
    with pytest.raises(PrecisionError, match=r"to float32"):
        terms_of(config, rows, Evaluation(log_prob.to(dtype), log_prob), average, entropy_weight=0.01)
    half = terms_of(config, rows, Evaluation(log_prob, log_prob.to(dtype)), average, entropy_weight=0.01)
    whole = terms_of(config, rows, Evaluation(log_prob, log_prob), average, entropy_weight=0.01)
    assert half.surrogate == whole.surrogate
    torch.testing.assert_close(half.entropy.double(), whole.entropy, atol=1e-2, rtol=1e-2)


def test_a_policy_of_another_shape_is_refused(rows_of):
    rows, log_prob = rows_of(12, 3, 4, seed=8)
    config = GRPOConfig(entropy_weight=ConstantWeight(0.0))
    average = Average.of(config, rows, rows)
    with pytest.raises(ShapeError, match=r"\(12,\) for recorded ones of shape \(12, 3\)"):
        terms_of(config, rows, Evaluation(log_prob.sum(dim=1)), average, entropy_weight=0.0)
    with pytest.raises(ShapeError, match=r"Entropies have shape \(1, 3\)"):
        terms_of(config, rows, Evaluation(log_prob, log_prob[:1]), average, entropy_weight=0.0)


def test_a_bonus_without_entropies_is_refused(rows_of):
    rows, log_prob = rows_of(12, 3, 4, seed=9)
    config = GRPOConfig()
    with pytest.raises(ConfigError, match="no entropy"):
        terms_of(config, rows, Evaluation(log_prob), Average.of(config, rows, rows), entropy_weight=0.1)


@pytest.mark.parametrize("level", RatioLevel)
@pytest.mark.parametrize("aggregation", [element_mean, trajectory_mean, partial(constant_length, length=5.0)])
def test_the_weights_of_any_part_of_the_rows_add_up_to_those_of_all(rows_of, level, aggregation):
    rows, _ = rows_of(24, 3, 4, seed=10)
    config = GRPOConfig(level=level, aggregation=aggregation)
    total = (unit_counts(rows, level) * Average.of(config, rows, rows).loss).sum()
    for part in (torch.arange(3), torch.arange(0, 24, 5), torch.arange(6, 24)):
        own = rows.take(part)
        share = (unit_counts(own, level) * Average.of(config, rows, own).loss).sum()
        torch.testing.assert_close(share, total)


@pytest.mark.parametrize("level", RatioLevel)
def test_every_ratio_weighs_the_advantage_of_its_trajectory_once(rows_of, level):
    """Written out: however many components a ratio covers, `min(r A, clip(r) A)` has the advantage as it was given."""
    rows, log_prob = rows_of(12, 3, 4, seed=11)
    given, owners = rows.advantages[:, 0].tolist(), rows.owner.tolist()
    log_ratios: dict[object, list[float]] = {}
    advantages: dict[object, float] = {}
    for row in range(12):
        for component in range(3):
            if rows.mask[row, component]:
                unit = (owners[row], row, component)
                if level is not RatioLevel.COMPONENT:
                    unit = unit[:1] if level.whole_trajectories else unit[:2]
                log_ratios.setdefault(unit, []).append(float(log_prob[row, component] - rows.old[row, component]))
                advantages[unit] = given[row]
    losses = []
    for unit, parts in log_ratios.items():
        summed = level in (RatioLevel.STEP_SUM, RatioLevel.TRAJECTORY_SUM)
        ratio = math.exp(sum(parts) if summed else sum(parts) / len(parts))
        losses.append(-min(ratio * advantages[unit], min(max(ratio, 0.8), 1.2) * advantages[unit]))
    config = GRPOConfig(level=level)
    terms = terms_of(config, rows, Evaluation(log_prob), Average.of(config, rows, rows), entropy_weight=0.0)
    assert float(terms.loss) == pytest.approx(sum(losses) / len(losses))


def test_a_large_ratio_has_a_finite_loss_and_still_pushes_a_bad_action_down():
    log_ratio = torch.tensor([100.0, 30.0, -100.0], dtype=torch.float64, requires_grad=True)
    loss = clipped(bound_log_ratio(log_ratio), torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64), log_ratio).loss
    assert loss.tolist() == pytest.approx([-1.2, math.exp(20.0), 0.8])
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert gradient.tolist() == pytest.approx([0.0, math.exp(20.0), 0.0])


def test_the_loss_of_plain_tensors_is_the_formula_and_its_gradient():
    """Four log-ratios by hand: inside, clipped above, clipped below, and one that no clip stops."""
    ratio = torch.tensor([[1.1, 1.5, 0.5, 1.5]], dtype=torch.float64)
    advantages = torch.tensor([[2.0, 2.0, -1.0, -1.0]], dtype=torch.float64)
    log_prob = ratio.log().requires_grad_()
    loss = grpo_loss(log_prob, torch.zeros_like(ratio), advantages, clip_high=0.3)
    assert loss.item() == pytest.approx(-(2.2 + 2.6 - 0.8 - 1.5) / 4)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert gradient.tolist() == [pytest.approx([-2.2 / 4, 0.0, 0.0, 1.5 / 4])]
    mask = torch.tensor([[True, False, True, False]])
    masked = grpo_loss(log_prob, torch.full_like(ratio, float("nan")).where(~mask, 0.0), advantages, mask)
    assert masked.item() == pytest.approx(-(2.2 - 0.8) / 2)


@pytest.mark.parametrize(
    "options",
    [
        {"inner_epochs": 0},
        {"minibatches": 0},
        {"micro_rows": 0},
        {"max_grad_norm": 0.0},
        {"target_kl": float("nan")},
        {"log_prob_tolerance": -1.0},
        {"kl_weight": -0.1},
        {"max_refusals": 0},
        {"on_refusal": "rais"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        GRPOConfig(**options)


@pytest.mark.parametrize(
    "options",
    [{"low": 1.5}, {"high": -0.1}],
    ids=lambda options: next(iter(options)),
)
def test_clips_out_of_range_are_refused(options):
    one = torch.zeros(1)
    with pytest.raises(ConfigError, match=next(iter(options))):
        clipped(one, one, one, **options)


def test_the_defaults_are_those_of_the_paper():
    config = GRPOConfig()
    assert config.advantage is group_std
    assert config.level is RatioLevel.COMPONENT
    assert (config.inner_epochs, config.max_grad_norm, config.kl_weight) == (4, 1.0, 0.0)
    assert config.entropy_weight(1000) == 0.01 * 0.999**1000
    ratio = torch.tensor([0.5, 1.1, 1.5], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    assert config.surrogate(ratio.log(), one, one).loss.tolist() == pytest.approx([-0.5, -1.1, -1.2])
    assert config.surrogate(ratio.log(), -one, one).loss.tolist() == pytest.approx([0.8, 1.1, 1.5])

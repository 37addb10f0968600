from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from grpo_core import (
    ConfigError,
    ConstantWeight,
    Decisions,
    Evaluation,
    GroupSpec,
    GRPOConfig,
    Job,
    Learner,
    RatioLevel,
    Record,
    ShapeError,
    Trajectory,
    cispo,
    clipped,
    collate,
    denominators_of,
    group_std,
    grpo_loss,
    trajectory_mean,
    unclipped,
)


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
    state["values"]["optimizer_steps"] = options["optimizer_steps_before"]
    learner.load_state_dict(state)
    metrics = learner.update(collate(trajectories))

    assert math.isclose(metrics.loss, expected["loss"], abs_tol=tolerance)
    for found, before, name in ((policy.mean, "mean", "grad_mean"), (policy.log_std, "log_std", "grad_log_std")):
        gradient = inputs[before] - found.detach()
        torch.testing.assert_close(gradient, torch.tensor(expected[name]).double(), atol=tolerance, rtol=1e-6)
    assert (metrics.mixed_groups, metrics.groups, metrics.failed_trajectories) == (1, 2, 1)
    assert math.isclose(metrics.entropy_weight, 0.01 * 0.999**7)


def record_of(rows: int, components: int, trajectories: int, seed: int) -> tuple[Record, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    log_prob = normal(rows, components)
    record = Record(
        log_prob=log_prob - 0.3 * normal(rows, components),
        mask=torch.rand(rows, components, generator=generator) < 0.8,
        trajectory=torch.arange(trajectories).repeat_interleave(rows // trajectories),
        advantages=normal(trajectories),
        reference_log_prob=log_prob - 0.2 * normal(rows, components),
    )
    return record, log_prob


@pytest.mark.parametrize("level", RatioLevel)
@pytest.mark.parametrize("aggregation", [None, trajectory_mean])
@pytest.mark.parametrize("surrogate", [clipped, partial(clipped, low=0.1, high=0.3, dual=2.0), unclipped])
def test_gradients_are_those_of_finite_differences(level, aggregation, surrogate):
    options = {} if aggregation is None else {"aggregation": aggregation}
    config = GRPOConfig(level=level, surrogate=surrogate, kl_weight=0.1, **options)
    record, log_prob = record_of(12, 3, 4, seed=5)
    denominators = denominators_of(config, record)

    def loss(log_prob: Tensor, entropy: Tensor) -> Tensor:
        evaluated = Evaluation(log_prob, entropy)
        return grpo_loss(config, record, evaluated, denominators, entropy_weight=0.1).loss

    entropy = torch.linspace(0, 1, 12, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_prob.requires_grad_(), entropy))


def test_cispo_weighs_the_log_probability_gradient_by_the_bounded_ratio():
    log_prob = torch.tensor([-0.4, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    cispo(log_prob, advantages, log_prob, cap=1.5).loss.sum().backward()
    weights = log_prob.detach().exp().clamp(max=1.5)
    torch.testing.assert_close(log_prob.grad, -weights * advantages)


def test_what_is_masked_out_may_hold_anything():
    record, log_prob = record_of(12, 3, 4, seed=6)
    config = GRPOConfig(kl_weight=0.1)
    denominators = denominators_of(config, record)
    log_prob.requires_grad_()
    clean = grpo_loss(config, record, Evaluation(log_prob, log_prob), denominators, entropy_weight=0.1)
    (expected,) = torch.autograd.grad(clean.loss, log_prob)
    dirty_values = torch.where(record.mask, log_prob.detach(), float("nan")).requires_grad_()
    dirty_record = record._replace(log_prob=torch.where(record.mask, record.log_prob, float("inf")))
    dirty = grpo_loss(config, dirty_record, Evaluation(dirty_values, dirty_values), denominators, entropy_weight=0.1)
    (found,) = torch.autograd.grad(dirty.loss, dirty_values)
    assert dirty.loss == clean.loss
    assert torch.equal(found, expected)


def test_half_precision_log_probabilities_are_taken_to_float32():
    record, log_prob = record_of(12, 3, 4, seed=7)
    config = GRPOConfig()
    record = record._replace(log_prob=record.log_prob.bfloat16(), advantages=record.advantages.float())
    terms = grpo_loss(
        config, record, Evaluation(log_prob.bfloat16(), log_prob.bfloat16()), denominators_of(config, record),
        entropy_weight=0.01,
    )  # fmt: skip
    assert {term.dtype for term in terms} == {torch.float32}


def test_a_policy_of_another_shape_is_refused():
    record, log_prob = record_of(12, 3, 4, seed=8)
    config = GRPOConfig(entropy_weight=ConstantWeight(0.0))
    denominators = denominators_of(config, record)
    with pytest.raises(ShapeError, match=r"\(12,\) for recorded ones of shape \(12, 3\)"):
        grpo_loss(config, record, Evaluation(log_prob.sum(dim=1)), denominators, entropy_weight=0.0)
    with pytest.raises(ShapeError, match="entropies of shape"):
        grpo_loss(config, record, Evaluation(log_prob, log_prob[:1]), denominators, entropy_weight=0.0)


def test_a_bonus_without_entropies_and_a_penalty_without_reference_are_refused():
    record, log_prob = record_of(12, 3, 4, seed=9)
    config = GRPOConfig(kl_weight=0.1)
    denominators = denominators_of(config, record)
    with pytest.raises(ConfigError, match="no entropy"):
        grpo_loss(config, record, Evaluation(log_prob), denominators, entropy_weight=0.1)
    with pytest.raises(ConfigError, match="reference_log_prob"):
        grpo_loss(
            config, record._replace(reference_log_prob=None), Evaluation(log_prob), denominators, entropy_weight=0.0
        )


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
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        GRPOConfig(**options)


@pytest.mark.parametrize(
    "options",
    [{"low": 1.5}, {"high": -0.1}, {"dual": 1.0}, {"two_sided": 1.1}],
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

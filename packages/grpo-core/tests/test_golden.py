"""Numbers recorded from other libraries; `golden/README.md` says where each comes from."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from grpo_core import (
    ConstantWeight,
    GRPOConfig,
    RatioLevel,
    are_mixed,
    clipped,
    constant_length,
    element_mean,
    group_std,
    leave_one_out,
    mean_only,
    trajectory_mean,
)
from grpo_core.advantages import AdvantageFn, mixed_groups
from grpo_core.losses import SurrogateLoss, k3, to_level
from grpo_core.objective import importance_weights

ADVANTAGES: dict[str, AdvantageFn] = {
    "adv_verl_group_std_binary_3of8": partial(group_std, eps=1e-6),
    "adv_trl_group_std_binary_3of8": partial(group_std, eps=1e-4),
    "adv_trl_dr_grpo_mean_only": mean_only,
    "adv_trl_rloo": leave_one_out,
    "adv_trl_zero_std_ones": partial(group_std, eps=1e-4),
    "adv_trl_zero_std_zeros": partial(group_std, eps=1e-4),
    "adv_rlinf_grpo_mask": partial(group_std, eps=1e-6),
    "adv_torchrl_mcadvantage": partial(group_std, eps=0.0),
    "adv_verlmain_grpo": group_std,
    "adv_verlmain_dr_grpo": mean_only,
    "adv_verlmain_grpo_vectorized": group_std,
}


def dual(log_ratio: Tensor, advantages: Tensor, log_prob: Tensor, *, high: float, cap: float) -> SurrogateLoss:
    """A user's own surrogate: a second bound on the loss of bad actions (Ye et al. 2020, arXiv 1912.09729)."""
    found = clipped(log_ratio, advantages, log_prob, high=high)
    bounded = torch.minimum(found.loss, (-cap * advantages).clamp(min=0))
    return found._replace(loss=torch.where(advantages < 0, bounded, found.loss))


def clamped(log_ratio: Tensor, advantages: Tensor, log_prob: Tensor) -> SurrogateLoss:
    """A user's own surrogate: RLinf bounds the log-ratio first (`clip_log_ratio`)."""
    return HIGHER(log_ratio.clamp(-0.5, 0.5), advantages, log_prob)


HIGHER = partial(clipped, low=0.2, high=0.28)
DUAL = partial(dual, high=0.28, cap=3.0)
TWO_SIDED = partial(dual, high=0.2, cap=1.5)  # INTELLECT-2's bound of the ratio is this one of the loss
SEQUENCE = partial(clipped, low=0.03, high=0.04)
GEOMEAN = RatioLevel.TRAJECTORY_GEOMEAN
LOSSES: dict[str, GRPOConfig] = {
    name: GRPOConfig(**{"entropy_weight": ConstantWeight(0.0)} | options)
    for name, options in {
        "loss_trl_grpo_seqmean": {"aggregation": trajectory_mean},
        "loss_trl_bnpo_tokenmean": {"aggregation": element_mean},
        "loss_trl_dapo_clip_higher": {"surrogate": HIGHER},
        "loss_trl_gspo_sequence": {"surrogate": SEQUENCE, "level": GEOMEAN},
        "loss_trl_two_sided_delta": {"surrogate": TWO_SIDED, "aggregation": trajectory_mean},
        "loss_trl_gspo_token": {"surrogate": partial(clipped, low=0.9, high=2.0), "level": GEOMEAN},
        "loss_trl_entropy_bonus": {"aggregation": trajectory_mean, "entropy_weight": ConstantWeight(0.01)},
        "loss_verl_policy_loss_sym": {},
        "loss_verl_policy_loss_clip_higher": {"surrogate": HIGHER},
        "loss_rlinf_masked_mean_ratio": {"surrogate": HIGHER, "aggregation": trajectory_mean},
        "loss_rlinf_log_ratio_clamp": {"surrogate": clamped},
        "loss_torchrl_grpo": {"surrogate": HIGHER},
        "kl_trl_k3_in_loss": {"aggregation": trajectory_mean, "kl_weight": 0.04},
        "loss_verlmain_vanilla_token-mean": {"surrogate": DUAL},
        "loss_verlmain_vanilla_seq-mean-token-mean": {"surrogate": DUAL, "aggregation": trajectory_mean},
        # It divides by the padded length alone, here 4, which is the number of trajectories times a constant of 1.
        "loss_verlmain_vanilla_seq-mean-token-sum-norm": {
            "surrogate": DUAL,
            "aggregation": partial(constant_length, length=1.0),
        },
        "loss_verlmain_gspo": {"surrogate": SEQUENCE, "level": GEOMEAN},
    }.items()
}

ALONE = {
    "adv_torchrl_dynamic_sampling_drop",
    "adv_trl_rloo_normalized",
    "adv_binary_closed_form_G8",
    "loss_verl_scalar_table",
    "loss_grad_accum_invariance",
    "staleness_trl_token_truncate",
    "kl_verlmain_low_var_kl",
    "squashed_gaussian_ratio_component",
    "loss_trl_sapo",
    "loss_trl_cispo",  # by its block in `docs/papers.md`, in `test_papers.py`
    "flow_grpo_sde_step_logp",  # by the example `flow_matching.py`, in `test_examples.py`
}


def test_every_vector_is_tested(golden):
    assert set(ADVANTAGES) | set(LOSSES) | ALONE == set(golden)
    assert len(golden) == 39


def score(advantage: AdvantageFn, rewards: list[float], size: int) -> Tensor:
    return advantage(*flat(rewards, size))


def flat(rewards: list[float], size: int) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.tensor(rewards, dtype=torch.float64)
    return values, torch.arange(len(values)) // size, torch.ones(len(values), dtype=torch.bool)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_are_those_of_other_libraries(golden, name):
    case = golden[name]
    found = score(ADVANTAGES[name], case["inputs"]["rewards"], case["params"]["group_size"])
    expected = torch.tensor(case["expected"]["advantages"], dtype=torch.float64)
    if expected.ndim == 2:  # One row per time step, masked where an episode is over: the first has all of them.
        expected = expected[0]
    torch.testing.assert_close(found, expected, atol=case["tol"], rtol=0)
    if "is_std_zero" in case["expected"]:
        equal = ~mixed_groups(*flat(case["inputs"]["rewards"], case["params"]["group_size"]))
        assert equal.repeat_interleave(8).tolist() == case["expected"]["is_std_zero"]


def test_a_group_without_two_different_rewards_is_degenerate_as_dynamic_sampling_has_it(golden):
    case = golden["adv_torchrl_dynamic_sampling_drop"]
    assert [int(are_mixed(case["inputs"]["rewards"]))] == case["expected"]["kept"]


def test_binary_rewards_give_the_closed_form(golden):
    case = golden["adv_binary_closed_form_G8"]
    for successes, win, lose in zip(
        case["inputs"]["successes"], case["expected"]["adv_success"], case["expected"]["adv_failure"], strict=True
    ):
        found = score(partial(group_std, eps=0.0), [1.0] * successes + [0.0] * (8 - successes), 8)
        torch.testing.assert_close(found[0].item(), win, atol=case["tol"], rtol=0)
        torch.testing.assert_close(found[-1].item(), lose, atol=case["tol"], rtol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["ragged", "masked"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_other_libraries(golden, one_step, name, padded):
    case = golden[name]
    step = one_step(case, LOSSES[name], padded=padded)
    expected, tolerance = case["expected"], case["tol"]
    assert math.isclose(step.metrics.loss, expected["loss"], abs_tol=tolerance)
    if "grad_logp" in expected:
        gradient = torch.tensor(expected["grad_logp"], dtype=torch.float64)
        torch.testing.assert_close(step.gradient, gradient, atol=tolerance, rtol=0)
    if "metrics_clip_low" in expected:
        assert math.isclose(step.metrics.clip_fraction_low, expected["metrics_clip_low"], abs_tol=tolerance)
        assert math.isclose(step.metrics.clip_fraction_high, expected["metrics_clip_high"], abs_tol=tolerance)
    if "clipfrac" in expected:
        both = step.metrics.clip_fraction_low + step.metrics.clip_fraction_high
        assert math.isclose(both, expected["clipfrac"], abs_tol=tolerance)


def whitened(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """A user's own advantages: leave-one-out, whitened over the batch."""
    own = leave_one_out(rewards, groups, valid)
    return (own - own.mean()) / (own.std() + 1e-4)


def test_advantages_of_the_users_own_fit_in(golden):
    case = golden["adv_trl_rloo_normalized"]
    found = score(whitened, case["inputs"]["rewards"], case["params"]["group_size"])
    expected = torch.tensor(case["expected"]["advantages"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=case["tol"], rtol=0)


def soft_gate(log_ratio: Tensor, advantages: Tensor, log_prob: Tensor) -> SurrogateLoss:
    """A user's own surrogate: SAPO (arXiv 2511.20347), a sigmoid instead of a clip."""
    temperature = torch.where(advantages > 0, 1.0, 1.05)
    gate = 4 / temperature * torch.sigmoid(temperature * log_ratio.expm1())
    nowhere = torch.zeros_like(advantages, dtype=torch.bool)
    return SurrogateLoss(-gate * advantages, nowhere, nowhere)


def test_a_surrogate_of_the_users_own_fits_in(golden, one_step):
    case = golden["loss_trl_sapo"]
    config = GRPOConfig(surrogate=soft_gate, aggregation=trajectory_mean, entropy_weight=ConstantWeight(0.0))
    step = one_step(case, config)
    assert math.isclose(step.metrics.loss, case["expected"]["loss"], abs_tol=case["tol"])
    expected = torch.tensor(case["expected"]["grad_logp"], dtype=torch.float64)
    torch.testing.assert_close(step.gradient, expected, atol=case["tol"], rtol=0)


@pytest.mark.parametrize("micro_rows", [1, 3, 5])
def test_micro_batches_add_up_to_the_full_batch(golden, one_step, micro_rows):
    case = golden["loss_grad_accum_invariance"]
    config = LOSSES["loss_trl_bnpo_tokenmean"]
    step = one_step(case, config, micro_rows=micro_rows)
    assert math.isclose(step.metrics.loss, case["expected"]["full_batch"], abs_tol=case["tol"])
    assert math.isclose(step.metrics.loss, case["expected"]["sum_of_micro_dapo"], abs_tol=case["tol"])
    assert not math.isclose(step.metrics.loss, case["expected"]["mean_of_micro_bnpo"], abs_tol=case["tol"])
    assert len(step.policy.rows_seen) == math.ceil(13 / micro_rows)


def test_clipped_losses_are_verls_at_every_corner(golden):
    case = golden["loss_verl_scalar_table"]
    ratio, advantage, expected = (
        torch.tensor(values, dtype=torch.float64)
        for values in (case["inputs"]["ratio"], case["inputs"]["advantage"], case["expected"]["loss"])
    )
    found = clipped(ratio.log(), advantage, ratio.log(), low=0.2, high=0.28).loss
    torch.testing.assert_close(found, expected, atol=case["tol"], rtol=0)


def test_kl_estimates_are_those_of_verl(golden):
    case = golden["kl_verlmain_low_var_kl"]
    log_prob, reference = (torch.tensor(case["inputs"][key], dtype=torch.float64) for key in ("logp", "ref_logp"))
    expected = torch.tensor(case["expected"]["k3"], dtype=torch.float64)
    torch.testing.assert_close(k3(log_prob, reference), expected, atol=case["tol"], rtol=0)


def test_importance_weights_are_trls(golden, rows_of):
    """Its bounds are 0.5 and 1.6; the lower one has no counterpart here."""
    case = golden["staleness_trl_token_truncate"]
    mask = torch.tensor(case["inputs"]["mask"]).bool()
    proximal, behaviour, expected = (
        torch.tensor(values, dtype=torch.float64).expand_as(mask)[mask].unsqueeze(1)
        for values in (case["inputs"]["old_logp"], case["inputs"]["behaviour_logp"], case["expected"]["weight"])
    )
    rows, _ = rows_of(len(proximal), 1, 1, seed=0)
    recorded = replace(rows.decisions, log_prob=behaviour, mask=None)
    found = importance_weights(replace(rows, decisions=recorded, old_log_prob=proximal), RatioLevel.COMPONENT, 1.6)
    torch.testing.assert_close(found.clamp(min=0.5), expected, atol=case["tol"], rtol=0)


def test_ratio_levels_are_those_of_torch_distributions(golden):
    case = golden["squashed_gaussian_ratio_component"]
    u, *parameters = (
        torch.tensor([case["inputs"][key]], dtype=torch.float64)
        for key in ("u", "mu_old", "std_old", "mu_new", "std_new")
    )
    old, new = torch.distributions.Normal(*parameters[:2]), torch.distributions.Normal(*parameters[2:])
    log_ratio = new.log_prob(u) - old.log_prob(u)
    expected = case["expected"]
    for level, value in (
        (RatioLevel.COMPONENT, [expected["ratio_component"]]),
        (RatioLevel.STEP_SUM, [expected["ratio_joint"]]),
        (RatioLevel.STEP_MEAN, [expected["ratio_geomean"]]),
        (RatioLevel.TRAJECTORY_SUM, [expected["ratio_joint"]]),
        (RatioLevel.TRAJECTORY_GEOMEAN, [expected["ratio_geomean"]]),
    ):
        found = to_level(log_ratio, torch.ones_like(u, dtype=torch.bool), torch.zeros(1, dtype=torch.long), 1, level)
        torch.testing.assert_close(found.exp(), torch.tensor(value, dtype=torch.float64), atol=case["tol"], rtol=0)

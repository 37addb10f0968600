"""The configurations of `docs/papers.md` against the papers' equations, written out as loops over Python floats."""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import grpo_core
from grpo_core import Decisions, GroupSpec, GRPOConfig, Job, Learner, Trajectory, collate
from grpo_core.losses import SurrogateLoss

PAGE = (Path(__file__).parents[1] / "docs" / "papers.md").read_text()
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))

REWARDS = [[1.0, 0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
LENGTHS = [[2, 3, 1], [4, 2], [3, 2]]
ENTROPY = 0.7


@dataclasses.dataclass(frozen=True)
class Response:
    """One trajectory: its reward with those of its group, and its tokens' log-probabilities."""

    reward: float
    group: list[float]
    new: list[float]
    old: list[float]
    ref: list[float]

    @property
    def deviation(self) -> float:
        return self.reward - statistics.mean(self.group)

    @property
    def standardised(self) -> float:
        return self.deviation / (statistics.stdev(self.group) + 1e-6)

    @property
    def against_the_others(self) -> float:
        return self.reward - (sum(self.group) - self.reward) / (len(self.group) - 1)

    @property
    def ratios(self) -> list[float]:
        return [math.exp(new - old) for new, old in zip(self.new, self.old, strict=True)]

    @property
    def mixed(self) -> bool:
        return len(set(self.group)) > 1


def clip(ratio: float, low: float, high: float) -> float:
    return min(max(ratio, 1 - low), 1 + high)


def pessimistic(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, clip(ratio, low, high) * advantage)


def noisegate(responses: list[Response]) -> float:
    mixed = [own for own in responses if own.mixed]
    terms = [pessimistic(ratio, own.standardised, 0.2, 0.2) for own in mixed for ratio in own.ratios]
    return statistics.mean(terms) + 0.01 * ENTROPY


def grpo(responses: list[Response]) -> float:
    def token(own: Response, t: int) -> float:
        difference = own.ref[t] - own.new[t]
        divergence = math.exp(difference) - difference - 1
        return pessimistic(own.ratios[t], own.standardised, 0.2, 0.2) - 0.04 * divergence

    return statistics.mean(statistics.mean(token(own, t) for t in range(len(own.new))) for own in responses)


def dr_grpo(responses: list[Response]) -> float:
    return statistics.mean(
        sum(pessimistic(ratio, own.deviation, 0.2, 0.2) for ratio in own.ratios) for own in responses
    )


def dapo(responses: list[Response]) -> float:
    mixed = [own for own in responses if own.mixed]
    terms = [pessimistic(ratio, own.standardised, 0.2, 0.28) for own in mixed for ratio in own.ratios]
    return sum(terms) / sum(len(own.new) for own in mixed)


def gspo(responses: list[Response]) -> float:
    return statistics.mean(
        pessimistic(math.prod(own.ratios) ** (1 / len(own.new)), own.standardised, 3e-4, 4e-4) for own in responses
    )


def cispo(responses: list[Response], weights_of: list[Response] | None = None) -> float:
    """Its weights have no gradient: they come from `weights_of`."""
    total = 0.0
    for own, fixed in zip(responses, weights_of or responses, strict=True):
        for ratio, new in zip(fixed.ratios, own.new, strict=True):
            total += min(ratio, 2.0) * own.standardised * new
    return total / sum(len(own.new) for own in responses)


def rloo(responses: list[Response]) -> float:
    return statistics.mean(own.against_the_others * math.exp(sum(own.new) - sum(own.old)) for own in responses)


def decoupled(responses: list[Response], proximal: list[Response] | None = None) -> float:
    """The weights at the start of the update are those of `proximal`, without gradient."""
    terms = []
    for own, then in zip(responses, proximal or responses, strict=True):
        if not own.mixed:
            continue
        for new, prox, old in zip(own.new, then.new, own.old, strict=True):
            weight = min(math.exp(prox - old), 2.0)
            terms.append(weight * pessimistic(math.exp(new - prox), own.standardised, 0.2, 0.2))
    return statistics.mean(terms)


OBJECTIVES: dict[str, Callable[..., float]] = {
    "NoiseGate": noisegate,
    "GRPO": grpo,
    "Dr.GRPO": dr_grpo,
    "DAPO": dapo,
    "GSPO": gspo,
    "CISPO": cispo,
    "RLOO": rloo,
    "Decoupled PPO": decoupled,
}
WITHOUT_GRADIENT = {"CISPO": "weights_of", "Decoupled PPO": "proximal"}
"""Arguments that hold what finite differences must not move."""


def config_of(paper: str) -> GRPOConfig:
    scope = {name: getattr(grpo_core, name) for name in grpo_core.__all__} | {
        "SurrogateLoss": SurrogateLoss,
        "partial": functools.partial,
        "inf": math.inf,
        "torch": torch,
    }
    *definitions, config = ast.parse(BLOCKS[paper]).body
    exec(ast.unparse(definitions), scope)
    return eval(ast.unparse(config), scope)


def tables() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of all tokens: now, recorded, and under the reference."""
    generator = torch.Generator().manual_seed(4)
    count = sum(map(sum, LENGTHS))
    new = -1 - torch.rand(count, generator=generator, dtype=torch.float64)
    old = new + 1.8 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.9
    return new, old, new + 0.2 * torch.rand(count, generator=generator, dtype=torch.float64)


def responses_of(new: Tensor) -> list[Response]:
    _, old, ref = tables()
    found, start = [], 0
    for rewards, lengths in zip(REWARDS, LENGTHS, strict=True):
        for reward, length in zip(rewards, lengths, strict=True):
            own = slice(start, start + length)
            found.append(Response(reward, rewards, new[own].tolist(), old[own].tolist(), ref[own].tolist()))
            start += length
    return found


def step(table_policy, config: GRPOConfig) -> tuple[float, Tensor]:
    """Objective and gradient of one step of the learner."""
    new, old, ref = tables()
    policy = table_policy(new.unsqueeze(1), torch.full_like(new, ENTROPY))
    trajectories, start = [], 0
    for group, (rewards, lengths) in enumerate(zip(REWARDS, LENGTHS, strict=True)):
        spec = GroupSpec(group=group, task="t", seed=0, size=len(rewards))
        for member, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
            rows = torch.arange(start, start := start + length)
            decisions = Decisions(
                states=rows,
                actions=rows,
                log_prob=old[rows].unsqueeze(1),
            )
            trajectories.append(Trajectory(job=Job(spec=spec, member=member), decisions=decisions, reward=reward))
    plain = dataclasses.replace(config, inner_epochs=1, max_grad_norm=None, log_prob_tolerance=None)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    learner = Learner(policy, optimizer, plain, reference=table_policy(ref.unsqueeze(1)))
    metrics = learner.update(collate(trajectories), version=1)
    return -metrics.loss, policy.log_prob.detach().squeeze(1) - new


def test_every_paper_of_the_page_has_its_equation_here():
    assert BLOCKS.keys() == OBJECTIVES.keys()
    assert len(BLOCKS) == PAGE.count("```python")


@pytest.mark.parametrize("paper", OBJECTIVES)
def test_the_arguments_give_the_equation_of_the_paper(table_policy, paper):
    found, gradient = step(table_policy, config_of(paper))
    new = tables()[0]
    objective = OBJECTIVES[paper]
    assert found == pytest.approx(objective(responses_of(new)), abs=1e-12)
    if paper in WITHOUT_GRADIENT:
        objective = functools.partial(objective, **{WITHOUT_GRADIENT[paper]: responses_of(new)})
    expected = torch.zeros_like(new)
    for token in range(len(new)):
        nudge = torch.zeros_like(new)
        nudge[token] = 1e-6
        expected[token] = (objective(responses_of(new + nudge)) - objective(responses_of(new - nudge))) / 2e-6
    torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_the_data_reach_every_clip(table_policy):
    """Otherwise the equations above could agree where nothing is clipped."""
    mixed = sum(sum(lengths) for lengths, rewards in zip(LENGTHS, REWARDS, strict=True) if len(set(rewards)) > 1)
    for paper in ("NoiseGate", "Dr.GRPO", "DAPO", "GSPO"):
        _, gradient = step(table_policy, config_of(paper))
        assert (gradient[:mixed] == 0).any(), paper
        assert (gradient[:mixed] != 0).any(), paper
    new, old, _ = tables()
    assert ((new - old)[:mixed].exp() > 2).any()


@pytest.mark.parametrize(
    ("paper", "vector"),
    [
        ("GRPO", "adv_verl_group_std_binary_3of8"),
        ("Dr.GRPO", "adv_trl_dr_grpo_mean_only"),
        ("DAPO", "adv_verlmain_grpo"),
        ("RLOO", "adv_trl_rloo"),
    ],
)
def test_the_advantages_of_a_paper_are_those_of_other_libraries(golden, paper, vector):
    case = golden[vector]
    rewards = torch.tensor(case["inputs"]["rewards"], dtype=torch.float64)
    groups = torch.arange(len(rewards)) // case["params"]["group_size"]
    found = config_of(paper).advantage(rewards, groups, torch.ones(len(rewards), dtype=torch.bool))
    expected = torch.tensor(case["expected"]["advantages"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=case["tol"], rtol=0)


@pytest.mark.parametrize(
    ("paper", "vector"),
    [
        ("GRPO", "kl_trl_k3_in_loss"),
        ("DAPO", "loss_trl_dapo_clip_higher"),
        ("CISPO", "loss_trl_cispo"),
    ],
)
def test_the_loss_of_a_paper_is_that_of_other_libraries(golden, one_step, paper, vector):
    case = golden[vector]
    found = one_step(case, config_of(paper))
    assert found.metrics.loss == pytest.approx(case["expected"]["loss"], abs=case["tol"])
    if "grad_logp" in case["expected"]:
        expected = torch.tensor(case["expected"]["grad_logp"], dtype=torch.float64)
        torch.testing.assert_close(found.gradient, expected, atol=case["tol"], rtol=0)

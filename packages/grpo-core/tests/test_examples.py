"""The examples at small size: they run, and but for the pendulum what they train gets better."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example() -> Callable[[str], ModuleType]:
    """Imports an example by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_example_is_short_and_tested_here():
    names = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert names.keys() == {"cartpole", "pendulum", "flow_matching"}
    assert max(names["cartpole"], names["pendulum"]) < 40
    assert names["flow_matching"] < 100


def test_cartpole_stands_longer_after_few_updates(example, capsys):
    pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")
    cartpole = example("cartpole")
    torch.manual_seed(0)
    cartpole.train(cartpole.Policy(), updates=5, horizon=100)
    lengths = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert lengths[0] < 40
    assert lengths[-1] > 1.5 * lengths[0]


def test_cartpole_pushes_as_likely_as_it_says_also_with_opposite_noise_and_as_it_prefers_without(example):
    pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")
    torch.manual_seed(0)
    policy = example("cartpole").Policy()
    states = torch.randn(4, 4)
    right = policy.evaluate(states, torch.ones(4)).log_prob.detach().exp()
    grid = (torch.arange(1000) + 0.5) / 1000 - 0.5
    for noise in (grid, -grid):
        pushes, _ = policy.act(states.repeat_interleave(1000, dim=0), noise.repeat(4))
        torch.testing.assert_close(pushes.view(4, 1000).float().mean(dim=1, keepdim=True), right, atol=2e-3, rtol=0)
    assert policy.act(states, torch.zeros(4))[0].tolist() == (right[:, 0] > 0.5).long().tolist()


def test_pendulum_runs_within_the_range_of_its_returns_and_moves_its_policy(example, capsys):
    """That it earns more shows only after more episodes than a test has time for."""
    pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")
    pendulum = example("pendulum")
    torch.manual_seed(0)
    policy = pendulum.Policy()
    pendulum.train(policy, updates=2, horizon=20)
    returns = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert all(-16.3 * 20 < value < 0 for value in returns)
    assert policy.log_std != -0.5


def test_a_generator_is_steered_to_the_right(example):
    flow = example("flow_matching")
    torch.manual_seed(0)
    generator = flow.Generator()
    generator.fit(steps=150)
    before, _ = generator.quality()
    flow.steer(generator, 0, updates=8, kl_weight=0.0)
    after, _ = generator.quality()
    assert before < 0.6
    assert after > before + 0.1


def test_a_sampling_step_has_the_density_of_flow_grpo(example, golden):
    flow, case = example("flow_matching"), golden["flow_grpo_sde_step_logp"]
    inputs, expected = case["inputs"], case["expected"]
    assert inputs["noise_level"] == flow.NOISE
    points, velocity, after = (torch.tensor([inputs[name]]) for name in ("x_t", "velocity", "x_prev"))
    time, lapse = torch.tensor([[inputs["sigma"]]]), inputs["sigma"] - inputs["sigma_prev"]
    normal = flow.transition(points, velocity, time, lapse)
    torch.testing.assert_close(normal.mean, torch.tensor([expected["mean"]]), atol=case["tol"], rtol=0)
    # It averages over components where a policy here has one log-probability for each.
    found = normal.log_prob(after).mean(dim=1)
    torch.testing.assert_close(found, torch.tensor(expected["logp"]), atol=case["tol"], rtol=0)

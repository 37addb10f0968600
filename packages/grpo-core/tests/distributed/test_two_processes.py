"""Two processes that share an update end with the weights and the metrics of one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import grpo_core as grpo

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(script):
    """The weights and metrics of one process that is given everything."""
    acting, policy = script.Gaussian(), script.Gaussian()
    learner = grpo.Learner(policy, torch.optim.AdamW(policy.parameters(), lr=1e-2), script.config())
    batches = [script.trajectories(acting, 0) + script.trajectories(acting, 1), script.trajectories(acting, 2)]
    metrics = [asdict(learner.update(grpo.collate(own))) for own in batches]
    assert not torch.equal(policy.log_std, acting.log_std)
    other, reference = script.Gaussian(), script.Gaussian()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    held = grpo.Learner(other, optimizer, script.penalised(), reference=reference)
    metrics.append(asdict(held.update(grpo.collate(batches[0]))))
    assert metrics[-1]["kl_penalty"] > 0
    return policy.state_dict(), metrics


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does_and_refuse_together(alone, tmp_path, kind):
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    expected_weights, expected_metrics = alone
    for rank in range(2):
        weights, metrics, failed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in expected_weights.items():
            found = weights[f"module.{name}" if kind == "ddp" else name]
            torch.testing.assert_close(found, value, atol=1e-10, rtol=1e-8)
        for one, other in zip(metrics, expected_metrics, strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                expected = other[name]
                assert value == (None if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-12)), name
        assert "group 4 member 2" in failed
        assert "nothing was trained" in failed

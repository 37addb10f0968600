"""What holds a gate to the one with which its training starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grpo_core import collate
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import training
from noisegate_apps.stage2.config import GateSettings, Stage2Config

pytestmark = pytest.mark.sim

GATE = GateSettings(sight=None)  # in so few steps every one is its own
OPTIONS = {"tasks": ("lift_pot",), "group_size": 2, "episodes_per_epoch": 2, "inner_epochs": 10, "learning_rate": 1e-2}


@pytest.fixture
def learn(tmp_path, monkeypatch):
    def rewarded(trajectories, **options):  # whoever has less noise left is right
        return replace(
            collate(trajectories, **options),
            rewards=torch.tensor([float(one.decisions.actions.mean()) for one in trajectories]),
        )

    monkeypatch.setattr(training, "collate", rewarded)
    policy = load_policy(Stage2Config().policy, steps=3)

    def run(name, *epochs, pull, **options):
        for until in epochs:
            config = Stage2Config(**OPTIONS | options, epochs=until, workers=0, orient=8, pull=pull, gate=GATE)
            gate = training.train(config, RunFolder(tmp_path / name), policy)
        return gate.state_dict(), [line["kl_penalty"] for line in RunFolder(tmp_path / name).history()]

    return run


def test_a_pull_keeps_a_gate_near_its_start_also_where_it_is_interrupted(learn):
    _, free = learn("free", 4, pull=1e-9)
    weights, held = learn("held", 4, pull=30.0)
    assert all(penalty > 0 for penalty in free + held)  # in every pass but the first
    assert sum(free) > 2 * sum(held)
    again, penalties = learn("interrupted", 2, 4, pull=30.0)
    assert penalties == held
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_what_it_is_pulled_to_is_the_gate_before_its_first_step(learn):
    _, penalties = learn("still", 1, pull=1.0, learning_rate=0.0)
    assert penalties == [0.0]


def test_a_pull_below_0_is_refused():
    with pytest.raises(ValueError, match="`pull` is -1"):
        Stage2Config(pull=-1)

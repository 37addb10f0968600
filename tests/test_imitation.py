"""A gate that starts from a lattice: what it imitates, and that it tells states apart by what it sees."""

from __future__ import annotations

import math

import pytest
import torch

from grpo_core import Decisions, RoundRobin, Trajectory, collate
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import write_json
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import training
from noisegate_apps.stage2.config import GateSettings, Stage2Config
from noisegate_apps.stage2.imitation import imitate, imitated
from noisegate_apps.stage2.training import run
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

BEST = {"lift_pot": "blind+shared", "slide_bolt": "lead+hold", "grab_roller": "lag+lead"}


@pytest.fixture
def lattice(tmp_path):
    write_json(tmp_path / "lattice.json", {"ceiling": {"best_by_task": BEST}})
    return tmp_path / "lattice.json"


def gate_of(**options):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=4, frames=2, width=16, **options))


def test_a_pace_becomes_the_scale_that_ends_where_it_ends_within_the_gates_bound(lattice):
    found = imitated(lattice, list(BEST), gate_of(max_mean=1.2))
    half = math.atanh(-0.5)  # at half speed, or stopped half-way: alpha = 0.5
    assert {task: pytest.approx(means.tolist()) for task, means in found.items()} == {
        "lift_pot": [-1.2, 0.0],
        "slide_bolt": [1.2, half],
        "grab_roller": [half, 1.2],
    }
    assert imitated(lattice, ["lift_pot"], gate_of())["lift_pot"].tolist() == [-1.5, 0.0]


def test_a_task_that_the_lattice_does_not_know_is_named(lattice):
    with pytest.raises(RunError, match=r"says nothing of \['click_bell'\]; play it with `--tasks click_bell lift_pot`"):
        imitated(lattice, ["click_bell", "lift_pot"], gate_of())


def episode(job, generator):
    """Twelve states whose observation is bright in one task and dark in the other."""
    sign = 1.0 if job.spec.task == "lift_pot" else -1.0
    states = {
        "latents": torch.randn(12, 4, 2, 3, 2, generator=generator),
        "observation": sign + 0.3 * torch.randn(12, 4, 1, 3, 2, generator=generator),
        "times": torch.rand(12, 2, generator=generator),
    }
    nothing = torch.zeros(12, 2)
    return Trajectory(job=job, decisions=Decisions(states=states, actions=nothing, log_prob=nothing), reward=0.0)


def batch_of(groups):
    generator = torch.Generator().manual_seed(1)
    source = RoundRobin(("lift_pot", "slide_bolt"), range(9), size=2, run_seed=0)
    return collate([episode(job, generator) for _ in range(groups) for job in source.next().jobs()])


def test_the_gate_tells_tasks_apart_by_what_it_sees_and_keeps_its_deviations():
    gate, means = (
        gate_of(max_mean=1.5),
        {"lift_pot": torch.tensor([-1.5, 0.5]), "slide_bolt": torch.tensor([1.0, -1.0])},
    )
    spread = gate.log_std.detach().clone()
    error = imitate(gate, batch_of(8), means, seed=0)
    unseen = batch_of(12)
    wanted = torch.stack([means[job.spec.task] for job in unseen.jobs])[unseen.owner]
    with torch.no_grad():
        found = gate.policy_in(unseen.decisions.states).mean
    assert error < 0.02
    assert (found - wanted).square().mean() < 0.1  # their own mean would leave 1.1
    assert torch.equal(gate.log_std, spread)


def test_imitation_is_a_function_of_its_seed():
    means = {"lift_pot": torch.tensor([-1.0, 0.5]), "slide_bolt": torch.tensor([1.0, -1.0])}
    first, second, third = gate_of(), gate_of(), gate_of()
    batch = batch_of(2)
    assert imitate(first, batch, means, seed=0) == imitate(second, batch, means, seed=0)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    assert imitate(third, batch, means, seed=1) != imitate(first, batch, means, seed=0)


def test_without_any_state_nothing_is_imitated():
    source = RoundRobin(("lift_pot",), range(9), size=2, run_seed=0)
    lost = collate([Trajectory.failed(job, error="gone") for job in source.next().jobs()])
    with pytest.raises(RunError, match="no episode came back"):
        imitate(gate_of(), lost, {"lift_pot": torch.zeros(2)}, seed=0)


@pytest.mark.sim
def test_stage_2_starts_from_the_lattice_beside_its_policy(tmp_path, capsys):
    run(Stage2Config(out=tmp_path / "run", imitate=1, epochs=0, skip_eval=True, workers=0))
    assert "tasks-both.json` in 6 episodes" in " ".join(capsys.readouterr().err.split())
    gate = GatingPolicyNetwork.from_pretrained(tmp_path / "run" / "gate")
    assert gate.decision.weight.abs().max() > 1e-3  # zero before it has imitated anything


def test_a_gate_imitates_once_and_what_it_has_heard_by_then_stays_the_measure(lattice, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(training, "start_from_lattice", lambda *_: done.append("imitated"))
    monkeypatch.setattr(training, "hear", lambda *_: done.append("heard"))
    options = {"tasks": ("lift_pot",), "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "lattice": lattice}
    for epochs in (1, 2):  # the second goes on where the first ended
        config = Stage2Config(**options, epochs=epochs)
        training.train(config, RunFolder(tmp_path), load_policy(config.policy))
    assert done == ["imitated"]


def test_a_gate_that_decides_something_else_imitates_nothing(lattice):
    assert Stage2Config(lattice=lattice).imitates
    assert not Stage2Config().imitates
    assert not Stage2Config(lattice=lattice, imitate=0).imitates
    assert not Stage2Config(lattice=lattice, gate=GateSettings(scales="chunk")).imitates

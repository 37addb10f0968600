"""A gate that learns to tell tasks apart before it is rewarded: what it sees by changes, what it decides does not."""

from __future__ import annotations

import pytest
import torch

from grpo_core import Decisions, RolloutError, RoundRobin, Trajectory, collate
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import orientation, training
from noisegate_apps.stage2.config import Stage2Config
from noisegate_apps.stage2.orientation import Orientation, orient
from noisegate_apps.stage2.workers import GateWorkers
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

TASKS = ("lift_pot", "slide_bolt")
KINDS = ({}, {"scales": "chunk"}, {"scales": "none", "stops": True}, {"stops": True})


@pytest.fixture(autouse=True)
def _fewer_steps(monkeypatch):
    monkeypatch.setattr(orientation, "STEPS", 60)


def gate_of(**options):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=4, frames=2, width=16, **options))


def episode(job, generator):
    """Twelve states whose observation is a little brighter in one task than in the other."""
    sign = 1.0 if job.spec.task == "lift_pot" else -1.0
    states = {
        "latents": torch.randn(12, 4, 2, 3, 2, generator=generator),
        "observation": sign + torch.randn(12, 4, 1, 3, 2, generator=generator),
        "times": torch.rand(12, 2, generator=generator),
    }
    nothing = torch.zeros(12, 2)
    return Trajectory(job=job, decisions=Decisions(states=states, actions=nothing, log_prob=nothing), reward=0.0)


def batch_of(groups, tasks=TASKS, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    source = RoundRobin(tasks, range(99), size=2, run_seed=0)
    return collate([episode(job, generator) for _ in range(groups) for job in source.next().jobs()])


def share_between_tasks(gate, batch):
    """Of the variance of what the last layers read."""
    with torch.no_grad():
        rows = gate.features_in(batch.decisions.states).mean(dim=1)
    of_first = torch.tensor([job.spec.task == TASKS[0] for job in batch.jobs])[batch.owner]
    centers = torch.stack([rows[of_first].mean(0), rows[~of_first].mean(0)])
    return float(centers.var(dim=0, unbiased=False).sum() / rows.var(dim=0, unbiased=False).sum())


@pytest.mark.parametrize("options", KINDS, ids=["latents", "chunk", "stop", "both"])
def test_the_gate_sees_tasks_apart_and_decides_what_it_decided(options):
    gate, unseen = gate_of(**options), batch_of(12, seed=2)
    before, decided = share_between_tasks(gate, unseen), gate.policy_in(unseen.decisions.states)
    found = orient(gate, batch_of(12), seed=0)
    after, now = share_between_tasks(gate, unseen), gate.policy_in(unseen.decisions.states)
    assert found.accuracy > 0.9 > 0.7 > found.chance >= 0.5
    assert before < 0.4
    assert after > 0.8
    assert torch.equal(now.mean, decided.mean)
    assert torch.equal(now.log_std, decided.log_std)


def test_orientation_is_a_function_of_its_seed():
    first, second, third = gate_of(), gate_of(), gate_of()
    batch = batch_of(4)
    assert orient(first, batch, seed=0) == orient(second, batch, seed=0)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    orient(third, batch, seed=1)
    assert not torch.equal(first.merge[1].weight, third.merge[1].weight)


def test_episodes_that_never_came_back_teach_nothing_and_do_not_hurt():
    source, generator = RoundRobin(("grab_roller", *TASKS), range(99), size=2, run_seed=0), torch.Generator()
    jobs = [job for _ in range(12) for job in source.next().jobs()]
    played = [episode(job, generator) for job in jobs if job.spec.task in TASKS]
    lost = [Trajectory.failed(job, error="gone") for job in jobs if job.spec.task not in TASKS]
    assert orient(gate_of(), collate([*played, *lost]), seed=0) == orient(gate_of(), collate(played), seed=0)


@pytest.mark.parametrize(("groups", "tasks"), [(8, ("lift_pot",)), (2, TASKS), (0, TASKS)])
def test_what_cannot_tell_tasks_apart_is_said(groups, tasks):
    lost = [
        Trajectory.failed(job, error="gone") for job in RoundRobin(tasks, range(9), size=2, run_seed=0).next().jobs()
    ]
    with pytest.raises(RunError, match="at least 8 episodes of two tasks or more, or 0"):
        orient(gate_of(), batch_of(groups, tasks) if groups else collate(lost), seed=0)


@pytest.mark.sim
def test_stage_2_tells_tasks_apart_first_and_only_once(tmp_path, monkeypatch, capsys):
    counted = []
    monkeypatch.setattr(training, "orient", lambda *given, **_: counted.append(given[1].jobs) or Orientation(1.0, 0.5))
    options = {"tasks": TASKS, "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "orient": 8}
    for epochs in (0, 1, 2):  # the last goes on where the second ended
        config = Stage2Config(**options, epochs=epochs)
        training.train(config, RunFolder(tmp_path), load_policy(config.policy))
    assert [len(jobs) for jobs in counted] == [8, 8]
    assert len({(job.spec.task, job.spec.seed) for job in counted[0]}) == 8  # a scene each
    assert "taught the gate to tell tasks apart: it is right in 100%" in " ".join(capsys.readouterr().err.split())


@pytest.mark.sim
def test_each_task_is_played_in_its_own_scenes_and_lost_episodes_are_left_out(tmp_path, monkeypatch, capsys):
    seeds, counted, lost = {"lift_pot": range(60_000, 60_004), "slide_bolt": range(60_002, 60_008)}, [], []
    make = GateWorkers.rollout

    def losing_the_first(self, *given):
        play = make(self, *given)

        def rollout(jobs):
            if not lost:
                lost.extend(jobs)
                raise RolloutError("a simulator died")
            return play(jobs)

        return rollout

    monkeypatch.setattr(GateWorkers, "rollout", losing_the_first)
    monkeypatch.setattr(training, "training_seeds", lambda _: seeds)
    monkeypatch.setattr(training, "orient", lambda *given, **_: counted.append(given[1].jobs) or Orientation(1.0, 0.5))
    config = Stage2Config(tasks=TASKS, workers=0, orient=8, eval_slots=4, epochs=0)
    training.train(config, RunFolder(tmp_path), load_policy(config.policy))
    assert [len(jobs) for jobs in (lost, *counted)] == [4, 4]
    assert all(job.spec.seed in seeds[job.spec.task] for job in (*lost, *counted[0]))
    said = " ".join(capsys.readouterr().err.split())
    assert "up to 4 episodes were lost: a simulator died" in said
    assert "4 episodes taught the gate" in said


def test_one_task_alone_is_told_from_nothing():
    assert Stage2Config(tasks=TASKS).orients
    assert not Stage2Config(tasks=TASKS[:1]).orients
    assert not Stage2Config(tasks=TASKS, orient=0).orients

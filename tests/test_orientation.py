"""A gate that learns to see what follows before it is rewarded: what it sees by changes, what it decides does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import orientation, training
from noisegate_apps.stage2.config import GateSettings, Stage2Config
from noisegate_apps.stage2.orientation import Imagined, Orientation, _exchanged, orient
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork
from robotwin_env.vector import EnvironmentPool, PoolError

TASKS = ("lift_pot", "slide_bolt")
KINDS = ({}, {"scales": "chunk"}, {"scales": "none", "stops": True}, {"stops": True}, {"relative": False})


@pytest.fixture(autouse=True)
def _fewer_passes(monkeypatch):
    monkeypatch.setattr(orientation, "PASSES", 48)


def gate_of(**options):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=4, frames=2, width=16, **options))


def imagined(scenes=64, *, chunks=6, tasks=2, seed=1):
    """Every scene has a colour of its own, which its futures keep."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(scenes).repeat_interleave(chunks)
    colour = 3 * torch.randn(scenes, 4, 1, 1, 1, generator=generator)[scene]
    return Imagined(
        observation=colour + 0.1 * torch.randn(len(scene), 4, 1, 3, 2, generator=generator),
        latents=colour + 0.1 * torch.randn(len(scene), 4, 2, 3, 2, generator=generator),
        conditions={},
        scene=scene,
        task=scene % tasks,
    )


def states_of(seen, *, foreign):
    """States at the same times, some latents of which come from a later scene of the same task."""
    moved = seen.latents.roll(12, dims=0)
    latents = torch.where(torch.tensor(foreign)[:, None, None], moved, seen.latents)
    times = torch.full((len(latents), 2), 0.3)
    return {"latents": 0.7 * latents, "observation": seen.observation, "times": times}


@pytest.mark.parametrize("options", KINDS, ids=["latents", "chunk", "stop", "both", "as they are"])
def test_the_gate_sees_what_does_not_follow_and_decides_what_it_decided(options):
    gate, seen = gate_of(**options), imagined()
    states = states_of(imagined(seed=2), foreign=[True, False])
    decided = gate.policy_in(states)
    found = orient(gate, seen, seed=0)
    now = gate.policy_in(states)
    assert found.accuracy > 0.75 > found.chance >= 0.5
    assert torch.equal(now.mean, decided.mean)
    assert torch.equal(now.log_std, decided.log_std)


def test_each_latent_is_seen_by_itself():
    gate = gate_of()
    orient(gate, imagined(chunks=8), seed=0)
    unseen = imagined(seed=2)
    kinds = ([False, False], [True, False], [False, True], [True, True])
    with torch.no_grad():
        rows = torch.stack([gate.features_in(states_of(unseen, foreign=kind)) for kind in kinds])
    foreign = torch.tensor(kinds)
    for place in range(2):  # of the four kinds of state, those in which this latent is foreign are told from the others
        apart = rows[foreign[:, place], :, place].mean((0, 1)) - rows[~foreign[:, place], :, place].mean((0, 1))
        along = (rows[:, :, place] @ apart).mean(1)
        assert along[foreign[:, place]].min() > along[~foreign[:, place]].max()


def test_orientation_is_a_function_of_its_seed():
    first, second, third = gate_of(), gate_of(), gate_of()
    seen = imagined(16)
    assert orient(first, seen, seed=0) == orient(second, seen, seed=0)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    orient(third, seen, seed=1)
    assert not torch.equal(first.merge[1].weight, third.merge[1].weight)


def test_held_out_scenes_are_never_learned_from():
    seen = imagined(32)
    kept = torch.isin(seen.scene, torch.tensor([8, 24, 9, 25]))  # of scenes sorted by task every eighth, from the fifth
    other = replace(seen, latents=torch.where(kept[:, None, None, None, None], -seen.latents, seen.latents))
    first, second = gate_of(), gate_of()
    assert orient(first, seen, seed=0).accuracy != orient(second, other, seed=0).accuracy
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_foreign_latents_are_of_the_same_task_and_another_scene():
    seen, generator = imagined(9, tasks=3), torch.Generator().manual_seed(0)
    known = (seen.scene != 4).nonzero()[:, 0]
    rows = torch.arange(len(seen.scene)).repeat(200)
    chosen, foreign = _exchanged(seen, rows, known, generator)
    assert torch.equal(seen.task[chosen], seen.task[rows])
    assert not (seen.scene[chosen] == 4).any()
    assert not foreign[seen.scene[chosen] == seen.scene[rows]].any()
    possible = foreign[seen.scene[chosen] != seen.scene[rows]].float()
    assert possible.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert (possible[:, 0] * possible[:, 1]).mean() == pytest.approx(0.25, abs=0.02)
    assert len(set(chosen[rows == 0].tolist())) == 3 * 6  # every chunk of its task


def test_a_scene_alone_in_its_task_is_never_called_foreign():
    alone = torch.arange(54) < 6
    seen = replace(imagined(9), task=torch.where(alone, 5, 0))
    rows = alone.nonzero()[:, 0].repeat(50)
    known = (~alone).nonzero()[:, 0]
    assert not _exchanged(seen, rows, known, torch.Generator().manual_seed(0))[1].any()


@pytest.mark.parametrize(("scenes", "tasks"), [(4, 1), (8, 8), (1, 1)])
def test_what_cannot_be_told_apart_is_said(scenes, tasks):
    with pytest.raises(
        RunError, match=f"{scenes} scenes of {tasks} tasks .* at least 8 episodes and two for each task"
    ):
        orient(gate_of(), imagined(scenes, tasks=tasks), seed=0)


@pytest.mark.sim
def test_stage_2_learns_to_see_first_and_only_once(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(training, "orient", lambda *given, **_: seen.append(given[1]) or Orientation(0.8, 0.5))
    options = {"tasks": TASKS, "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "orient": 8}
    for epochs in (0, 1, 2):  # the last goes on where the second ended
        config = Stage2Config(**options, epochs=epochs, imagination=ImaginationConfig())
        training.train(config, RunFolder(tmp_path), load_policy(config.policy, steps=2))
    assert [len(set(found.scene.tolist())) for found in seen] == [8, 8]
    chunks = len(seen[0].scene)
    assert seen[0].latents.shape == (chunks, 32, 2, 6, 4)
    assert seen[0].observation.shape == (chunks, 32, 1, 6, 4)
    assert torch.equal(seen[0].latents, seen[1].latents)
    # What is imagined is no noise: it is nearer to what is seen than to what is seen elsewhere.
    own, other = (seen[0].latents - seen[0].observation.roll(shift, 0) for shift in (0, chunks // 2))
    assert own.square().mean() < 0.7 * other.square().mean()
    assert "of others it tells in 80% whether a noisy latent follows" in " ".join(capsys.readouterr().err.split())


@pytest.mark.sim
def test_lies_are_seen_where_imagination_lies(tmp_path, monkeypatch):
    """As the gate will meet them, and nobody says which they are."""
    seen = []
    monkeypatch.setattr(training, "orient", lambda *given, **_: seen.append(given[1]) or Orientation(0.8, 0.5))
    for lies in ("never", "tasks"):
        imagination = ImaginationConfig(lies=lies, half="second")
        config = Stage2Config(tasks=TASKS, workers=0, orient=8, epochs=0, imagination=imagination)
        training.train(config, RunFolder(tmp_path / lies), load_policy(config.policy, steps=2))
    truth, lies = (
        {(int(s), int(t)): found.latents[i] for i, (s, t) in enumerate(zip(found.scene, found.task, strict=True))}
        for found in seen
    )
    assert truth.keys() == lies.keys()
    same = {place: torch.equal(truth[place], lies[place]) for place in truth}
    assert all(equal == (task == 0) for (_, task), equal in same.items())


@pytest.mark.sim
def test_a_gate_that_hears_words_sees_them_here_too(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(training, "orient", lambda *given, **_: heard.append(given) or Orientation(0.8, 0.5))
    config = Stage2Config(tasks=TASKS, workers=0, orient=8, epochs=0, gate=GateSettings(sees_words_and_state=True))
    training.train(config, RunFolder(tmp_path), load_policy(config.policy, steps=2))
    (gate, seen) = heard[0]
    assert set(seen.conditions) == {"context", "state"}
    assert len(seen.conditions["context"]) == len(seen.scene)
    assert torch.allclose(gate.context.center, torch.unique(seen.conditions["context"], dim=0).mean(0), atol=1e-6)


@pytest.mark.sim
def test_each_task_is_played_in_its_own_scenes_and_lost_episodes_are_left_out(tmp_path, monkeypatch, capsys):
    seeds, seen, lost = {"lift_pot": range(60_000, 60_004), "slide_bolt": range(60_002, 60_008)}, [], []
    reset = EnvironmentPool.reset

    def losing_the_first(pool, jobs):
        if not lost:
            lost.extend(jobs.values())
            raise PoolError({}, {})
        assert all(job.seed in seeds[job.spec.task] for job in jobs.values())
        return reset(pool, jobs)

    monkeypatch.setattr(EnvironmentPool, "reset", losing_the_first)
    monkeypatch.setattr(training, "training_seeds", lambda _: seeds)
    monkeypatch.setattr(training, "orient", lambda *given, **_: seen.append(given[1]) or Orientation(0.8, 0.5))
    config = Stage2Config(tasks=TASKS, workers=0, orient=8, eval_slots=4, epochs=0)
    training.train(config, RunFolder(tmp_path), load_policy(config.policy, steps=2))
    assert len(set(seen[0].scene.tolist())) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "up to 4 episodes were cut short" in said
    assert "imagined in 4 scenes" in said

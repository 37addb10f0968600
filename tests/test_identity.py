"""Identity is weights and data, not paths: what has changed is played again or refused, what has moved goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from noisegate_apps.data.demonstrations import load_demonstrations
from noisegate_apps.data.transitions import load_transitions, save_transitions
from noisegate_apps.evaluation.robotwin import RoboTwinScenes, evaluate_on_robotwin
from noisegate_apps.evaluation.tabletop import HeldOutScenes, Variant, evaluate, shared
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.folder import claimed
from noisegate_apps.runs.identity import differences
from noisegate_apps.runs.provenance import physics
from noisegate_apps.stage1 import config as stage1
from robotwin_env.episodes import Episode, episode_path, write_episode
from robotwin_env.errors import EvaluationError
from robotwin_env.robotwin import RoboTwinConfig
from robotwin_env.robotwin.evaluation import OfficialProtocol
from wam_backbone import Blind

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "checkpoints" / "tabletop-independent"
FAKE = ROOT / "packages/robotwin-env/tests/fake_simulator.py"

pytestmark = pytest.mark.sim


@pytest.fixture
def policy(tmp_path):
    shutil.copytree(POLICY, tmp_path / "policy")
    return tmp_path / "policy"


def retrain(folder, name="backbone/diffusion_pytorch_model.safetensors", key="action_proj_out.weight"):
    """Put other weights where the old ones lay."""
    tensors = load_file(folder / name)
    tensors[key] = torch.zeros_like(tensors[key])
    save_file(tensors, folder / name)


@pytest.fixture
def played(monkeypatch):
    """How many chunks were planned so far."""
    from noisegate_apps.policy.world import WorldPolicy

    calls = []
    plan = WorldPolicy.plan
    monkeypatch.setattr(
        WorldPolicy, "plan", lambda self, *args, **options: calls.append(1) or plan(self, *args, **options)
    )
    return calls


ONE = ("--tasks", "click_bell", "--episodes", 1, "--slots", 1, "--workers", 0, "--denoising-steps", 2)


def test_an_evaluation_of_other_weights_at_the_same_place_is_refused(app, policy, played, tmp_path):
    command = ("eval", "--schedules", "shared", "--policy", policy, *ONE, "--out", tmp_path / "run")
    app(*command)
    count = len(played)
    assert count > 0
    app(*command)
    assert len(played) == count, "what is known is not played again"
    retrain(policy)
    refused = app(*command, status=1)
    assert "holds another run (`policy` = " in refused.errors
    app(*command, "--overwrite")
    assert len(played) > count


def test_a_policy_may_move(app, policy, played, tmp_path):
    command = ("eval", "--schedules", "shared", *ONE, "--out", tmp_path / "run", "--policy")
    app(*command, policy)
    count = len(played)
    (policy / "loss.png").unlink()
    policy.rename(tmp_path / "elsewhere")
    app(*command, tmp_path / "elsewhere")
    assert len(played) == count


@pytest.mark.parametrize(("name", "suffix", "field"), [("learned", "", "gate"), ("global", "-global", "gate.global")])
def test_another_gate_at_the_same_place_is_refused(app, tmp_path, name, suffix, field):
    gate = tmp_path / f"gate{suffix}"
    shutil.copytree(ROOT / "checkpoints" / "tabletop-gate", gate)
    command = ("eval", "--schedules", name, "--gate", tmp_path / "gate", *ONE, "--no-illustrate", "--out", tmp_path)
    app(*command)
    retrain(gate, "model.safetensors", next(iter(load_file(gate / "model.safetensors"))))
    assert f"`{field}` = " in app(*command, status=1).errors


def test_stage_2_on_another_policy_at_the_same_place_is_refused(app, policy, tmp_path):
    command = ("stage2", "--policy", policy, "--tasks", "click_bell", "--epochs", 1, "--group-size", 2)
    command += ("--episodes-per-epoch", 2, "--orient", 0, "--workers", 0, "--skip-eval", "--out", tmp_path / "run")
    app(*command)
    app(*command)
    retrain(policy)
    assert "holds another run (`policy` = " in app(*command, status=1).errors


def test_recorded_outcomes_of_another_policy_schedule_or_scene_are_played_again(policy, played, tmp_path):
    first = load_policy(policy, device="cpu")
    retrain(policy)
    other = load_policy(policy, device="cpu")
    scenes = HeldOutScenes(tasks=("click_bell",), episodes=1)
    variant = Variant(name="shared", policy=first, choose=shared)
    with pool_of("tabletop", slots=1, workers=0) as pool:
        for changed, planned in (
            ((variant, scenes), True),
            ((variant, scenes), False),
            ((replace(variant, policy=other), scenes), True),
            ((replace(variant, policy=other, schedule="a gate"), scenes), True),
            ((replace(variant, policy=other, schedule="a gate"), replace(scenes, scene="clean")), True),
            ((replace(variant, policy=other, schedule="a gate"), replace(scenes, scene="clean")), False),
        ):
            before = len(played)
            evaluate([changed[0]], changed[1], pool, tmp_path / "outcomes")
            assert (len(played) > before) == planned


def test_recorded_outcomes_of_other_physics_are_played_again(policy, played, tmp_path, monkeypatch):
    variant = Variant(name="shared", policy=load_policy(policy, device="cpu"), choose=shared)
    scenes = HeldOutScenes(tasks=("click_bell",), episodes=1)
    record = tmp_path / "shared" / "click_bell.json"
    with pool_of("tabletop", slots=1, workers=0) as pool:
        evaluate([variant], scenes, pool, tmp_path)
        count, known = len(played), json.loads(record.read_text())
        assert known["identity"].pop("physics") == physics()
        record.write_text(json.dumps(known))  # as it was before physics were recorded
        evaluate([variant], scenes, pool, tmp_path)
        assert len(played) == count
        monkeypatch.setattr("noisegate_apps.evaluation.tabletop.physics", lambda: "other")
        record.write_text(json.dumps(known | {"identity": known["identity"] | {"physics": physics()}}))
        evaluate([variant], scenes, pool, tmp_path)
        assert len(played) > count


def test_a_run_on_the_tabletop_belongs_to_its_physics(tmp_path, monkeypatch):
    def begin(**options):
        with claimed(tmp_path, "stage2", {}, {"seed": 0}, **options) as run:
            (run.path / "kept").touch()

    begin(on_tabletop=True)
    begin(on_tabletop=True)
    monkeypatch.setattr("noisegate_apps.runs.folder.physics", lambda: "other")
    with pytest.raises(RunError, match=r"`physics` = '.*' there, 'other' here"):
        begin(on_tabletop=True)
    begin()
    monkeypatch.setattr("noisegate_apps.runs.folder.physics", lambda: None)  # outside of the repository: unknown
    begin(on_tabletop=True)


@pytest.mark.parametrize(
    "command",
    [
        ("collect", "--tasks", "click_bell", "--episodes", 1, "--workers", 1),
        ("stage2", "--tasks", "click_bell", "--epochs", 0, "--orient", 0, "--workers", 0, "--skip-eval"),
        ("eval", "--schedules", "shared", *ONE, "--no-illustrate"),
    ],
    ids=lambda command: command[0],
)
def test_whatever_plays_on_the_tabletop_is_refused_under_other_physics(app, command, tmp_path, monkeypatch):
    app(*command, "--out", tmp_path)
    app(*command, "--out", tmp_path)
    monkeypatch.setattr("noisegate_apps.runs.folder.physics", lambda: "other")
    assert "holds another run (`physics` = " in app(*command, "--out", tmp_path, status=1).errors


def test_what_another_variant_has_played_is_taken_over_and_recorded_as_its_own(policy, played, tmp_path):
    known, scenes = load_policy(policy, device="cpu"), HeldOutScenes(tasks=("click_bell", "lift_pot"), episodes=1)
    blind = Variant(name="blind", policy=known, choose=lambda _: Blind())
    best = Variant(name="best", policy=known, choose=shared, schedule="best", same_as={"click_bell": "blind"})
    records = tmp_path / "outcomes"

    def record(name):
        return json.loads((records / name).read_text())

    with pool_of("tabletop", slots=1, workers=0) as pool:
        results = evaluate([blind, best], scenes, pool, records)
        assert results["best"]["click_bell"] == results["blind"]["click_bell"]
        theirs, own = record("blind/click_bell.json"), record("best/click_bell.json")
        assert theirs.pop("identity") != own.pop("identity")
        assert own == theirs
        assert record("blind/lift_pot.json")["times"] != record("best/lift_pot.json")["times"]
        chunks = len(played)
        evaluate([best, blind], scenes, pool, records)
        assert len(played) == chunks  # what is recorded is not played again
        (records / "best" / "click_bell.json").unlink()
        evaluate([best, blind], scenes, pool, records)
        assert len(played) > chunks  # nor taken from one that comes later


def test_a_record_on_robotwin_belongs_to_its_weights(policy, tmp_path):
    variables = {"FAKE_SIMULATOR": json.dumps({"step_limit": 4})}
    config = RoboTwinConfig(root=tmp_path, simulator=FAKE, image_size=(64, 64), variables=variables, split="eval")
    scenes = RoboTwinScenes(config=config, protocol=OfficialProtocol(episodes=1))

    def play(chosen):
        variants = [Variant(name="shared", policy=chosen, choose=shared)]
        found = evaluate_on_robotwin(variants, ["click_bell"], scenes, tmp_path / "records", on_task=lambda _: None)
        return found["shared"]["click_bell"].batching.calls

    known = load_policy(policy, device="cpu")
    assert play(known) > 0
    assert play(known) == 0
    retrain(policy)
    with pytest.raises(EvaluationError):
        play(load_policy(policy, device="cpu"))


def test_what_a_policy_lies_with_and_teaches_from_is_part_of_it(policy):
    before = load_policy(policy, device="cpu").digest
    save_transitions(policy, {task: clips[:16] for task, clips in load_transitions(policy).items()})
    assert load_policy(policy, device="cpu").digest != before


def test_a_policy_in_memory_is_what_its_weights_are(policy):
    one, two = (load_policy(policy, device="cpu") for _ in range(2))
    assert one.digest == two.digest
    retrain(policy)
    assert load_policy(policy, device="cpu").digest != one.digest
    one._digest = two._digest = None  # as if it was put together in Python
    assert one.digest == two.digest
    with torch.no_grad():
        next(one.backbone.parameters()).add_(1.0)
    assert one.digest != two.digest


def episode(value):
    states = np.full((17, 14), value, np.float32)
    images = {name: np.full((17, 64, 64, 3), 7, np.uint8) for name in ("head", "left_wrist", "right_wrist")}
    return Episode(
        states=states[:-1],
        actions=states[1:],
        instructions=("go",),
        frequency=25,
        images=images,
        frame_steps=np.arange(17, dtype=np.int32),
        task="lift_pot",
        seed=0,
        success=True,
    )


def test_demonstrations_are_what_is_in_them(tmp_path):
    for name in ("one", "copy", "other"):
        (tmp_path / name).mkdir()
        write_episode(episode_path(tmp_path / name, 0), episode(0.5 if name == "other" else 0.25))
    one, copy, other = (load_demonstrations(tmp_path / name) for name in ("one", "copy", "other"))
    assert one.fingerprint != copy.fingerprint  # of times of change
    assert one.digest == copy.digest == load_demonstrations(tmp_path / "one").digest
    assert one.digest != other.digest


def test_stage_1_depends_on_data_and_codec_and_not_on_how_its_steps_are_cut():
    config = stage1.Stage1Config()
    known = {"data": "a", "codec": "b"}
    same = replace(
        config, data=Path("moved"), codec=Path("moved"), out=Path("x"), scale=stage1.ScaleSettings(micro_batch=8)
    )
    assert stage1.identity(config, known) == stage1.identity(same, known)
    assert differences(stage1.identity(config, known), stage1.identity(config, known | {"data": "c"})) == [
        "`data` = 'a' there, 'c' here"
    ]
    assert stage1.identity(config, known) != stage1.identity(replace(config, seed=1), known)

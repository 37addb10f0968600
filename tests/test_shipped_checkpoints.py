"""The checkpoints of the repository say what made them, and are not older than the world that they are played in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noisegate_apps.codec.config import CodecConfig
from noisegate_apps.policy.loading import load_policy, save_policy
from noisegate_apps.runs.command_line import parse
from noisegate_apps.runs.files import read_json
from noisegate_apps.runs.identity import identity_of
from noisegate_apps.runs.provenance import physics
from noisegate_apps.runs.seeds import generator_of
from noisegate_apps.stage1 import config as stage1
from noisegate_apps.stage1 import presets
from noisegate_apps.stage2.config import PRESETS, Stage2Config
from wam_backbone import SharedSchedule, WorldActionPipeline
from wam_backbone.cameras import CAMERAS

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/training.json"))


def test_there_are_checkpoints():
    assert {folder.name for folder in SHIPPED} >= {"tabletop-codec", "tabletop-gate", "tabletop-independent"}


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_checkpoint_records_what_made_it(folder):
    record = json.loads((folder / "training.json").read_text())
    assert {"command", "commit", "config", "versions", "machine"} <= set(record)
    assert len(record["commit"]) == 40


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_checkpoint_was_trained_under_todays_physics(folder):
    known = json.loads((folder / "training.json").read_text()).get("physics")
    if known is None:
        pytest.skip("does not say under which physics it was trained")
    assert known == physics(), f"{folder.name} is stale: train it again, or restore the physics"


@pytest.mark.parametrize("name", ["tabletop-codec", "tabletop-independent", "tabletop-shared"])
def test_the_recorded_command_still_asks_for_what_made_the_checkpoint(name):
    record = json.loads((ROOT / "checkpoints" / name / "training.json").read_text())
    script, *arguments = record["command"].split()
    made = record["identity"]
    if script == "train_codec.py":
        assert identity_of(parse(CodecConfig, arguments), {"data": made["data"]}) == made
    else:
        read = {"data": made["data"], "codec": made["codec"], "wan.start": made["wan"]["start"]}
        asked = stage1.identity(parse(stage1.Stage1Config, arguments, presets=presets.PRESETS), read)
        assert asked == {"head_start": 0.0, **made}  # an option since then, and what there was before it


def test_the_gate_is_what_the_main_job_makes_of_the_policy_beside_it():
    made = json.loads((ROOT / "checkpoints" / "tabletop-gate" / "training.json").read_text())
    record = made["identity"]
    config = parse(Stage2Config, made["command"].split()[1:], presets=PRESETS)
    assert config == Stage2Config()
    policy = load_policy(config.policy, device="cpu")
    tasks = tuple(policy.settings.tasks)
    imagination = config.imagination.resolved(tasks, tuple(policy.transitions))
    lattice = read_json(ROOT / config.policy / "lattices" / "tasks-both.json")
    now = replace(config, tasks=tasks, scene=policy.settings.scene, imagination=imagination)
    asked = identity_of(now, {"policy": policy.digest, "lattice": lattice})
    assert asked == {"pull": 0.0, **record}  # an option since then, and what there was before it


@pytest.mark.parametrize("head_start", [0.0, 0.5])
def test_a_saved_policy_is_a_pipeline_that_plans_the_same(tmp_path, head_start):
    shipped = ROOT / "checkpoints" / "tabletop-independent"
    policy = load_policy(shipped, steps=2, head_start=head_start, device="cpu")
    save_policy(tmp_path, policy.backbone, policy.pipeline.codec, policy.settings)
    pipeline = WorldActionPipeline.from_pretrained(tmp_path / "backbone")
    random = np.random.default_rng(0)
    seen = {name: random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in CAMERAS}
    state, words, schedule = random.normal(size=14), "lift the pot", SharedSchedule()
    plan = policy.plan([{**seen, "state": state}], [words], schedule, [(3,)])
    chunk = pipeline.act(seen, state, words, schedule=schedule, generator=[generator_of("noise", 3)])
    assert np.array_equal(chunk.actions.numpy(), plan.actions)
    fallen = [[time] * 2 for time in (1.0, 0.0 if head_start else 0.5, 0.0)]
    assert chunk.times[0].tolist() == plan.chunk.times[0].tolist() == fallen
    assert load_policy(tmp_path).clock == policy.clock

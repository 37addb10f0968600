"""What a gate is compared with is played while it trains, to the same outcomes."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from noisegate_apps.evaluation.running import held_out_scenes
from noisegate_apps.evaluation.tabletop import evaluate, identity_of_outcomes
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.files import read_json
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2.comparison import compared, compared_in, evaluation_of, fixed_variants, playing_ahead
from noisegate_apps.stage2.config import Stage2Config
from noisegate_apps.stage2.gate import new_gate
from noisegate_apps.stage2.training import resolved

CONFIG = Stage2Config(
    tasks=("click_bell",), eval_episodes=2, denoising_steps=2, head_start=0.0, executor="processes", orient=0
)


@pytest.fixture(scope="module")
def policy():
    return load_policy(CONFIG.policy, steps=CONFIG.denoising_steps, head_start=0.0, device="cpu")


@pytest.mark.sim
@pytest.mark.slow
def test_outcomes_that_are_played_ahead_are_those_of_the_comparison(policy, tmp_path):
    config = resolved(CONFIG, policy)
    names = [variant.name for variant in fixed_variants(config, policy)]
    assert names == ["shared", "monotone", "blind"]
    ahead = [tmp_path / "ahead" / "outcomes" / name / "click_bell.json" for name in names]
    with playing_ahead(config, RunFolder(tmp_path / "ahead"), policy):
        (process,) = multiprocessing.active_children()
        while process.is_alive() and not all(file.exists() for file in ahead):
            time.sleep(0.2)
    assert not multiprocessing.active_children()
    with pool_of("tabletop", slots=2, workers=1) as pool:
        evaluate(fixed_variants(config, policy), held_out_scenes(evaluation_of(config)), pool, tmp_path / "then")
    assert [read_json(file) for file in ahead] == [
        read_json(tmp_path / "then" / name / "click_bell.json") for name in names
    ]


def test_another_process_compares_the_same_as_this_one(policy, tmp_path):
    config = resolved(CONFIG, policy)
    gate = new_gate(config.gate, policy)
    with torch.no_grad():
        gate.mean_bias += 1.0  # no gate that anybody would make anew
    gate.save_pretrained(tmp_path / "gate")
    make = pickle.loads(pickle.dumps(partial(compared_in, tmp_path, config)))
    scenes = held_out_scenes(evaluation_of(config))
    here, there = (
        [identity_of_outcomes(variant, scenes, "click_bell") for variant in variants]
        for variants in (compared(config, policy, gate), make())
    )
    assert here == there
    assert [one["variant"] for one in here][-1] == "learned"


@pytest.mark.parametrize("options", [{"skip_eval": True}, {"executor": "in-process"}, {"env": "robotwin"}])
def test_nothing_is_played_ahead_where_no_core_is_idle_for_it(policy, tmp_path, options):
    with playing_ahead(replace(CONFIG, **options), RunFolder(tmp_path), policy):
        assert not multiprocessing.active_children()

"""What several processes play of an evaluation is what one of them would."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial

import pytest

from noisegate_apps.evaluation import spread
from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.evaluation.running import held_out_scenes, variants_of
from noisegate_apps.evaluation.spread import play_in_processes
from noisegate_apps.evaluation.tabletop import evaluate, outcomes_in
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.runs.files import read_json

CONFIG = EvalConfig(
    tasks=("click_bell",),
    scene="clean",
    schedules=("shared", "blind"),
    episodes=2,
    denoising_steps=2,
    head_start=0.0,
    device="cpu",
)


@pytest.fixture(scope="module")
def variants():
    return variants_of(CONFIG)


@pytest.mark.sim
@pytest.mark.slow
def test_processes_play_what_one_process_plays(variants, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "WORTH", 4)
    scenes = held_out_scenes(CONFIG)
    play_in_processes(partial(variants_of, CONFIG), variants, scenes, tmp_path / "many", slots=2, processes=2)
    with pool_of("tabletop", slots=2, workers=1) as pool:
        evaluate(variants, scenes, pool, tmp_path / "one")
    for variant in variants:
        assert outcomes_in(tmp_path / "many", variant, scenes, "click_bell") is not None
        many, one = (read_json(tmp_path / place / variant.name / "click_bell.json") for place in ("many", "one"))
        assert many == one
    play_in_processes(
        partial(os._exit, 1), variants, scenes, tmp_path / "many", slots=2, processes=2
    )  # nothing is left


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_no_error(variants, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spread, "WORTH", 4)
    play_in_processes(
        partial(os._exit, 1), variants, held_out_scenes(CONFIG), tmp_path / "outcomes", slots=2, processes=2
    )
    assert "a process of the evaluation was killed" in capsys.readouterr().err
    assert not (tmp_path / "outcomes").exists()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("processes", "worth", "light"), [(1, 4, spread.LIGHT), (0, 4, spread.LIGHT), (2, 5, spread.LIGHT), (2, 4, 1000)]
)
def test_processes_start_where_they_are_worth_it(variants, tmp_path, monkeypatch, processes, worth, light):
    monkeypatch.setattr(spread, "WORTH", worth)
    monkeypatch.setattr(spread, "LIGHT", light)
    monkeypatch.setattr(spread, "worker_processes", lambda _: pytest.fail("started"))
    play_in_processes(partial(os._exit, 1), variants, held_out_scenes(CONFIG), tmp_path, slots=2, processes=processes)

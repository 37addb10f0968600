"""Policies under Wan's codec, tiny: Stage 2 and evaluation, on the tabletop and on RoboTwin."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch

from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.evaluation.running import run as evaluate
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.report.records import read_runs
from noisegate_apps.report.sections import section_of
from noisegate_apps.runs.command_line import RoboTwinOptions
from noisegate_apps.stage2 import comparison
from noisegate_apps.stage2 import training as stage2
from noisegate_apps.stage2.config import Stage2Config
from noisegate_apps.stage2.gate import new_gate
from wam_backbone import Clock

FAKE = Path(__file__).parents[1] / "packages/robotwin-env/tests/fake_simulator.py"

pytestmark = pytest.mark.sim


@pytest.fixture
def robotwin(tmp_path):
    """Fifteen actions an episode; pictures that are not square."""
    variables = {"FAKE_SIMULATOR": json.dumps({"step_limit": 15, "image": [24, 32]})}
    return RoboTwinOptions(root=tmp_path, simulator=FAKE, variables=variables)


def small(policy, out, **changes):
    sizes = {"epochs": 1, "group_size": 2, "episodes_per_epoch": 2, "eval_episodes": 1, "eval_slots": 1, "workers": 0}
    return Stage2Config(policy=policy, out=out, tasks=("click_bell",), orient=0, **(sizes | changes))


def results_of(folder):
    return json.loads((folder / "summary.json").read_text())["success"]


TITLE = 18
GATES = 128  # how each latent's time falls, below the pictures
FILM = (TITLE + 4 * (48 + 1 + 48) + GATES, 2 * (4 * 32 + 4), 3)
"""Two schedules side by side, each under its title, its frames four times as large."""


def film_of(folder):
    return imageio.imread(folder / "videos" / "click_bell.mp4")


def test_a_policy_keeps_the_clock_of_its_training_and_changes_the_number_of_steps_alone(wan_policy):
    assert load_policy(wan_policy).clock == Clock.shifted(5.0, 10)
    assert load_policy(wan_policy, steps=4).clock == Clock.shifted(5.0, 4)
    shipped = Path(__file__).parents[1] / "checkpoints/tabletop-independent"
    assert load_policy(shipped, steps=4).clock == Clock.linear(2).delayed(2)
    assert load_policy(shipped, steps=4, head_start=0.0).clock == Clock.linear(4)
    assert load_policy(wan_policy, head_start=0.3).clock == Clock.shifted(5.0, 7).delayed(3)
    assert load_policy(wan_policy, head_start=0.3).video_clock == Clock.shifted(5.0, 3).held(7)


def test_stage_2_decides_on_the_policys_own_clock(wan_policy, tmp_path, monkeypatch):
    seen = []
    train = stage2.train

    def seeing(config, folder, policy, **options):
        seen.append(policy.clock)
        return train(config, folder, policy, **options)

    monkeypatch.setattr(stage2, "train", seeing)
    stage2.run(small(wan_policy, tmp_path / "run", skip_eval=True))
    stage2.run(small(wan_policy, tmp_path / "short", denoising_steps=3, head_start=0.4, skip_eval=True))
    assert seen == [Clock.shifted(5.0, 10), Clock.shifted(5.0, 2).delayed(1)]


def test_stage_2_trains_compares_and_films_on_the_tabletop(wan_policy, tmp_path):
    stage2.run(small(wan_policy, tmp_path / "run"))
    assert set(results_of(tmp_path / "run")) == {"shared", "monotone", "blind", "learned"}  # nothing waits
    frames = film_of(tmp_path / "run")
    assert frames.shape[1:] == FILM  # executed over imagined, a line between
    assert (frames[:, TITLE + 4 * 48 + 1, : 4 * 32] > 200).all()


def test_stage_2_trains_compares_and_films_on_robotwin(wan_policy, robotwin, tmp_path):
    stage2.run(small(wan_policy, tmp_path / "run", env="robotwin", robotwin=robotwin, workers=1))
    assert results_of(tmp_path / "run")["learned"]["all"]["episodes"] == 1
    assert film_of(tmp_path / "run").shape[1:] == FILM
    assert json.loads((tmp_path / "run" / "times.json").read_text())["click_bell"]["chunks"] >= 1


def test_evaluation_plays_on_robotwin_and_the_tabletop(wan_policy, robotwin, tmp_path):
    gate = tmp_path / "gate"
    new_gate(small(wan_policy, tmp_path).gate, load_policy(wan_policy)).save_pretrained(gate)
    common = {"policy": wan_policy, "gate": gate, "schedules": ("shared", "learned", "imagine-first")}
    common |= {"tasks": ("click_bell",), "episodes": 1}
    evaluate(EvalConfig(**common, slots=1, workers=0, out=tmp_path / "eval"))
    evaluate(EvalConfig(**common, env="robotwin", robotwin=robotwin, workers=1, out=tmp_path / "eval"))
    for name in ("shared-learned-imagine-first", "robotwin-shared-learned-imagine-first"):
        assert set(results_of(tmp_path / "eval" / name)) == {"shared", "learned", "imagine-first"}
        assert "seed_pools" not in json.loads((tmp_path / "eval" / name / "config.json").read_text())["identity"]
        assert film_of(tmp_path / "eval" / name).shape[1:] == FILM
        run = read_runs([tmp_path / "eval" / name])
        assert all(section_of(figure, run) for figure in ("time-trajectories", "residual-times", "attention"))


def test_a_film_that_fails_loses_no_result(wan_policy, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no film")

    config = small(wan_policy, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "illustrate", broken)
        with pytest.raises(ZeroDivisionError, match="no film"):
            stage2.run(config)
    results = results_of(tmp_path / "run")
    assert (tmp_path / "run" / "success.png").exists()
    stage2.run(config)
    assert results_of(tmp_path / "run") == results
    assert len(film_of(tmp_path / "run")) > 0


@pytest.mark.gpu
def test_policy_gate_and_films_share_the_gpu(wan_policy, tmp_path):
    policy = load_policy(wan_policy, device="cuda")
    assert policy.device.type == "cuda"
    stage2.run(small(wan_policy, tmp_path / "run", device="cuda"))
    assert "learned" in results_of(tmp_path / "run")
    assert len(film_of(tmp_path / "run")) > 0


def test_the_gate_is_where_the_policy_is(wan_policy, tmp_path, monkeypatch):
    """Without a GPU: a device of another kind is enough to see what is moved."""
    moved = []

    def stop(_, parts):
        moved.append({parameter.device.type for parameter in parts["gate"].parameters()})
        raise ZeroDivisionError

    policy = load_policy(wan_policy)
    monkeypatch.setattr(type(policy), "device", property(lambda self: torch.device("meta")))
    monkeypatch.setattr(stage2, "load_policy", lambda *_, **__: policy)
    monkeypatch.setattr(stage2, "TrainingState", stop)
    with pytest.raises(ZeroDivisionError):
        stage2.run(small(wan_policy, tmp_path / "run"))
    assert moved == [{"meta"}]

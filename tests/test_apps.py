"""The apps from demonstrations to a compared gate, and through SIGKILL to the same weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from noisegate_apps.data.demonstrations import load_demonstrations
from noisegate_apps.evaluation.tabletop import HeldOutScenes, shared
from noisegate_apps.play.episodes import play
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from wam_backbone import ConvCodec
from wam_backbone.cameras import to_codec
from wam_backbone.training import TrainingCheckpoints

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "checkpoints" / "tabletop-independent"
TINY_BACKBONE = ("--backbone.num-layers", "1", "--backbone.head-dim", "12", "--backbone.action-width", "32")
TASKS = ("click_bell", "lift_pot")

pytestmark = [pytest.mark.slow, pytest.mark.sim]


def command(app, *arguments):
    return [sys.executable, str(ROOT / "apps" / f"{app}.py"), *map(str, arguments)]


@pytest.fixture
def kill_after(begin):
    """Start an app and kill it outright once it has so many steps behind it."""

    def start(step, out, app, *arguments):
        line = command(app, *arguments, "--out", out)
        process = begin(*line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while TrainingCheckpoints(out / "state").latest() < step:
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    return start


def same_weights(first, second):
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Three episodes of two tasks, collected by the true script in an interpreter of its own."""
    folder = tmp_path_factory.mktemp("tabletop")
    line = command("collect", "--out", folder, "--tasks", *TASKS, "--episodes", "3", "--workers", "1")
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(folder.rglob("episode*.hdf5"))) + len(list(folder.rglob("episode*.failed"))) == 6
    return folder


def test_a_codec_learns_to_show_what_it_saw(app, demonstrations, tmp_path):
    for steps in (0, 40):
        app(
            "train_codec", "--data", demonstrations, "--out", tmp_path / str(steps), "--steps", steps, "--held-out", 0.4
        )
    frames = load_demonstrations(demonstrations).frames[:5]
    video = to_codec(frames).unsqueeze(0)
    missed = {}
    for steps in (0, 40):
        codec = ConvCodec.from_pretrained(tmp_path / str(steps) / "codec").eval()
        with torch.no_grad():
            missed[steps] = (codec.decode(codec.encode(video)) - video).square().mean().item()
    assert missed[40] < 0.5 * missed[0]
    errors = json.loads((tmp_path / "40" / "probe.json").read_text())["median_error_cm"]
    assert {"click_bell/bell", "lift_pot/pot"} <= set(errors)
    assert all(0 <= error < 100 for error in errors.values())


def test_a_killed_stage_1_goes_on_to_the_same_weights(app, kill_after, demonstrations, tmp_path):
    shared = ("--data", demonstrations, "--batch-size", "4", "--steps", "6", "--checkpoint-every", "1", *TINY_BACKBONE)
    app("stage1", *shared, "--out", tmp_path / "whole")
    kill_after(2, tmp_path / "killed", "stage1", *shared)
    assert not (tmp_path / "killed" / "policy").exists()
    app("stage1", *shared, "--out", tmp_path / "killed")
    weights = "policy/backbone/diffusion_pytorch_model.safetensors"
    assert same_weights(tmp_path / "whole" / weights, tmp_path / "killed" / weights)
    app("stage1", *shared, "--out", tmp_path / "other", "--seed", "1", "--head-start", "0.3")
    assert not same_weights(tmp_path / "whole" / weights, tmp_path / "other" / weights)
    assert load_policy(tmp_path / "other" / "policy").clock.waiting == 3


def test_a_killed_stage_2_goes_on_to_the_same_gate_and_leaves_what_it_promises(app, kill_after, tmp_path):
    arguments = ("--policy", POLICY, "--tasks", "place_a2b_left", "click_bell", "--epochs", "3", "--eval-episodes", "1")
    arguments += ("--group-size", "2", "--episodes-per-epoch", "4", "--denoising-steps", "3", "--workers", "1")
    arguments += ("--orient", 16)
    printed = app("stage2", *arguments, "--out", tmp_path / "whole").output
    assert f"report: {tmp_path / 'whole' / 'report.html'}" in printed
    kill_after(1, tmp_path / "killed", "stage2", *arguments)
    app("stage2", *arguments, "--out", tmp_path / "killed")
    metrics = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert same_weights(tmp_path / "whole" / "gate/model.safetensors", tmp_path / "killed" / "gate/model.safetensors")

    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert set(summary["success"]) == {"shared", "together", "monotone", "blind", "learned"}
    assert summary["success"]["learned"]["all"]["episodes"] == 2
    assert summary["difference_to_shared"]["learned"]["all"]["episodes"] == 2
    assert summary == json.loads((tmp_path / "killed" / "summary.json").read_text())
    page = (tmp_path / "whole" / "report.html").read_text()
    for title in ("Side by side", "Attention against noise", "Attention by layer", "Residual noise", "Latency"):
        assert title in page
    assert page.count("<video") == 2
    figures = ("success", "learning_curve", "time_trajectories", "residual_times", "videos/place_a2b_left")
    for name in (f"{figure}.png" for figure in figures):
        picture = imageio.imread(tmp_path / "whole" / name)
        assert min(picture.shape[:2]) > 100, name
        assert np.unique(picture[..., :3].reshape(-1, 3), axis=0).shape[0] > 10, f"{name} is empty"
    assert imageio.imread(tmp_path / "whole" / "videos/click_bell.mp4").shape[0] >= 8


def test_the_ablation_and_every_named_schedule_play_end_to_end(app, tmp_path):
    one = ("--policy", POLICY, "--denoising-steps", 4, "--tasks", "click_bell", "--episodes", 1, "--slots", 1)
    one += ("--workers", 0, "--head-start", 0.5)
    app("eval", "ablation", "--shared-times-policy", POLICY, *one, "--out", tmp_path)
    summary = json.loads((tmp_path / "ablation" / "summary.json").read_text())
    assert {"shared-times", "shared", "monotone", "learned"} <= set(summary["success"])
    assert {"blind", "imagine-first", "together", "fewer-steps", "ddim", "edm"} <= set(summary["success"])
    paths = {name: tmp_path / "ablation" / "outcomes" / name / "click_bell.json" for name in ("shared", "together")}
    fallen = {name: json.loads(path.read_text())["times"]["mean"][2] for name, path in paths.items()}
    assert fallen == {"shared": [0.0, 0.0], "together": [0.5, 0.5]}
    assert summary["calls_per_chunk"]["fewer-steps"]["mean"] < summary["calls_per_chunk"]["shared"]["mean"]
    quick = ("--no-illustrate", "--out", tmp_path)
    app("eval", "--schedules", "blind", "imagine-first", "hold+shared", *one, *quick)
    summary = json.loads((tmp_path / "blind-imagine-first-hold+shared" / "summary.json").read_text())
    assert set(summary["success"]) == {"blind", "imagine-first", "hold+shared"}
    assert not (tmp_path / "blind-imagine-first-hold+shared" / "illustrations.json").exists()
    assert (tmp_path / "ablation" / "videos" / "click_bell.mp4").exists()


def test_an_episode_does_not_depend_on_how_many_processes_simulate():
    policy = load_policy(POLICY, steps=2, device="cpu")
    jobs = [job for task in TASKS for job in HeldOutScenes(tasks=TASKS, episodes=2).jobs(task)]
    ends = []
    for workers in (0, 1, 2):
        with pool_of("tabletop", slots=3, workers=workers) as pool:
            found = dict(play(policy, pool, jobs, shared))
        ends.append([(found[place].success, found[place].steps, found[place].observation) for place in range(4)])
    for other in ends[1:]:
        for (success, steps, observation), (again, more, seen) in zip(ends[0], other, strict=True):
            assert (success, steps) == (again, more)
            assert all(np.array_equal(observation[name], seen[name]) for name in observation)


@pytest.mark.parametrize("name", ["collect", "stage1", "stage2", "eval"])
def test_robotwins_options_are_shown_where_they_are_asked_for(app, name):
    short = app(name, "--help").output
    assert "--robotwin.python" not in short
    assert "--seed-pools" not in short
    assert "--tasks" in short
    assert "--env robotwin --help" in " ".join(short.split())
    long = app(name, "--env", "robotwin", "--help").output
    assert "--robotwin.python" in long
    assert len(set(re.findall(r"--(?:no-)?robotwin\.([a-z-]+)", long))) > 20


@pytest.mark.parametrize("app", ["collect", "train_codec", "stage1", "stage2", "eval"])
def test_help_does_not_wait_for_torch(app):
    line = [sys.executable, "-X", "importtime", *command(app, "--help")[1:]]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "--out" in done.stdout
    imported = {row.rsplit("|", 1)[-1].strip() for row in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "diffusers", "sapien", "panda3d"}

"""SIGTERM in the middle of training and evaluation: one line, no process left, and the next command goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robotwin_env.episodes import Episode, episode_path, write_episode
from robotwin_env.vector import EnvironmentPool
from wam_backbone.cameras import CAMERAS
from wam_backbone.training import TrainingCheckpoints

pytestmark = pytest.mark.slow

TOLD = "ended by SIGTERM; the same command goes on where this run stopped."


@pytest.fixture
def told(app, monkeypatch):
    """Run an app that gets a SIGTERM after the first call of a method of whose object a condition holds."""

    def run(kind, method, condition, *line):
        def then_told(self, *arguments, **options):
            found = call(self, *arguments, **options)
            if condition(self):
                signal.raise_signal(signal.SIGTERM)
            return found

        call = getattr(kind, method)
        earlier = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody minds the signal"))
        try:
            with monkeypatch.context() as patch:
                patch.setattr(kind, method, then_told)
                done = app(*line, status=128 + signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, earlier)
        assert done.errors.strip().splitlines()[-1] == TOLD
        assert "Traceback" not in done.errors

    return run


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Four recordings of a robot that hardly moves."""
    folder = tmp_path_factory.mktemp("demonstrations")
    random = np.random.default_rng(0)
    for seed in range(4):
        states = random.normal(0, 0.1, (17, 14)).astype(np.float32)
        frames = random.integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
        found = Episode(
            states=states[:-1],
            actions=states[1:],
            instructions=("lift the pot",),
            frequency=25,
            images=dict.fromkeys(CAMERAS, frames),
            frame_steps=np.arange(0, 17, 2, dtype=np.int32),
            task="lift_pot",
            seed=seed,
            success=True,
            extra={"pot": random.normal(0, 0.1, (9, 7)).astype(np.float32)},
        )
        (folder / "lift_pot").mkdir(exist_ok=True)
        write_episode(episode_path(folder / "lift_pot", seed), found)
    return folder


SMALL = ("--backbone.num-layers", 1, "--backbone.head-dim", 12, "--backbone.action-width", 32)


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [("train_codec", ("--decoded", 2, "--workers", 1), "codec"), ("stage1", SMALL, "policy/backbone")],
)
def test_training_that_is_told_to_stop_goes_on_to_the_same_weights(
    app, told, demonstrations, tmp_path, monkeypatch, name, options, kept
):
    line = (name, "--data", demonstrations, "--steps", 2, "--checkpoint-every", 1, "--batch-size", 4, *options, "--out")
    told(TrainingCheckpoints, "save", lambda _: True, *line, tmp_path / "stopped")
    assert TrainingCheckpoints(tmp_path / "stopped" / "state").latest() == 1
    assert not (tmp_path / "stopped" / kept).exists()
    saved, save = [], TrainingCheckpoints.save
    monkeypatch.setattr(
        TrainingCheckpoints,
        "save",
        lambda self, step, *rest, **named: saved.append(step) or save(self, step, *rest, **named),
    )
    app(*line, tmp_path / "stopped")
    assert saved == [2]
    app(*line, tmp_path / "whole")
    stopped, whole = (
        load_file(tmp_path / run / kept / "diffusion_pytorch_model.safetensors") for run in ("stopped", "whole")
    )
    assert stopped.keys() == whole.keys()
    assert all(torch.equal(stopped[key], tensor) for key, tensor in whole.items())


@pytest.mark.sim
def test_an_evaluation_that_is_told_to_stop_keeps_what_it_played_and_goes_on(app, told, tmp_path):
    line = ("eval", "--schedules", "shared", "--tasks", "click_bell", "lift_pot", "--episodes", 1, "--slots", 1)
    line += ("--denoising-steps", 1, "--no-illustrate", "--out", tmp_path, "--workers")
    simulators = set()

    def one_is_played(pool):
        simulators.update(pool.worker_pids)
        return bool(list(tmp_path.rglob("click_bell.json")))

    told(EnvironmentPool, "step_chunk", one_is_played, *line, 1)
    assert len(simulators) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in simulators)
    (played,) = (tmp_path / "shared" / "outcomes").rglob("*.json")
    when = played.stat().st_mtime_ns
    assert "report: " in app(*line, 0).output
    assert played.stat().st_mtime_ns == when
    assert (tmp_path / "shared" / "summary.json").exists()

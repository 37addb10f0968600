"""Stage 1 in the paper's configurations, scaled down: Wan's codec and text encoder, RoboTwin's files, two processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage1.config import AdapterSettings, ScaleSettings
from noisegate_apps.stage1.presets import from_preset
from noisegate_apps.stage1.training import run as train
from robotwin_env.episodes import Episode, EpisodeIndex, episode_path, write_episode
from wam_backbone import SharedSchedule, WorldActionModel
from wam_backbone.presets import fastwam, motus
from wam_backbone.training import TrainingCheckpoints, adapters_of, load_adapters

ROOT = Path(__file__).parents[1]
TASKS = {"lift_pot": ("Lift the pot.", "Raise the pot with both arms."), "click_bell": ("Press the bell.",)}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Two short episodes of each task, a picture at every step, in RoboTwin's layout."""
    folder = tmp_path_factory.mktemp("robotwin")
    generator = np.random.default_rng(0)
    for task, phrases in TASKS.items():
        for seed in range(2):
            steps = 40 + seed
            states = np.cumsum(generator.normal(size=(steps + 1, 14)), axis=0).astype(np.float32) / 10
            pictures = {
                name: generator.integers(0, 256, (steps + 1, 24, 32, 3), dtype=np.uint8)
                for name in ("head", "left_wrist", "right_wrist")
            }
            episode = Episode(
                states=states[:-1],
                actions=states[1:],
                instructions=phrases,
                frequency=16,
                images=pictures,
                frame_steps=np.arange(steps + 1, dtype=np.int32),
                task=task,
                seed=seed,
                success=True,
            )
            path = episode_path(folder / task, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_episode(path, episode)
    return folder


def tiny(repository, episodes, out, name="fastwam", **changes):
    """A preset of the paper with tiny sizes; everything else is the preset's."""
    config = from_preset(name, fastwam() if name == "fastwam" else motus())
    sizes = {"action_width": 16, "action_ffn": 16, "num_layers": 2, "num_heads": 2, "head_dim": 12, "freq_dim": 16}
    clips = {"source": str(repository), "rows": 48, "columns": 32, "head_rows": 32, "text_length": 48}
    fields = {
        "data": episodes,
        "out": out,
        "backbone": dataclasses.replace(config.backbone, video_ffn=32, **sizes),
        "wan": dataclasses.replace(config.wan, **clips, **changes.pop("wan", {})),
        "batch_size": 4,
        "epochs": 0,
        "steps": 4,
        "log_every": 1,
    }
    return dataclasses.replace(config, **(fields | changes))


@pytest.fixture
def configure(wan, episodes, tmp_path):
    def make(name="fastwam", *, out=tmp_path / "run", **changes):
        return tiny(wan, episodes, out, name, **changes)

    return make


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["fastwam", "motus"])
def test_a_configuration_of_the_paper_trains_scaled_down(name, configure):
    config = configure(name)
    train(config)
    history = losses(config.run_folder)
    assert len(history) == 4
    assert np.isfinite(history).all()
    policy = json.loads((config.run_folder / "policy" / "policy.json").read_text())
    assert policy["timing"]["action_steps"] == (32 if name == "fastwam" else 16)
    model = WorldActionModel.from_pretrained(config.run_folder / "policy" / "backbone")
    assert model.statistics.actions.limit == (5.0 if name == "fastwam" else None)
    unscaled = model.statistics.actions.scale == (1.0,) * 14
    assert unscaled == (name == "motus")


def test_a_kept_policy_sees_what_it_was_trained_on_and_acts(configure, episodes):
    config = configure(head_start=0.3)
    train(config)
    policy = load_policy(config.run_folder / "policy")
    assert policy.clock.waiting == policy.clock.num_steps * 3 // 10 > 0
    index = EpisodeIndex.open(episodes)
    cameras = ("head", "left_wrist", "right_wrist")
    observation = {name: index.frames(1, name, [0])[0] for name in cameras} | {"state": index.states[41]}
    plan = policy.plan([observation] * 2, ["Lift the pot."] * 2, SharedSchedule(), [(0,), (1,)])
    assert plan.actions.shape == (2, 32, 14)
    assert np.isfinite(plan.actions).all()
    assert not np.array_equal(plan.actions[0], plan.actions[1])
    assert policy.picture(plan, 0).shape == (9, 48, 32, 3)
    shards = [load_file(path)["clip"] for path in sorted(episodes.glob(".latents/*/shard-*.safetensors"))]
    trained_on = torch.cat([shard for shard in shards if len(shard) > 100])
    seen = trained_on[index.entries[0].steps, :, :1]
    torch.testing.assert_close(plan.observation[0], seen.float(), rtol=0, atol=5e-3)
    # A clip of every episode comes along, under the name of its task.
    of_window = [number for number, entry in enumerate(index.entries) for _ in range(entry.steps)]
    for task in TASKS:
        clips = policy.transitions[task]
        found = {of_window[int((trained_on == clip).flatten(1).all(1).nonzero()[0, 0])] for clip in clips}
        assert found == {number for number, entry in enumerate(index.entries) if entry.task == task}


def test_training_starts_from_wans_video_weights(configure, wan):
    config = configure(steps=0)
    train(config)
    ours = load_file(config.run_folder / "policy" / "backbone" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(wan / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(ours["blocks.1.video.attn1.to_q.weight"], theirs["blocks.1.attn1.to_q.weight"])
    assert torch.equal(ours["patch_embedding.weight"], theirs["patch_embedding.weight"])


def test_latents_and_texts_are_encoded_once(configure, monkeypatch, tmp_path):
    train(configure(wan={"cache": tmp_path / "cache", "rows_per_shard": 50}))
    assert len(list((tmp_path / "cache").glob("*/shard-*.safetensors"))) == 4  # 162 windows
    assert len(list((tmp_path / "cache" / "texts").glob("*/texts-*.safetensors"))) == 1
    for encoder in ("WanCodec", "UMT5TextEncoder"):
        monkeypatch.setattr(
            f"noisegate_apps.stage1.material.{encoder}.from_pretrained", lambda *_, **__: pytest.fail("loaded again")
        )
    again = configure(wan={"cache": tmp_path / "cache", "rows_per_shard": 50}, out=tmp_path / "again")
    train(again)
    assert losses(again.out) == losses(tmp_path / "run")


def test_accumulated_parts_are_the_whole_batch(configure, tmp_path):
    train(configure())
    scale = ScaleSettings(micro_batch=1, checkpointing=True)
    train(configure(scale=scale, out=tmp_path / "parts"))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "run"), rel=1e-5)


def test_adapters_are_trained_kept_apart_and_merged(configure, wan, tmp_path):
    config = configure(adapters=AdapterSettings(video_rank=2), learning_rate=1e-2, warmup_fraction=0.0)
    train(config)
    kept = config.run_folder / "policy"
    ours = load_file(kept / "backbone" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(wan / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(ours["patch_embedding.weight"], theirs["patch_embedding.weight"])
    added = ours["blocks.0.video.attn1.to_q.weight"] - theirs["blocks.0.attn1.to_q.weight"]
    assert 0 < torch.linalg.matrix_rank(added, atol=1e-6) <= 2
    assert sorted(path.name for path in (kept / "adapters").iterdir()) == ["beside.safetensors", "video"]
    base = WorldActionModel.from_wan(wan, action_width=16, action_ffn=16)
    load_adapters(base, kept / "adapters")
    assert adapters_of(base)["video"].rank == 2
    trained = "blocks.0.action.attn1.to_q.weight"  # whole, beside the other expert's adapter
    assert torch.equal(base.state_dict()[trained], ours[trained])


def test_the_average_is_what_is_kept(configure, tmp_path):
    train(configure(ema_decay=0.5, learning_rate=1e-2))
    train(configure(learning_rate=1e-2, out=tmp_path / "last"))
    averaged, last = (
        load_file(tmp_path / name / "policy" / "backbone" / "diffusion_pytorch_model.safetensors")
        for name in ("run", "last")
    )
    assert losses(tmp_path / "run") == losses(tmp_path / "last")
    assert not torch.equal(averaged["proj_out.weight"], last["proj_out.weight"])


def test_a_batch_that_does_not_divide_is_refused(configure):
    with pytest.raises(RunError, match="batch of 4 does not divide among 1 processes into parts of 3"):
        train(configure(scale=ScaleSettings(micro_batch=3)))


# --- two processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(begin, wan, episodes):
    """Start `accelerate launch` with two processes on the CPU."""

    def start(out, launcher, *extra):
        options = {
            "data": episodes, "out": out, "steps": 20, "epochs": 0, "batch-size": 4, "log-every": 1,
            "checkpoint-every": 5, "wan.source": wan, "wan.rows": 48, "wan.columns": 32, "wan.head-rows": 32,
            "wan.text-length": 48, "wan.rows-per-shard": 50, "backbone.action-width": 16, "backbone.action-ffn": 16,
            "scale.micro-batch": 1, "ema-decay": 0.9,
        }  # fmt: skip
        program = Path(sys.executable).with_name("accelerate")
        line = [program, "launch", *launcher, "--num_processes", 2, ROOT / "apps" / "stage1.py", "fastwam"]
        line += [part for name, value in options.items() for part in (f"--{name}", value)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        return begin(*line, *extra, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return start


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def alone(wan, episodes, tmp_path_factory):
    """What one process makes of the same run."""
    config = tiny(wan, episodes, tmp_path_factory.mktemp("alone"), steps=20, ema_decay=0.9, wan={"rows_per_shard": 50})
    train(config)
    return config.run_folder


def same_training(found, expected):
    assert len(losses(found)) == 20
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4)
    weights = "policy/backbone/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(found / weights), load_file(expected / weights)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=2e-4)


def test_two_copies_train_as_one_process(alone, launch, tmp_path):
    finish(launch(tmp_path / "copies", ["--multi_gpu"], "--wan.cache", tmp_path / "cache"))
    same_training(tmp_path / "copies", alone)
    assert len(list((tmp_path / "cache").glob("*/shard-*.safetensors"))) == 4


def test_two_shards_train_as_one_process_through_a_kill(alone, launch, tmp_path):
    sharded = ["--config_file", str(ROOT / "configs" / "fsdp2.yaml"), "--mixed_precision", "no"]
    first = launch(tmp_path / "shards", sharded)
    state = TrainingCheckpoints(tmp_path / "shards" / "state")
    while state.latest() < 10:
        assert first.poll() is None, first.stderr.read()[-3000:]
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "shards" / "policy").exists()
    finish(launch(tmp_path / "shards", sharded))
    same_training(tmp_path / "shards", alone)
    assert len(list((tmp_path / "shards" / "state").glob("step-00000020/part-*.safetensors"))) == 2

"""Mistakes: each app answers each in one line, before anything slow is loaded, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo_core.errors import SourceError
from noisegate_apps.data.pack import write_pack
from noisegate_apps.evaluation.variants import variant_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.endings import ending_in_one_line
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import write_json
from noisegate_apps.stage1.config import Stage1Config
from noisegate_gpn.errors import ConfigError
from robotwin_env.episodes import Episode, episode_path, write_episode
from robotwin_env.errors import RendererUnavailableError
from wam_backbone.errors import WamError

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "checkpoints" / "tabletop-independent"


def in_one_line(done, message):
    assert message in done.errors, done.errors
    assert "Traceback" not in done.errors
    return done


# Before anything is loaded


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("collect", ("--tasks", "nope"), "there are no tasks ['nope'] on the tabletop"),
        ("collect", ("--episodes", "0"), "`episodes` is 0"),
        ("train_codec", ("--batch-size", "0"), "`batch_size` is 0"),
        ("stage1", ("--backbone.layout", "bogus"), "bogus"),
        ("stage1", ("--batch-size", "0"), "`batch_size` is 0"),
        ("stage2", ("--tasks", "fold_cloth"), "fold_cloth"),
        ("stage2", ("--group-size", "0"), "`group_size` is 0"),
        ("stage2", ("--eval-episodes", "0"), "`eval_episodes` is 0"),
        ("stage2", ("--episodes-per-epoch", "12"), "multiple of `group_size`"),
        ("stage2", ("--rollout-gpus", "1"), "`--executor ray`"),
        ("eval", ("--tasks", "nope"), "there are no tasks ['nope'] on the tabletop"),
        ("eval", ("--env", "robotwin", "--tasks", "nope"), "there are no tasks ['nope'] on the robotwin"),
        ("eval", ("--slots", "0"), "`slots` is 0"),
        ("eval", ("--episodes", "0"), "`episodes` is 0"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused_by_the_configuration(app, tmp_path, name, arguments, message):
    done = app(name, *arguments, "--out", tmp_path / "run", status=2)
    text = " ".join(done.errors.replace("│", " ").split())
    assert message in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train_codec", ("--data", "nowhere"), "`nowhere` does not exist: a folder of demonstrations is needed"),
        (
            "stage1",
            ("--data", "nowhere"),
            "`nowhere` does not exist: a folder of demonstrations is needed; collect them",
        ),
        ("stage1", ("--codec", "nowhere"), "a trained codec is needed"),
        ("stage2", ("--policy", "nowhere"), "a Stage-1 policy is needed; train one"),
        ("eval", ("--policy", "nowhere"), "a Stage-1 policy is needed; train one"),
        ("eval", ("--gate", "nowhere"), "a trained gate is needed"),
        ("eval", ("--env", "robotwin", "--schedules", "shared"), "`--robotwin.root PATH`"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_collected_or_made(app, tmp_path, name, arguments, message):
    in_one_line(app(name, *arguments, "--out", tmp_path / "run", status=1), message)
    assert not list(tmp_path.iterdir())


def test_only_the_default_folder_of_demonstrations_is_filled_by_stage_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Stage1Config().collects
    assert not Stage1Config(data=Path("data/tabeltop")).collects
    assert Stage1Config(env="robotwin").data_folder == Path("data/robotwin")
    elsewhere = Stage1Config(env="robotwin", data=Path("data/tabletop"))
    assert not elsewhere.collects, "the tabletop's folder is not where RoboTwin's episodes belong"
    (tmp_path / "data" / "tabletop").mkdir(parents=True)
    assert not Stage1Config().collects


@pytest.mark.parametrize("name", ["collect", "train_codec", "stage1", "stage2", "eval"])
def test_an_out_that_no_run_can_have_is_refused(app, tmp_path, name):
    out = tmp_path / "learned" if name == "eval" else tmp_path
    data = () if name in ("collect", "stage2", "eval") else ("--data", ROOT)
    out.mkdir(exist_ok=True)
    (out / "thesis.tex").write_text("")
    in_one_line(app(name, *data, "--out", tmp_path, status=1), "holds what no run left there (thesis.tex)")
    (out / "thesis.tex").rename(out / "config.json")
    (out / "config.json").write_text(json.dumps({"app": "another", "config": {}}))
    in_one_line(app(name, *data, "--out", tmp_path, status=1), "holds a run of `another`")
    (out / "config.json").unlink()
    if out != tmp_path:
        out.rmdir()
    file = tmp_path / "learned" if name == "eval" else tmp_path / "file"
    file.write_text("")
    in_one_line(app(name, *data, "--out", tmp_path if name == "eval" else file, status=1), "is a file")


def test_checkpoints_are_found_from_another_working_directory(tmp_path):
    line = "from noisegate_apps.stage2.config import Stage2Config; Stage2Config().check(); print('found')"
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "found\n", done.stderr


# What only loading shows

SMALL = ("--tasks", "click_bell", "--episodes", "1", "--slots", "1", "--workers", "0", "--denoising-steps", "2")


@pytest.fixture
def policy(tmp_path):
    shutil.copytree(POLICY, tmp_path / "policy")
    return tmp_path / "policy"


def test_a_damaged_policy_is_refused_and_the_corrected_command_runs(app, policy, tmp_path):
    whole = (policy / "policy.json").read_text()
    (policy / "policy.json").write_text(whole[:40])
    in_one_line(
        app("eval", "--policy", policy, *SMALL, "--out", tmp_path / "run", status=1), "policy.json` is not JSON"
    )
    assert not (tmp_path / "run").exists()
    (policy / "policy.json").write_text(whole)
    app("eval", "--policy", policy, *SMALL, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "learned" / "summary.json").read_text())["success"]["learned"]


def test_a_folder_that_is_no_gate_is_refused(app, tmp_path):
    codec = ROOT / "checkpoints" / "tabletop-codec"
    in_one_line(app("eval", "--gate", codec, *SMALL, "--out", tmp_path / "run", status=1), "config.json")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_the_policys_fault(app, policy, tmp_path):
    weights = policy / "backbone" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["action_proj_out.weight"] = torch.full_like(tensors["action_proj_out.weight"], float("nan"))
    save_file(tensors, weights)
    arguments = ("--policy", policy, "--epochs", "1", "--tasks", "click_bell", "--workers", "0")
    done = app("stage2", *arguments, "--out", tmp_path / "run", status=1)
    in_one_line(done, "the policy's weights are not finite in ['action_proj_out.weight']")
    assert not (tmp_path / "run").exists()


def changed(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def poisoned(file):
    tensors = load_file(file)
    first = min(tensors)
    save_file(tensors | {first: torch.full_like(tensors[first], float("nan"))}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "policy.json").write_text("[]"), r"policy\.json` holds a list"),
        (lambda folder: (folder / "policy.json").write_text("{}"), r"policy\.json` has no `states`"),
        (lambda folder: changed(folder / "policy.json", unheard=1), r"policy\.json` does not describe.*unheard"),
        (lambda folder: changed(folder / "policy.json", action_steps="16"), r"policy\.json` does not describe"),
        (
            lambda folder: changed(folder / "policy.json", states={"center": [0] * 14, "scale": [float("inf")] * 14}),
            r"policy\.json` does not describe a policy .*finite",
        ),
        (
            lambda folder: (folder / "transitions.safetensors").write_text("{"),
            r"transitions\.safetensors` cannot be read",
        ),
        (lambda folder: shutil.rmtree(folder / "codec"), r"codec` does not exist"),
        (
            lambda folder: poisoned(folder / "codec" / "diffusion_pytorch_model.safetensors"),
            "the weights of the policy's codec are not finite",
        ),
    ],
)
def test_a_damaged_part_of_a_policy_is_named(damage, message, policy):
    damage(policy)
    with pytest.raises((RunError, WamError), match=message):
        load_policy(policy, device="cpu")


def test_a_gate_that_is_not_finite_is_named(tmp_path):
    shutil.copytree(ROOT / "checkpoints" / "tabletop-gate", tmp_path / "gate")
    poisoned(tmp_path / "gate" / "model.safetensors")
    with pytest.raises(RunError, match=r"the weights of the gate `.*gate` are not finite"):
        variant_of("learned", load_policy(POLICY, device="cpu"), gate=tmp_path / "gate")


def episode(number, rate=25.0):
    rng = np.random.default_rng(number)
    joints = rng.uniform(-0.3, 0.3, size=(33, 14)).astype(np.float32)
    shown = np.arange(0, 33, 2, dtype=np.int32)
    images = {
        name: rng.integers(0, 255, (len(shown), 64, 64, 3), dtype=np.uint8)
        for name in ("head", "left_wrist", "right_wrist")
    }
    return Episode(
        states=joints[:-1],
        actions=joints[1:],
        instructions=("press it",),
        frequency=25,
        steps_per_second=rate,
        images=images,
        frame_steps=shown,
        task="click_bell",
        seed=number,
        success=True,
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for number in range(2):
        episode_path(folder, number).parent.mkdir(exist_ok=True)
        write_episode(episode_path(folder, number), episode(number))
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
@pytest.mark.parametrize("name", ["train_codec", "stage1", "stage2", "eval"])
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_kept(app, tmp_path, name):
    data = ("--data", tmp_path) if name in ("train_codec", "stage1") else ()
    done = app(name, *data, "--device", "cuda", "--out", tmp_path / "run", status=1)
    in_one_line(done, "`--device cuda` needs a CUDA device, and torch sees none")
    assert not (tmp_path / "run").exists()


def test_a_codec_is_not_trained_on_episodes_that_do_not_say_where_objects_are(app, data, tmp_path):
    done = app("train_codec", "--data", data, "--held-out", 0.5, "--out", tmp_path / "run", status=1)
    in_one_line(
        done, "says nowhere where objects are, which the codec learns to show; go without by `--position-weight 0`"
    )
    assert not (tmp_path / "run").exists()


def test_a_cut_off_episode_is_named(app, data, tmp_path):
    path = episode_path(data, 1)
    path.write_bytes(path.read_bytes()[:3000])
    done = app("stage1", "--data", data, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run", status=1)
    in_one_line(done, path.name)
    assert not (tmp_path / "run").exists()


def test_an_episode_that_links_to_nothing_is_named(app, data, tmp_path):
    episode_path(data, 1).unlink()
    episode_path(data, 1).symlink_to("../blobs/0123")
    done = app("stage1", "--data", data, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run", status=1)
    in_one_line(done, episode_path(data, 1).name)


def test_episodes_of_two_rates_are_refused_together(app, data, tmp_path):
    write_episode(episode_path(data, 1), replace(episode(1), steps_per_second=250 / 15))
    done = app("stage1", "--data", data, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run", status=1)
    in_one_line(done, "steps per second")
    assert "16.67" in done.errors


# The line itself


@pytest.mark.parametrize("kind", [SourceError, ConfigError, RendererUnavailableError, WamError])
def test_every_package_s_errors_become_one_line(kind):
    with pytest.raises(SystemExit, match=r"^error: what was found$"), ending_in_one_line():
        raise kind("what was\nfound\nTraceback (most recent call last):\n  in a worker")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), ending_in_one_line():
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), ending_in_one_line():
        Path("nowhere").read_text()


def test_a_full_disk_is_one_line():
    with pytest.raises(SystemExit, match=r"error: .*No space left"), ending_in_one_line():
        raise OSError(28, "No space left on device", "runs/state")


def test_what_a_library_says_of_the_machine_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: it looks like\s?the file is gone$"), ending_in_one_line():
        raise OSError("it looks like\nthe file is gone")


def test_a_disk_that_is_full_while_weights_are_written_is_one_line(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"^error: .*File too large"), ending_in_one_line():
            write_pack(tmp_path / "pack", {"weights": torch.ones(1 << 16)})
        with pytest.raises(SystemExit, match=r"^error: .*File too large"), ending_in_one_line():
            write_json(tmp_path / "record.json", {"text": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_taken_or_unknown_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        with pytest.raises(SystemExit, match=r"^error: .*in use"), ending_in_one_line():
            socket.create_server(address)
    with pytest.raises(SystemExit, match="error: "), ending_in_one_line():
        socket.getaddrinfo("no such host", 80)


def test_a_current_folder_that_has_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit, match="the current folder has been removed"), ending_in_one_line():
        pass


def test_a_reader_that_has_seen_enough_ends_a_run_without_a_word():
    line = (
        "from noisegate_apps.runs.endings import ending_in_one_line\n"
        "with ending_in_one_line():\n    for _ in range(100_000): print('result')\n"
    )
    piped = f"'{sys.executable}' -c \"{line}\" | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGPIPE, "result\n", "")


def test_a_pipe_to_another_process_that_broke_is_no_silent_end():
    with pytest.raises(BrokenPipeError), ending_in_one_line():
        raise BrokenPipeError(errno.EPIPE, "a simulator has gone")


def test_a_name_that_the_terminal_cannot_show_ends_no_run():
    line = "from noisegate_apps.runs.endings import *\nwith ending_in_one_line(): print('r\\udce9sum\\xe9')"
    done = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout) == (0, "r\\udce9sum\\xe9\n"), done.stderr

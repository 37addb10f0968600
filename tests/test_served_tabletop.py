"""The shipped policy through the server: the episodes of this process, played by a client of the wire format alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from noisegate_apps.evaluation.tabletop import HeldOutScenes
from noisegate_apps.evaluation.variants import scheduled
from noisegate_apps.play.episodes import play
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.serving.client import PolicyClient
from noisegate_apps.serving.running import needs_of
from noisegate_apps.serving.served import ServedPolicy
from robotwin_env import TabletopEnv

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "checkpoints" / "tabletop-independent"
GATE = ROOT / "checkpoints" / "tabletop-gate"
TASKS = ("grab_roller", "lift_pot")
ALOHA = {"head": "cam_high", "left_wrist": "cam_left_wrist", "right_wrist": "cam_right_wrist"}

pytestmark = [pytest.mark.slow, pytest.mark.sim]


@pytest.fixture(scope="module")
def acting():
    """The shipped policy under its gate."""
    policy = load_policy(POLICY, steps=2, device="cpu")
    found = scheduled("learned", policy, gate=GATE)
    needs = needs_of(POLICY, policy.settings.states.dim)
    return ServedPolicy(found.policy, found.choose, folder=POLICY, schedule="learned", needs=needs)


def array(values):
    """An array in openpi's form."""
    return {b"__ndarray__": True, b"data": values.tobytes(), b"dtype": values.dtype.str, b"shape": list(values.shape)}


def play_by_wire(url, job):
    """Play an episode with what openpi's protocol says alone: maps of bytes over a socket, in ALOHA's names."""
    env = TabletopEnv(job.config)
    observation, info = env.reset(seed=job.seed)
    with connect(url, compression=None, max_size=None, proxy=None) as socket:
        socket.recv()
        while True:
            pictures = {ALOHA[name]: array(observation[name].transpose(2, 0, 1)) for name in ALOHA}
            request = {"state": array(observation["state"]), "images": pictures, "prompt": info["instruction"]}
            socket.send(msgpack.packb({**request, "seed": job.noise_seed}))
            reply = msgpack.unpackb(socket.recv(timeout=120))["actions"]
            actions = np.frombuffer(reply[b"data"], reply[b"dtype"]).reshape(reply[b"shape"])
            outcome = env.step_chunk(np.clip(actions, env.action_space.low, env.action_space.high))
            observation = outcome.observation
            if outcome.terminated or outcome.truncated:
                break
    steps = outcome.info["steps"]
    env.close()
    return outcome.terminated, steps, observation


def test_the_tabletop_played_through_the_server_gives_the_episodes_of_this_process(acting, policy_server):
    server = policy_server(acting)
    policy = load_policy(POLICY, steps=2, device="cpu")
    choose = scheduled("learned", policy, gate=GATE).choose
    scenes = HeldOutScenes(tasks=TASKS, episodes=1, scene="clean")
    jobs = [replace(job, config=replace(job.config, max_steps=56)) for task in TASKS for job in scenes.jobs(task)]
    with pool_of("tabletop", slots=1, workers=0) as pool:
        here = dict(play(policy, pool, jobs, choose))
    for place, job in enumerate(jobs):
        success, steps, observation = play_by_wire(server.url, job)
        assert (success, steps) == (here[place].success, here[place].steps)
        assert all(np.array_equal(observation[name], here[place].observation[name]) for name in observation)


def test_what_is_chosen_for_a_chunk_is_done(acting, policy_server):
    server = policy_server(acting)
    pictures = {name: np.full((64, 64, 3), 90, np.uint8) for name in ALOHA}
    observation = {**pictures, "state": np.zeros(14, np.float32), "prompt": "lift the pot"}
    with PolicyClient(server.url) as client:
        model = client.metadata
        assert (model["schedule"], model["num_steps"], model["action_horizon"]) == ("gpn", 2, 16)
        assert len(model["state_names"]) == len(model["action_names"]) == model["action_dim"] == 14
        json.dumps(model)
        asked = client.infer(observation, seed=5, options={"num_steps": 3, "return": ["schedule", "video"]})
        assert len(asked["schedule"]) == 4
        assert asked["final_times"] == asked["schedule"][-1]
        assert asked["video"][4:8] == b"ftyp"
        timing = asked["policy_timing"]
        assert all(timing[stage] >= 0 for stage in ("encode_ms", "denoise_ms", "gpn_ms", "decode_ms"))
        client.reset()
        whole = client.infer(observation, seed=5)["actions"]
        client.reset()
        assert np.array_equal(client.infer(observation, seed=5)["actions"], whole)
        assert not np.array_equal(client.infer(observation, seed=5)["actions"], whole)  # the next chunk
        client.reset()
        part = client.infer(observation, seed=5, options={"action_horizon": 4})["actions"]
        assert np.array_equal(part, whole[:4])


def form_of(line):
    """A printed line without its numbers."""
    return re.sub(r"[\s\d.]+", " ", line.removeprefix("no "))


def test_the_programs_of_the_guide_drive_the_tabletop_and_print_what_it_shows(acting, policy_server, capsys):
    guide = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    drive, robot = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    shown = re.search(r"^\$ uv run python drive\.py\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)[1]
    address = policy_server(acting).url
    found: dict[str, object] = {}
    for program in (drive, robot):
        assert "ws://127.0.0.1:8000" in program
        exec(program.replace("ws://127.0.0.1:8000", address), found)
    printed = capsys.readouterr().out
    assert [form_of(line) for line in printed.splitlines()] == [form_of(line) for line in shown.splitlines()]
    assert found["action"].shape == (14,)


def test_the_command_serves_until_it_is_told_to_stop():
    line = [sys.executable, str(ROOT / "apps" / "serve.py"), "--port", "0", "--denoising-steps", "1", "--device", "cpu"]
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "300"}
    )
    told = []
    while not any(part.startswith("openpi: ") for part in told):
        told.append(process.stdout.readline())
        assert told[-1], process.stderr.read()
    with PolicyClient(told[-1].split()[1]) as client:
        assert client.metadata["schedule"] == "uniform"
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    assert "stopped" in output

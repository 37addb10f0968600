"""Stage 2 learns the same gate whoever plays its episodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import workers
from noisegate_apps.stage2.config import GateSettings, Stage2Config
from noisegate_apps.stage2.training import players, train

pytestmark = [pytest.mark.sim, pytest.mark.slow]

EPOCHS = 3
STEPS = 3
config_of = partial(
    Stage2Config,
    tasks=("grab_roller",),  # from so few steps it succeeds in about half of the episodes
    group_size=4,
    episodes_per_epoch=4,
    members_per_call=1,
    denoising_steps=STEPS,
    head_start=0.0,
    gate=GateSettings(sight=None, start_scales=(0.6,)),  # in so few steps every one is the gate's
    orient=8,
)


@pytest.fixture(scope="module")
def policy():
    return load_policy(Stage2Config().policy, steps=STEPS, head_start=0.0)


def learn(policy, folder, **options):
    """Train for a while; weights of the gate, and the metrics that do not tell the time."""
    config = config_of(out=folder, **options)
    gate = train(config, RunFolder(folder), policy)
    metrics = list(RunFolder(folder).history())
    return gate.state_dict(), metrics


@pytest.fixture(scope="module")
def expected(policy, tmp_path_factory):
    """A seed with which something is learned before the last epoch, and what is; which one differs between machines."""
    for seed in range(42, 52):
        weights, metrics = learn(policy, tmp_path_factory.mktemp("in-process"), epochs=EPOCHS, workers=1, seed=seed)
        if any(line["optimizer_steps"] for line in metrics[:-1]):
            return SimpleNamespace(seed=seed, weights=weights, metrics=metrics)
    pytest.fail("no group was mixed with any seed, so that nothing was learned")


def assert_learned_the_same(learned, expected):
    weights, metrics = learned
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.weights.items())
    assert metrics == expected.metrics


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_workers_learn_the_same_gate(policy, expected, tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray", reason="needs Ray: install grpo-core[ray]")
    learned = learn(policy, tmp_path, epochs=EPOCHS, executor=executor, seed=expected.seed)
    assert_learned_the_same(learned, expected)


def test_a_run_goes_on_with_another_executor_to_the_same_gate(policy, expected, tmp_path):
    learn(policy, tmp_path, epochs=1, executor="processes", seed=expected.seed)
    learned = learn(policy, tmp_path, epochs=EPOCHS, workers=1, seed=expected.seed)
    assert_learned_the_same(learned, expected)


def test_a_gate_that_sees_words_measures_them_from_their_mean(policy, tmp_path):
    settings = GateSettings(sees_words_and_state=True, sight=None)
    weights, _ = learn(policy, tmp_path, epochs=1, group_size=2, episodes_per_epoch=8, workers=0, gate=settings)
    assert weights["context.center"].abs().mean() > 0.1
    assert 0 < weights["context.spread"] < 1  # phrases differ less than they have in common


RAY_WITH_PATIENCE = """
import time
import ray._private.services as services
from ray.scripts.scripts import main
ask_once = services.get_node
def ask(*arguments):
    for _ in range(300):
        try:
            return ask_once(*arguments)
        except RuntimeError:  # not there yet
            time.sleep(1)
    return ask_once(*arguments)
services.get_node = ask
main()
"""
"""Ray's command, but that a node may take longer to start than 30 s, as on a busy machine it does."""


@pytest.fixture
def cluster(needs, begin, tmp_path, monkeypatch):
    """Two Ray nodes with folders of their own and nothing on their import path; the first has no room for workers."""
    needs((os.cpu_count() or 1) >= 4, "four cores: on fewer, Ray gives up its own processes as dead")
    pytest.importorskip("ray", reason="needs Ray: install grpo-core[ray]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # of this process's earlier clusters, the token is another
    # This machine may have much else to do: nothing is given up because it is slow, and nothing started but what plays.
    for name in ("worker_register_timeout_seconds", "gcs_server_request_timeout_seconds"):
        monkeypatch.setenv(f"RAY_{name}", "300")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "100")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    head = ("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", "--no-monitor")
    small = ("--include-log-monitor=false", f"--object-store-memory={100 * 2**20}")
    nodes = []
    for place, (role, cpus) in enumerate(((head, 0), ((f"--address={address}",), 1))):
        folder = tmp_path / f"node{place}"
        folder.mkdir()
        line = (sys.executable, "-c", RAY_WITH_PATIENCE, "start", *role, *small, f"--num-cpus={cpus}", "--block")
        log = folder / "log"
        with log.open("w") as file:
            nodes.append(begin(*line, cwd=folder, env=environment, stdout=file, stderr=file))
        while "Ray runtime started" not in log.read_text():
            assert nodes[-1].poll() is None, log.read_text()
            time.sleep(0.2)
    yield address
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        with suppress(subprocess.TimeoutExpired):
            node.wait(timeout=60)


def test_a_worker_on_another_machine_with_the_installed_library_plays_the_same_episodes(policy, cluster, tmp_path):
    sizes = {"epochs": 1, "group_size": 2, "episodes_per_epoch": 2, "tasks": ("grab_roller",)}
    here = learn(policy, tmp_path / "here", workers=0, **sizes)
    there = learn(policy, tmp_path / "there", executor="ray", workers=1, ray_address=cluster, **sizes)
    assert there[1] == here[1]
    assert all(torch.equal(there[0][name], tensor) for name, tensor in here[0].items())


@pytest.mark.parametrize(
    ("told", "device", "given"), [(0.5, "cuda", 0.5), (0.0, "cuda", 0.0), (None, "cuda", 1.0), (None, "cpu", 0.0)]
)
def test_a_ray_worker_gets_the_gpus_that_it_is_told_or_one_where_this_process_has_one(monkeypatch, told, device, given):
    asked = {}
    monkeypatch.setattr(workers, "RayExecutor", lambda _, **options: asked.update(options) or nullcontext())
    policy = SimpleNamespace(device=torch.device(device))  # all that is looked at, since others plan
    with players(config_of(executor="ray", rollout_gpus=told), policy, SimpleNamespace(config=None)):
        assert asked["gpus"] == given


@pytest.mark.parametrize(
    ("options", "device", "name"),
    [
        ({}, "cpu", "processes"),
        ({}, "cuda", "in-process"),
        ({"workers": 1}, "cpu", "in-process"),
        ({"episodes_per_epoch": 8}, "cpu", "in-process"),  # one call an epoch
        ({"episodes_per_epoch": 8, "members_per_call": 4}, "cpu", "processes"),
        ({"env": "robotwin", "imagination": ImaginationConfig()}, "cpu", "in-process"),
        ({"executor": "in-process"}, "cpu", "in-process"),
        ({"executor": "ray"}, "cuda", "ray"),
    ],
)
def test_who_plays_is_chosen_by_what_there_is(options, device, name):
    assert Stage2Config(**options).executor_on(device) == name

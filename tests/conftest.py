"""The apps and servers inside this process, and policies tiny enough to run anywhere."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from noisegate_apps import commands
from noisegate_apps.serving.inference import Inference
from noisegate_apps.serving.server import Doors, Ports, serving

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "collect": "collect",
    "train_codec": "train_codec",
    "stage1": "stage1",
    "stage2": "stage2",
    "eval": "evaluate",
    "report": "report",
    "serve": "serve",
}


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


FULL_MACHINE = "NOISEGATE_FULL_MACHINE"
"""Set where continuous integration relies on a browser and four cores: there, a test without them fails."""


@pytest.fixture
def needs():
    """Leave a test out for what this machine lacks, unless it is known to lack nothing."""

    def need(there, what):
        if not there:
            (pytest.fail if os.environ.get(FULL_MACHINE) else pytest.skip)(f"needs {what}")

    return need


@dataclass(frozen=True)
class Done:
    """How an app ended."""

    status: int
    output: str
    """What it printed."""
    errors: str
    """What it printed on stderr, and what it left with."""


@pytest.fixture
def app(monkeypatch, capsys):
    """Call an app as its command line would, from the repository's root; it is expected to end with status 0."""

    def call(name, *arguments, status=0):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        left = ""
        found = 0
        try:
            getattr(commands, COMMANDS[name])()
        except SystemExit as end:
            found = end.code if isinstance(end.code, int) else int(end.code is not None)
            left = end.code if isinstance(end.code, str) else ""
        printed = capsys.readouterr()
        done = Done(status=found, output=printed.out, errors=printed.err + left)
        assert done.status == status, done.errors or done.output
        return done

    return call


DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl: a signal for when the thread that started a process is gone."""


@contextmanager
def programs():
    """Start programs in sessions of their own, which end with the context, and with the process that runs the tests."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    started = []
    tests = os.getpid()

    def start(*line, **options):
        def follow():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore Ctrl-C
            if libc is not None:
                libc.prctl(DIES_WITH_PARENT, signal.SIGTERM)
            if os.getppid() != tests:
                os._exit(1)

        options = {"cwd": ROOT, "text": True, "start_new_session": True} | options
        started.append(subprocess.Popen([str(part) for part in line], preexec_fn=follow, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def begin():
    """Start a program that ends with its test."""
    with programs() as start:
        yield start


@pytest.fixture(scope="session")
def wan(tmp_path_factory):
    """A repository of Wan 2.2's structure and of its file names, tiny and untrained."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, temperal_downsample=[True, True],
        latents_mean=[0.1] * 4, latents_std=[0.5] * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 4, "vocab_size": 384}
    UMT5EncoderModel(UMT5Config(**sizes)).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=2,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    return folder


@pytest.fixture
def wan_policy(wan, tmp_path):
    """An untrained policy under Wan's codec that executes 12 of 16 actions, as Stage 1 leaves one."""
    import torch

    from wam_backbone import Normalizer, Statistics, WorldActionModel

    torch.manual_seed(0)
    folder = tmp_path / "wan-policy"
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 12, "video_ffn": 16, "action_width": 16, "action_ffn": 16}
    model = WorldActionModel(latent_channels=4, text_dim=16, freq_dim=16, **sizes)
    model.statistics = Statistics(actions=Normalizer.identity(14), states=Normalizer.identity(14))
    model.save_pretrained(folder / "backbone")
    timing = {"action_steps": 16, "actions_per_frame": 2, "step_stride": 1, "future_latents": 2, "executed_actions": 12}
    record = {"wan": str(wan), "template": "{instruction}", "text_length": 48, "video_shift": 5.0, "timing": timing}
    record["tiling"] = {"rows": 48, "columns": 32, "head_rows": 32}
    (folder / "policy.json").write_text(json.dumps(record))
    return folder


@dataclass
class Running:
    """A server that runs in a thread of its own."""

    ports: Ports
    stop: Callable[[], None]

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.ports.openpi}"


@pytest.fixture
def policy_server():
    """Start servers, each in a thread with a loop of its own; they end with the test."""
    stops = []

    def begin(acting, **doors):
        ready = queue.Queue()

        async def live():
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            inference = Inference(acting)
            async with serving(inference, Doors(port=0, xpolicylab_port=0, **doors)) as ports:
                ready.put((ports, lambda: loop.call_soon_threadsafe(stop.set)))
                await stop.wait()
            inference.close()

        thread = threading.Thread(target=lambda: asyncio.run(live()))
        thread.start()
        ports, signal = ready.get(timeout=30)

        def end():
            if thread.is_alive():
                signal()
                thread.join(timeout=30)
            assert not thread.is_alive()

        stops.append(end)
        return Running(ports, end)

    yield begin
    for end in stops:
        end()

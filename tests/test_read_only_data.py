"""Training from a disk that is mounted for reading."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import derived
from robotwin_env.episodes import Episode, episode_path, write_episode

READ_ONLY: list[str] = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def refuse_writes(event: str, arguments: tuple[object, ...]) -> None:
    """Answer as the kernel does on such a disk; rights would not do, which bind no administrator."""
    if not READ_ONLY or (event != "open" and event not in CHANGES):
        return
    paths = arguments[:1] if event == "open" else arguments[:2]
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike) and str(Path(os.fsdecode(path)).absolute()).startswith(
            READ_ONLY[0]
        ):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


sys.addaudithook(refuse_writes)  # which cannot be taken away again; it does nothing unless a folder is named


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for number in range(2):
        joints = rng.uniform(-0.3, 0.3, size=(33, 14)).astype(np.float32)
        pictures = rng.integers(0, 255, (17, 64, 64, 3), dtype=np.uint8)
        recorded = Episode(
            states=joints[:-1],
            actions=joints[1:],
            instructions=("press it",),
            frequency=25,
            steps_per_second=25.0,
            images=dict.fromkeys(("head", "left_wrist", "right_wrist"), pictures),
            frame_steps=np.arange(0, 33, 2, dtype=np.int32),
            task="click_bell",
            seed=number,
            success=True,
        )
        episode_path(folder, number).parent.mkdir(exist_ok=True)
        write_episode(episode_path(folder, number), recorded)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules[__name__], "READ_ONLY", [str(folder)])
    with pytest.raises(OSError, match="Read-only file system"):
        (folder / "probe").write_text("")
    return folder


def test_stage_1_keeps_what_it_derives_elsewhere(app, data, tmp_path):
    before = sorted(data.rglob("*"))
    tiny = ("--backbone.num-layers", 1, "--backbone.head-dim", 12, "--backbone.action-width", 32)
    app("stage1", "--data", data, "--steps", 1, "--batch-size", 2, *tiny, "--out", tmp_path / "run")
    assert load_file(tmp_path / "run/policy/backbone/diffusion_pytorch_model.safetensors")
    assert sorted(data.rglob("*")) == before
    kept = {path.name for path in (tmp_path / "cache" / "noisegate").glob("*/*")}
    assert kept == {".packed", ".latents"}


def test_a_folder_that_may_be_written_keeps_it_itself(data, tmp_path):
    assert derived(tmp_path) == tmp_path
    assert tmp_path / "cache" in derived(data).parents


def test_without_a_home_the_temporary_folder_serves_and_without_both_a_cache_is_asked_for(data, tmp_path, monkeypatch):
    def nobody_has_no_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(nobody_has_no_home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert derived(data).parent == tmp_path / "noisegate"
    monkeypatch.setattr(tempfile, "tempdir", str(data))
    with pytest.raises(RunError, match="set `XDG_CACHE_HOME`"):
        derived(data)

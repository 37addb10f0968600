"""What works where only some of the packages are installed, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robotwin_env import RoboTwinConfig, RoboTwinEnv
from robotwin_env.errors import MissingPackageError, RobotwinEnvError
from robotwin_env.optional import missing

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
if "fcntl" in sys.argv[1].split(","):  # then the system has none of these either
    import os
    del os.sysconf, os.memfd_create
import robotwin_env
from robotwin_env import *
try:
    exec(sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""
EVERYTHING = "sapien,panda3d,h5py,PIL,yaml,av,pyarrow"


def told(absent, code):
    done = subprocess.run([sys.executable, "-c", WITHOUT, absent, code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("print(TabletopEnv(TabletopConfig()).action_space.shape)", "(14,)"),
        ("print(RoboTwinConfig(split='eval').split)", "eval"),
        ("TabletopEnv(TabletopConfig()).reset(seed=0)", "MissingPackageError `sapien` cannot be imported"),
        ("TabletopEnv(TabletopConfig()).reset(seed=0)", "pip install 'robotwin-env[tabletop]'"),
        ("import robotwin_env.episodes", "pip install 'robotwin-env[episodes]'"),
        ("from robotwin_env.robotwin.checkout import *; read_yaml(Path('x'))", "pip install 'robotwin-env[robotwin]'"),
    ],
)
def test_the_package_alone_imports_and_says_which_extra_is_missing(code, says):
    assert says in told(EVERYTHING, code)


def test_a_reader_of_files_needs_no_simulator():
    assert told("sapien,panda3d,yaml,av,pyarrow", "from robotwin_env.episodes import read_episode; print('read')") == (
        "read\n"
    )


ALL = """
import robotwin_env.robotwin.collection, robotwin_env.robotwin.evaluation, robotwin_env.robotwin.process.client
import robotwin_env.vector, robotwin_env.control
print("all")
"""
POOL = """
from pathlib import Path
from robotwin_env.robotwin.seeds import *
key = PoolKey(task="a", task_config="b", config_hash="c", embodiment="d", commit="e", planner="mplib", split="train")
print(SeedPool(Path("nowhere/x.json"), key).counts())
SeedPool(Path("nowhere/x.json"), key).save()
"""


def test_a_system_without_locks_of_files_imports_everything_and_keeps_no_seeds():
    assert told("fcntl", "print(RoboTwinConfig().split)") == "train\n"
    assert told("fcntl", ALL) == "all\n"
    assert told("fcntl", POOL).startswith("{}\nMissingPackageError `fcntl` cannot be imported")


def test_another_system_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    error = missing("sapien", extra="tabletop", error=ImportError("No module named 'sapien'"))
    assert isinstance(error, MissingPackageError)
    assert isinstance(error, ImportError)
    assert "This is darwin; simulators run on Linux alone." in str(error)


def test_a_simulator_of_robotwins_is_refused_there_too(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    env = RoboTwinEnv(RoboTwinConfig(root=tmp_path))
    with pytest.raises(RobotwinEnvError, match=r"This is darwin; RoboTwin's simulators run on Linux alone\."):
        env.reset(seed=0)

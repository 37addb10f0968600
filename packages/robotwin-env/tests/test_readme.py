from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robotwin_env import TASKS, RoboTwinConfig, RoboTwinEnv, TabletopConfig, TabletopEnv
from robotwin_env.__main__ import main
from robotwin_env.episodes import Episode, episode_path, write_episode

README = Path(__file__).parents[1] / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.sim
def test_the_first_example_runs_and_solves_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(examples()[0], str(README), "exec"), {})
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("(64, 64, 3)")
    assert last.startswith("True ")


@pytest.mark.sim
def test_the_second_example_plays_in_worker_processes(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(examples()[1], str(README), "exec"), {})
    assert capsys.readouterr().out == "[8, 8, 8, 8]\n"


def test_both_worlds_have_what_is_called_the_same_and_each_alone_what_is_told_apart() -> None:
    section = README.read_text().split("### One convention for two worlds")[1].split("\n### ")[0]
    same, differs = section.split("What differs:")
    methods = re.findall(r"`(\w+)\(", same)
    assert len(methods) >= 9
    assert all(callable(getattr(env, name)) for name in methods for env in (TabletopEnv, RoboTwinEnv))
    (settings,) = re.findall(r"in the configuration (.*?)\.", same, re.DOTALL)
    for config in (TabletopConfig, RoboTwinConfig):
        assert set(re.findall(r"`(\w+)`", settings)) <= {field.name for field in fields(config)}
    rows = [line.split("|")[2:4] for line in differs.strip().splitlines()]
    told = [set(re.findall(r"`env\.(\w+)\(", " ".join(cells))) for cells in zip(*rows, strict=True)]
    assert told == [{"expert"}, {"run_expert", "describe", "abort"}]
    for names, own, other in ((told[0], TabletopEnv, RoboTwinEnv), (told[1], RoboTwinEnv, TabletopEnv)):
        assert all(hasattr(own, name) and not hasattr(other, name) for name in names)


def test_the_robotwin_example_plays_behind_the_process_boundary(
    capsys: pytest.CaptureFixture[str], fake_simulator: Path
) -> None:
    configured = "python=python"
    given = f'simulator=Path("{fake_simulator}")'
    example = examples()[2].replace(configured, given).replace('Path("RoboTwin")', f'Path("{fake_simulator.parent}")')
    assert given in example
    exec(compile(example, str(README), "exec"), {})
    assert capsys.readouterr().out == "click_bell 8 step\n"


def test_the_evaluation_example_evaluates(
    capsys: pytest.CaptureFixture[str], fake_simulator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_SIMULATOR", '{"when": {"reset 100001": "unstable"}}')
    configured = "python=python"
    given = f'simulator=Path("{fake_simulator}")'
    example = examples()[3].replace(configured, given).replace('Path("RoboTwin")', f'Path("{fake_simulator.parent}")')
    assert given in example
    exec(compile(example, str(README), "exec"), {})
    assert capsys.readouterr().out == "0 of 3 solved; {'unstable': 1} dropped\n"


def test_the_training_example_reads_windows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    joints = np.linspace(0, 1, 41 * 14, dtype=np.float32).reshape(41, 14)
    images = {name: np.zeros((40, 24, 32, 3), np.uint8) for name in ("head", "left_wrist", "right_wrist")}
    whole = Episode(states=joints[:-1], actions=joints[1:], instructions=("go",), frequency=25, images=images)
    write_episode(episode_path("data", 0), whole)
    exec(compile(examples()[4], str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["(9, 24, 32, 3) (32, 14) go"] * 2
    assert lines[2].endswith(" 25.0")


def test_the_commands_take_what_the_readme_gives_them(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^python -m robotwin_env (\S+) (.*)$", README.read_text(), re.MULTILINE)
    assert {name for name, _ in commands} >= {"doctor", "scan-seeds"}
    for name, rest in commands:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        taken = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", rest):
            assert option in taken


def test_the_table_lists_every_task_with_its_limit() -> None:
    rows = re.findall(r"^\| (`.*?) \|.*\| (\d+) \|$", README.read_text(), re.MULTILINE)
    listed = {name: int(limit) for names, limit in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {task.name: task.max_steps for task in TASKS}


@pytest.mark.sim
def test_the_example_that_draws_scenes_writes_a_grid(tmp_path: Path) -> None:
    script, out = README.parent / "examples" / "draw_scenes.py", tmp_path / "scenes.png"
    tasks = ("click_bell", "slide_bolt", "lift_pot")
    subprocess.run([sys.executable, str(script), str(out), "--size", "32", "--tasks", *tasks], check=True)
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert picture.shape == (2 * 36 - 4, 8 * 36 - 4, 3)
    drawn = picture[36:, : 4 * 36], picture[36:, 4 * 36 :]  # the third task, and no fourth
    assert drawn[0].std() > 20
    assert (drawn[1] == 255).all()

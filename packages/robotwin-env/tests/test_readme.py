from __future__ import annotations

import re
from pathlib import Path

import pytest

from robotwin_env import TASKS

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


def test_the_table_lists_every_task_with_its_limit() -> None:
    rows = re.findall(r"^\| (`.*?) \|.*\| (\d+) \|$", README.read_text(), re.MULTILINE)
    listed = {name: int(limit) for names, limit in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {task.name: task.max_steps for task in TASKS}

"""The tutorials' programs run as they stand."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
COMMAND = re.compile(r"^uv run apps/(\w+)\.py (.*)$", re.MULTILINE)
SMALL = {
    "train_codec": ("--steps", 1, "--batch-size", 2, "--decoded", 1),
    "stage1": ("--steps", 1, "--batch-size", 2, "--backbone.num-layers", 1, "--backbone.head-dim", 12),
    # Three episodes are too few to learn to see from, as the tutorial says.
    "stage2": (
        "--epochs", 1, "--group-size", 2, "--episodes-per-epoch", 2, "--workers", 0, "--orient", 0, "--skip-eval",
    ),
}  # fmt: skip
"""What makes the commands of the tutorial on data short."""
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_there_is_a_tutorial_for_everything_that_can_be_replaced():
    assert {path.stem for path in TUTORIALS} >= {"backbone", "data", "rl", "schedule", "task"}


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_does_what_it_says(tutorial, tmp_path, monkeypatch):
    programs = BLOCK.findall(tutorial.read_text(encoding="utf-8"))
    assert programs
    assert any("assert" in program for program in programs)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("tutorial")  # a module that can be imported, as the programs' own file would be
    monkeypatch.setitem(sys.modules, "tutorial", module)
    for program in programs:
        exec(compile(program, tutorial.name, "exec"), module.__dict__)


@pytest.mark.slow
@pytest.mark.sim
def test_the_commands_of_the_tutorial_on_data_train_on_what_its_programs_wrote(app, tmp_path, monkeypatch):
    (tutorial,) = (path for path in TUTORIALS if path.stem == "data")
    text = tutorial.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(BLOCK.findall(text)), tutorial.name, "exec"), {})
    commands = COMMAND.findall(text)
    assert [name for name, _ in commands] == list(SMALL)
    for name, rest in commands:
        arguments = [tmp_path / word if word.startswith(("data/", "runs/")) else word for word in rest.split()]
        app(name, *arguments, *SMALL[name])

"""The page on executors: its program runs, and the names in it exist."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import grpo_core
from grpo_core import executors
from grpo_core.executors import Executor, FaultTolerance

PAGE = (Path(__file__).parents[2] / "docs" / "executors.md").read_text()


def test_the_program_in_the_page_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"32 throws, \d+% in, \{\}$", done.stdout)


def test_every_name_in_the_page_exists():
    counters = set(re.findall(r"`(\w+s|\w+ed|given_up)`", Executor.events.__doc__))
    fields_of = {field.name for field in fields(FaultTolerance)} | counters
    arguments = {"jobs_per_call", "address", "cpus", "gpus", "cancel", "close"}
    foreign = {"RAY_ADDRESS", "ray.init", "grpo_core.executors", "poll", "ExecutorError"}
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = set(re.findall(r"`([A-Za-z_][\w.]*)`", prose))
    assert len(names) > 20
    for name in names - fields_of - arguments - foreign:
        owner, _, member = name.partition(".")
        thing = getattr(grpo_core, owner, None) or getattr(executors, owner)
        assert not member or hasattr(thing, member) or member in thing.__annotations__, name
    assert len(counters) == 11
    assert counters <= names, "a counter is not explained"

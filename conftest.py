"""Which tests run, in how many processes and which order, and where they keep what they compile."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The tests start a hundred interpreters: where the surroundings forbid bytecode, each would compile torch again, for
# three times as long as importing it takes. So that nothing is written beside sources all the same, the environment has
# a folder for it, which goes when the environment does.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) is not None:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "bytecode"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Slow tests are asked for, here or by anything that chooses tests."""
    parser.addoption("--slow", action="store_true", help="slow tests too, as continuous integration runs them")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is left out."""
    return None if _runs_slow_tests(config) else "slow tests are left out; `--slow` runs them too"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each core where everything is asked for; a few chosen files start quicker in this process."""
    if _names_files(config):
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, or begin with their files: a long one that starts last leaves the other cores idle."""
    slow = {item for item in items if item.get_closest_marker("slow") is not None}
    if _runs_slow_tests(config):
        files = {item.path for item in slow}
        items.sort(key=lambda item: item.path not in files)
    else:
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=list(slow))


def _runs_slow_tests(config: pytest.Config) -> bool:
    options = config.option
    return bool(options.slow or options.markexpr or options.keyword or _names_files(config))


def _names_files(config: pytest.Config) -> bool:
    names = [argument.split("::")[0] for argument in config.invocation_params.args]
    return any(name.endswith(".py") and Path(name).exists() for name in names)

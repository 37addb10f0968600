"""How many processes run the tests, in which order, and where they keep what they compile."""

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


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each core where everything is asked for; a few chosen files start quicker in this process."""
    named = [argument.split("::")[0] for argument in config.invocation_params.args]
    files = [name for name in named if name.endswith(".py") and Path(name).exists()]
    return 0 if files else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a long file that starts last leaves the other cores idle until it ends."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)

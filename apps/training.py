"""The state of a training run, saved whole and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from checkpoints import load_state, save_state


class Stateful(Protocol):
    """Modules, optimizers, averages: what has a state to save."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take up a state."""


class TrainingState:
    """Everything that a run carries from one step to the next, in one file.

    Random numbers are not among it: every step draws from generators seeded by its own number.

    Args:
        path: The file.
        parts: Name to part.
    """

    def __init__(self, path: Path, parts: Mapping[str, Stateful]) -> None:
        self._path = path
        self._parts = parts

    def save(self, step: int) -> None:
        """Write the state after `step` steps, atomically."""
        save_state(self._path, {"step": step, **{name: part.state_dict() for name, part in self._parts.items()}})

    def resume(self) -> int:
        """Load the state where there is one and return how many steps it has behind it."""
        if not self._path.exists():
            return 0
        state = load_state(self._path)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

"""Training state of one process: whatever its parts hold, nested, kept by the backbone's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from noisegate_apps.runs.errors import RunError
from wam_backbone.training import TrainingCheckpoints

State = Any
"""Nested mappings, lists and tuples of tensors, numbers, strings, booleans and None."""

_TENSOR = "__tensor__"
_PAIRS = "__pairs__"


def flat(state: State) -> tuple[dict[str, Tensor], State]:
    """Take a nested state apart into tensors by running number, and the rest in JSON form.

    Raises:
        TypeError: If the state holds something that has no plain form.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _strip(state, tensors)


def nested(structure: State, tensors: Mapping[str, Tensor]) -> State:
    """Put together what `flat` took apart; mappings, lists and dtypes come back as they were."""
    if isinstance(structure, dict):
        if _TENSOR in structure:
            return tensors[structure[_TENSOR]]
        return {key: nested(item, tensors) for key, item in structure[_PAIRS]}
    if isinstance(structure, list):
        return [nested(item, tensors) for item in structure]
    return structure


def _strip(value: State, tensors: dict[str, Tensor]) -> State:
    """Replace every tensor by a reference, collecting it under a running number."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        # Pairs, not an object: optimizer states have integer keys, which JSON would turn into strings.
        return {_PAIRS: [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_strip(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a training state cannot hold `{type(value).__name__}`; store tensors and plain values.")


class Stateful(Protocol):
    """Modules, optimizers, averages: what has a state to save."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take up a state."""


class TrainingState:
    """Everything that a run of one process carries from one step to the next.

    Random numbers are not among it: every step draws from generators seeded by its own number.

    Args:
        folder: Holds the checkpoints.
        parts: Name to part.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Stateful]) -> None:
        self._checkpoints = TrainingCheckpoints(folder)
        self._parts = parts

    def save(self, step: int) -> None:
        """Write the state after `step` steps; a kill at any moment leaves the earlier one or this one."""
        tensors, structure = flat({name: part.state_dict() for name, part in self._parts.items()})
        self._checkpoints.save(step, tensors, values=structure)

    def resume(self) -> int:
        """Load the newest state where there is one and return how many steps it has behind it.

        Raises:
            wam_backbone.CheckpointError: If it is damaged.
            RunError: If it is another training's.
        """
        step = self._checkpoints.latest()
        if step:
            tensors, structure = self._checkpoints.read(step)
            try:
                state = nested(structure, tensors)
                found = [(part, state[name]) for name, part in self._parts.items()]
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"the training state of step {step} is another one ({error!r}); start anew with `--overwrite`."
                ) from error
            for part, held in found:
                part.load_state_dict(held)
        return step

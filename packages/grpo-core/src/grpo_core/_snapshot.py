"""A copy of weights and optimiser state, to take an update back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Remembers an optimiser's parameters and state as they are now.

    Args:
        optimizer: The optimiser whose next steps may have to be taken back.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [parameter.detach().clone() for parameter in parameters_of(optimizer)]
        self._state = _copy(optimizer.state_dict())

    def restore(self) -> None:
        """Puts everything back, bit for bit, and drops the gradients."""
        with torch.no_grad():
            for parameter, saved in zip(parameters_of(self._optimizer), self._parameters, strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(self._state)
        self._optimizer.zero_grad(set_to_none=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimiser trains, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy(tree: Any) -> Any:
    """What `copy.deepcopy` does to an optimiser's state, without its bookkeeping."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copy(value) for value in tree]
    return tree

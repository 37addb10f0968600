"""Rows of nested tensors, and copies between host and device that make nobody wait.

A tree is a tensor, or dictionaries and sequences of them, whose leading dimension counts decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from grpo_core.errors import ShapeError

TreeT = TypeVar("TreeT")


def map_tensors(tree: TreeT, change: Callable[[Tensor], Tensor]) -> TreeT:
    """Applies `change` to every tensor of `tree`, keeping its structure and whatever else it holds."""
    return cast("TreeT", pytree.tree_map_only(Tensor, change, tree))


def concatenate(trees: Sequence[TreeT]) -> TreeT:
    """Joins the rows of trees, at least one, in the given order.

    Raises:
        ShapeError: The structures, the trailing shapes or the types differ.
    """
    flat = [flat_tensors(tree) for tree in trees]
    structures = {str(structure) for _, structure in flat}
    if len(structures) > 1:
        raise ShapeError(f"Trees differ in structure: {sorted(structures)}; record all decisions alike.")
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    for tensors in columns:
        shapes = {(tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors}
        if len(shapes) > 1 or tensors[0].ndim == 0:
            raise ShapeError(f"Rows differ in shape or type: {sorted(map(str, shapes))}; record all of them alike.")
    return cast("TreeT", pytree.tree_unflatten([torch.cat(tensors) for tensors in columns], flat[0][1]))


def copied(tree: TreeT) -> TreeT:
    """The same with a copy of every tensor."""
    return map_tensors(tree, lambda tensor: tensor.detach().clone())


def flat_tensors(tree: object) -> tuple[list[Tensor], Any]:
    """The tensors of `tree` and its structure; `ShapeError` if it holds anything else."""
    leaves, structure = pytree.tree_flatten(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ShapeError(
                f"A tree holds a `{type(leaf).__name__}`; use tensors in dictionaries, lists or (named) tuples."
            )
    return leaves, structure


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a host tensor to `device`, without a synchronisation on CUDA."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host: on CUDA the copy is queued, elsewhere it is there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._host = tensor.detach().cpu()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor.detach(), non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch annotates no event
        self._event.record(torch.cuda.current_stream(tensor.device))

    def has_arrived(self) -> bool:
        """Whether `wait` would return at once."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]  # as above

    def wait(self) -> Tensor:
        """The tensor on the host, which may wait for the device here."""
        if self._event is not None:
            self._event.synchronize()
        return self._host

"""Rows of nested tensors: a tensor, or mappings and sequences of them, whose leading dimension counts decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from grpo_core.errors import ShapeError

TreeT = TypeVar("TreeT")


def map_tensors(tree: TreeT, change: Callable[[Tensor], Tensor]) -> TreeT:
    """Applies `change` to every tensor of `tree`, keeping its structure.

    Raises:
        ShapeError: `tree` holds something that is neither a tensor nor a mapping, list, tuple or named tuple.
    """
    return cast("TreeT", _combine([tree], lambda tensors: change(tensors[0])))


def concatenate(trees: Sequence[TreeT]) -> TreeT:
    """Joins the rows of trees of one structure, in the given order.

    Raises:
        ShapeError: The structures or the trailing shapes differ, or there is no tree.
    """
    if not trees:
        raise ShapeError("There is no tree to concatenate; give at least one.")
    return cast("TreeT", _combine(trees, _concatenate_tensors))


def tensors_of(tree: object) -> Iterator[Tensor]:
    """Yields every tensor of `tree`."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(tree, note)
    yield from found


def _concatenate_tensors(tensors: list[Tensor]) -> Tensor:
    shapes = {(tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors}
    if len(shapes) > 1 or tensors[0].ndim == 0:
        raise ShapeError(f"Rows differ in shape or type: {sorted(map(str, shapes))}; record all of them alike.")
    return torch.cat(tensors)


def _combine(trees: Sequence[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    first = trees[0]
    if any(type(tree) is not type(first) for tree in trees) and not isinstance(first, Tensor):
        raise ShapeError(f"Trees differ in structure: {sorted({type(tree).__name__ for tree in trees})}.")
    if isinstance(first, Tensor):
        if not all(isinstance(tree, Tensor) for tree in trees):
            raise ShapeError("Trees differ in structure: a tensor in one, something else in another.")
        return join(list(trees))
    if isinstance(first, Mapping):
        if any(tree.keys() != first.keys() for tree in trees):
            raise ShapeError(f"Trees differ in keys: {sorted({str(sorted(map(str, tree))) for tree in trees})}.")
        return {key: _combine([tree[key] for tree in trees], join) for key in first}
    if isinstance(first, list | tuple):
        if any(len(tree) != len(first) for tree in trees):
            raise ShapeError(f"Trees differ in length: {sorted({len(tree) for tree in trees})}.")
        parts = [_combine(list(branch), join) for branch in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    raise ShapeError(f"A tree holds a `{type(first).__name__}`; use tensors in mappings, lists or (named) tuples.")

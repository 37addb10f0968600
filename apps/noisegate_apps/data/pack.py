"""Nested tensors and plain values in one safetensors file: never unpickled, replaced in one step."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.state import State, flat, nested
from wam_backbone.cache import write_tensors


def write_pack(path: Path, state: State) -> None:
    """Write a nested state; a kill at any moment leaves the earlier file or the new one.

    Raises:
        TypeError: If the state holds something that has no plain form.
    """
    tensors, structure = flat(state)
    write_tensors(path, tensors, {"structure": json.dumps(structure)})


def read_pack(path: Path) -> State:
    """Read what `write_pack` wrote; mappings, lists and dtypes come back as they were.

    Raises:
        RunError: If the file is not such a pack, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            structure = json.loads((file.metadata() or {})["structure"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return nested(structure, tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"`{path}` cannot be read ({error}); remove it, and it is made again.") from error

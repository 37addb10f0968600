"""Tensors that are computed once per data set and read from memory-mapped files afterwards.

A cache is a folder of safetensors shards whose name is the digest of all that decides its contents. Shards are written
one by one and renamed into place when whole: a killed run goes on where it stopped, and a damaged shard is made again.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wam_backbone.errors import CacheError

JsonValue = Any
"""Numbers, strings, booleans, None, and lists and mappings of them."""

_BLOCK = 1 << 24
_ABANDONED = 24 * 3600  # seconds


def digest_of(record: JsonValue) -> str:
    """Digest of a JSON value; the order of a mapping's keys does not matter."""
    return blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """Digest of names, types, shapes and bytes of a module's parameters and persistent buffers."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest of all files below a folder, by name and content: of weights that need not be loaded for it.

    Raises:
        CacheError: There is no such folder, or no file in it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise CacheError(f"`{folder}` holds no files; give the folder of a downloaded checkpoint.")
    digest = blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, temporary, dict(metadata))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there is one where the disk is full


class TensorCache:
    """Rows of named tensors in shards on disk; rows are mapped into memory when read, never loaded whole.

    Open one with `build`, which first makes what is missing.

    Args:
        folder: Where the shards lie.
        shards: Mapped tensors of every shard, in order.
    """

    def __init__(self, folder: Path, shards: Sequence[Mapping[str, Tensor]]) -> None:
        self.folder = folder
        self._shards = shards
        self._starts = [0, *accumulate(_rows(shard) for shard in shards)]

    @classmethod
    def build(
        cls,
        root: Path,
        record: JsonValue,
        rows: Sequence[int],
        produce: Callable[[int], Mapping[str, Tensor]],
        *,
        part: tuple[int, int] = (0, 1),
        wait: Callable[[], None] = lambda: None,
    ) -> Self:
        """Make the shards that are missing or damaged, then open the cache.

        Args:
            root: Folder of all caches of a data set; this one lies in a folder of its own, named by its digest.
            record: All that decides the contents: data, indices, preprocessing, weights. It is kept in `index.json`.
            rows: Rows of every shard; a kill loses the shards at work. A gigabyte each is a good size.
            produce: Computes a shard: tensors of equal first dimension, that shard's rows.
            part: Number of this process and of all processes that make the cache together; each makes its share.
            wait: Returns when every process got here; needed with several.

        Raises:
            CacheError: A shard was produced in another shape than it was announced, or is missing in the end.
        """
        if not rows or min(rows) < 1:
            raise CacheError(f"shards of {list(rows)[:8]} rows were asked for; every shard needs at least one.")
        key = digest_of({"record": record, "rows": list(rows)})
        folder = root / key
        process, processes = part
        if process == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            index = folder / "index.json"
            index.write_text(json.dumps({"record": record, "shards": len(rows), "rows": sum(rows)}, indent=2) + "\n")
        wait()
        for shard in range(process, len(rows), processes):
            path = folder / _name(shard)
            if _open(path, key, rows[shard]) is not None:
                continue
            made = produce(shard)
            if not made or {len(tensor) for tensor in made.values()} != {rows[shard]}:
                found = {name: tuple(tensor.shape) for name, tensor in made.items()}
                raise CacheError(f"shard {shard} was produced as {found}; every tensor needs {rows[shard]} rows.")
            write_tensors(path, made, {"key": key})
        wait()
        mapped = [_open(folder / _name(shard), key, count) for shard, count in enumerate(rows)]
        missing = [shard for shard, tensors in enumerate(mapped) if tensors is None]
        if missing:
            raise CacheError(
                f"shards {missing[:8]} of `{folder}` are missing or damaged; run again, on a file system that all "
                "processes share."
            )
        return cls(folder, [tensors for tensors in mapped if tensors is not None])

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, name: str, rows: Int[Tensor, " batch"]) -> Tensor:
        """Copy some rows of one tensor into memory, `(batch, ...)`.

        Raises:
            CacheError: There is no such tensor or row.
        """
        if name not in self._shards[0]:
            raise CacheError(f"`{name}` is not in `{self.folder}`, which holds {sorted(self._shards[0])}.")
        return torch.stack([self._row(name, row) for row in rows.tolist()])

    def _row(self, name: str, row: int) -> Tensor:
        if not 0 <= row < len(self):
            raise CacheError(f"row {row} was asked for; `{self.folder}` holds {len(self)}.")
        shard = bisect_right(self._starts, row) - 1
        return self._shards[shard][name][row - self._starts[shard]]


def map_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, mapped into memory, and its metadata.

    Raises:
        CacheError: The file is missing, cut short, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CacheError(f"`{path}` cannot be read ({error}); remove it, and it is made again.") from error


def _open(path: Path, key: str, rows: int) -> dict[str, Tensor] | None:
    """Map a shard; None where it is missing, damaged, or another cache's."""
    if not path.exists():
        return None
    try:
        tensors, metadata = map_tensors(path)
    except CacheError:
        return None
    return tensors if metadata.get("key") == key and _rows(tensors) == rows else None


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind; younger files may belong to a run beside this one."""
    for leftover in folder.glob(".*.tmp"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED:
            leftover.unlink(missing_ok=True)


def _rows(tensors: Mapping[str, Tensor]) -> int:
    return len(next(iter(tensors.values())))


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"

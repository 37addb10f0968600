"""Guarded reading of HDF5 files from anywhere: every surprise is an `EpisodeFormatError` that names file and place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import EpisodeFormatError

T = TypeVar("T")

_H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises on damaged bytes, depending on where they lie."""

_KINDS = {"f": "floating-point numbers", "i": "integers", "S": "byte strings, a JPEG each", "OS": "text"}
"""What the numpy kinds of a dataset mean to whoever wrote it."""

MAX_ROWS = 1_000_000
"""No dataset of an episode has more rows; guards against sizes that a damaged header claims."""


class Source:
    """An open episode file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; `episode_files` lists the episodes of a folder.")
        if not path.is_file():  # a pipe would be waited for without end
            raise self.fail("no file, but a folder, pipe or device; an episode is an HDF5 file.")
        try:
            self.file = h5py.File(path, "r")
        except BlockingIOError as error:
            raise self.fail(
                "another process has it open for writing; wait until that is done. If none has, the file system does "
                "not support locks: set the environment variable `HDF5_USE_FILE_LOCKING=FALSE`."
            ) from error
        except _H5_ERRORS as error:
            if isinstance(error, OSError) and error.errno:  # the system refused, which says nothing of the file
                raise self.fail(
                    f"cannot be opened ({os.strerror(error.errno)}); check the rights to read it, the disk, and "
                    "`ulimit -n`."
                ) from error
            raise self.fail(
                f"not a readable HDF5 file, or cut off ({error}); record or copy the episode again."
            ) from error

    def fail(self, message: str) -> EpisodeFormatError:
        """An error about this file."""
        return EpisodeFormatError(f"{self.path}: {message}")

    @contextmanager
    def guard(self, place: str) -> Iterator[None]:
        """Turn h5py's errors into one about this file; wrap every access in it."""
        try:
            yield
        except EpisodeFormatError:
            raise
        except _H5_ERRORS as error:
            raise self.fail(f"{place} cannot be read ({error}); record or copy the episode again.") from error

    def has(self, place: str) -> bool:
        """Whether something is stored at `place`."""
        return self._find(place) is not None

    def members(self, place: str) -> list[str]:
        """Names in a group, in order; empty where the group is absent. `""` is the root."""
        group = self._find(place)
        if group is None:
            return []
        if not isinstance(group, h5py.Group):
            raise self.fail(f"`{place}` is a dataset; it must be a group.")
        with self.guard(f"`{place}`"):
            names = list(group.keys())
        if not all(isinstance(name, str) for name in names):  # h5py leaves names that are not UTF-8 as bytes
            raise self.fail(f"`{place}` holds {names[:8]}; names must be UTF-8 text.")
        return sorted(names)

    def dataset(self, place: str, kinds: str, dimensions: int | None) -> h5py.Dataset:
        """A dataset that this file itself holds.

        Args:
            place: Path in the file.
            kinds: Allowed numpy kinds, such as `"f"`.
            dimensions: Required number of dimensions; `None` for any.
        """
        found = self._find(place)
        if found is None:
            raise self.fail(f"`{place}` is missing; it must be a dataset.")
        if not isinstance(found, h5py.Dataset):
            raise self.fail(f"`{place}` is a group; it must be a dataset.")
        with self.guard(f"`{place}`"):
            if found.external or found.is_virtual:
                raise self.fail(f"`{place}` keeps its data in another file; an episode holds its own data.")
            if found.dtype.kind not in kinds:
                raise self.fail(f"`{place}` has type {found.dtype}; it must hold {_KINDS.get(kinds, 'numbers')}.")
            if found.shape is None or (dimensions is not None and found.ndim != dimensions):
                raise self.fail(f"`{place}` has shape {found.shape}; it must have {dimensions} dimensions.")
            if found.ndim and found.shape[0] > MAX_ROWS:
                raise self.fail(f"`{place}` claims {found.shape[0]} rows; an episode has at most {MAX_ROWS}.")
            return found

    def table(self, place: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of finite numbers, `(rows, *shape)`."""
        values = _narrowed(self.numbers(place, "f", 1 + len(shape)))
        if values.shape[1:] != shape:
            raise self.fail(f"`{place}` has shape {values.shape}; it must be (rows, {', '.join(map(str, shape))}).")
        if not np.isfinite(values).all():
            raise self.fail(f"`{place}` holds values that are not finite, or too large for float32; drop the episode.")
        return values

    def rows(self, place: str, width: int | None) -> NDArray[np.float32]:
        """A table of finite numbers: `(rows, width)`, or `(rows,)` where `width` is `None`."""
        dataset = self.dataset(place, "f", 1 if width is None else 2)
        if width is not None and dataset.shape[1] != width:
            raise self.fail(f"`{place}` has shape {dataset.shape}; it must be (steps, {width}).")
        values = _narrowed(self._read(dataset, place))
        if not np.isfinite(values).all():
            raise self.fail(f"`{place}` holds values that are not finite, or too large for float32; drop the episode.")
        return values

    def numbers(self, place: str, kinds: str = "fiub", dimensions: int | None = None) -> NDArray[np.generic]:
        """An array of numbers."""
        return self._read(self.dataset(place, kinds, dimensions), place)

    def entries(self, dataset: h5py.Dataset, indices: Sequence[int] | None) -> list[bytes]:
        """Entries of a dataset of byte strings; all, in one go, where `indices` is `None`."""
        with self.guard(f"a dataset of {dataset.dtype}"):
            if indices is None:
                return [bytes(entry) for entry in dataset[()]]
            return [bytes(dataset[index]) for index in indices]

    def text(self, place: str) -> str:
        """A single string."""
        dataset = self.dataset(place, "OS", 0)
        with self.guard(f"`{place}`"):
            is_text = h5py.check_string_dtype(dataset.dtype) is not None
        if not is_text:
            raise self.fail(f"`{place}` has type {dataset.dtype}; it must be a string.")
        value: object = self._read(dataset, place).item()
        with self.guard(f"`{place}`"):
            return value.decode() if isinstance(value, bytes) else str(value)

    def texts(self, place: str) -> tuple[str, ...]:
        """A JSON list of strings."""
        return self.parse_texts(self.text(place), f"`{place}`")

    def parse_texts(self, text: str, where: str) -> tuple[str, ...]:
        """The strings of a JSON list of at least one."""
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self.fail(f"{where} is not JSON ({error}).") from error
        if (
            not isinstance(values, list)
            or not values
            or not all(isinstance(value, str) and value.strip() for value in values)
        ):
            raise self.fail(f"{where} is {text[:80]!r}; it must be a JSON list of at least one phrasing.")
        return tuple(values)

    def has_attribute(self, name: str) -> bool:
        """Whether the root has an attribute of that name."""
        with self.guard(f"attribute `{name}`"):
            return bool(name in self.file.attrs)

    def attribute(self, name: str, kind: type[T]) -> T | None:
        """A root attribute, or `None` where it is absent."""
        if not self.has_attribute(name):
            return None
        with self.guard(f"attribute `{name}`"):
            value = self.file.attrs[name]
            value = value.item() if isinstance(value, np.generic) else value
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.fail(f"attribute `{name}` is {value!r}; it must be of type {kind.__name__}.")
        return value

    def _find(self, place: str) -> h5py.Group | h5py.Dataset | None:
        current: h5py.Group | h5py.Dataset = self.file
        with self.guard(f"`{place}`"):
            for name in filter(None, place.split("/")):
                if not isinstance(current, h5py.Group) or name not in current:
                    return None
                if not isinstance(current.get(name, getlink=True), h5py.HardLink):
                    raise self.fail(f"`{place}` is a link to elsewhere; an episode holds its own data.")
                current = current[name]
        return current

    def _read(self, dataset: h5py.Dataset, place: str) -> NDArray[np.generic]:
        with self.guard(f"`{place}`"):
            return np.asarray(dataset[()])


def _narrowed(values: NDArray[np.generic]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        return values.astype(np.float32)

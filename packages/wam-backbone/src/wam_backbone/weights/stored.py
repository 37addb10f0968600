"""Tensors that are still on disk: shapes are known, values are read one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wam_backbone.errors import ConfigurationError, WeightsError
from wam_backbone.weights.names import unwrapped

_LISTED = 8

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DeviceMap: TypeAlias = str | int | torch.device | Mapping[str, str | int | torch.device] | None
"""One device, as diffusers' `device_map` may name it."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is read when it is needed."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """One that is in memory, or mapped into it, already."""
        return cls(tuple(tensor.shape), lambda: tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Which copy of a hub repository is meant, as diffusers' `from_pretrained` takes it."""

    revision: str | None = None
    """Branch, tag or commit."""
    token: str | None = None
    """For a private repository."""
    cache_dir: str | PathLike[str] | None = None
    """Where files are kept."""
    local_files_only: bool = False
    """Never ask the hub."""


def locate(source: str | PathLike[str], hub_files: list[str], hub: Hub) -> Path:
    """A folder, or the local copy of a hub repository.

    Args:
        source: Folder or hub id.
        hub_files: Patterns of the files to fetch from the hub.
        hub: Which copy of it; a folder is what it is.

    Raises:
        WeightsError: `source` is neither, or the hub cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not isinstance(source, str) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise WeightsError(f"`{source}` is neither a folder nor a hub id like `Wan-AI/Wan2.2-TI2V-5B-Diffusers`.")
    try:
        fetched = snapshot_download(
            source,
            allow_patterns=hub_files,
            revision=hub.revision,
            token=hub.token,
            cache_dir=None if hub.cache_dir is None else Path(hub.cache_dir),
            local_files_only=hub.local_files_only,
        )
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise WeightsError(
            f"`{source}` is no folder here, and the hub gave no such repository ({told}); check the name and the "
            "network, or download it elsewhere and pass its folder."
        ) from error
    return Path(fetched)


def safetensors_in(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's safetensors, sharded or not, by its name free of wrappers.

    Variants beside the weights (`NAME.fp16.safetensors` beside `NAME.safetensors`) are left alone, as diffusers does
    unless asked for one.

    Raises:
        WeightsError: The folder has no safetensors, a shard is missing, or a file is cut short.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        listed = _listed(indices[0])
        files = sorted({folder / file for file in listed.values()})
    else:
        listed, files = {}, _without_variants(sorted(folder.glob("*.safetensors")))
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files or (not indices and len(files) > 1) or len(indices) > 1:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:_LISTED]) if folder.is_dir() else "no folder"
        problem = f"the index lists {_shorten(absent)}, which is not there" if absent else f"it holds {found}"
        raise WeightsError(
            f"`{folder}` is no complete checkpoint: {problem}; it needs one `*.safetensors`, or shards with one "
            "`*.safetensors.index.json`. Download it again."
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= _stored(file)
    lost = sorted(set(listed) - set(tensors))
    if lost:
        raise WeightsError(
            f"the shards of `{folder}` lack {_shorten(lost)}, which their index lists; download it again."
        )
    return {name: tensors[stored] for stored, name in unwrapped(tensors).items()}


def _listed(index: Path) -> dict[str, str]:
    """Tensors that an index lists, and the shard of each."""
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise WeightsError(
            f"`{index}` has no `weight_map` from tensors to files; download it again, or remove it where one file "
            "holds all weights."
        )
    return listed


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsError: The file is missing, cut short, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"`{file}` does not exist; download or save the whole folder.") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"`{file}` is no JSON ({error}); it may be cut short: download it again.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"`{file}` holds a {type(found).__name__}, no JSON object; download it again.")
    return found


def check_fit(
    needed: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, target: str, advice: str
) -> None:
    """Compare names and shapes.

    Args:
        needed: Shapes of the model by name.
        found: Shapes of the checkpoint by name.
        target: What should be loaded, for the message.
        advice: What to do, for the message.

    Raises:
        WeightsError: Names are missing, unexpected or of another shape.
    """
    problems = {
        "missing": sorted(needed.keys() - found.keys()),
        "unexpected": sorted(found.keys() - needed.keys()),
        "misshapen": [
            f"{name} {found[name]} instead of {needed[name]}"
            for name in sorted(needed.keys() & found.keys())
            if found[name] != needed[name]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names)
        raise WeightsError(f"these weights do not fit {target} ({listed}); {advice}")


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a module, which may be on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


class Saved(NamedTuple):
    """What `save_pretrained` left in a folder."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def build(self, make: Callable[[dict[str, Any]], ModuleT]) -> ModuleT:
        """Make the module that the configuration describes, with weights of its own, into which the tensors fit.

        Raises:
            WeightsError: The configuration describes none, or the tensors do not fit it.
        """
        try:
            module = make(self.config)
        except TypeError as error:
            file = self.folder / "config.json"
            raise WeightsError(f"`{file}` does not describe what is to be loaded ({error}); restore it.") from error
        check_fit(
            shapes_of(module),
            {name: tensor.shape for name, tensor in self.tensors.items()},
            target=f"the configuration in `{self.folder}`",
            advice="load the folder as `save_pretrained` wrote it.",
        )
        return module


def open_saved(source: str | PathLike[str], subfolder: str | None, hub: Hub) -> Saved:
    """Open what `save_pretrained` wrote, in a folder or a hub repository; no tensor is read yet.

    Args:
        source: Folder or hub id.
        subfolder: Folder below that.
        hub: Which copy of a repository.

    Raises:
        WeightsError: A file is missing or damaged, or the hub cannot be reached.
    """
    patterns = [f"{subfolder}/{kind}" if subfolder else kind for kind in ("*.json", "*.safetensors")]
    folder = locate(source, patterns, hub) / (subfolder or "")
    tensors = safetensors_in(folder)
    return Saved(folder, read_object(folder / "config.json"), tensors)


def one_device(device_map: DeviceMap) -> torch.device:
    """Where a model is loaded to; None is the CPU.

    Raises:
        ConfigurationError: The model should be spread over several devices.
    """
    place = device_map.get("") if isinstance(device_map, Mapping) and len(device_map) == 1 else device_map
    try:
        return torch.device("cpu") if device_map is None else torch.device(place)  # type: ignore[arg-type]
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"`device_map` is {device_map!r}; a layer holds both experts, so a model is loaded onto one device: name "
            "it, and split what does not fit with `wam_backbone.training.shard` or `accelerate.cpu_offload`."
        ) from error


def fill(
    module: nn.Module,
    weights: Mapping[str, StoredTensor],
    dtype: torch.dtype | None,
    device: torch.device | None = None,
) -> None:
    """Give a module of the meta device its weights, reading one tensor after the other.

    Values are copied, so the files may be replaced afterwards. Parameters without weights stay what they are. None
    keeps the stored dtype.
    """
    for name, stored in weights.items():
        read = floats(name, stored)
        values = read.to(device or read.device, dtype or read.dtype, copy=True)
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_parameter(leaf, nn.Parameter(values))


def floats(name: str, stored: StoredTensor) -> Tensor:
    """Read a tensor of weights.

    Raises:
        WeightsError: It is not of floating-point numbers.
    """
    read = stored.read()
    if not read.is_floating_point():
        raise WeightsError(
            f"`{name}` is stored as {read.dtype}; floating-point weights are needed: restore them where they were "
            "quantised."
        )
    return read


def _without_variants(files: list[Path]) -> list[Path]:
    """The one file of which all others are variants, or all of them."""
    plain = [file for file in files if all(other.name.startswith(f"{file.stem}.") for other in files)]
    return plain or files


def _stored(file: Path) -> dict[str, StoredTensor]:
    try:
        reader: Any = safe_open(file, framework="pt")  # untyped
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"`{file}` cannot be read ({error}); it may be cut short: download it again.") from error
    return {
        name: StoredTensor(tuple(reader.get_slice(name).get_shape()), partial(reader.get_tensor, name))
        for name in reader.keys()  # noqa: SIM118  (a reader is no mapping)
    }


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"`{name}`" for name in names[:_LISTED]) + more


def checkpoint_folder(source: str | PathLike[str], part: str, hub: Hub | None = None) -> Path:
    """Folder of a part of a diffusers repository: a local one, or downloaded from the hub.

    Args:
        source: Hub id or folder.
        part: For example `vae`.
        hub: Which copy of a repository; the public one unless told.

    Raises:
        WeightsError: `source` is neither a folder nor a hub id.
    """
    return locate(source, [f"{part}/*"], hub or Hub()) / part

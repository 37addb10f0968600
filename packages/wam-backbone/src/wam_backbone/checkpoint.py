"""Training states as folders of safetensors: every process writes its shards, any number of processes reads them.

Nothing is unpickled. (PyTorch's distributed checkpoints keep their index in a pickle file.)
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist

from wam_backbone.cache import JsonValue
from wam_backbone.errors import CheckpointError, ConfigurationError
from wam_backbone.sharding import local, rows_of

_MANIFEST = "manifest.json"
_STARTS = "starts"
_PARTIAL = ".partial"
_NAME = re.compile(r"step-\d+(\.\d+)?")


class TrainingCheckpoints:
    """The newest training states of a run: named tensors, whole or sharded, in a folder per step.

    A folder appears under its name when every process has written its part, and only then are earlier ones removed, of
    the same step too: a kill at any moment leaves a whole state. With several machines the folder must be on a file
    system that all share. Every method is called by all processes.

    Args:
        folder: Holds `step-00000100/` and the like; `step-00000100.1/` if that step was saved again.
        keep: States that stay, the newest among them; at least 1.

    Raises:
        ConfigurationError: `keep` is below 1.
    """

    def __init__(self, folder: Path, *, keep: int = 1) -> None:
        if keep < 1:
            raise ConfigurationError(f"`keep` is {keep}; the newest state stays in any case: use at least 1.")
        self._folder, self._keep = folder, keep
        self._rank, self._processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def latest(self) -> int:
        """How many steps the newest whole state has behind it, as process 0 sees it; 0 where there is none."""
        found = max(self._whole(), default=0)
        if self._processes > 1:
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"
            agreed = torch.tensor(found, device=device)
            dist.broadcast(agreed, src=0)
            found = int(agreed)
        return found

    def steps(self) -> list[int]:
        """Steps behind the states that are kept, the newest last."""
        return sorted(self._whole())

    def save(self, step: int, tensors: Mapping[str, Tensor], *, values: JsonValue = None) -> None:
        """Write a state; called by every process with the same names.

        Args:
            step: Steps behind the state.
            tensors: Parameters, optimizer states, averages; sharded ones are written by those who hold them.
            values: What else belongs to the state, in JSON form; of process 0.
        """
        partial = self._folder / f"step-{step:08d}{_PARTIAL}"
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._wait()
        held, starts = {}, {}
        for name, tensor in tensors.items():
            rows = rows_of(tensor, rank=self._rank)
            if rows.first_copy and (rows.count or (self._rank == 0 and not tensor.numel())):
                held[name], starts[name] = local(tensor).detach().cpu().clone(), rows.start
        file = partial / f"part-{self._rank:05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, file, {_STARTS: json.dumps(starts)})
        _flush(file)
        self._wait()
        if self._rank == 0:
            manifest = {
                "step": step,
                "parts": self._processes,
                "shapes": {n: list(t.shape) for n, t in tensors.items()},
                "values": values,
            }
            (partial / _MANIFEST).write_text(json.dumps(manifest))
            _flush(partial / _MANIFEST)
            _flush(partial)
            kept = self._whole()
            partial.rename(self._again(step, kept[step]) if step in kept else self._folder / f"step-{step:08d}")
            _flush(self._folder)
            staying = set(self._whole().values())
            staying -= {self._whole()[old] for old in self.steps()[: -self._keep]}
            for path in self._folder.glob("step-*"):
                if path not in staying and _NAME.fullmatch(path.name.removesuffix(_PARTIAL)) and path.is_dir():
                    shutil.rmtree(path)  # what has another name is somebody's own copy
        self._wait()

    @torch.no_grad()
    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Read a state into tensors of the same names and shapes, sharded in any way.

        Raises:
            CheckpointError: Names or shapes differ, or a part is missing or damaged; tensors may be overwritten then.
        """
        folder, manifest = self._manifest(step)
        _check_names(folder, manifest["shapes"], tensors)
        missing = {name: rows_of(tensor, rank=self._rank).count for name, tensor in tensors.items()}
        for part in range(manifest["parts"]):
            path = folder / f"part-{part:05d}.safetensors"
            try:
                with safe_open(path, framework="pt") as file:
                    for name, start in json.loads(file.metadata()[_STARTS]).items():
                        missing[name] -= self._copy_rows(file, name, start, tensors[name])
            except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
                raise CheckpointError(
                    f"`{path}` cannot be read ({error}); remove `{folder}` to start again."
                ) from error
        lacking = sorted(name for name, count in missing.items() if count)
        if lacking:
            raise CheckpointError(f"`{folder}` lacks rows of {lacking[:8]}; remove it to start again.")

    def read(self, step: int) -> tuple[dict[str, Tensor], JsonValue]:
        """Read a whole state whose names and shapes are not known yet.

        Returns:
            Every tensor, put together from all shards, on the CPU; and the values that were saved with them.

        Raises:
            CheckpointError: A part is missing or damaged.
        """
        folder, manifest = self._manifest(step)
        pieces: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in manifest["shapes"]}
        for part in range(manifest["parts"]):
            path = folder / f"part-{part:05d}.safetensors"
            try:
                with safe_open(path, framework="pt") as file:
                    for name, start in json.loads(file.metadata()[_STARTS]).items():
                        pieces[name].append((start, file.get_tensor(name)))
            except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
                raise CheckpointError(
                    f"`{path}` cannot be read ({error}); remove `{folder}` to start again."
                ) from error
        found = {}
        for name, shape in manifest["shapes"].items():
            rows = [tensor for _, tensor in sorted(pieces[name], key=lambda piece: piece[0])]
            whole = torch.cat(rows) if shape and rows else rows[0] if rows else None
            if whole is None or list(whole.shape) != shape:
                raise CheckpointError(f"`{folder}` lacks rows of `{name}`; remove it to start again.")
            found[name] = whole
        return found, manifest["values"]

    def _manifest(self, step: int) -> tuple[Path, JsonValue]:
        folder = self._whole().get(step)
        if folder is None:
            raise CheckpointError(f"`{self._folder}` has no state of step {step}, only of {self.steps()}.")
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            found = {name: manifest[name] for name in ("parts", "shapes", "values")}
            return folder, found | {"parts": int(found["parts"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"`{folder / _MANIFEST}` is damaged ({error!r}); remove `{folder}` to start again."
            ) from error

    def _copy_rows(self, file: safe_open, name: str, start: int, tensor: Tensor) -> int:
        """Copy the rows that a part and this process have in common and return how many."""
        mine = rows_of(tensor, rank=self._rank)
        stored = file.get_slice(name)  # type: ignore[no-untyped-call]  # safetensors types no slices
        if not tensor.ndim:
            tensor.copy_(stored[...])
            return 1
        rows: int = stored.get_shape()[0]
        first, last = max(mine.start, start), min(mine.start + mine.count, start + rows)
        if first >= last:
            return 0
        local(tensor)[first - mine.start : last - mine.start].copy_(stored[first - start : last - start])
        return last - first

    def _whole(self) -> dict[int, Path]:
        """The folder of every whole state by its step; of a step that was saved again, the last."""
        found: dict[int, Path] = {}
        for manifest in self._folder.glob("step-*/" + _MANIFEST):
            if _NAME.fullmatch(manifest.parent.name):
                step, time = _numbers(manifest.parent)
                if step not in found or time > _numbers(found[step])[1]:
                    found[step] = manifest.parent
        return found

    def _again(self, step: int, earlier: Path) -> Path:
        return self._folder / f"step-{step:08d}.{_numbers(earlier)[1] + 1}"

    def _wait(self) -> None:
        if self._processes > 1:
            dist.barrier()


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name; where no step was taken yet, zeros to load into are made.

    Args:
        module: Whose trainable parameters are optimised.
        optimizer: An `Adam` or `AdamW` without `amsgrad`.

    Raises:
        ConfigurationError: The optimizer is another.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or any(
        g["amsgrad"] for g in optimizer.param_groups
    ):
        raise ConfigurationError(
            f"the optimizer is a `{type(optimizer).__name__}` with {optimizer.defaults}; a state can be laid out for "
            "`AdamW` without `amsgrad` alone: use that, or save this one's `state_dict`."
        )
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        state = optimizer.state[parameter]
        if not state:
            device = parameter.device if optimizer.defaults.get("fused") else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter.detach()) for _ in range(2))
        tensors |= {f"{name}.{kind}": value for kind, value in state.items()}
    return tensors


def state_of(
    model: nn.Module, optimizer: Mapping[str, Tensor], average: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Everything that a run carries from one step to the next, by name.

    Weights that adapters keep frozen are not among it, nor are random numbers: every step draws its own.
    """
    weights = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    moments = {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
    return weights | moments | {f"average.{name}": tensor for name, tensor in (average or {}).items()}


def _check_names(folder: Path, shapes: Mapping[str, list[int]], tensors: Mapping[str, Tensor]) -> None:
    found = {name: tuple(shape) for name, shape in shapes.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differing:
        listed = ", ".join(f"`{n}` {found.get(n)} there, {wanted.get(n)} here" for n in differing[:8])
        raise CheckpointError(
            f"`{folder}` holds another state ({listed}{' ...' if len(differing) > 8 else ''}); train with the settings "
            "that it was written with, or start a new run."
        )


def _numbers(folder: Path) -> tuple[int, int]:
    """The step of a state, and how many times that step had been saved before."""
    step, _, again = folder.name.removeprefix("step-").partition(".")
    return int(step), int(again or 0)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Released Fast-WAM policies: their checkpoint files, under our names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from wam_backbone.errors import WeightsError
from wam_backbone.weights.names import action_name, diffusers_name, is_video, unwrapped, video_name
from wam_backbone.weights.stored import StoredTensor
from wam_backbone.weights.wan import VideoSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSizes:
    """Sizes of the action half, by the names of `WorldActionModel`'s arguments."""

    action_width: int
    action_ffn: int
    action_dim: int
    state_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FastWAMCheckpoint:
    """What a checkpoint holds."""

    video: VideoSizes
    actions: ActionSizes
    tensors: dict[str, StoredTensor]
    """By our names."""


def open_fastwam(file: str | Path, *, head_dim: int, eps: float) -> FastWAMCheckpoint:
    """Open a `.pt` file of Fast-WAM's trainer, mapped into memory and without running what a pickle may ask for.

    Args:
        file: Holds `mot` (`mixtures.video.*` and `mixtures.action.*`) and, for a policy that reads the robot's state,
            `proprio_encoder`.
        head_dim: Channels of one head, which leave no trace in the shapes.
        eps: Added to variances, likewise.

    Raises:
        WeightsError: The file cannot be read, or holds something else.
    """
    payload = _read(Path(file))
    mixtures, proprio = payload.get("mot"), payload.get("proprio_encoder", {})
    if not isinstance(mixtures, dict) or not isinstance(proprio, dict):
        found = ", ".join(f"`{key}`" for key in payload)
        raise WeightsError(
            f"`{file}` holds {found}; a Fast-WAM policy holds `mot` and perhaps `proprio_encoder`: pass the file that "
            "its trainer wrote below `checkpoints/weights`, or a released one."
        )
    for part in (mixtures, proprio):
        if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in part.items()):
            raise WeightsError(f"`{file}` holds something else than tensors by name; download it again.")
    weights: dict[str, Tensor] = {f"state_embedding.{name}": tensor for name, tensor in proprio.items()}
    for stored, name in unwrapped(mixtures).items():
        expert, _, rest = name.removeprefix("mixtures.").partition(".")
        ours = action_name(rest) if expert == "action" else video_name(diffusers_name(rest))
        weights[ours if expert in ("video", "action") else name] = mixtures[stored]
    tensors = {name: StoredTensor.of(tensor) for name, tensor in weights.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        actions = ActionSizes(
            action_width=shapes["action_embedding.weight"][0],
            action_ffn=shapes["blocks.0.action.ffn.net.0.proj.weight"][0],
            action_dim=shapes["action_embedding.weight"][1],
            state_dim=shapes["state_embedding.weight"][1] if proprio else 0,
        )
    except KeyError as error:
        raise WeightsError(
            f"`{file}` has no action expert ({error} is missing); pass a whole Fast-WAM policy."
        ) from error
    video = VideoSizes.of({name: shape for name, shape in shapes.items() if is_video(name)}, head_dim=head_dim, eps=eps)
    return FastWAMCheckpoint(video=video, actions=actions, tensors=tensors)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise WeightsError(f"`{file}` does not exist; download a released Fast-WAM checkpoint first.")
    try:
        payload = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"`{file}` cannot be read as plain weights ({error}); download it again.") from error
    if not isinstance(payload, dict):
        raise WeightsError(f"`{file}` holds a {type(payload).__name__}; a Fast-WAM policy is a dictionary.")
    return payload

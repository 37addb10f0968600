"""Wan's video transformer: from a folder or the hub, and between state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wam_backbone.errors import WeightsError
from wam_backbone.weights.names import diffusers_name, is_original, is_video, unwrapped, video_name
from wam_backbone.weights.stored import Hub, StoredTensor, check_fit, locate, read_object, safetensors_in, shapes_of

SIZES_ADVICE = (
    "build the model with the checkpoint's sizes: `latent_channels`, `num_layers`, `num_heads`, `head_dim`, "
    "`video_ffn`, `text_dim`, `freq_dim`."
)
_HUB_FILES = ["config.json", "transformer/*", "diffusion_pytorch_model*.safetensors*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSizes:
    """Sizes of the video half, by the names of `WorldActionModel`'s arguments."""

    latent_channels: int
    patch_size: tuple[int, int, int]
    num_layers: int
    num_heads: int
    head_dim: int
    video_ffn: int
    text_dim: int
    freq_dim: int
    eps: float

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], *, head_dim: int, eps: float) -> VideoSizes:
        """Read sizes off the shapes of the video half, by our names; head size and eps leave no trace in shapes.

        Raises:
            WeightsError: Parameters that every Wan transformer has are missing.
        """
        try:
            width, latent_channels, *patch_size = shapes["patch_embedding.weight"]
            layers = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
            return cls(
                latent_channels=latent_channels,
                patch_size=(patch_size[0], patch_size[1], patch_size[2]),
                num_layers=1 + max(layers),
                num_heads=width // head_dim,
                head_dim=head_dim,
                video_ffn=shapes["blocks.0.video.ffn.net.0.proj.weight"][0],
                text_dim=shapes["condition_embedder.text_embedder.linear_1.weight"][1],
                freq_dim=shapes["condition_embedder.time_embedder.linear_1.weight"][1],
                eps=eps,
            )
        except (KeyError, ValueError, IndexError) as error:
            found = ", ".join(f"`{name}`" for name in sorted(shapes)[:4]) or "nothing"
            raise WeightsError(
                f"this is no Wan video transformer ({error} cannot be read; the checkpoint begins with {found}); pass "
                "the folder of Wan 2.2 TI2V-5B, of diffusers or original, or its `transformer` folder."
            ) from error


def open_wan(source: str | PathLike[str], hub: Hub) -> tuple[VideoSizes, dict[str, StoredTensor]]:
    """Find a video transformer and read its sizes; its tensors stay on disk.

    Args:
        source: A folder of diffusers' pipeline, of its transformer alone, or of the original release; or a hub id.
        hub: Which copy of a hub repository.

    Returns:
        Sizes, and tensors by our names.

    Raises:
        WeightsError: There is no such folder, or it is no complete Wan checkpoint.
    """
    folder = locate(source, _HUB_FILES, hub)
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    config = _read_config(folder)
    stored = safetensors_in(folder)
    rename = diffusers_name if is_original(frozenset(stored)) else str
    tensors = {video_name(rename(name)): tensor for name, tensor in stored.items()}
    head_dim = config.get("attention_head_dim") or config["dim"] // config["num_heads"]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return VideoSizes.of(shapes, head_dim=head_dim, eps=config.get("eps", 1e-6)), tensors


def check_video(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, advice: str = SIZES_ADVICE) -> None:
    """Refuse weights, by our names, that are not exactly the video half of `model`."""
    needed = {name: shape for name, shape in shapes_of(model).items() if is_video(name)}
    check_fit(needed, shapes, target="the video half", advice=advice)


def load_wan_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a `WanTransformer3DModel` into the video half; the action half stays as it is.

    Args:
        model: A `WorldActionModel` of the same sizes as the weights.
        weights: State dict under diffusers' names, or the original Wan's.

    Raises:
        WeightsError: Names are missing, unexpected or of another shape; nothing was copied then.
    """
    names = unwrapped(weights)
    rename = diffusers_name if is_original(frozenset(names.values())) else str
    theirs = {video_name(rename(name)): weights[stored] for stored, name in names.items()}
    check_video(model, {name: tuple(tensor.shape) for name, tensor in theirs.items()})
    ours = model.state_dict()
    with torch.no_grad():
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)


def wan_weights(model: nn.Module) -> dict[str, Tensor]:
    """The video half as a state dict of `WanTransformer3DModel`; tensors are shared with the model."""
    return {name.replace(".video.", ".", 1): tensor for name, tensor in model.state_dict().items() if is_video(name)}


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    config = read_object(file) if file.is_file() else {}
    if "attention_head_dim" not in config and not {"dim", "num_heads"} <= config.keys():
        problem = "names no size of a head" if file.is_file() else "does not exist"
        raise WeightsError(
            f"`{file}` {problem}; a Wan checkpoint has one with "
            "`attention_head_dim` (diffusers) or `dim` and `num_heads` (original): download the whole folder."
        )
    return config

"""Weights from and to diffusers' `WanTransformer3DModel`: the key mapping, once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wam_backbone.errors import WeightsError
from wam_backbone.model import WorldActionModel

_LISTED = 8


def video_name(wan_name: str) -> str:
    """Our name of a parameter of `WanTransformer3DModel`: `blocks.N.*` becomes `blocks.N.video.*`, all else stays."""
    if not wan_name.startswith("blocks."):
        return wan_name
    _, layer, rest = wan_name.split(".", 2)
    return f"blocks.{layer}.video.{rest}"


def load_wan_weights(model: WorldActionModel, weights: Mapping[str, Tensor]) -> None:
    """Copy a `WanTransformer3DModel` into the video half; the action half stays as it is.

    Args:
        model: Of the same sizes as the weights.
        weights: State dict under diffusers' names.

    Raises:
        WeightsError: Names are missing, unexpected or of another shape; nothing was copied then.
    """
    ours = {name: tensor for name, tensor in model.state_dict().items() if _is_video(name)}
    theirs = {video_name(name): tensor for name, tensor in weights.items()}
    problems = {
        "missing": sorted(ours.keys() - theirs.keys()),
        "unexpected": sorted(theirs.keys() - ours.keys()),
        "misshapen": [
            f"{name} {tuple(theirs[name].shape)} instead of {tuple(ours[name].shape)}"
            for name in sorted(ours.keys() & theirs.keys())
            if theirs[name].shape != ours[name].shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names)
        raise WeightsError(
            f"these weights do not fit the video half ({found}); build the model with the checkpoint's sizes: "
            "`latent_channels`, `num_layers`, `num_heads`, `head_dim`, `video_ffn`, `text_dim`, `freq_dim`."
        )
    with torch.no_grad():
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)


def wan_weights(model: WorldActionModel) -> dict[str, Tensor]:
    """The video half as a state dict of `WanTransformer3DModel`; tensors are shared with the model."""
    return {name.replace(".video.", ".", 1): tensor for name, tensor in model.state_dict().items() if _is_video(name)}


def _is_video(name: str) -> bool:
    return not name.startswith(("action_", "state_")) and ".action." not in name


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"`{name}`" for name in names[:_LISTED]) + more

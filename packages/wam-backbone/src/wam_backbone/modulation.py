"""Times to what they do in every layer: shifts, scales and gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from wam_backbone._diffusers import WanTimeTextImageEmbedding, linear
from wam_backbone.blocks import Expert, Modulations, MoTBlock
from wam_backbone.embedding import time_features
from wam_backbone.flow import EPSILON_HORIZON
from wam_backbone.interface import Objective
from wam_backbone.joined import is_hooked

if TYPE_CHECKING:
    from wam_backbone.model import WorldActionModel


_Layer: TypeAlias = tuple[MoTBlock, Expert]
"""A layer and the one expert of it."""


class Timed(NamedTuple):
    """What one expert's times do."""

    embedding: Float[Tensor, "*batch width"]
    """For the expert's head."""
    layers: Modulations
    """For each layer."""


def embed_times(
    model: WorldActionModel, video_times: Tensor | None, action_time: Tensor | None
) -> tuple[Timed | None, Timed | None]:
    """Per expert, what its times do; their features are made in one go."""
    given = [times for times in (video_times, action_time) if times is not None]
    flat = torch.cat([times.flatten() for times in given]) if len(given) > 1 else given[0].flatten()
    if model.objective is Objective.EPSILON:
        flat = flat.clamp(max=1 - EPSILON_HORIZON)
    features = time_features(flat, model.freq_dim, model.tables.frequencies(model.freq_dim, flat))
    parts = iter(torch.split(features.to(model.compute_dtype), [times.numel() for times in given]))
    return (
        _timed(model.condition_embedder, video_times, parts, [(block, block.video) for block in model.layers]),
        _timed(model.action_condition_embedder, action_time, parts, [(block, block.action) for block in model.layers]),
    )


def _timed(
    embedder: WanTimeTextImageEmbedding, times: Tensor | None, features: Iterator[Tensor], layers: Sequence[_Layer]
) -> Timed | None:
    if times is None:
        return None
    embedding = linear(embedder.time_embedder, next(features).view(*times.shape, -1))
    modulation = linear(embedder.time_proj, linear(embedder.act_fn, embedding))
    if is_hooked(embedder.time_proj):
        modulation = modulation.clone()  # what a hook keeps is not written to
    modulation = rearrange(modulation, "... (six width) -> ... six 1 width", six=6)
    modulation[..., 1::3, :, :].add_(1)  # the scales: once here instead of twice in every layer
    return Timed(embedding, _modulations(layers, modulation))


def _modulations(layers: Sequence[_Layer], modulation: Float[Tensor, "... 6 1 width"]) -> Modulations:
    """What each layer's expert makes of the time's modulation: one sum for all layers, where nobody hooks them.

    Sharded tables are whole within their own layer only, which then makes its own sum.
    """
    tables: list[Tensor] = [expert.scale_shift_table for _, expert in layers]
    hooked = not torch.compiler.is_compiling() and any(is_hooked(module) for layer in layers for module in layer)
    if hooked or any(isinstance(table, DTensor) for table in tables):
        return [modulation] * len(layers)
    stacked = torch.cat(tables).view(len(layers), *[1] * (modulation.ndim - 3), *modulation.shape[-3:])
    return [layer.unbind(-3) for layer in (stacked + modulation).unbind(0)]

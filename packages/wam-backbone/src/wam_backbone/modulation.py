"""Times to what they do in every layer: shifts, scales and gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from wam_backbone._diffusers import WanTimeTextImageEmbedding, linear
from wam_backbone.blocks import Expert, Modulations
from wam_backbone.embedding import time_features
from wam_backbone.flow import EPSILON_HORIZON
from wam_backbone.interface import Objective

if TYPE_CHECKING:
    from wam_backbone.model import WorldActionModel


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
    videos, actions = ([getattr(block, name) for block in model.layers] for name in ("video", "action"))
    return (
        _timed(model.condition_embedder, video_times, parts, videos),
        _timed(model.action_condition_embedder, action_time, parts, actions),
    )


def _timed(
    embedder: WanTimeTextImageEmbedding, times: Tensor | None, features: Iterator[Tensor], experts: Sequence[Expert]
) -> Timed | None:
    if times is None:
        return None
    embedding = linear(embedder.time_embedder, next(features).view(*times.shape, -1))
    modulation = linear(embedder.time_proj, linear(embedder.act_fn, embedding))
    modulation = rearrange(modulation, "... (six width) -> ... six 1 width", six=6)
    modulation[..., 1::3, :, :].add_(1)  # the scales: once here instead of twice in every layer
    return Timed(embedding, _modulations(experts, modulation))


def _modulations(experts: Sequence[Expert], modulation: Float[Tensor, "... 6 1 width"]) -> Modulations:
    """What each layer's expert makes of the time's modulation: one sum for all layers, where nobody hooks the experts.

    Sharded tables are whole within their own layer only, which then makes its own sum.
    """
    tables: list[Tensor] = [expert.scale_shift_table for expert in experts]
    hooked = not torch.compiler.is_compiling() and any(
        expert._forward_hooks or expert._forward_pre_hooks or "forward" in vars(expert) for expert in experts
    )
    if hooked or any(isinstance(table, DTensor) for table in tables):
        return [modulation] * len(experts)
    stacked = torch.cat(tables).view(len(experts), *[1] * (modulation.ndim - 3), *modulation.shape[-3:])
    return [layer.unbind(-3) for layer in (stacked + modulation).unbind(0)]

"""Queries, keys and values of a layer's experts as one tensor: written, normalised and rotated as a whole.

In inference, where calling the modules would do nothing else. Everywhere else the layer calls them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.autograd import forward_ad

from wam_backbone._diffusers import WanAttention
from wam_backbone.attention import join
from wam_backbone.joined import Product, is_plain, may_join, product_of
from wam_backbone.rotary import rotate

PairOfHeads: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Keys and values `(batch, tokens, heads, channels)`, stacked or apart."""


class HeadWeights(NamedTuple):
    """What makes one expert's heads in one layer."""

    product: Product
    """To queries, keys and values."""
    norms: Float32[Tensor, "2 1 1 all_heads"]
    """Weights of the norms of queries and keys."""
    eps: float | None


def head_weights(
    layers: Sequence[Sequence[WanAttention]], inputs: Tensor
) -> Sequence[Sequence[HeadWeights]] | Sequence[None]:
    """For every layer, those of its experts; None everywhere if one module has to be called.

    Args:
        layers: Attention of the experts in every layer.
        inputs: Some tensor that is computed with.
    """
    nothing = [None] * len(layers)
    if not may_join(inputs):
        return nothing
    attentions = [attention for layer in layers for attention in layer]
    norms = [norm for attention in attentions for norm in (attention.norm_q, attention.norm_k)]
    found = [product_of((attention.to_q, attention.to_k, attention.to_v)) for attention in attentions]
    products = [product for product in found if product is not None]
    unlike = len({norm.eps for norm in norms}) > 1  # one kernel normalises them all
    if len(products) < len(found) or unlike or not all(is_plain(norm, nn.RMSNorm) for norm in norms):
        return nothing
    weights = torch.cat([norm.weight for norm in norms]).float().view(len(attentions), 2, 1, 1, -1)
    each = zip(products, weights.unbind(0), norms[::2], strict=True)
    made = iter([HeadWeights(product, own, norm.eps) for product, own, norm in each])
    return [[next(made) for _ in layer] for layer in layers]


def joint_heads(
    weights: Sequence[HeadWeights],
    tokens: Sequence[Float[Tensor, "batch *some width"]],
    table: Float32[Tensor, " tokens 1 pairs 2"],
) -> tuple[Float[Tensor, "batch tokens heads channels"], PairOfHeads]:
    """Queries; keys and values. Queries and keys are normalised and turned by their places.

    Args:
        weights: Of each expert.
        tokens: Of each expert, in the order of the joint sequence.
        table: Cosine and sine per token of the sequence and pair of channels.
    """
    norms, lengths = [own.norms for own in weights], [math.prod(part.shape[1:-1]) for part in tokens]
    compiling = torch.compiler.is_compiling()
    write = not compiling and not any(map(_is_dual, (*tokens, *norms)))
    heads = _project(weights, tokens, write=write)
    normal = F.rms_norm(heads[:2], heads.shape[-1:], eps=weights[0].eps)
    if compiling:
        scaled = normal * _by_token(norms, lengths)
    else:
        scaled = _scale(normal, torch.split(normal, lengths, dim=2), norms, write=write)
    turned, heads = rotate(_split(scaled, table), table), _split(heads, table)
    if turned.dtype == heads.dtype:
        return turned[0], (turned[1], heads[2])
    heads[:2].copy_(turned)
    return heads[0], heads[1:]


def _is_dual(tensor: Tensor) -> bool:
    """Whether a tensor has a tangent, which does not follow it into one that it is written to."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]  # torch types it so


def _project(
    weights: Sequence[HeadWeights], tokens: Sequence[Tensor], *, write: bool
) -> Float[Tensor, "3 batch tokens all_heads"]:
    batch, lengths = len(tokens[0]), [math.prod(part.shape[1:-1]) for part in tokens]
    if batch > 1 or len(tokens) == 1 or not write:
        parts = [own.product.apply(part) for own, part in zip(weights, tokens, strict=True)]
        return join([part.view(3, batch, length, -1) for part, length in zip(parts, lengths, strict=True)], dim=2)
    heads = tokens[0].new_empty(3, sum(lengths), weights[0].product.weights.shape[-1])
    for own, part, rows in zip(weights, tokens, torch.split(heads, lengths, dim=1), strict=True):
        own.product.apply(part, into=rows)
    return heads.unsqueeze(1)


def _by_token(norms: Sequence[Tensor], lengths: Sequence[int]) -> Float32[Tensor, "2 1 tokens all_heads"]:
    """The norms' weights at every token: chosen, not joined, so that the compiler turns heads in the norm's kernel."""
    if len(norms) == 1:
        return norms[0]
    of_first = torch.arange(sum(lengths), device=norms[0].device).unsqueeze(1) < lengths[0]
    return torch.where(of_first, norms[0], norms[1])


def _scale(normal: Tensor, parts: Sequence[Tensor], norms: Sequence[Tensor], *, write: bool) -> Tensor:
    """The parts of a tensor by their own weights, in fp32 or more; in place where that is its type."""
    if not write:
        return join([part * own for part, own in zip(parts, norms, strict=True)], dim=2)
    exact = normal.dtype.itemsize >= torch.float32.itemsize
    scaled = normal if exact else torch.empty_like(normal, dtype=torch.float32)
    spans = torch.split(scaled, [part.shape[2] for part in parts], dim=2)
    for part, own, span in zip(parts, norms, spans, strict=True):
        torch.mul(part, own, out=span)
    return scaled


def _split(heads: Tensor, table: Tensor) -> Float[Tensor, "*three batch tokens heads channels"]:
    """Channels of all heads by head: a view."""
    channels = 2 * table.shape[-2]
    return heads.view(*heads.shape[:-1], heads.shape[-1] // channels, channels)

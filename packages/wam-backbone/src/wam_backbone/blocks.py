"""One layer of the mixture of transformers: a video block and an action block with one attention between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wam_backbone._diffusers import (
    FeedForward,
    WanAttention,
    WanTransformerBlock,
    attention_backend,
    is_offloaded_as_one,
    linear,
)
from wam_backbone.attention import ActionAttention, attend, join, scaled_attention
from wam_backbone.errors import ConfigurationError
from wam_backbone.interface import KeysValues, LayerContext
from wam_backbone.joined import apply_together, lay_together
from wam_backbone.joint_heads import HeadWeights, PairOfHeads, joint_heads
from wam_backbone.layout import Attend, Span
from wam_backbone.rotary import rotate


class TextTokens(NamedTuple):
    """The instruction in the width of each expert, before any layer's keys and values."""

    video: Float[Tensor, "batch text video_width"]
    action: Float[Tensor, "batch text action_width"]


Modulation: TypeAlias = tuple[Tensor, ...]
"""Shift, scale + 1 and gate of attention, then of feed-forward."""
Modulations: TypeAlias = Sequence[Modulation] | Sequence[Tensor]
"""That of every layer, or the time's part of it for layers that make it themselves."""


def modulated_norm(
    tokens: Float[Tensor, "*batch width"],
    shift: Float[Tensor, "*#batch width"],
    scale: Float[Tensor, "*#batch width"],
    eps: float,
) -> Float[Tensor, "*batch width"]:
    """`layer_norm(tokens) * scale + shift`: adaptive layer norm (scale already holds its 1).

    Where all tokens share one time, as a chunk's actions do at batch 1, it is a plain layer norm: one kernel.
    """
    if scale.numel() == tokens.shape[-1]:
        return F.layer_norm(tokens, tokens.shape[-1:], scale.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=eps), scale)


class VideoBlock(WanTransformerBlock):
    """A Wan block driven from outside: called, it makes modulation out of its table, and its parts do the rest.

    So whoever hooks modules (offloading, casting, adapters) sees every parameter used by the module that owns it.

    Args:
        width: Channels of a video token.
        ffn_dim: Channels inside the feed-forward.
        num_heads: Heads of the joint attention.
        eps: Added to variances.
    """

    def __init__(self, width: int, ffn_dim: int, num_heads: int, eps: float) -> None:
        super().__init__(width, ffn_dim, num_heads, cross_attn_norm=True, eps=eps)
        # One kernel in every type: its statistics are in fp32 anyway.
        self.norm2 = nn.LayerNorm(width, eps)

    def forward(self, modulation: Float[Tensor, "... 6 1 width"]) -> Modulation:
        """The layer's own modulation added to the time's."""
        return (self.scale_shift_table.unsqueeze(-2) + modulation).unbind(-3)


class ActionBlock(nn.Module):
    """A Wan block of its own width whose queries, keys and values live in the video's heads.

    Parameter names are those of `WanTransformerBlock`, so that one driver serves both and checkpoints of either kind
    map by name.

    Args:
        width: Channels of an action token.
        ffn_dim: Channels inside the feed-forward.
        num_heads: Heads of the joint attention.
        head_dim: Channels of one head.
        eps: Added to variances.
    """

    def __init__(self, width: int, ffn_dim: int, num_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.attn1 = WanAttention(width, num_heads, head_dim, eps)
        self.norm2 = nn.LayerNorm(width, eps)
        self.attn2 = WanAttention(width, num_heads, head_dim, eps, cross_attention_dim_head=head_dim)
        self.ffn = FeedForward(width, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, modulation: Float[Tensor, "... 6 1 width"]) -> Modulation:
        """The layer's own modulation added to the time's."""
        return (self.scale_shift_table.unsqueeze(-2) + modulation).unbind(-3)


Expert: TypeAlias = VideoBlock | ActionBlock


class _Stream(NamedTuple):
    """One expert's tokens on their way through a layer."""

    expert: Expert
    tokens: Tensor
    modulation: Modulation
    text: KeysValues
    heads: HeadWeights | None
    """For joint heads; None where the modules are called."""


class MoTBlock(nn.Module):
    """One layer: self-attention over the joint sequence, text cross-attention and feed-forward per expert.

    The unit of FSDP2 sharding, gradient checkpointing and regional compilation. Everything is reached through
    `forward`, `observe` and `project_context`.

    Args:
        video_width: Channels of a video token, `num_heads * head_dim`.
        video_ffn: Channels inside the video's feed-forward.
        action_width: Channels of an action token.
        action_ffn: Channels inside the action's feed-forward.
        num_heads: Heads of the joint attention.
        head_dim: Channels of one head.
        eps: Added to variances.

    References:
        NoiseGate §4.1; Liang et al., Mixture-of-Transformers, arXiv 2411.04996.
    """

    def __init__(
        self,
        *,
        video_width: int,
        video_ffn: int,
        action_width: int,
        action_ffn: int,
        num_heads: int,
        head_dim: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.head_dim, self.eps = head_dim, eps
        self.probe: Callable[[ActionAttention], None] | None = None
        self.video = VideoBlock(video_width, video_ffn, num_heads, eps)
        self.action = ActionBlock(action_width, action_ffn, num_heads, head_dim, eps)
        self.lay_together()

    def lay_together(self) -> None:
        """Prepare what reads the same tokens for one product; moving or copying the layer does it again."""
        for expert in (self.video, self.action):
            for attention, names in ((expert.attn1, "qkv"), (expert.attn2, "kv")):
                lay_together([getattr(attention, f"to_{name}") for name in names])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no types
        self.lay_together()
        return self

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own has no types
        self.lay_together()

    def project_context(self, text: TextTokens) -> LayerContext:
        """Text keys and values of both experts in this layer.

        Raises:
            ConfigurationError: The layer's weights are elsewhere, and come for `forward` alone.
        """
        self._refuse_without_weights()
        return self._project_text(text)

    def forward(
        self,
        video: Float[Tensor, "batch frames tokens video_width"] | None,
        actions: Float[Tensor, "batch action_tokens action_width"] | None,
        video_modulation: Float[Tensor, "batch frames 6 1 video_width"] | Modulation | None,
        action_modulation: Float[Tensor, "batch 6 1 action_width"] | Modulation | None,
        context: LayerContext | TextTokens,
        rotation: Float[Tensor, "tokens 1 pairs 2"],
        plan: tuple[Attend, ...],
        observation: Float[Tensor, "2 batch observed heads channels"] | None = None,
        seen: Bool[Tensor, "batch 1 1 tokens"] | None = None,
        heads: Sequence[HeadWeights] | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the layer.

        Args:
            video: Video tokens by frame, or None for the action half alone.
            actions: State and action tokens, or None for the video half alone.
            video_modulation: Per frame, the time's part of shift, scale + 1, gate of attention and of feed-forward; or
                the layer's own, made for all layers at once.
            action_modulation: The same for the one action time.
            context: Cached text keys and values, or text tokens to project here.
            rotation: Cosine and sine per token and channel pair.
            plan: Attention calls of the layout.
            observation: Cached keys, rotated, and values of the observation, which is then not in `video`.
            seen: False for tokens that nobody attends to (padding); None for none. Flash kernels take no mask.
            heads: The experts' weights of joint heads, where they may be made without calling modules.

        Returns:
            Video and action tokens after the layer, None where None came in.
        """
        streams = self._streams(video, actions, video_modulation, action_modulation, context, heads)
        asked, keys_values = self._joint_heads(streams, rotation)
        if observation is not None:
            keys_values = _after(observation, keys_values)
        queries, keys, values = (part.transpose(1, 2) for part in (asked, *keys_values))
        if self.probe is not None and actions is not None:
            self.probe(_action_attention(queries, keys, plan, video, actions, observation))
        outputs = attend(queries, keys, values, plan, attention_backend(self.video.attn1), seen)
        if len(outputs) == 1:
            parts = list(torch.split(outputs[0], [math.prod(stream.tokens.shape[1:-1]) for stream in streams], dim=1))
        elif len(streams) == 1:
            parts = [join(outputs, dim=1)]
        else:
            parts = [join(outputs[:-1], dim=1), outputs[-1]]
        done = [self._finish(stream, part) for stream, part in zip(streams, parts, strict=True)]
        return (done[0] if video is not None else None), (done[-1] if actions is not None else None)

    def observe(
        self,
        observation: Float[Tensor, "batch 1 tokens video_width"],
        modulation: Float[Tensor, "batch 1 6 1 video_width"] | Modulation,
        context: LayerContext | TextTokens,
        rotation: Float[Tensor, "tokens 1 pairs 2"],
        heads: Sequence[HeadWeights] | None = None,
        *,
        last: bool = False,
    ) -> tuple[Tensor, Float[Tensor, "2 batch tokens heads channels"]]:
        """Run the layer on an observation that sees only itself.

        Returns:
            Its tokens after the layer (before it, in the last one, where nobody reads them), and its keys, rotated, and
            values for `forward`.

        Raises:
            ConfigurationError: The layer's weights are elsewhere, and come for `forward` alone.
        """
        self._refuse_without_weights()
        streams = self._streams(observation, None, modulation, None, context, heads)
        queries, keys_values = self._joint_heads(streams, rotation)
        cache = keys_values if isinstance(keys_values, Tensor) else torch.stack(keys_values)
        if last:
            return observation, cache
        query, key, value = (part.transpose(1, 2) for part in (queries, *keys_values))
        read = scaled_attention(query, key, value, attention_backend(self.video.attn1))
        return self._finish(streams[0], read), cache

    def _refuse_without_weights(self) -> None:
        if is_offloaded_as_one(self):
            raise ConfigurationError(
                "whole layers are offloaded, and their weights come for `forward` alone, but text and observation are "
                "encoded beside it; offload with `offload_type` `leaf_level`."
            )

    def _streams(
        self,
        video: Tensor | None,
        actions: Tensor | None,
        video_modulation: Tensor | Modulation | None,
        action_modulation: Tensor | Modulation | None,
        context: LayerContext | TextTokens,
        heads: Sequence[HeadWeights] | None,
    ) -> tuple[_Stream, ...]:
        if isinstance(context, TextTokens):
            context = self._project_text(context)  # within a sharded layer's forward no other entry may be called
        of_video, of_actions = heads or (None, None)
        experts = (
            (self.video, video, video_modulation, context.video, of_video),
            (self.action, actions, action_modulation, context.action, of_actions),
        )
        return tuple(
            _Stream(expert, tokens, expert(modulation) if isinstance(modulation, Tensor) else modulation, text, own)
            for expert, tokens, modulation, text, own in experts
            if tokens is not None and modulation is not None
        )

    def _project_text(self, text: TextTokens) -> LayerContext:
        return LayerContext(
            self._keys_values(self.video.attn2, text.video), self._keys_values(self.action.attn2, text.action)
        )

    def _joint_heads(self, streams: tuple[_Stream, ...], rotation: Tensor) -> tuple[Tensor, PairOfHeads]:
        """Rotated queries; rotated keys, and values: of the joint sequence, `(batch, tokens, heads, channels)`."""
        inputs = [
            modulated_norm(stream.tokens, stream.modulation[0], stream.modulation[1], self.eps) for stream in streams
        ]
        weights = [stream.heads for stream in streams if stream.heads is not None]
        if weights:
            return joint_heads(weights, inputs, rotation)
        queries, keys, values = zip(*map(self._project, streams, inputs), strict=True)
        both = torch.cat((*queries, *keys), dim=1)
        query, key = rotate(both.view(len(both), 2, -1, *both.shape[2:]), rotation).unbind(1)
        return query, (key, join(values, dim=1))

    def _heads(self, tokens: Tensor) -> Tensor:
        """Split channels into heads, `(batch, ..., heads * channels) -> (batch, tokens, heads, channels)`.

        A view: einops costs as much as a small operator here, twelve times a layer.
        """
        return tokens.view(tokens.shape[0], -1, tokens.shape[-1] // self.head_dim, self.head_dim)

    def _project(self, stream: _Stream, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the joint attention, `(batch, tokens, heads, channels)`, before rotation."""
        attention = stream.expert.attn1
        query, key, value = apply_together((attention.to_q, attention.to_k, attention.to_v), tokens)
        query, key = linear(attention.norm_q, query), linear(attention.norm_k, key)
        return self._heads(query), self._heads(key), self._heads(value)

    def _finish(self, stream: _Stream, attended: Tensor) -> Tensor:
        """Add the attention's output, then cross-attention and feed-forward."""
        expert, tokens, (_, _, gate, ffn_shift, ffn_scale, ffn_gate), text, _ = stream
        attended = attended.reshape(*tokens.shape[:-1], -1)  # some kernels return (batch, heads, tokens, channels)
        tokens = torch.addcmul(tokens, linear(expert.attn1.to_out[0], attended), gate)

        cross = expert.attn2
        query = linear(cross.norm_q, linear(cross.to_q, linear(expert.norm2, tokens)))
        read = scaled_attention(self._heads(query).transpose(1, 2), *text, attention_backend(cross))
        tokens = tokens + linear(cross.to_out[0], read.reshape(*tokens.shape[:-1], -1))

        update = linear(expert.ffn, modulated_norm(tokens, ffn_shift, ffn_scale, self.eps))
        return torch.addcmul(tokens, update, ffn_gate)

    def _keys_values(self, cross: WanAttention, text: Tensor) -> KeysValues:
        keys, values = apply_together((cross.to_k, cross.to_v), text)
        keys = self._heads(linear(cross.norm_k, keys))
        return KeysValues(keys.transpose(1, 2), self._heads(values).transpose(1, 2))


def _after(observation: Tensor, keys_values: PairOfHeads) -> PairOfHeads:
    """Keys and values with the observation's in front."""
    if isinstance(keys_values, Tensor):
        return torch.cat((observation, keys_values), dim=2)
    first, second = observation.unbind(0)
    return torch.cat((first, keys_values[0]), dim=1), torch.cat((second, keys_values[1]), dim=1)


def _action_attention(
    queries: Tensor,
    keys: Tensor,
    plan: tuple[Attend, ...],
    video: Tensor | None,
    actions: Tensor,
    observation: Tensor | None,
) -> ActionAttention:
    observed = 0 if observation is None else observation.shape[2]
    per_frame = observed if video is None else video.shape[2]
    latents = observed + (0 if video is None else video.shape[1] * per_frame)
    frames = tuple(Span(start, start + per_frame) for start in range(0, latents, per_frame))
    return ActionAttention(queries[:, :, -actions.shape[1] :], keys, plan[-1].keys, frames)

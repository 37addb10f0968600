"""The world action model: Wan's video transformer and an action expert, one noise level per latent frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wam_backbone._diffusers import WanTimeTextImageEmbedding, linear, register_to_config
from wam_backbone.action_index import ActionIndex
from wam_backbone.blocks import MoTBlock
from wam_backbone.caching import contexts, embed_text, refuse_foreign, stamp_of, with_state
from wam_backbone.checks import InputChecks, StateToken, check_sizes, choice
from wam_backbone.embedding import PatchEmbedding, visible_tokens
from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.heads import read_actions, read_video
from wam_backbone.initialisation import initialise, initialise_head
from wam_backbone.interface import (
    ContextCache,
    Objective,
    ObservationCache,
    Padding,
    Prediction,
)
from wam_backbone.joined import is_hooked
from wam_backbone.joint_heads import HeadWeights, head_weights
from wam_backbone.layout import AttentionLayout
from wam_backbone.modulation import embed_times
from wam_backbone.pretrained import PretrainedModel
from wam_backbone.rotary import ActionAxis, PositionTables, head_split


class WorldActionModel(PretrainedModel):
    """A joint video-action transformer with one time per latent frame and one time per action chunk.

    The video half is Wan 2.2's transformer with diffusers' parameter names (`blocks.N.video.*` for its `blocks.N.*`);
    the action half is an expert of its own width. Every layer attends jointly in the chosen layout and reads the
    instruction by cross-attention. Times modulate whole frames and are never expanded to tokens.

    Args:
        latent_channels: Channels of a latent frame.
        patch_size: Frames, rows and columns of a video token; frames must be 1.
        num_layers: Layers.
        num_heads: Heads of the joint attention.
        head_dim: Channels of one head; the video's width is `num_heads * head_dim`.
        video_ffn: Channels inside the video's feed-forward.
        action_width: Channels of an action token.
        action_ffn: Channels inside the action's feed-forward.
        action_dim: Numbers in one action.
        state_dim: Numbers in the robot's state; 0 for a model without state.
        text_dim: Channels of a text token.
        freq_dim: Channels of the sinusoidal time features.
        layout: Value of an `AttentionLayout`.
        objective: Value of an `Objective`: what the model predicts.
        state_token: Value of a `StateToken`: where the robot's state enters.
        action_axis: Value of an `ActionAxis`: where action tokens sit for rotary embedding.
        action_index: Value of an `ActionIndex`: what an action token carries of its number in the chunk.
        modulated_action_head: Normalise and modulate action tokens before the last projection, as Wan does for video.
        eps: Added to variances.
        rope_theta: Base of the rotary frequencies.

    Raises:
        ConfigurationError: The sizes do not fit together.

    References:
        NoiseGate §4.1, eq. (3); Wan, arXiv 2503.20314.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["MoTBlock"]  # noqa: RUF012  (diffusers reads a list)
    _repeated_blocks = ["MoTBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["embedding", "embedder", "norm"]  # noqa: RUF012  (as Wan's own)

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 48,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_layers: int = 30,
        num_heads: int = 24,
        head_dim: int = 128,
        video_ffn: int = 14336,
        action_width: int = 1024,
        action_ffn: int = 4096,
        action_dim: int = 14,
        state_dim: int = 14,
        text_dim: int = 4096,
        freq_dim: int = 256,
        layout: str = "full",
        objective: str = "velocity",
        state_token: str = "actions",
        action_axis: str = "frames",
        action_index: str = "sinusoid",
        modulated_action_head: bool = True,
        eps: float = 1e-6,
        rope_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        head_split(head_dim)
        check_sizes(
            patch_size,
            state_dim,
            latent_channels=latent_channels,
            num_layers=num_layers,
            num_heads=num_heads,
            video_ffn=video_ffn,
            action_width=action_width,
            action_ffn=action_ffn,
            action_dim=action_dim,
            text_dim=text_dim,
            freq_dim=freq_dim,
        )
        self.layout = choice(AttentionLayout, layout, "layout")
        self.objective = choice(Objective, objective, "objective")
        self.state_token = choice(StateToken, state_token, "state_token")
        self.action_axis = choice(ActionAxis, action_axis, "action_axis")
        self.action_index = choice(ActionIndex, action_index, "action_index")
        self.latent_channels, self.action_dim = latent_channels, action_dim
        self.state_dim, self.text_dim = state_dim, text_dim
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.freq_dim, self.head_dim, self.eps, self.rope_theta = freq_dim, head_dim, eps, rope_theta
        self.gradient_checkpointing = False
        self.tables = PositionTables(head_dim, rope_theta, self.action_axis)
        self.checks = InputChecks(
            latent_channels=latent_channels,
            patch_size=self.patch_size,
            num_layers=num_layers,
            action_dim=action_dim,
            state_dim=state_dim,
            text_dim=text_dim,
            layout=self.layout,
            state_token=self.state_token,
            action_axis=self.action_axis,
            action_index=self.action_index,
        )

        width = num_heads * head_dim
        self.patch_embedding = PatchEmbedding(latent_channels, width, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=width, time_freq_dim=freq_dim, time_proj_dim=6 * width, text_embed_dim=text_dim
        )
        self.action_condition_embedder = WanTimeTextImageEmbedding(
            dim=action_width, time_freq_dim=freq_dim, time_proj_dim=6 * action_width, text_embed_dim=text_dim
        )
        self.action_embedding = nn.Linear(action_dim, action_width)
        state_width = text_dim if self.state_token is StateToken.TEXT else action_width
        self.state_embedding = nn.Linear(state_dim, state_width) if state_dim else None
        self.blocks = nn.ModuleList(
            MoTBlock(
                video_width=width,
                video_ffn=video_ffn,
                action_width=action_width,
                action_ffn=action_ffn,
                num_heads=num_heads,
                head_dim=head_dim,
                eps=eps,
            )
            for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(width, latent_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.action_proj_out = nn.Linear(action_width, action_dim)
        self.action_scale_shift_table = (
            nn.Parameter(torch.randn(1, 2, action_width) / action_width**0.5) if modulated_action_head else None
        )
        self._identity = object()
        self.apply(initialise)
        for head in (self.proj_out, self.action_proj_out):
            initialise_head(head)

    def encode_context(
        self,
        context: Float[Tensor, "batch text text_dim"] | ContextCache,
        state: Float[Tensor, "batch state_dim"] | None = None,
    ) -> ContextCache:
        """Text keys and values of every layer, once per instruction.

        Args:
            context: Text embedding, zero where padded (padding is attended to, as Wan does); or its cache, which is
                checked and taken over.
            state: The robot's state. A model that reads it as text (`StateToken.TEXT`) adds it as the last token: such
                a cache holds for one chunk. Without it the cache is of the text alone, and the state comes with every
                call. Other models do not read it here.

        Raises:
            ShapeError: `context` is not `(batch, text, text_dim)`, or a state comes to a cache that has one.
            ConfigurationError: The cache was made with other weights or adapters.
        """
        stamp = stamp_of(self, self._identity)
        if isinstance(context, ContextCache):
            self.checks.context(context)
            self.checks.stamp(context, stamp)
        else:
            self.checks.context(context)
            text = embed_text(self, context)
            context = ContextCache(tuple(block.project_context(text) for block in self.layers), stamp)
        return context if state is None else with_state(self, context, state)

    @property
    def caches_observation(self) -> bool:
        """Whether `encode_observation` holds for a whole chunk in this layout."""
        return self.layout.observation_is_alone

    @property
    def plans_without_video(self) -> bool:
        """Whether the actions do not depend on the future in this layout, so that `video` may be None."""
        return not self.layout.actions_see_future

    def encode_observation(
        self,
        observation: Float[Tensor, "batch channels 1 height width"],
        context: Float[Tensor, "batch text text_dim"] | ContextCache,
        state: Float[Tensor, "batch state_dim"] | None = None,
    ) -> ObservationCache:
        """Keys and values of the observation in every layer, once per chunk.

        They are what every step would compute: an observation that sees only itself meets neither noise nor time.

        Args:
            observation: Clean latent of the current frame.
            context: Text embedding, or its `encode_context`.
            state: The robot's state, read by a model that takes it as text and gets a text embedding.

        Raises:
            ConfigurationError: In this layout the observation sees more than itself, or the cached context was made by
                another model, or with other weights or adapters.
            ShapeError: `observation` is not one latent of the configured size.
        """
        if not self.caches_observation:
            raise ConfigurationError(
                f"in the layout `{self.layout.value}` the observation sees the noised video, so its keys and values "
                "change with every step; use `joint` or `fastwam`, or call the model without a cache."
            )
        self.checks.video(observation)
        if observation.shape[2] != 1:
            raise ShapeError(f"`observation` has {observation.shape[2]} frames; it must be the current one alone.")
        stamp = stamp_of(self, self._identity)
        if isinstance(context, ContextCache):
            self.checks.stamp(context, stamp)
        hidden = self._embed_video(observation)
        timed, _ = embed_times(self, torch.zeros(len(observation), 1, device=observation.device), None)
        assert timed is not None
        rotation = self.tables.rotation(1, *self._grid(observation), 0, 0, left_out=0, like=observation)
        weights = self._head_weights(hidden)
        seen: list[Tensor] = []
        texts = contexts(self, context, state, len(observation))
        for index, (block, layer_context) in enumerate(zip(self.layers, texts, strict=True)):
            last = index == len(self.layers) - 1
            hidden, keys_values = block.observe(
                hidden, timed.layers[index], layer_context, rotation, weights[index], last=last
            )
            seen.append(keys_values)
        return ObservationCache(tuple(seen), self._grid(observation), stamp)

    def forward(
        self,
        video: Float[Tensor, "batch channels frames height width"] | None,
        actions: Float[Tensor, "batch steps action_dim"] | None,
        video_times: Float[Tensor, "batch frames"],
        action_time: Float[Tensor, " batch"] | None,
        context: Float[Tensor, "batch text text_dim"] | ContextCache,
        state: Float[Tensor, "batch state_dim"] | None = None,
        observation: ObservationCache | None = None,
        padding: Padding | None = None,
    ) -> Prediction:
        """Predict the velocity (or the noise) of every latent and action.

        Args:
            video: Observation latent (frame 0, clean) and noised future latents; with `observation`, the future alone.
                None, with `observation`, runs the action half alone, where the layout hides the future from it.
            actions: Noised action chunk; None runs the video half alone, which is then exactly Wan's transformer
                wherever the layout lets the video see all of itself (`FULL`, `IDM`).
            video_times: Time of every frame of `video` in [0, 1], 0 for the observation. Without `video`, of every
                future latent: their number says how far the chunk reaches.
            action_time: Time of the action chunk in [0, 1]; None with `actions`.
            context: Text embedding, or its `encode_context`.
            state: The robot's state; a model that reads it as text needs it without actions too, unless a cached
                context holds it.
            observation: `encode_observation` of the current frame.
            padding: What of a training batch nobody attends to. Flash kernels take no mask: leave it out where there is
                none.

        Returns:
            A prediction for every frame of `video` and every action.

        Raises:
            ShapeError: An input does not have the shape that the configuration says.
            TimeError: Times are no fp32 numbers in [0, 1], or the observation's is not 0 (on a GPU: of the first call).
            ConfigurationError: A cache was made by another model, with other weights or in another layout.
        """
        self.checks.forward(video, actions, video_times, action_time, context, state, observation, padding)
        refuse_foreign(self, self._identity, context, observation)
        hidden = self._embed_video(video) if video is not None and video.shape[2] else None
        chunk, action_tokens, state_tokens = None, 0, 0
        if actions is not None:
            chunk, state_tokens = self._embed_actions(actions, state)
            action_tokens = chunk.shape[1]
        video_timed, actions_timed = embed_times(self, None if hidden is None else video_times, action_time)

        cached = observation is not None
        frames = video_times.shape[1] + cached
        rows, columns = observation.grid if observation is not None else self._grid(cast(Tensor, video))
        observed = rows * columns if cached else 0
        rotation = self.tables.rotation(
            frames,
            rows,
            columns,
            action_tokens - state_tokens,
            state_tokens,
            left_out=observed if hidden is not None else observed * frames,
            like=video_times,
        )
        plan = self.layout.plan(
            tokens_per_frame=rows * columns,
            frames=frames if hidden is not None else 1,
            action_tokens=action_tokens,
            observation_cached=cached,
        )
        visible = (
            None if padding is None else visible_tokens(padding, video_times.shape, rows * columns, state_tokens, chunk)
        )
        none = (None,) * len(self.blocks)
        for block, weights, layer_context, keys_values, video_modulation, action_modulation in zip(
            self.layers,
            self._head_weights(video_times),
            contexts(self, context, state, len(video_times)),
            none if observation is None else observation.layers,
            none if video_timed is None else video_timed.layers,
            none if actions_timed is None else actions_timed.layers,
            strict=True,
        ):
            inputs = (hidden, chunk, video_modulation, action_modulation, layer_context, rotation, plan)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden, chunk = self._gradient_checkpointing_func(block, *inputs, keys_values, visible, weights)
            else:
                hidden, chunk = block(*inputs, keys_values, visible, weights)

        if hidden is not None and video_timed is not None:
            latents = read_video(
                hidden, video_timed.embedding, self.scale_shift_table, self.proj_out, rows=rows, patch=self.patch_size,
                eps=self.eps,
            )  # fmt: skip
        else:
            latents = video_times.new_empty(len(video_times), self.latent_channels, 0, 0, 0) if video is None else video
        if chunk is None or actions_timed is None:
            return Prediction(latents, None)
        table = self.action_scale_shift_table
        return Prediction(
            latents,
            read_actions(chunk[:, state_tokens:], actions_timed.embedding, table, self.action_proj_out, eps=self.eps),
        )

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of tokens: that of the tables, which are neither quantised nor stored in fewer bits than they compute in."""
        return self.scale_shift_table.dtype

    @property
    def layers(self) -> list[MoTBlock]:
        """The blocks, in order."""
        return cast(list[MoTBlock], list(self.blocks))

    def _head_weights(self, inputs: Tensor) -> Sequence[Sequence[HeadWeights] | None]:
        if not torch.compiler.is_compiling() and any(map(is_hooked, self.layers)):
            return [None] * len(self.blocks)
        return head_weights([(block.video.attn1, block.action.attn1) for block in self.layers], inputs)

    def _grid(self, video: Tensor) -> tuple[int, int]:
        """Token rows and columns of a latent."""
        return video.shape[3] // self.patch_size[1], video.shape[4] // self.patch_size[2]

    def _embed_video(self, video: Tensor) -> Tensor:
        """Tokens `(batch, frames, tokens, width)` of latents."""
        return linear(self.patch_embedding, video.to(self.compute_dtype))

    def _embed_actions(self, actions: Tensor, state: Tensor | None) -> tuple[Tensor, int]:
        """State and action tokens, and how many of them are of the state."""
        dtype = self.compute_dtype
        tokens = linear(self.action_embedding, actions.to(dtype))
        if self.action_index is ActionIndex.SINUSOID:
            tokens = tokens + self.tables.index(actions.shape[1], tokens)
        if self.state_embedding is None or state is None or self.state_token is not StateToken.ACTIONS:
            return tokens, 0
        return torch.cat((linear(self.state_embedding, state.to(dtype)).unsqueeze(1), tokens), dim=1), 1

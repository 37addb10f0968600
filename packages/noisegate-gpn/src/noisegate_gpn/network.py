"""The Gating Policy Network: which predicted latents to denoise faster, which slower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from noisegate_gpn.checkpoint import load_config, load_weights, save_checkpoint
from noisegate_gpn.config import GatingPolicyConfig
from noisegate_gpn.distribution import SquashedGaussian
from noisegate_gpn.errors import StateShapeError
from noisegate_gpn.layers import (
    AttentionPool,
    EncoderLayer,
    LatentEncoder,
    ObservationFusion,
    TimeEmbedding,
    inward_clamp,
)


class Evaluation(NamedTuple):
    """What a learner needs of recorded decisions under the current weights."""

    log_prob: Float[Tensor, "decisions frames"]
    """Log-density of each latent's relative scale."""

    entropy: Float[Tensor, " decisions"]
    """Entropy of the whole decision in nats: the sum over its latents."""


class GatingPolicyNetwork(nn.Module):
    """Maps a partly denoised chunk to a distribution over the relative scales of its latents' time decrements.

    The last actor layer starts at zero, so the untrained policy's deterministic scale is alpha = 1: with the default
    `alpha_max` exactly the shared schedule, bit for bit.

    Args:
        config: Sizes and action range.

    References:
        NoiseGate §4.3 and appendix C.
    """

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.latent_encoder = LatentEncoder(config)
        self.fusion = ObservationFusion(config)
        # As large as the tokens: a policy that can hardly tell its latents apart speeds them all up or down together.
        self.frame_position = nn.Parameter(torch.randn(config.frames, width))
        self.encoder = nn.Sequential(*(EncoderLayer(config) for _ in range(config.layers)))
        self.time_embedding = TimeEmbedding(config)
        self.merge = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width))
        self.summary = AttentionPool(width)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.atanh(2.0 / config.alpha_max - 1.0))
        self.actor = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        self.log_std = nn.Parameter(torch.tensor(config.initial_log_std))

    def forward(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        observation: Float[Tensor, "batch channels 1 height width"],
        times: Float[Tensor, "batch frames"],
    ) -> SquashedGaussian:
        """Returns the policy at a batch of denoising states.

        Args:
            latents: Predicted latents at their times.
            observation: Clean latent of the current observation.
            times: Time of each predicted latent in [0, 1]; 1 is pure noise.

        Returns:
            The distribution of the relative scales, `mean` of shape (batch, frames).

        Raises:
            StateShapeError: The tensors do not fit each other or the configuration.
        """
        self._check(latents, observation, times)
        tokens: Tensor = self.latent_encoder(torch.cat([observation, latents], dim=2))
        tokens = self.fusion(tokens[:, :1], tokens[:, 1:])
        tokens = self.encoder(tokens + self.frame_position[: tokens.shape[1]])
        merged: Tensor = self.merge(torch.cat([tokens, self.time_embedding(times)], dim=-1))
        summary = repeat(self.summary(merged), "batch dim -> batch frames dim", frames=merged.shape[1])
        mean: Tensor = self.actor(torch.cat([merged, summary], dim=-1))
        log_std = inward_clamp(self.log_std, self.config.min_log_std, self.config.max_log_std)
        return SquashedGaussian(rearrange(mean, "batch frames 1 -> batch frames"), log_std, self.config.alpha_max)

    def evaluate(self, states: Mapping[str, Tensor], actions: Float[Tensor, "decisions frames"]) -> Evaluation:
        """Scores recorded decisions under the current weights, with gradients.

        Args:
            states: `latents`, `observation` and `times` of the decisions, as `ScheduleDecisions.states` gives them.
            actions: Their pre-squash actions `u`.

        Returns:
            Log-density per latent and joint entropy per decision.

        Raises:
            StateShapeError: The tensors do not fit each other or the configuration.
        """
        dtype = self.log_std.dtype
        policy = self.forward(states["latents"].to(dtype), states["observation"].to(dtype), states["times"])
        if actions.shape != policy.mean.shape:
            raise StateShapeError(
                f"`actions` has shape {tuple(actions.shape)}, the states need {tuple(policy.mean.shape)}."
            )
        return Evaluation(log_prob=policy.log_prob(actions), entropy=policy.entropy().sum(dim=-1))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` into `directory`, which is created."""
        save_checkpoint(Path(directory), self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Restores what `save_pretrained` wrote, bit for bit, on the CPU.

        Raises:
            CheckpointError: A file is missing, or belongs to another architecture.
        """
        policy = cls(load_config(Path(directory)))
        load_weights(Path(directory), policy)
        return policy

    def _check(self, latents: Tensor, observation: Tensor, times: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.latent_channels:
            raise StateShapeError(
                f"`latents` has shape {tuple(latents.shape)}; needed is "
                f"(batch, {self.config.latent_channels}, frames, height, width)."
            )
        batch, channels, frames, height, width = latents.shape
        if not 1 <= frames <= self.config.frames:
            raise StateShapeError(
                f"`latents` has {frames} frames; the policy was built for 1 to {self.config.frames}: raise `frames`."
            )
        if observation.shape != (batch, channels, 1, height, width):
            raise StateShapeError(
                f"`observation` has shape {tuple(observation.shape)}; beside these latents it must be "
                f"{(batch, channels, 1, height, width)}."
            )
        if times.shape != (batch, frames):
            raise StateShapeError(f"`times` has shape {tuple(times.shape)}; needed is {(batch, frames)}.")

"""Building blocks of the Gating Policy Network (NoiseGate appendix C)."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from noisegate_gpn.config import GatingPolicyConfig


class AttentionPool(nn.Module):
    """Weighted mean over tokens, the weights a softmax of one learned score per token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Float[Tensor, "*batch tokens width"]) -> Float[Tensor, "*batch width"]:
        """Pools the second last dimension."""
        weights: Tensor = self.score(tokens).softmax(dim=-2)
        return (weights * tokens).sum(dim=-2)


class LatentEncoder(nn.Module):
    """One token per latent frame: two spatially strided 3-D convolutions, then three kinds of spatial pooling."""

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        width = config.width
        convolutions: list[nn.Module] = []
        for channels in (config.latent_channels, width):
            convolutions += [
                nn.Conv3d(
                    channels,
                    width,
                    kernel_size=(config.temporal_kernel, 3, 3),
                    stride=(1, 2, 2),
                    padding=(config.temporal_kernel // 2, 1, 1),
                ),
                nn.GroupNorm(config.groups, width),
                nn.SiLU(),
            ]
        self.convolutions = nn.Sequential(*convolutions)
        self.attention_pool = AttentionPool(width)
        self.project = nn.Linear(3 * width, width)

    def forward(self, stack: Float[Tensor, "batch channels frames height width"]) -> Float[Tensor, "batch frames dim"]:
        """Encodes `[observation; predicted latents]`; any grid from 1x1 upwards."""
        features: Tensor = self.convolutions(stack)
        cells = rearrange(features, "batch dim frames height width -> batch frames (height width) dim")
        pooled = torch.cat([self.attention_pool(cells), cells.mean(dim=-2), cells.amax(dim=-2)], dim=-1)
        tokens: Tensor = self.project(pooled)
        return tokens


class ObservationFusion(nn.Module):
    """Reweights the channels of each predicted latent's token, then adds the gated observation (NoiseGate eq. (10))."""

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.width // config.channel_reduction
        self.channel_attention = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width), nn.Sigmoid()
        )
        self.gate = nn.Linear(width, width)
        self.observation = nn.Linear(width, width)

    def forward(
        self, observation: Float[Tensor, "batch 1 dim"], latents: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Returns the conditioned tokens of the predicted latents."""
        weights: Tensor = self.channel_attention(latents)
        gate: Tensor = self.gate(observation).sigmoid()
        conditioning: Tensor = self.observation(observation)
        return weights * latents + gate * conditioning


class Comparison(nn.Module):
    """Tells, channel by channel, how what each latent adds to a still picture varies with the picture.

    A matched filter: where the future of another scene is imagined, what is added takes the observation away again.
    Summed over the grid before anything nonlinear, that stands out of noise in which a convolution sees nothing. Starts
    at zero, so that an untrained policy tells its latents apart as well as without it.

    References:
        Not in the paper; Turin (1960), IRE Transactions on Information Theory 6(3), for matched filters.
    """

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.latent_channels, config.width, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(
        self,
        observation: Float[Tensor, "batch channels 1 height width"],
        added: Float[Tensor, "batch channels frames height width"],
    ) -> Float[Tensor, "batch frames dim"]:
        """Returns what is to be added to the tokens of the predicted latents."""
        products = reduce(observation * added, "batch channels frames height width -> batch frames channels", "sum")
        tokens: Tensor = self.project(products / math.sqrt(added.shape[-2] * added.shape[-1]))  # noise stays noise
        return tokens


class EncoderLayer(nn.Module):
    """Pre-norm Transformer encoder layer with GELU."""

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward_ratio * config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, tokens: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Mixes the tokens of one chunk."""
        qkv: Tensor = self.qkv(self.attention_norm(tokens))
        query, key, value = rearrange(
            qkv, "batch frames (three heads dim) -> three batch heads frames dim", three=3, heads=self.heads
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = tokens + self.out(rearrange(mixed, "batch heads frames dim -> batch frames (heads dim)"))
        refined: Tensor = attended + self.feed_forward(attended)
        return refined


class InstructionProjection(nn.Linear):
    """Projects an instruction's embedding, measured from the mean of those seen and in units of their deviation."""

    center: Tensor
    spread: Tensor

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__(context_dim, width)
        self.register_buffer("center", torch.zeros(context_dim))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, context: Float[Tensor, "batch context_dim"]) -> Float[Tensor, "batch width"]:
        """Projects a batch."""
        projected: Tensor = super().forward((context - self.center) / self.spread)
        return projected

    @torch.no_grad()
    def standardize(self, context: Float[Tensor, "rows context_dim"]) -> None:
        """Takes mean and deviation from instructions, each counted once; a single one gives only the mean."""
        different = torch.unique(context.to(self.center), dim=0)
        self.center.copy_(different.mean(dim=0))
        spread = (different - self.center).square().mean().sqrt()
        self.spread.copy_(torch.where(spread > 1e-3, spread, 1.0))


class Standardization(nn.Module):
    """Measures each feature from a mean, in units of a deviation, both kept beside the weights; 0 and 1 at first."""

    center: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, features: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Standardizes the last dimension."""
        return (features - self.center) / self.spread

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "*batch width"]) -> None:
        """Takes mean and deviation from standardized features; one that hardly differs keeps its deviation."""
        center, spread = features.flatten(0, -2).mean(dim=0), features.flatten(0, -2).std(dim=0, unbiased=False)
        self.center.add_(center * self.spread)
        self.spread.mul_(torch.where(spread > 1e-3, spread, 1.0))


class TimeEmbedding(nn.Module):
    """Sinusoidal features of a time in [0, 1], then a two-layer MLP."""

    frequencies: Tensor

    def __init__(self, config: GatingPolicyConfig) -> None:
        super().__init__()
        exponents = torch.linspace(0.0, 1.0, config.time_frequencies)
        self.register_buffer("frequencies", config.max_time_frequency**exponents, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.time_frequencies, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )

    def forward(self, times: Float[Tensor, "batch frames"]) -> Float[Tensor, "batch frames dim"]:
        """Embeds each latent's time."""
        angles = rearrange(times, "batch frames -> batch frames 1") * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded


def inward_clamp(value: Tensor, low: float, high: float) -> Tensor:
    """Clamps `value`, passing on the gradients that lead back inside.

    An ordinary clamp has no gradient outside its range: a parameter that one large step carries out never returns.
    """
    clamped: Tensor = _InwardClamp.apply(value, low, high)
    return clamped


class _InwardClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = (low, high)
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        (value,) = ctx.saved_tensors
        low, high = ctx.bounds
        outward = ((value >= high) & (grad < 0)) | ((value <= low) & (grad > 0))
        return grad.masked_fill(outward, 0.0), None, None

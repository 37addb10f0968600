"""Size and action range of the Gating Policy Network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from noisegate_gpn.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GatingPolicyConfig:
    """Size and action range of a `GatingPolicyNetwork`.

    What NoiseGate's appendix C leaves open (widths, clamps, frequencies) is a field here; the defaults suit tabletop
    latents.

    Raises:
        ConfigError: A field is outside its documented range.
    """

    latent_channels: int
    """Channels C of one latent frame; positive."""

    frames: int
    """Most predicted latents F in one chunk; positive. Chunks with fewer are accepted."""

    width: int = 64
    """Token width D; divisible by `heads` and `groups`. 64 on the tabletop, 256 for the 5-billion-parameter presets."""

    layers: int = 3
    """Transformer encoder layers over the predicted latents; at least 0."""

    heads: int = 8
    """Attention heads of each encoder layer."""

    feed_forward_ratio: int = 4
    """Hidden width of the feed-forward blocks, in multiples of `width`."""

    groups: int = 8
    """GroupNorm groups after each convolution."""

    temporal_kernel: int = 3
    """Latent frames seen by one convolution; odd. 1 keeps the frames apart until the encoder."""

    channel_reduction: int = 4
    """Bottleneck of the channel-attention MLP: its hidden width is `width // channel_reduction`."""

    time_frequencies: int = 16
    """Sine and cosine pairs that describe one latent's time."""

    max_time_frequency: float = 100.0
    """Highest angular frequency of the time features, in radians per unit of time; the lowest is 1."""

    alpha_max: float = 2.0
    """Upper bound of the relative scale alpha, open; above 1, so that alpha = 1 (the shared schedule) is inside."""

    initial_log_std: float = math.log(0.5)
    """Log standard deviation of the pre-squash Gaussian before training; within the clamp."""

    min_log_std: float = -5.0
    """Lower clamp of the log standard deviation."""

    max_log_std: float = 1.0
    """Upper clamp of the log standard deviation."""

    def __post_init__(self) -> None:
        positive = ("latent_channels", "frames", "width", "heads", "feed_forward_ratio", "groups", "time_frequencies")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; it must be at least 1.")
        if self.layers < 0:
            raise ConfigError(f"`layers` is {self.layers}; it must be at least 0.")
        for name in ("heads", "groups"):
            if self.width % getattr(self, name):
                raise ConfigError(f"`width` {self.width} does not divide into {getattr(self, name)} `{name}`.")
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ConfigError(f"`temporal_kernel` is {self.temporal_kernel}; it must be odd and positive.")
        if not 1 <= self.channel_reduction <= self.width:
            raise ConfigError(f"`channel_reduction` is {self.channel_reduction}; it must be within [1, `width`].")
        if not self.max_time_frequency > 1:
            raise ConfigError(f"`max_time_frequency` is {self.max_time_frequency}; it must exceed 1 radian.")
        if not (math.isfinite(self.alpha_max) and self.alpha_max > 1):
            raise ConfigError(
                f"`alpha_max` is {self.alpha_max}; it must be finite and exceed 1, the scale of the shared schedule."
            )
        if not self.min_log_std <= self.initial_log_std <= self.max_log_std:
            raise ConfigError(
                f"`initial_log_std` is {self.initial_log_std}; it must be within the clamp "
                f"[{self.min_log_std}, {self.max_log_std}]."
            )

"""Size and action range of the Gating Policy Network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from noisegate_gpn.errors import ConfigError

Sigma = Literal["shared", "latent", "state"]
Scales = Literal["latent", "chunk", "none"]
Sees = Literal["latents", "content"]


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

    sees: Sees = "latents"
    """Whether it sees partly denoised `latents` (the paper's), or their `content`, `(x_t - t x_1) / (1 - t)`: what has
    been imagined until now, without the noise x_1 from which a latent started, which a sampler knows. Where nothing has
    been imagined yet, at t = 1, that is a still picture. What is wrong then shows long before actions attend to it."""

    relative: bool = True
    """Whether the encoder sees of each latent what it adds to a still picture, `latent - (1 - t) * observation` (of its
    content, `content - observation`), or the latent as it is (the paper's). Nothing is lost, since the observation is
    encoded beside it; and a latent that does not follow from the observation stands out by its size, where otherwise a
    comparison must be learned first."""

    compares: bool = False
    """Whether it also sees, channel by channel, how what each latent adds varies with the observation; needs
    `relative`. What does not follow then stands out even of nine tenths of noise, once that is taught; a reward alone
    learns from it no sooner."""

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

    sight: float | None = None
    """Time above which nothing is left to the policy, in (0, 1); None leaves it everything (the paper's). A latent
    falls as under the shared schedule until it gets there, and no further in that step. In nearly pure noise nothing
    can be seen of what is imagined: where success rewards closed eyes they close there, and are never opened to see."""

    sigma: Sigma = "shared"
    """What the standard deviation of the pre-squash Gaussian depends on: `shared` is one number for all (the paper's),
    `latent` one for each predicted latent, `state` one for each latent plus what the actor makes of the denoising
    state, its time among it. Before training all three are `initial_log_std` everywhere."""

    initial_log_std: float = math.log(0.5)
    """Log standard deviation of the pre-squash Gaussian before training; within the clamp."""

    min_log_std: float = -5.0
    """Lower clamp of the log standard deviation."""

    max_log_std: float = 1.0
    """Upper clamp of the log standard deviation."""

    max_mean: float | None = None
    """Largest magnitude of a scale's mean before the squash; positive, None for no bound (the paper's). Beyond it only
    gradients that lead back inside are passed on: states that have reached it pull no others along, and exploration
    still reaches both sides."""

    scales: Scales = "latent"
    """What relative scales are decided in every step: one per `latent` (the paper's), one for all latents of the
    `chunk` (a learned shared schedule), or `none`, which leaves the shared schedule."""

    stops: bool = False
    """Whether one more number per step decides if denoising ends with it: above 0 it does. Its Gaussian makes the
    chance of that a probit hazard."""

    initial_stop: float = -0.5
    """Mean of that number before training; negative, so that the untrained policy never stops at its median."""

    context_dim: int = 0
    """Numbers of the pooled instruction embedding that the policy sees beside the latents; 0 for none (the paper's)."""

    state_dim: int = 0
    """Numbers of the robot's state that the policy sees beside the latents; 0 for none (the paper's)."""

    def __post_init__(self) -> None:
        positive = ("latent_channels", "frames", "width", "heads", "feed_forward_ratio", "groups", "time_frequencies")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; it must be at least 1.")
        if self.compares and not self.relative:
            raise ConfigError("`compares` is about what each latent adds to a still picture; set `relative` too.")
        for name in ("layers", "context_dim", "state_dim"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; it must be at least 0.")
        if self.sees not in get_args(Sees):
            raise ConfigError(f"`sees` is `{self.sees}`; choose among {list(get_args(Sees))}.")
        if self.sigma not in get_args(Sigma):
            raise ConfigError(f"`sigma` is `{self.sigma}`; choose among {list(get_args(Sigma))}.")
        if self.scales not in get_args(Scales):
            raise ConfigError(f"`scales` is `{self.scales}`; choose among {list(get_args(Scales))}.")
        if self.scales == "none" and not self.stops:
            raise ConfigError("`scales` is `none` and `stops` False: nothing would be decided; set one of them.")
        if self.sigma == "state" and (self.stops or self.scales != "latent"):
            raise ConfigError("`sigma` `state` is for one scale per latent alone; choose `shared` or `latent`.")
        if not self.initial_stop < 0:
            raise ConfigError(f"`initial_stop` is {self.initial_stop}; it must be negative.")
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
        if self.sight is not None and not 0 < self.sight < 1:
            raise ConfigError(f"`sight` is {self.sight}; it must be between 0 and 1, or None.")
        if self.max_mean is not None and not self.max_mean > 0:
            raise ConfigError(f"`max_mean` is {self.max_mean}; it must be positive, or None.")
        if not self.min_log_std <= self.initial_log_std <= self.max_log_std:
            raise ConfigError(
                f"`initial_log_std` is {self.initial_log_std}; it must be within the clamp "
                f"[{self.min_log_std}, {self.max_log_std}]."
            )

    def scales_of(self, frames: int) -> int:
        """Relative scales that are decided in every step of a chunk of so many latents."""
        return {"latent": frames, "chunk": 1, "none": 0}[self.scales]

    def decisions_of(self, frames: int) -> int:
        """Numbers that are decided in every step of a chunk of so many latents: the scales, then the stop."""
        return self.scales_of(frames) + self.stops

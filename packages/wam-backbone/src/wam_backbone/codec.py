"""Between camera frames and latents, with Wan's temporal structure: one frame alone, then groups of four."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from os import PathLike
from typing import Protocol, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from wam_backbone._diffusers import AutoencoderKLWan, DiffusersModel, linear, register_to_config
from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.weights import (
    DeviceMap,
    Hub,
    checkpoint_folder,
    floats,
    one_device,
    open_saved,
    read_object,
    safetensors_in,
)

FRAMES_PER_LATENT = 4
"""Camera frames behind one predicted latent; the observation latent holds a single frame."""


class Codec(Protocol):
    """Turns frames in [-1, 1] into normalised latents (mean 0, standard deviation 1 per channel) and back."""

    def encode(self, frames: Float[Tensor, "batch 3 time rows columns"]) -> Float[Tensor, "batch c f h w"]:
        """Latents of `1 + 4 F` frames: `1 + F` of them, the first from the first frame alone."""
        ...

    def encode_observation(self, frame: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch c 1 h w"]:
        """Latent of one frame, as the first one of `encode`."""
        ...

    def decode(self, latents: Float[Tensor, "batch c f h w"]) -> Float[Tensor, "batch 3 time rows columns"]:
        """Frames of `1 + F` latents: `1 + 4 F` of them."""
        ...


class WanCodec(nn.Module):
    """Wan's video autoencoder with its latent statistics; batched, and the mode instead of a sample.

    The autoencoder is causal: the first frame is encoded alone, so that an observation's latent is the first one of any
    clip that starts with it. Later latents also depend on the frames before their own four.

    Args:
        autoencoder: diffusers' autoencoder, for instance of `Wan-AI/Wan2.2-TI2V-5B-Diffusers`.

    Raises:
        ConfigurationError: The autoencoder does not compress time by four, or lacks a channel's statistics.

    References:
        Wan, arXiv 2503.20314, §4.1.
    """

    def __init__(self, autoencoder: AutoencoderKLWan) -> None:
        super().__init__()
        config = autoencoder.config
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.latent_channels: int = config["z_dim"]
        self.compression: int = (config["patch_size"] or 1) * 2 ** (len(config["dim_mult"]) - 1)
        if 2 ** sum(config["temperal_downsample"]) != FRAMES_PER_LATENT:
            raise ConfigurationError(
                f"`temperal_downsample` is {config['temperal_downsample']}; two of its stages must halve the time."
            )
        # Not buffers: `codec.to(torch.bfloat16)` must not round them.
        self._mean, self._std = (torch.tensor(config[name]) for name in ("latents_mean", "latents_std"))
        if self._mean.shape != (self.latent_channels,) or self._std.shape != (self.latent_channels,):
            raise ConfigurationError(
                f"`latents_mean` and `latents_std` hold {len(self._mean)} and {len(self._std)} numbers; the "
                f"autoencoder has {self.latent_channels} latent channels."
            )

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        subfolder: str = "vae",
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load the autoencoder of a diffusers Wan repository.

        Args:
            source: Folder or hub id.
            subfolder: Folder of the autoencoder below that.
            torch_dtype: Of the autoencoder; None keeps what is stored.
            device: Where it runs; the CPU unless told.
            revision: Of a hub repository.
            token: For a private hub repository.
            cache_dir: Of hub files.
            local_files_only: Look for a hub id in the local cache only.

        Raises:
            WeightsError: `source` is neither a folder nor a hub id, or a file is missing or damaged.
        """
        hub = Hub(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        folder = checkpoint_folder(source, subfolder, hub)
        read_object(folder / "config.json")
        safetensors_in(folder)  # diffusers' own words for what is damaged name no file
        return cls(AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch_dtype).to(device or "cpu"))

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "batch 3 time rows columns"]) -> Float[Tensor, "batch c f h w"]:
        """Normalised latents of `1 + 4 F` frames in [-1, 1], fp32.

        Raises:
            ShapeError: The number of frames is not `1 + 4 F`, or their size is no multiple of the compression.
        """
        _future_latents(frames)
        if frames.shape[3] % self.compression or frames.shape[4] % self.compression:
            raise ShapeError(
                f"`frames` are {tuple(frames.shape)}; rows and columns must be multiples of {self.compression}."
            )
        raw: Tensor = self.autoencoder.encode(frames.to(self.autoencoder.dtype)).latent_dist.mode().float()
        return (raw - _channels(self._mean, raw)) / _channels(self._std, raw)

    def encode_observation(self, frame: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch c 1 h w"]:
        """Normalised latent of one frame, fp32."""
        return self.encode(rearrange(frame, "b c h w -> b c 1 h w"))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch c f h w"]) -> Float[Tensor, "batch 3 time rows columns"]:
        """Frames in [-1, 1], fp32."""
        raw = latents.float() * _channels(self._std, latents) + _channels(self._mean, latents)
        frames: Tensor = self.autoencoder.decode(raw.to(self.autoencoder.dtype), return_dict=False)[0]
        return frames.float().clamp(-1, 1)


class ConvCodec(DiffusersModel):
    """A small convolutional autoencoder with Wan's temporal structure and 16x spatial compression.

    Every frame goes through the same four strided convolutions; the features of the first frame, and of each group of
    four later frames together, are projected to one latent. The decoder mirrors it. A group never sees another group,
    so a latent depends on its own frames only.

    Train `reconstruct`, then call `set_statistics` once; from then on `encode` gives normalised latents.

    Args:
        latent_channels: Channels of a latent.
        base_width: Channels after the first convolution; they grow to six times as many.
        image_size: Rows and columns of a frame; multiples of 16.

    Raises:
        ConfigurationError: A size does not fit.
    """

    compression = 16
    """Pixels per latent position, along rows and columns."""

    @register_to_config
    def __init__(
        self, *, latent_channels: int = 16, base_width: int = 16, image_size: tuple[int, int] = (96, 64)
    ) -> None:
        super().__init__()
        if any(size < self.compression or size % self.compression for size in image_size):
            raise ConfigurationError(f"`image_size` is {tuple(image_size)}; both must be multiples of 16.")
        if base_width < 8 or base_width % 8:
            raise ConfigurationError(f"`base_width` is {base_width}; it must be a multiple of 8.")
        self.image_size = (image_size[0], image_size[1])
        self.latent_channels = latent_channels
        widths = [base_width, 2 * base_width, 4 * base_width, 6 * base_width]
        features = widths[-1]
        self.encoder = nn.Sequential(
            *(_down(before, after) for before, after in zip([3, *widths[:-1]], widths, strict=True))
        )
        self.to_first = nn.Conv2d(features, latent_channels, 1)
        self.to_group = nn.Conv2d(FRAMES_PER_LATENT * features, latent_channels, 1)
        self.from_first = nn.Conv2d(latent_channels, features, 1)
        self.from_group = nn.Conv2d(latent_channels, FRAMES_PER_LATENT * features, 1)
        rising = widths[::-1]
        self.decoder = nn.Sequential(
            _refine(features),
            *(_up(before, after) for before, after in pairwise(rising)),
            nn.ConvTranspose2d(base_width, 3, 4, stride=2, padding=1),
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        device_map: DeviceMap = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load what `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            subfolder: Folder of the codec below that.
            torch_dtype: Of the codec; None keeps what is stored.
            device_map: The one device to load onto.
            revision: Of a hub repository.
            token: For a private hub repository.
            cache_dir: Of hub files.
            local_files_only: Look for a hub id in the local cache only.

        Raises:
            WeightsError: A file is missing or damaged, or does not fit the configuration.
            ConfigurationError: `device_map` names several devices.
        """
        hub = Hub(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        saved = open_saved(pretrained_model_name_or_path, subfolder, hub)
        codec = saved.build(cls.from_config)
        read = {name: floats(name, tensor) for name, tensor in saved.tensors.items()}
        codec.load_state_dict({name: t.to(copy=True) for name, t in read.items()}, assign=True)
        if torch_dtype is not None:
            codec = codec.to(torch_dtype)
        return codec.to(one_device(device_map)).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Statistics move with the weights, but are never rounded to their type."""
        statistics = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no types
        for name, values in statistics.items():
            moved: Tensor = getattr(self, name)
            if moved.dtype != values.dtype:
                setattr(self, name, values.to(moved.device))
        return self

    def encode(self, frames: Float[Tensor, "batch 3 time rows columns"]) -> Float[Tensor, "batch c f h w"]:
        """Normalised latents of `1 + 4 F` frames in [-1, 1], fp32.

        Raises:
            ShapeError: The number of frames is not `1 + 4 F`, or the frames have another size.
        """
        return (self.encode_raw(frames) - self._per_channel(self.mean)) / self._per_channel(self.std)

    def encode_observation(self, frame: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch c 1 h w"]:
        """Normalised latent of one frame, as the first one of `encode`."""
        return self.encode(rearrange(frame, "b c h w -> b c 1 h w"))

    def decode(self, latents: Float[Tensor, "batch c f h w"]) -> Float[Tensor, "batch 3 time rows columns"]:
        """Frames of `1 + F` normalised latents; they may leave [-1, 1] a little."""
        self._check_latents(latents)
        return self.decode_raw(latents * self._per_channel(self.std) + self._per_channel(self.mean))

    def encode_raw(self, frames: Float[Tensor, "batch 3 time rows columns"]) -> Float[Tensor, "batch c f h w"]:
        """Latents before normalisation, fp32, with gradients: for training."""
        groups = _future_latents(frames)
        if frames.shape[1] != 3 or tuple(frames.shape[-2:]) != self.image_size:
            raise ShapeError(
                f"`frames` are {tuple(frames.shape)}; this codec takes (batch, 3, time, *{self.image_size})."
            )
        batch = frames.shape[0]
        frames = frames.to(self.to_first.weight.dtype)
        features = linear(self.encoder, _channels_last(rearrange(frames, "b c t h w -> (b t) c h w")))
        features = rearrange(features, "(b t) c h w -> b t c h w", b=batch)
        first = linear(self.to_first, features[:, 0])
        if not groups:
            return rearrange(first, "b c h w -> b c 1 h w").float()
        grouped = rearrange(features[:, 1:], "b (f four) c h w -> (b f) (four c) h w", four=FRAMES_PER_LATENT)
        future = rearrange(linear(self.to_group, grouped), "(b f) c h w -> b c f h w", b=batch)
        return torch.cat((rearrange(first, "b c h w -> b c 1 h w"), future), dim=2).float()

    def encode_every(self, frames: Float[Tensor, "time 3 rows columns"]) -> tuple[Tensor, Tensor]:
        """Normalised latents of every frame alone, and of every group of four: for data sets of overlapping clips.

        Args:
            frames: One video in [-1, 1]; each frame is encoded once.

        Returns:
            `(time, c, h, w)` of each frame, and of the four frames after each one, the last frame repeated past the
            end: `encode` of any clip is the first frame's one of the former and every fourth of the latter.
        """
        features = linear(self.encoder, _channels_last(frames.to(self.to_first.weight.dtype)))
        count = len(frames)
        after = torch.arange(count).unsqueeze(1) + torch.arange(1, FRAMES_PER_LATENT + 1)
        grouped = rearrange(features[after.clamp(max=count - 1)], "t four c h w -> t (four c) h w")
        mean, std = (rearrange(values, "c -> 1 c 1 1") for values in (self.mean, self.std))
        return (linear(self.to_first, features) - mean) / std, (linear(self.to_group, grouped) - mean) / std

    def decode_raw(self, latents: Float[Tensor, "batch c f h w"]) -> Float[Tensor, "batch 3 time rows columns"]:
        """Frames of latents before normalisation, fp32, with gradients: for training."""
        self._check_latents(latents)
        latents = latents.to(self.to_first.weight.dtype)
        batch = latents.shape[0]
        features = rearrange(linear(self.from_first, latents[:, :, 0]), "b c h w -> b 1 c h w")
        if latents.shape[2] > 1:
            grouped = linear(self.from_group, rearrange(latents[:, :, 1:], "b c f h w -> (b f) c h w"))
            future = rearrange(grouped, "(b f) (four c) h w -> b (f four) c h w", b=batch, four=FRAMES_PER_LATENT)
            features = torch.cat((features, future), dim=1)
        frames = linear(self.decoder, _channels_last(rearrange(features, "b t c h w -> (b t) c h w")))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=batch).float()

    def reconstruct(
        self, frames: Float[Tensor, "batch 3 time rows columns"], *, latent_noise: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Raw latents and the frames decoded from them, for training.

        Args:
            frames: In [-1, 1].
            latent_noise: Standard deviation of noise added to the latents, in units of each channel's own deviation in
                this batch: the decoder learns to read latents that a diffusion model imagined.
        """
        latents = self.encode_raw(frames)
        if not latent_noise:
            return latents, self.decode_raw(latents)
        spread = latents.detach().std(dim=(0, 2, 3, 4), keepdim=True)
        return latents, self.decode_raw(latents + latent_noise * spread * torch.randn_like(latents))

    @torch.no_grad()
    def set_statistics(self, latents: Float[Tensor, "batch c f h w"]) -> None:
        """Take mean and standard deviation per channel from raw latents of the training data.

        Raises:
            ShapeError: A channel does not vary.
        """
        std = latents.std(dim=(0, 2, 3, 4))
        if not bool((std > 0).all()):
            raise ShapeError("a latent channel does not vary over these frames; pass raw latents of many frames.")
        self.mean.copy_(latents.mean(dim=(0, 2, 3, 4)))
        self.std.copy_(std)

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.latent_channels:
            raise ShapeError(
                f"`latents` are {tuple(latents.shape)}; they must be (batch, {self.latent_channels}, 1 + F, h, w)."
            )

    def _per_channel(self, values: Tensor) -> Tensor:
        return rearrange(values, "c -> 1 c 1 1 1")


def _channels(values: Float[Tensor, " c"], latents: Tensor) -> Float[Tensor, "1 c 1 1 1"]:
    return rearrange(values.to(latents.device), "c -> 1 c 1 1 1")


def _channels_last(images: Tensor) -> Tensor:
    """The memory layout in which small convolutions run twice as fast on a CPU."""
    return images.contiguous(memory_format=torch.channels_last)


def _norm(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels), nn.SiLU()]


def _down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), *_norm(after))


def _refine(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), *_norm(channels))


def _up(before: int, after: int) -> nn.Sequential:
    # A kernel that the stride divides leaves no checkerboard.
    return nn.Sequential(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), *_norm(after))


def _future_latents(frames: Tensor) -> int:
    """F of `1 + 4 F` frames."""
    if frames.ndim != 5 or (frames.shape[2] - 1) % FRAMES_PER_LATENT:
        raise ShapeError(f"`frames` are {tuple(frames.shape)}; they must be (batch, 3, 1 + 4 F, rows, columns).")
    return (frames.shape[2] - 1) // FRAMES_PER_LATENT

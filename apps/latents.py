"""Demonstrations as latents: every frame alone, and every group of four, encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from demonstrations import FRAMES_PER_LATENT, Demonstrations, Windows
from views import to_codec
from wam_backbone import ConvCodec


@torch.no_grad()
def encode_single(
    codec: ConvCodec, frames: UInt8[Tensor, "frames rows columns 3"], *, batch_size: int = 512
) -> Float[Tensor, "frames channels h w"]:
    """Encode every frame as an observation."""
    parts = []
    for part in torch.split(frames, batch_size):
        latent = codec.encode_observation(rearrange(to_codec(part), "c b h w -> b c h w"))
        parts.append(rearrange(latent, "b c 1 h w -> b c h w"))
    return torch.cat(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLatents:
    """Latents of all windows, stored once per frame instead of once per window."""

    single: Float[Tensor, "frames channels h w"]
    """Of each frame alone."""
    group: Float[Tensor, "frames channels h w"]
    """Of the four frames after each one, the episode's last frame repeated past its end."""

    def clips(self, windows: Windows, chosen: Tensor) -> Float[Tensor, "batch channels latents h w"]:
        """Return observation and future latents of the chosen windows."""
        starts = windows.frame[chosen][:, :-1:FRAMES_PER_LATENT]
        future = rearrange(self.group[starts], "b f c h w -> b c f h w")
        return torch.cat((self.single[windows.frame[chosen, 0]].unsqueeze(2), future), dim=2)


@torch.no_grad()
def encode_windows(codec: ConvCodec, demonstrations: Demonstrations, *, batch_size: int = 128) -> WindowLatents:
    """Encode every frame, and the group that follows it."""
    counts = demonstrations.frame_start.diff()
    last_frame = torch.repeat_interleave(demonstrations.frame_start[1:] - 1, counts)
    group = []
    for start in torch.split(torch.arange(len(demonstrations.frames)), batch_size):
        clip = torch.minimum(start[:, None] + torch.arange(1 + FRAMES_PER_LATENT), last_frame[start, None])
        frames = rearrange(
            to_codec(demonstrations.frames[clip].flatten(0, 1)), "c (b t) h w -> b c t h w", b=len(start)
        )
        group.append(codec.encode(frames)[:, :, 1])
    return WindowLatents(single=encode_single(codec, demonstrations.frames), group=torch.cat(group))

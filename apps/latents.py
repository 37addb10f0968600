"""Demonstrations as latents: every frame alone, and every group of four, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from checkpoints import load_state, save_state
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
def encode_windows(codec: ConvCodec, demonstrations: Demonstrations) -> WindowLatents:
    """Encode every frame, and the group that follows it; each frame goes through the encoder once."""
    single, group = [], []
    starts = demonstrations.frame_start.tolist()
    for start, end in track(list(pairwise(starts)), description="encoding demonstrations"):
        frames = rearrange(to_codec(demonstrations.frames[start:end]), "c t h w -> t c h w")
        alone, following = codec.encode_every(frames)
        single.append(alone)
        group.append(following)
    return WindowLatents(single=torch.cat(single), group=torch.cat(group))


def cached_windows(codec: ConvCodec, demonstrations: Demonstrations, root: Path) -> WindowLatents:
    """Return `encode_windows`, kept beside the demonstrations under a name that depends on them and on the codec."""
    digest = blake2b(demonstrations.fingerprint.encode(), digest_size=8)
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    kept = root / ".packed" / f"latents-{digest.hexdigest()}.safetensors"
    if kept.exists():
        return WindowLatents(**load_state(kept))
    latents = encode_windows(codec, demonstrations)
    save_state(kept, {"single": latents.single, "group": latents.group})
    return latents

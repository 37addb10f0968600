"""Train the tabletop's codec: a small convolutional autoencoder from which object positions can be read.

Reconstruction alone spends its capacity on backgrounds, and a policy learns only what its latents show. So a linear
read-out of the task objects' positions is trained along and thrown away: the codec sees nothing but pixels, and
positions become linear in its latents. `probe.json` beside the codec says how well, on scenes held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from run_folder import RunFolder, launch, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from demonstrations import Demonstrations
    from wam_backbone import ConvCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """How the codec is trained."""

    data: Path = Path("data/tabletop")
    """Demonstrations, as `collect.py` writes them."""
    out: Path = Path("runs/codec")
    """Run folder; the codec lies in its `codec` folder in the end."""
    steps: int = 6000
    """Optimiser steps."""
    batch_size: int = 24
    """Clips of one frame and the group of four after it."""
    decoded: int = 8
    """Clips of a batch that are also decoded: localisation needs more pictures than reconstruction."""
    learning_rate: float = 2e-3
    """Peak of AdamW's step size; falls by a cosine to a twentieth."""
    latent_channels: int = 16
    """Channels of a latent."""
    base_width: int = 16
    """Channels after the first convolution."""
    position_weight: float = 1.0
    """Weight of the position read-out (in units of each object's spread); 0 for a plain autoencoder."""
    latent_noise: float = 0.1
    """Noise that the decoder must read through, in units of a channel's deviation."""
    held_out: float = 0.05
    """Share of the episodes that only the probe sees."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    seed: int = 42
    """Of initialisation, data order and noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Standardised object positions of every frame."""

    names: tuple[str, ...]
    values: Tensor
    """`(frames, objects, 3)`, 0 where absent."""
    present: Tensor
    """`(frames, objects)`."""
    spread: Tensor
    """`(objects, 3)`: standard deviation (m)."""


def positions_of(demonstrations: Demonstrations) -> Positions:
    """Gather and standardise the objects' positions."""
    import torch

    names = tuple(demonstrations.object_positions)
    positions = torch.stack([demonstrations.object_positions[name] for name in names], dim=1)
    present = ~positions[..., 0].isnan()
    positions = positions.nan_to_num()
    count = present.sum(0).unsqueeze(-1)
    mean = (positions * present.unsqueeze(-1)).sum(0) / count
    centred = (positions - mean) * present.unsqueeze(-1)
    spread = (centred.square().sum(0) / count).sqrt().clamp(min=0.01)
    return Positions(names=names, values=centred / spread, present=present, spread=spread)


def probe(codec: ConvCodec, demonstrations: Demonstrations, positions: Positions, test: Tensor) -> dict[str, float]:
    """Fit a ridge regression from single-frame latents to positions and return its held-out error.

    Args:
        codec: The codec to judge.
        demonstrations: All frames.
        positions: Their labels.
        test: Which frames are held out, `(frames,)` bool.

    Returns:
        Median horizontal error (cm) of each object.
    """
    import torch

    from latents import encode_single

    features = encode_single(codec, demonstrations.frames).flatten(1)
    features = torch.cat((features, torch.ones(len(features), 1)), dim=1).double()
    errors = {}
    for index, name in enumerate(positions.names):
        fit, judge = positions.present[:, index] & ~test, positions.present[:, index] & test
        known, target = features[fit], positions.values[fit, index].double()
        ridge = 10.0 * torch.eye(known.shape[1], dtype=known.dtype)
        weights = torch.linalg.solve(known.T @ known + ridge, known.T @ target)
        missed = (features[judge] @ weights - positions.values[judge, index]) * positions.spread[index]
        errors[name] = 100 * float(missed[:, :2].norm(dim=1).median())
    return errors


def run(config: CodecConfig) -> None:
    """Train, standardise the latents, probe, and save."""
    import math

    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from einops import rearrange
    from torch import nn

    from checkpoints import generator_of
    from demonstrations import FRAMES_PER_LATENT, load_demonstrations
    from progress import steps_with_progress
    from tracking import tracked
    from training import TrainingState
    from views import to_codec
    from wam_backbone import ConvCodec

    folder = RunFolder(config.out, config)
    set_seed(config.seed)
    demonstrations = load_demonstrations(config.data)
    positions = positions_of(demonstrations)
    codec = ConvCodec(latent_channels=config.latent_channels, base_width=config.base_width)
    rows, columns = (
        demonstrations.frames.shape[1] // codec.compression,
        demonstrations.frames.shape[2] // codec.compression,
    )
    read_out = nn.Linear(config.latent_channels * rows * columns, 3 * len(positions.names))
    optimizer = torch.optim.AdamW(
        [*codec.parameters(), *read_out.parameters()], lr=config.learning_rate, weight_decay=1e-4, fused=True
    )
    state = TrainingState(
        folder.path / "state.safetensors", {"codec": codec, "read_out": read_out, "optimizer": optimizer}
    )
    done = state.resume()
    accelerator = tracked(Accelerator(cpu=True), folder, resumed_at=done)

    episode = torch.repeat_interleave(torch.arange(demonstrations.episodes), demonstrations.frame_start.diff())
    last_frame = demonstrations.frame_start[episode + 1] - 1
    order = torch.randperm(demonstrations.episodes, generator=generator_of(config.seed, "held out"))
    test = torch.isin(episode, order[: max(1, round(config.held_out * demonstrations.episodes))])
    train = (~test).nonzero().squeeze(1)

    def clip_frames(first: Tensor) -> Tensor:
        return torch.minimum(first[:, None] + torch.arange(1 + FRAMES_PER_LATENT), last_frame[first, None])

    def clips(first: Tensor) -> Tensor:
        frames = to_codec(demonstrations.frames[clip_frames(first)].flatten(0, 1))
        return rearrange(frames, "c (b t) h w -> b c t h w", b=len(first))

    for step in steps_with_progress("codec", done, config.steps):
        generator = generator_of(config.seed, "codec", step)
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # of the latent noise
        ramp = min(1.0, step / 100)
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimizer.param_groups[0]["lr"] = config.learning_rate * ramp * cosine
        first = train[torch.randint(len(train), (config.batch_size,), generator=generator)]
        frames = clips(first)
        shown = frames[: config.decoded]
        raw_shown, rebuilt = codec.reconstruct(shown, latent_noise=config.latent_noise)
        raw = torch.cat((raw_shown, codec.encode_raw(frames[config.decoded :])))
        reconstruction = (rebuilt - shown).square().mean()
        # The observation's latent shows its own frame, a group's latent the last of its four.
        labelled = clip_frames(first)[:, [0, FRAMES_PER_LATENT]]
        read = rearrange(read_out(rearrange(raw, "b c f h w -> b f (c h w)")), "b f (n xyz) -> b f n xyz", xyz=3)
        present = positions.present[labelled]
        missed = (read - positions.values[labelled]).square().mean(-1)
        position = (missed * present).sum() / present.sum().clamp(min=1)
        loss = reconstruction + config.position_weight * position + 1e-3 * raw.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            accelerator.log({"reconstruction": reconstruction.item(), "position": position.item()}, step=step + 1)
        if (step + 1) % config.checkpoint_every == 0:
            state.save(step + 1)

    codec.eval()
    chosen = train[torch.randperm(len(train), generator=generator_of(config.seed, "statistics"))[:4096]]
    codec.set_statistics(torch.cat([codec.encode_raw(clips(part)) for part in torch.split(chosen, 256)]).detach())
    codec.save_pretrained(folder.path / "codec")
    errors = probe(codec, demonstrations, positions, test)
    write_json(folder.path / "probe.json", {"median_error_cm": errors, "held_out_frames": int(test.sum())})
    accelerator.print("median position error on held-out scenes (cm):", {k: round(v, 2) for k, v in errors.items()})
    accelerator.end_training()


if __name__ == "__main__":
    launch(CodecConfig, run, __doc__)

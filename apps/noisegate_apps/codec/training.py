"""Training of the tabletop's codec."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from einops import rearrange
from torch import Tensor, nn

from noisegate_apps.codec.config import CodecConfig
from noisegate_apps.codec.probe import labels_of, missed, probe
from noisegate_apps.data.demonstrations import FRAMES_PER_LATENT, Demonstrations, load_demonstrations
from noisegate_apps.runs.devices import device_of
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import write_json
from noisegate_apps.runs.folder import RunFolder, claimed
from noisegate_apps.runs.identity import identity_of
from noisegate_apps.runs.progress import steps_with_progress
from noisegate_apps.runs.seeds import generator_of
from noisegate_apps.runs.state import TrainingState
from noisegate_apps.runs.tracking import tracked
from wam_backbone import ConvCodec
from wam_backbone.cameras import to_codec


def run(config: CodecConfig) -> None:
    """Train, standardise the latents, probe, and save."""
    device_of(config.device)  # refused before anything is read
    demonstrations = load_demonstrations(config.data, workers=config.workers)
    if config.position_weight and not demonstrations.object_positions:
        raise RunError(
            f"`{config.data}` says nowhere where objects are, which the codec learns to show; go without by "
            "`--position-weight 0`, or give it demonstrations of the tabletop, from `uv run apps/collect.py`."
        )
    identity = identity_of(config, {"data": demonstrations.digest})
    with claimed(config.out, "train_codec", config, identity, config.folder) as folder:
        train(config, folder, demonstrations)


def train(config: CodecConfig, folder: RunFolder, demonstrations: Demonstrations) -> None:
    """Train in a claimed folder."""
    set_seed(config.seed)
    labels = labels_of(demonstrations)
    device = device_of(config.device)
    codec = ConvCodec(latent_channels=config.latent_channels, base_width=config.base_width).to(device)
    rows, columns = (
        demonstrations.frames.shape[1] // codec.compression,
        demonstrations.frames.shape[2] // codec.compression,
    )
    read_out = nn.Linear(config.latent_channels * rows * columns, labels.size).to(device)
    optimizer = torch.optim.AdamW(
        [*codec.parameters(), *read_out.parameters()], lr=config.learning_rate, weight_decay=1e-4, fused=True
    )
    state = TrainingState(folder.path / "state", {"codec": codec, "read_out": read_out, "optimizer": optimizer})
    done = state.resume()
    accelerator = tracked(Accelerator(cpu=device.type == "cpu"), folder, resumed_at=done)

    episode = torch.repeat_interleave(torch.arange(demonstrations.episodes), demonstrations.frame_start.diff())
    last_frame = demonstrations.frame_start[episode + 1] - 1
    order = torch.randperm(demonstrations.episodes, generator=generator_of(config.seed, "held out"))
    test = torch.isin(episode, order[: max(1, round(config.held_out * demonstrations.episodes))])
    train = (~test).nonzero().squeeze(1)

    def clip_frames(first: Tensor) -> Tensor:
        return torch.minimum(first[:, None] + torch.arange(1 + FRAMES_PER_LATENT), last_frame[first, None])

    def clips(first: Tensor) -> Tensor:
        frames = to_codec(demonstrations.frames[clip_frames(first)].flatten(0, 1).to(device))
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
        position, arms = missed(read_out(rearrange(raw, "b c f h w -> b f (c h w)")), labels, labelled)
        read = config.position_weight * position + config.state_weight * arms
        loss = reconstruction + read + 1e-3 * raw.square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch types it so
        optimizer.step()
        if (step + 1) % 50 == 0:
            losses = {"reconstruction": reconstruction, "position": position, "state": arms}
            accelerator.log({name: value.item() for name, value in losses.items()}, step=step + 1)
        if (step + 1) % config.checkpoint_every == 0:
            state.save(step + 1)

    codec.eval()
    chosen = train[torch.randperm(len(train), generator=generator_of(config.seed, "statistics"))[:4096]]
    codec.set_statistics(torch.cat([codec.encode_raw(clips(part)) for part in torch.split(chosen, 256)]).detach())
    codec.save_pretrained(folder.path / "codec")
    found = probe(codec, demonstrations, labels, test)
    write_json(folder.path / "probe.json", found)
    accelerator.print(f"read from latents of held-out scenes: {found}")
    accelerator.end_training()

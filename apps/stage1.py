"""Stage 1: train the joint video-action model on demonstrations, with an independent time per latent.

`uv run apps/stage1.py` trains the tabletop model on `data/tabletop` (collected first where it is missing);
`--times shared` trains the ablation whose latents share one time. Killed and started again, it goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from run_folder import RunFolder, launch, read_json, require, write_json

if TYPE_CHECKING:
    from wam_backbone import Stage1Recipe, WorldActionModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSize:
    """Sizes of the world action model; the defaults are the tabletop's."""

    num_layers: int = 4
    """Layers of joint attention."""
    num_heads: int = 4
    """Heads of the joint attention."""
    head_dim: int = 32
    """Channels of a head; the video is `num_heads * head_dim` wide."""
    video_ffn: int = 256
    """Channels inside the video's feed-forward."""
    action_width: int = 128
    """Channels of an action token."""
    action_ffn: int = 384
    """Channels inside the action's feed-forward."""
    freq_dim: int = 64
    """Channels of the sinusoidal time features."""
    layout: str = "full"
    """Attention layout: `full`, `joint`, `fastwam` or `idm`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Config:
    """How Stage 1 runs."""

    data: Path = Path("data/tabletop")
    """Demonstrations, as `collect.py` writes them."""
    codec: Path = Path("checkpoints/tabletop-codec")
    """The trained codec, as `train_codec.py` writes it."""
    out: Path = Path("runs/stage1")
    """Run folder; the policy lies in its `policy` folder in the end."""
    times: Literal["independent", "shared"] = "independent"
    """Times of the predicted latents: one each (NoiseGate), or one for all (the ablation Shared-t)."""
    backbone: BackboneSize = BackboneSize()
    """Sizes of the model."""
    steps: int = 9000
    """Optimiser steps."""
    batch_size: int = 64
    """Windows per step."""
    learning_rate: float = 1.5e-3
    """Peak of AdamW's step size: 200 steps of warm-up, then a cosine to a fiftieth."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradient-norm clip."""
    video_shift: float = 1.0
    """k of the latents' times (section 4.2; Wan uses 5)."""
    action_shift: float = 1.0
    """k of the action time."""
    end_points: float = 0.05
    """Probability of exactly 0, and of exactly 1, among the latents' times."""
    video_weight: float = 1.0
    """lambda_v."""
    action_weight: float = 1.0
    """lambda_a."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are saved."""
    action_steps: int = 16
    """Actions of a chunk."""
    future_latents: int = 2
    """Imagined latents of a chunk."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    seed: int = 42
    """Of initialisation, data order, times and noise."""


def recipe_of(config: Stage1Config) -> Stage1Recipe:
    """Return how times are drawn and losses weighed."""
    from wam_backbone import SharedTimes, ShiftedUniform, Stage1Recipe, WithEndpoints

    drawn = ShiftedUniform(shift=config.video_shift)
    times = SharedTimes(times=drawn) if config.times == "shared" else drawn
    return Stage1Recipe(
        video_times=WithEndpoints(times=times, clean=config.end_points, noise=config.end_points),
        action_times=ShiftedUniform(shift=config.action_shift),
        video_weight=config.video_weight,
        action_weight=config.action_weight,
    )


def backbone_of(size: BackboneSize, *, latent_channels: int, text_dim: int) -> WorldActionModel:
    """Build an untrained model."""
    from wam_backbone import WorldActionModel

    return WorldActionModel(latent_channels=latent_channels, text_dim=text_dim, **asdict(size))


def run(config: Stage1Config) -> None:
    """Train and save a policy folder."""
    import math

    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from diffusers.training_utils import EMAModel

    import collect
    from checkpoints import generator_of
    from demonstrations import load_demonstrations, windows_of
    from figures import curves
    from latents import cached_windows
    from progress import steps_with_progress
    from tracking import tracked
    from training import TrainingState
    from wam_backbone import ConvCodec, HashTextEncoder, Stage1Batch, stage1_loss
    from world_policy import Normalizer, PolicySettings, WorldPolicy

    require(config.codec / "config.json", "a trained codec", "run `uv run apps/train_codec.py`")
    folder = RunFolder(config.out, config)
    if not config.data.exists():
        collect.run(collect.CollectConfig(out=config.data))
    set_seed(config.seed)
    codec = ConvCodec.from_pretrained(config.codec).eval()
    demonstrations = load_demonstrations(config.data)
    settings = PolicySettings(
        states=Normalizer.of(demonstrations.states),
        actions=Normalizer.of(demonstrations.actions),
        action_steps=config.action_steps,
        future_latents=config.future_latents,
        frame_stride=demonstrations.frame_stride,
    )
    windows = windows_of(demonstrations, action_steps=config.action_steps, future_latents=config.future_latents)
    latents = cached_windows(codec, demonstrations, config.data)
    states = settings.states.normalize(demonstrations.states)
    actions = settings.actions.normalize(demonstrations.actions)
    phrases = sorted(set(demonstrations.instructions))
    phrase = torch.tensor([phrases.index(instruction) for instruction in demonstrations.instructions])
    texts = HashTextEncoder(dim=settings.text_dim, length=settings.text_length).encode(phrases)

    accelerator = Accelerator()
    model = backbone_of(config.backbone, latent_channels=codec.latent_channels, text_dim=settings.text_dim)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95), fused=True
    )
    average = EMAModel(model.parameters(), decay=config.ema_decay, foreach=True)
    state = TrainingState(
        folder.path / "state.safetensors", {"model": model, "optimizer": optimizer, "average": average}
    )
    done = state.resume()
    tracked(accelerator, folder, resumed_at=done)
    trained, optimizer = accelerator.prepare(model, optimizer)
    recipe = recipe_of(config)

    for step in steps_with_progress(f"stage 1, {config.times} times", done, config.steps):
        generator = generator_of(config.seed, "stage1", step, accelerator.process_index)
        warm_up = min(1.0, (step + 1) / 200)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimizer.param_groups[0]["lr"] = config.learning_rate * warm_up * cosine
        chosen = torch.randint(len(windows), (config.batch_size,), generator=generator)
        steps = windows.step[chosen]
        batch = Stage1Batch(
            video=latents.clips(windows, chosen),
            actions=actions[steps],
            context=texts[phrase[windows.episode[chosen]]],
            state=states[steps[:, 0]],
        )
        losses = stage1_loss(trained, batch, recipe, generator=generator)
        optimizer.zero_grad()
        accelerator.backward(losses.total)
        norm = accelerator.clip_grad_norm_(trained.parameters(), config.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the gradient of step {step} is not finite; lower `learning_rate`.")
        optimizer.step()
        average.step(model.parameters())
        if (step + 1) % 20 == 0:
            values = {"loss": losses.total, "video": losses.video, "action": losses.action, "gradient_norm": norm}
            accelerator.log({name: value.item() for name, value in values.items()}, step=step + 1)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            state.save(step + 1)

    average.copy_to(model.parameters())
    WorldPolicy(model, codec, settings).save(folder.path / "policy")
    write_json(
        folder.path / "policy" / "training.json",
        {
            **read_json(folder.path / "config.json"),
            "hours": folder.hours,
            "windows": len(windows),
            "episodes": demonstrations.episodes,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    )
    history = list(folder.history())
    curves(folder.path / "loss.png", history, {"video": ["video"], "action": ["action"]}, window=25, x="step")
    accelerator.end_training()


if __name__ == "__main__":
    launch(Stage1Config, run, __doc__)

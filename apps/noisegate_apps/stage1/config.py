"""Stage 1: train the joint video-action model on demonstrations, with an independent time per latent.

`uv run apps/stage1.py` trains the tabletop model on `data/tabletop` (collected first where it is missing);
`--times shared` trains the ablation whose latents share one time. `apps/stage1.py fastwam` and `apps/stage1.py motus`
are the paper's two configurations on RoboTwin's episodes, under `accelerate launch` on as many GPUs as there are: see
docs/training.md. `--env robotwin --robotwin.root PATH` trains the tabletop's small model on RoboTwin's own experts, of
whom 50 episodes per task are collected where `--data` is missing. Killed and started again, it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from noisegate_apps.data.config import DEFAULT_DATA
from noisegate_apps.play.worlds import TASK_NAMES, EnvName, known_tasks
from noisegate_apps.runs.command_line import (
    Folder,
    RoboTwinOptions,
    TaskNames,
    at_least,
    check_head_start,
    require,
    require_checkout,
)
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import CHECKPOINTS, JsonValue
from noisegate_apps.runs.folder import FolderOptions, refuse
from noisegate_apps.runs.identity import identity_of

if TYPE_CHECKING:
    from wam_backbone import Stage1Recipe
    from wam_backbone.presets import Optimization


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSize:
    """Sizes of the world action model; the defaults are the tabletop's."""

    num_layers: int = 4
    """How many layers of joint attention the model has."""
    num_heads: int = 4
    """How many heads the joint attention has."""
    head_dim: int = 32
    """Channels of a head; the video is `num_heads * head_dim` wide."""
    video_ffn: int = 256
    """Channels inside the video's feed-forward."""
    action_width: int = 128
    """Channels of an action token."""
    action_ffn: int = 384
    """Channels inside the action's feed-forward."""
    freq_dim: int = 64
    """Channels of the sinusoidal features that a time is turned into."""
    layout: Literal["full", "joint", "fastwam", "idm"] = "full"
    """Attention layout: `full`, `joint`, `fastwam` or `idm`."""
    state_token: Literal["actions", "text"] = "actions"
    """Where the state enters: among the `actions`, or after the `text`."""
    action_axis: Literal["frames", "own"] = "frames"
    """Where actions sit: on the video's `frames`, or on an axis of their `own`."""
    action_index: str = "sinusoid"
    """What actions carry of their number in the chunk: a `sinusoid`, or `none`."""
    modulated_action_head: bool = True
    """Whether the action head is modulated by its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanSettings:
    """Wan's codec, text encoder and video weights, and how RoboTwin's episodes become clips for them."""

    source: str = ""
    """Hub id or folder of a diffusers Wan 2.2 repository; empty for the tabletop's own codec and text encoder."""
    start: str = ""
    """First weights: `wan` for the video's from `source`, a folder of ours, or a Fast-WAM checkpoint file; empty for
    none."""
    keep: Literal["all", "video"] = "all"
    """What of a folder of ours in `start` is kept: `all`, or the `video` half alone, beside a new action half."""
    statistics: Path | None = None
    """Normalisation that the first weights were trained with: Fast-WAM's `dataset_stats.json`, or a `statistics.json`
    of ours, which a folder in `start` brings by itself; otherwise the episodes' own."""
    template: str = "{instruction}"
    """What the text encoder reads; `{instruction}` stands for the instruction."""
    text_length: int = 128
    """How many text tokens it makes of that."""
    rows: int = 384
    """Height of the frame that the codec sees, in pixels."""
    columns: int = 320
    """Width of the frame that the codec sees, in pixels."""
    head_rows: int = 256
    """Height of the head camera's picture, on top of the wrists', in pixels."""
    step_stride: int = 1
    """Steps of the recording between two actions."""
    start_every: int = 1
    """Steps of the recording between the starts of two windows; latents on disk shrink with it."""
    executed_actions: int = 16
    """How many actions of a chunk are executed before the next is planned."""
    normalize: bool = True
    """Bring actions and states to mean 0 and deviation 1; otherwise they stay in rad."""
    limit: float | None = None
    """Where normalised values are cut off; nowhere unless given."""
    cache: Path | None = None
    """Folder of latents and text embeddings; beside the episodes unless given."""
    rows_per_shard: int = 4096
    """How many clips go into one file of the cache."""

    def check(self) -> None:
        """Refuse first weights that are not there, or of which a part cannot be kept.

        Raises:
            RunError: If there are none, or the video half of a file is asked for.
        """
        if self.start in ("", "wan"):
            return
        start = Path(self.start)
        require(start, "the checkpoint to start from", "give its place with `--wan.start`")
        if self.keep == "video" and not start.is_dir():
            raise RunError(
                f"`{start}` is a file, and `--wan.keep video` takes the video half of a folder of ours; "
                "give such a folder with `--wan.start`, or leave `--wan.keep` out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """What fits a large model into memory and time."""

    micro_batch: int = 0
    """Windows that a process takes through the model at once; 0 for all of its share."""
    checkpointing: bool = False
    """Recompute every block in the backward pass instead of keeping its activations."""
    compile: bool = False
    """Whether the blocks are compiled by torch."""
    graphed: bool = False
    """Capture a step's loss and gradients as one CUDA graph: for a small model on one GPU, whose steps are bound by how
    fast kernels are launched."""
    shard_group: int = 0
    """With FSDP2: processes that hold one model together, usually those of a machine; 0 for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """LoRA adapters; an expert with one keeps its other weights."""

    video_rank: int = 0
    """Rank of the video expert's adapters; 0 trains all of its weights instead."""
    action_rank: int = 0
    """Rank of the action expert's adapters; 0 trains all of its weights instead."""
    alpha: float = 32.0
    """By how much adapters count: their products are multiplied by `alpha / rank`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Config:
    """How Stage 1 runs."""

    env: EnvName = "tabletop"
    """Whose demonstrations the small model learns from."""
    robotwin: RoboTwinOptions = field(default_factory=RoboTwinOptions)
    """RoboTwin's settings, for `--env robotwin`."""
    tasks: TaskNames = TASK_NAMES
    """RoboTwin's tasks to collect where `data` is missing."""
    data: Path | None = None
    """Demonstrations, as `collect.py` or RoboTwin writes them; `data/tabletop` or `data/robotwin` unless given."""
    codec: Path = CHECKPOINTS / "tabletop-codec"
    """The tabletop's trained codec, as `train_codec.py` writes it."""
    out: Path | None = None
    """Run folder; the policy lies in its `policy` folder in the end. `runs/stage1` unless given, `runs/stage1-robotwin`
    with `--env robotwin`."""
    folder: Folder = field(default_factory=FolderOptions)
    """What becomes of an earlier run."""
    labelled: int = 0
    """Demonstrations of each task whose actions are learned; the others are videos without actions. 0 for all."""
    scarce: tuple[str, ...] = ()
    """Tasks of which only `scarce_labelled` demonstrations keep their actions, whatever `labelled` says."""
    scarce_labelled: int = 0
    """Demonstrations of each scarce task whose actions are learned; with 0 it is known from videos alone."""
    labelled_share: float = 0.5
    """Part of a batch with actions, where some videos have none."""
    word_noise: float = 0.0
    """Probability with which a word of an instruction becomes noise, so that phrases never heard are followed too."""
    times: Literal["independent", "shared"] = "independent"
    """Times of the predicted latents: one each (NoiseGate), or one for all (the ablation Shared-t)."""
    backbone: BackboneSize = field(default_factory=BackboneSize)
    """Sizes of the model."""
    wan: WanSettings = field(default_factory=WanSettings)
    """Wan's parts, and the clips that are made for them."""
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    """What fits a large model."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    """LoRA adapters, by which a large model learns with few weights."""
    steps: int = 9000
    """Optimiser steps; windows are drawn with replacement."""
    epochs: int = 0
    """Passes over all windows, instead of `steps`; 0 for none."""
    batch_size: int = 64
    """Windows per optimiser step, over all processes together."""
    learning_rate: float = 1.5e-3
    """Peak of AdamW's step size."""
    warmup_steps: int = 200
    """Over how many steps the step size rises to its peak."""
    warmup_fraction: float = 0.0
    """Over which part of all steps the step size rises; added to `warmup_steps`."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What the step size does after its rise."""
    final_fraction: float = 0.02
    """Where the cosine ends, as a part of the peak."""
    decay_through_warmup: bool = True
    """Whether the cosine starts with the rise, or after it."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """To what norm a larger gradient is scaled down."""
    video_shift: float = 1.0
    """How far the latents' times are shifted towards noise: k of section 4.2, 5 for Wan."""
    action_shift: float = 1.0
    """How far the action's time is shifted towards noise: k of section 4.2."""
    end_points: float = 0.05
    """Probability of exactly 0, and of exactly 1, among the latents' times."""
    weighting: Literal["uniform", "bell"] = "uniform"
    """Loss weight by time; `bell` is Fast-WAM's."""
    video_weight: float = 1.0
    """Weight of the video's loss: lambda_v."""
    action_weight: float = 1.0
    """Weight of the actions' loss: lambda_a."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are saved; 0 saves the last ones."""
    action_steps: int = 16
    """How many actions a chunk has."""
    future_latents: int = 2
    """How many latents a chunk imagines, four frames each."""
    denoising_steps: int = 10
    """Network calls per chunk under which the policy plans unless told otherwise."""
    head_start: float = 0.0
    """Part of those calls that belong to imagination, before the actions start; at 0 both fall together, as in the
    paper."""
    checkpoint_every: int = 200
    """After how many steps a checkpoint is written."""
    log_every: int = 20
    """After how many steps a line of metrics is written."""
    device: DeviceName = "auto"
    """Where the model is trained: `auto` takes the GPU where there is one, or what `accelerate launch` says."""
    seed: int = 42
    """Decides initialisation, the order of the data, times and noise."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "action_steps", "future_latents", "denoising_steps")
        at_least(self, 1, "checkpoint_every", "log_every")
        at_least(
            self, 0, "steps", "epochs", "labelled", "scarce_labelled", "warmup_steps", "weight_decay", "max_grad_norm"
        )
        check_head_start(self.head_start)
        known_tasks(self.env, self.tasks)
        if self.wan.keep == "video" and self.wan.start in ("", "wan"):
            raise ValueError("`--wan.keep video` takes the video half of one of our models: name it by `--wan.start`.")
        if self.wan.source and (self.labelled or self.scarce):
            raise ValueError("Wan's clips all have actions; leave `--labelled` and `--scarce` out with `--wan.source`.")
        if not 0 <= self.word_noise < 1:
            raise ValueError(f"`word_noise` is {self.word_noise}; it must be at least 0 and below 1.")
        if not 0 < self.labelled_share < 1:
            raise ValueError(f"`labelled_share` is {self.labelled_share}; it must lie between 0 and 1.")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If a file or folder that training needs is not there.
        """
        refuse(self.run_folder, "stage1", self.folder)
        self.wan.check()
        if self.wan.source:
            require(self.data_folder, "RoboTwin's episodes", "give their folder with `--data`")
            return
        require(self.codec / "config.json", "a trained codec", "run `uv run apps/train_codec.py`")
        if not self.collects:
            remedy = f"collect them with `apps/collect.py --out {self.data_folder}`"
            require(self.data_folder, "a folder of demonstrations", remedy)
        elif self.env == "robotwin":
            require_checkout(self.robotwin)

    @property
    def data_folder(self) -> Path:
        """Where demonstrations lie."""
        return self.data or DEFAULT_DATA[self.env]

    @property
    def run_folder(self) -> Path:
        """Where the run is kept."""
        return self.out or Path("runs/stage1" if self.env == "tabletop" else f"runs/stage1-{self.env}")

    @property
    def collects(self) -> bool:
        """Whether demonstrations are collected first: where none lie in the default folder; another may be a typo."""
        folder = self.data_folder
        return not self.wan.source and folder == DEFAULT_DATA[self.env] and not folder.exists()


def recipe_of(config: Stage1Config) -> Stage1Recipe:
    """Return how times are drawn and losses weighed."""
    from wam_backbone import SharedTimes, ShiftedUniform, Stage1Recipe
    from wam_backbone.training import Weighting, WithEndpoints

    drawn = ShiftedUniform(shift=config.video_shift)
    times = SharedTimes(times=drawn) if config.times == "shared" else drawn
    ends = WithEndpoints(times=times, clean=config.end_points, noise=config.end_points)
    return Stage1Recipe(
        video_times=ends if config.end_points else times,
        action_times=ShiftedUniform(shift=config.action_shift),
        video_weight=config.video_weight,
        action_weight=config.action_weight,
        weighting=Weighting(config.weighting),
    )


def optimization_of(config: Stage1Config) -> Optimization:
    """Return how steps are taken."""
    from wam_backbone.presets import Decay, Optimization

    return Optimization(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=config.warmup_steps,
        warmup_fraction=config.warmup_fraction,
        decay=Decay(config.decay),
        final_fraction=config.final_fraction,
        decay_through_warmup=config.decay_through_warmup,
    )


def identity(config: Stage1Config, digests: Mapping[str, JsonValue]) -> JsonValue:
    """Return everything that a run's weights depend on.

    Args:
        config: Of the run.
        digests: Of what it reads.
    """
    # How a step is cut for memory changes rounding alone, so that a run may go on with other cuts.
    idle = ["scale", "wan.cache", "wan.rows_per_shard"] + (["tasks"] if config.env == "tabletop" else [])
    return identity_of(config, digests, without=idle)

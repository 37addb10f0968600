"""Stage 2: train the Gating Policy Network with GRPO on task success, the world model frozen, and compare schedules.

`uv run apps/stage2.py` starts from the Stage-1 checkpoint in the repository, trains on the tabletop, then evaluates the
shared, the hand-crafted and the learned schedule on the same held-out scenes. `uv run apps/stage2.py paper` takes the
paper's settings (appendix D) instead. Everything it finds lies in `--out`. `--env robotwin --robotwin.root PATH` does
the same on RoboTwin's tasks. Killed and started again with the same command, it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Literal

from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.play.worlds import EnvName, SceneName, known_tasks
from noisegate_apps.runs.command_line import (
    Folder,
    Preset,
    RoboTwinOptions,
    TaskNames,
    at_least,
    check_head_start,
    require,
    require_checkout,
)
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import CHECKPOINTS, TRANSITIONS
from noisegate_apps.runs.folder import FolderOptions, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What of the gate is chosen; the paper's where it names them."""

    width: int = 64
    """How wide the gating policy network is: D of appendix C."""
    sigma: Literal["shared", "latent", "state"] = "latent"
    """What the deviation of the gate's noise depends on: one for all (`shared`, the paper's), one per `latent`, or the
    denoising `state` too."""
    start_sigma: float = 1.2
    """Deviation of the gate's noise before training; positive. 1.2 tries nearly all scales from the first update on."""
    start_scales: tuple[float, ...] = (1.5,)
    """Relative scales at which training starts, between 0 and 2: one per latent, for example what the lattice found, or
    one for all. None given is 1 (the paper's). What a `sight` holds back, a scale of 1 never makes up for: in the
    shipped policy's five calls it ends at 0.28, and 1.5 where the shared schedule ends, at 0."""
    sight: float | None = 0.95
    """Time above which nothing is left to the gate, so that a latent falls as under the shared schedule until there: it
    has to have begun for anything to be seen. None leaves it every step (the paper's)."""
    max_mean: float | None = 1.5
    """Bound of the mean of a scale before the squash, at which a state stops to pull others along; None for none (the
    paper's). At 1.5 the median scale lies between 0.09 and 1.91."""
    sees: Literal["latents", "content"] = "content"
    """Whether the gate sees partly denoised `latents` (the paper's), or their `content`: what has been imagined until
    now, without the noise from which a latent started."""
    relative: bool = True
    """Whether the gate sees what each latent adds to a still picture, which shows it what does not follow from the
    observation, or the latent as it is (the paper's)."""
    compares: bool = True
    """Whether it compares that with the observation, channel by channel, which shows it even in much noise; needs
    `relative`."""
    sees_words_and_state: bool = False
    """Whether the gate sees instruction and robot state beside the latents (the paper's future work)."""
    scales: Literal["latent", "chunk", "none"] = "latent"
    """What scales it decides: one per `latent`, one for all of the `chunk` (a learned shared schedule, as TPDM's), or
    `none`, with which it only `stops`."""
    stops: bool = False
    """Whether it also decides when a chunk's denoising ends, so that steps can be saved; see `step_price`."""

    def __post_init__(self) -> None:
        if self.scales == "none" and not self.stops:
            raise ValueError("`gate.scales none` decides nothing unless it stops; add `--gate.stops`.")
        if self.compares and not self.relative:
            raise ValueError("`gate.compares` needs `gate.relative`; add `--gate.no-compares`.")
        if self.sight is not None and not 0 < self.sight < 1:
            raise ValueError(f"`gate.sight` is {self.sight}; give a time between 0 and 1, or None.")
        if self.sigma == "state" and (self.stops or self.scales != "latent"):
            raise ValueError("`gate.sigma state` is for one scale per latent alone; choose `shared` or `latent`.")
        if self.width < 8 or not self.start_sigma > 0:
            raise ValueError(
                f"`width` is {self.width} and `start_sigma` {self.start_sigma}; give 8 or more, and above 0."
            )

    @property
    def per_latent(self) -> bool:
        """Whether it decides one scale per latent and nothing else."""
        return self.scales == "latent" and not self.stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """How the gate's noise lasts while episodes are played for training."""

    held: Literal["step", "chunk", "episode"] = "episode"
    """How long one draw lasts: a denoising `step` (the paper's), a `chunk`, or an `episode`."""
    correlation: float = 0.0
    """Correlation of each draw with the next, where draws are held over the step or the chunk; in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1 or (self.held == "episode" and self.correlation):
            raise ValueError(
                f"`correlation` is {self.correlation} with noise held over the {self.held}; give one in [0, 1), and "
                "none for the episode, whose noise is drawn once."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which groups are played for training."""

    revisit: float | None = 0.5
    """Share of a task's groups that go back to scenes and initial noise with which one was mixed, in [0, 1]; tasks get
    the same share each. None takes all tasks and scenes in turn (the paper's)."""
    antithetic: bool = True
    """Whether the members of a group come in pairs of opposite noise, so that what both have in common cancels out."""
    mixed_groups: int | None = None
    """Mixed groups with which an epoch ends before its episodes are spent; None plays them all."""

    def __post_init__(self) -> None:
        if self.revisit is not None and not 0 <= self.revisit <= 1:
            raise ValueError(f"`revisit` is {self.revisit}; give a share in [0, 1], or None.")
        if self.mixed_groups is not None and self.mixed_groups < 1:
            raise ValueError(f"`mixed_groups` is {self.mixed_groups}; it must be at least 1, or None.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config:
    """How Stage 2 runs. The defaults make the most of an episode; `paper` gives appendix D's."""

    policy: Path = CHECKPOINTS / "tabletop-independent"
    """Folder of the frozen Stage-1 policy."""
    out: Path = Path("runs/stage2")
    """Run folder; the trained gate lies in its `gate` folder in the end."""
    folder: Folder = field(default_factory=FolderOptions)
    """What becomes of an earlier run."""
    env: EnvName = "tabletop"
    """Where episodes are played: on the embedded `tabletop`, or in a checkout of `robotwin`."""
    robotwin: RoboTwinOptions = field(default_factory=RoboTwinOptions)
    """RoboTwin's settings."""
    seed_pools: Path | None = None
    """On RoboTwin: folder of the pools that `python -m robotwin_env scan-seeds` fills; groups then play their seeds."""
    tasks: TaskNames = ()
    """Tasks that the groups go around; those that the policy has learned unless given."""
    scene: SceneName | None = None
    """Which scenes of the tabletop: `random`, or `clean`, which varies poses alone; those on which the policy has
    learned unless given."""
    epochs: int = 12
    """How many updates the gate gets."""
    episodes_per_epoch: int = 64
    """Trajectories of one update; a multiple of `group_size`."""
    group_size: int = 8
    """G: trajectories of the same scene."""
    common_noise: bool = True
    """Whether a group shares the initial noise too, so that the schedule alone tells its members apart."""
    sampling: Sampling = field(default_factory=Sampling)
    """Which groups are played."""
    exploration: Exploration = field(default_factory=Exploration)
    """How the gate's noise lasts in training."""
    imagination: ImaginationConfig = field(default_factory=lambda: ImaginationConfig(lies="auto"))
    """Whether imagination is made to lie, in training and in evaluation. Unless told, a stress test where the policy
    brings what to lie with: both latents lie in half of the tasks; `--imagination.lies never` leaves them alone."""
    step_price: float = 0.0
    """What an evaluated denoising step costs: the reward is success minus this times the network calls per chunk. Above
    0, advantages are not divided by their group's deviation, so that the price keeps its size beside success."""
    learning_rate: float = 1e-3
    """Step size of AdamW; where `kl` is given, at the start."""
    decay: float = 0.5
    """Share of the updates, at the end, over which the learning rate falls to nothing, in [0, 1]; 0 keeps it (the
    paper's). Where `kl` is given, that decides the rate."""
    kl: tuple[float, float] | None = None
    """Band in which the learning rate holds the KL divergence of an update, per latent in nats; None keeps the rate."""
    clip: float = 0.2
    """How far the importance ratio may leave 1 before it is clipped."""
    inner_epochs: int = 3
    """How many passes are made over each batch."""
    entropy_weight: float = 0.01
    """Weight of the entropy at the start: beta."""
    entropy_decay: float = 0.999
    """By what beta is multiplied after each optimiser step."""
    pull: float = 0.0
    """Weight of the KL divergence to the gate with which training starts (`gate.start_scales`): what holds a gate there
    where success does not ask for more. 0 for none (the paper's)."""
    max_grad_norm: float = 1.0
    """To what norm a larger gradient is scaled down."""
    denoising_steps: int | None = None
    """Network calls per chunk; the policy's own number unless given."""
    head_start: float | None = None
    """Part of those calls that belong to imagination, before the actions start; the policy's own unless given."""
    gate: GateSettings = field(default_factory=GateSettings)
    """The gating policy network."""
    orient: int = 800
    """Steps in which the gate first learns, from the policy's demonstrations and without any reward, to see whether an
    imagined latent follows from the observation; 0 for none (the paper's)."""
    lattice: Path | None = None
    """A `lattice.json` of other scenes, from `eval.py lattice`: evaluation then shows the best fixed schedules too. The
    policy's own for this imagination unless given, where it brings one and plans by its own clocks."""
    eval_episodes: int = 24
    """How many held-out scenes of each task every schedule plays."""
    skip_eval: bool = False
    """Train alone; the same command without it goes on with the comparison."""
    illustrate: bool = True
    """Film two episodes and record attention and latency for the report: a few episodes more."""
    eval_slots: int = 48
    """How many environments the evaluation plays at once, all planned in one batch."""
    executor: Literal["auto", "in-process", "processes", "ray"] = "auto"
    """Who plays the training episodes: this process, worker processes, or actors of a Ray cluster, each worker with a
    policy and simulators of its own; results do not depend on it. `auto` takes processes where several workers play the
    tabletop on the CPU."""
    workers: int = 2
    """Rollout workers, or simulator processes where this process plans; results do not depend on it."""
    members_per_call: int | None = None
    """Members of a group that one worker plays, planned in one batch; all of them where `None`, 1 to spread a group
    over as many workers as it has members. Batches round differently: this does change results, from the last bits."""
    call_deadline: float = 600.0
    """Seconds that a worker may take for one call before it is replaced and the call made again."""
    ray_address: str | None = None
    """Address of the Ray cluster to join, for example `auto`; one is started on this machine where `None`. Its machines
    need this library installed, and the policy at the same place."""
    device: DeviceName = "auto"
    """Where policy and gate compute: `auto` takes the GPU where there is one."""
    rollout_gpus: float | None = None
    """GPUs, or the share of one, that Ray gives to each worker; unless told, one where this process has one."""
    seed: int = 42
    """Decides the gate's initialisation and noise, and the minibatches."""

    def __post_init__(self) -> None:
        at_least(self, 1, "group_size", "episodes_per_epoch", "eval_episodes", "eval_slots", "denoising_steps")
        at_least(self, 1, "inner_epochs", "members_per_call")
        at_least(self, 0 if self.executor in ("auto", "in-process") else 1, "workers")
        at_least(self, 0, "epochs", "step_price", "orient", "decay", "pull")
        check_head_start(self.head_start)
        if self.decay > 1:
            raise ValueError(f"`decay` is {self.decay}; give a share of the updates in [0, 1].")
        if self.episodes_per_epoch % self.group_size:
            raise ValueError(
                f"`episodes_per_epoch` is {self.episodes_per_epoch}; it must be a multiple of `group_size` "
                f"({self.group_size})."
            )
        if self.rollout_gpus is not None and self.executor != "ray":
            raise ValueError("`rollout_gpus` is for `--executor ray`; workers of this machine share its first GPU.")
        at_least(self, 0, "rollout_gpus")
        if self.kl is not None and not 0 <= self.kl[0] < self.kl[1]:
            raise ValueError(f"`kl` is {self.kl}; give two rising numbers, the first at least 0.")
        known_tasks(self.env, self.tasks)
        if self.env == "robotwin" and self.imagination.lies not in ("auto", "never"):
            raise ValueError("imagination is made to lie on the tabletop only; leave `imagination.lies` out.")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If a file, a checkout or a library that the run needs is not there.
        """
        refuse(self.out, "stage2", self.folder)
        require(self.policy / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
        if self.orient:
            require(
                self.policy / TRANSITIONS,
                "what followed in demonstrations, to learn to see from",
                "train the policy anew with `uv run apps/stage1.py`, or let `orient` be 0",
            )
        if self.executor == "ray" and find_spec("ray") is None:
            raise RunError("`--executor ray` needs Ray, which is not installed; install it with `uv pip install ray`.")
        if self.lattice is not None:
            require(self.lattice, "a lattice", "make one with `uv run apps/eval.py lattice`")
        if self.env == "robotwin":
            require_checkout(self.robotwin)

    def executor_on(self, device: str) -> Literal["in-process", "processes", "ray"]:
        """Return who plays, where `auto` leaves it to the kind of device on which the policy plans."""
        if self.executor != "auto":
            return self.executor
        alone = self.workers < 2 or self.calls_per_epoch < 2 or self.env == "robotwin" or device != "cpu"
        return "in-process" if alone else "processes"

    def learning_rate_of(self, epoch: int) -> float:
        """Return the step size of an update, of which there are `epochs`, numbered from 0."""
        left = 1.0 - epoch / self.epochs
        return self.learning_rate if left >= self.decay else self.learning_rate * left / self.decay

    @property
    def calls_per_epoch(self) -> int:
        """Calls that the episodes of an epoch make for rollout workers."""
        members = self.members_per_call or self.group_size
        return self.episodes_per_epoch // self.group_size * ceil(self.group_size / members)


def paper() -> Stage2Config:
    """The paper's settings (appendix D): noise independent per step, groups of eight in turn, a fixed rate."""
    return Stage2Config(
        imagination=ImaginationConfig(),
        orient=0,
        epochs=50,
        episodes_per_epoch=8,
        inner_epochs=4,
        learning_rate=3e-4,
        decay=0.0,
        sampling=Sampling(revisit=None, antithetic=False),
        denoising_steps=10,
        head_start=0.0,
        exploration=Exploration(held="step"),
        gate=GateSettings(
            sigma="shared",
            start_sigma=0.5,
            start_scales=(),
            sees="latents",
            relative=False,
            compares=False,
            sight=None,
            max_mean=None,
        ),
    )


PRESETS = (
    Preset(name="main", description="The most of an episode; what runs where nothing is named.", make=Stage2Config),
    Preset(name="paper", description="The paper's settings (appendix D).", make=paper),
)
"""Subcommands: defaults of the options."""

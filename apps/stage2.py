"""Stage 2: train the Gating Policy Network with GRPO on task success, the world model frozen, and compare schedules.

`uv run apps/stage2.py` starts from the Stage-1 checkpoint in the repository, trains with the paper's settings
(appendix D) on the tabletop, then evaluates the shared, the hand-crafted and the learned schedule on the same held-out
scenes. Everything it finds lies in `--out`. Killed and started again with the same command, it goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robotwin_env import TASKS
from run_folder import RunFolder, launch, require, write_json

if TYPE_CHECKING:
    from noisegate_gpn import GatingPolicyNetwork
    from world_policy import WorldPolicy

TASK_NAMES = tuple(task.name for task in TASKS)
TRAINING_SEEDS = range(1_000_000, 1_001_000)
"""Scene seeds of Stage 2: neither demonstrations nor evaluation use them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config:
    """How Stage 2 runs; the defaults are appendix D's where it names them."""

    policy: Path = Path("checkpoints/tabletop-independent")
    """The frozen Stage-1 policy."""
    out: Path = Path("runs/stage2")
    """Run folder; the trained gate lies in its `gate` folder in the end."""
    tasks: tuple[str, ...] = TASK_NAMES
    """Tasks that the groups go around."""
    scene: Literal["clean", "random"] = "random"
    """Which scenes: `clean` varies poses alone."""
    epochs: int = 50
    """Updates of the gate."""
    episodes_per_epoch: int = 8
    """Trajectories of one update; a multiple of `group_size`."""
    group_size: int = 8
    """G: trajectories of the same scene."""
    common_noise: bool = True
    """Whether a group shares the initial noise too, so that the schedule alone tells its members apart."""
    learning_rate: float = 3e-4
    """Of AdamW."""
    clip: float = 0.2
    """Range of the importance ratio."""
    inner_epochs: int = 4
    """Passes over each batch."""
    entropy_weight: float = 0.01
    """beta at the start."""
    entropy_decay: float = 0.999
    """Of beta, per optimiser step."""
    max_grad_norm: float = 1.0
    """Gradient-norm clip."""
    denoising_steps: int = 10
    """S."""
    gate_width: int = 64
    """D of the gating policy network."""
    eval_episodes: int = 100
    """Held-out scenes per task and schedule."""
    eval_slots: int = 24
    """Environments that evaluation plays at once."""
    workers: int = 2
    """Simulator processes; results do not depend on it."""
    seed: int = 42
    """Of the gate's initialisation and noise, and of the minibatches."""

    def __post_init__(self) -> None:
        if self.episodes_per_epoch % self.group_size:
            raise ValueError(
                f"`episodes_per_epoch` is {self.episodes_per_epoch}; it must be a multiple of `group_size` "
                f"({self.group_size})."
            )
        unknown = sorted(set(self.tasks) - set(TASK_NAMES))
        if unknown:
            raise ValueError(f"there are no tasks {unknown}; choose among {list(TASK_NAMES)}.")


def new_gate(config: Stage2Config, policy: WorldPolicy) -> GatingPolicyNetwork:
    """Build the untrained gate: its mean is the shared schedule."""
    from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

    return GatingPolicyNetwork(
        GatingPolicyConfig(
            latent_channels=policy.backbone.latent_channels,
            frames=policy.settings.future_latents,
            width=config.gate_width,
        )
    )


def train(config: Stage2Config, folder: RunFolder, policy: WorldPolicy) -> GatingPolicyNetwork:
    """Train the gate, going on from the last finished epoch."""
    from functools import partial

    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from gate_rollout import GateRollout
    from grpo_core import ExponentialDecay, GRPOConfig, InProcessExecutor, Learner, RoundRobin, clipped, collate
    from progress import progress_bar
    from rollout import tabletop_pool
    from tracking import tracked
    from training import TrainingState

    set_seed(config.seed)
    gate = new_gate(config, policy)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=config.learning_rate)
    learner = Learner(
        gate,
        optimizer,
        GRPOConfig(
            surrogate=partial(clipped, low=config.clip, high=config.clip),
            entropy_weight=ExponentialDecay(start=config.entropy_weight, decay=config.entropy_decay, floor=0.0),
            inner_epochs=config.inner_epochs,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
        ),
    )
    groups = RoundRobin(config.tasks, TRAINING_SEEDS, size=config.group_size, run_seed=config.seed)
    state = TrainingState(folder.path / "state.safetensors", {"gate": gate, "learner": learner, "groups": groups})
    done = state.resume()
    if done >= config.epochs:
        return gate
    accelerator = tracked(Accelerator(cpu=True), folder, resumed_at=done)
    with tabletop_pool(slots=config.group_size, workers=config.workers) as pool, progress_bar() as bar:
        progress = bar.add_task("stage 2", completed=done, total=config.epochs)
        rollout = GateRollout(policy, gate, pool, scene=config.scene, common_noise=config.common_noise)
        executor = InProcessExecutor(rollout)
        for epoch in range(done, config.epochs):
            executor.set_weights(learner.updates, gate.state_dict())
            specs = [groups.next() for _ in range(config.episodes_per_epoch // config.group_size)]
            trajectories = []
            for spec in specs:
                executor.submit(spec.jobs())
                played = executor.poll()
                groups.report(spec, [trajectory.reward for trajectory in played])
                trajectories += played
            metrics = learner.update(collate(trajectories))
            values = {name: value for name, value in asdict(metrics).items() if value is not None}
            accelerator.log({**values, **rollout.statistics()}, step=epoch + 1)
            state.save(epoch + 1)
            rate = sum(line["reward_mean"] for line in list(folder.history())[-10:]) / min(epoch + 1, 10)
            bar.update(progress, advance=1, description=f"stage 2, success of the last 10 epochs {100 * rate:.0f}%")
    accelerator.end_training()
    return gate


def compare(config: Stage2Config, folder: RunFolder, policy: WorldPolicy, gate: GatingPolicyNetwork) -> None:
    """Evaluate the three schedules, and leave summary, figures and videos."""
    from evaluation import HeldOutScenes, Variant, evaluate, monotone, print_table, rates_of, shared, summarise
    from figures import curves, success_bars, time_trajectories
    from gate_rollout import learned
    from rollout import tabletop_pool
    from showcase import show

    variants = [
        Variant(name="shared", policy=policy, choose=shared),
        Variant(name="monotone", policy=policy, choose=monotone),
        Variant(name="learned", policy=policy, choose=learned(gate)),
    ]
    scenes = HeldOutScenes(tasks=config.tasks, episodes=config.eval_episodes, scene=config.scene)
    with tabletop_pool(slots=config.eval_slots, workers=config.workers) as pool:
        results = evaluate(variants, scenes, pool, folder.path / "evaluation")
        shown = show(variants[-1], scenes, pool, folder.path / "videos", tasks=_two(config.tasks))
    write_json(folder.path / "summary.json", summarise(results, baseline="shared"))
    success_bars(folder.path / "success.png", rates_of(results))
    time_trajectories(folder.path / "time_trajectories.png", shown, list(policy.clock.times))
    curves(
        folder.path / "learning_curve.png",
        list(folder.history()),
        {"success in training": ["reward_mean"], "entropy": ["entropy"], "mean relative scale": _scales(policy)},
        window=10,
        x="epoch",
    )
    print_table(results, baseline="shared", title="success on held-out scenes [95% interval]")


def _scales(policy: WorldPolicy) -> list[str]:
    return [f"scale_{frame + 1}" for frame in range(policy.settings.future_latents)]


def _two(tasks: tuple[str, ...]) -> tuple[str, ...]:
    return (tasks[0], tasks[-1]) if len(tasks) > 1 else tasks


def run(config: Stage2Config) -> None:
    """Train, save the gate, and compare."""
    require(config.policy / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
    folder = RunFolder(config.out, config)
    from wam_backbone import Clock
    from world_policy import WorldPolicy

    policy = WorldPolicy.load(config.policy, clock=Clock.linear(config.denoising_steps))
    gate = train(config, folder, policy)
    gate.save_pretrained(folder.path / "gate")
    compare(config, folder, policy, gate)


if __name__ == "__main__":
    launch(Stage2Config, run, __doc__)

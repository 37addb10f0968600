"""Evaluate a policy under one schedule, or print the paper's ablation (Table 2) on the tabletop.

`uv run apps/eval.py --schedule learned` plays the repository's checkpoint; `uv run apps/eval.py --ablation` compares
Shared-t, the Stage-1 model, the hand-crafted schedule and NoiseGate on the same scenes with the same initial noise.
Killed and started again with the same command, it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from run_folder import RunFolder, launch, require, write_json
from stage2 import TASK_NAMES

if TYPE_CHECKING:
    from evaluation import Variant

ScheduleName = Literal["shared", "monotone", "learned", "blind", "imagine-first"]
LABELS = {
    "shared-times": "Shared-t",
    "shared": "Stage-1 WAM",
    "monotone": "hand-crafted",
    "learned": "NoiseGate",
}
"""The paper's names of the ablation's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What is evaluated, and on what."""

    policy: Path = Path("checkpoints/tabletop-independent")
    """A Stage-1 policy."""
    shared_times_policy: Path = Path("checkpoints/tabletop-shared")
    """The ablation's policy, trained with one time for all latents."""
    gate: Path = Path("checkpoints/tabletop-gate")
    """A trained gating policy network."""
    schedule: ScheduleName = "shared"
    """Which schedule denoises the video."""
    ablation: bool = False
    """Print Table 2 instead."""
    out: Path = Path("runs/eval")
    """Results; a folder below it is named after the schedule, or `ablation`."""
    tasks: tuple[str, ...] = TASK_NAMES
    """Tasks to evaluate."""
    scene: Literal["clean", "random"] = "random"
    """Which scenes: `clean` varies poses alone."""
    episodes: int = 100
    """Scenes per task."""
    first_seed: int = 100_000
    """Scene seed of the first episode."""
    denoising_steps: int = 10
    """Network calls per chunk."""
    slots: int = 24
    """Environments played at once."""
    workers: int = 2
    """Simulator processes; results do not depend on it."""


def variant_of(config: EvalConfig, schedule: ScheduleName) -> Variant:
    """Load a policy with its schedule."""
    from evaluation import Variant, monotone, shared
    from gate_rollout import learned
    from noisegate_gpn import GatingPolicyNetwork
    from rollout import ChooseSchedule
    from wam_backbone import Blind, Clock, ImagineFirst
    from world_policy import WorldPolicy

    first = ImagineFirst(video_steps=config.denoising_steps // 2)
    clock = first.clock(config.denoising_steps) if schedule == "imagine-first" else Clock.linear(config.denoising_steps)
    policy = WorldPolicy.load(config.policy, clock=clock)
    if schedule == "learned":
        return Variant(name=schedule, policy=policy, choose=learned(GatingPolicyNetwork.from_pretrained(config.gate)))
    choices: dict[ScheduleName, ChooseSchedule] = {
        "shared": shared,
        "monotone": monotone,
        "blind": lambda _: Blind(),
        "imagine-first": lambda _: first,
    }
    return Variant(name=schedule, policy=policy, choose=choices[schedule])


def ablation_of(config: EvalConfig) -> list[Variant]:
    """Load the four rows of Table 2."""
    from evaluation import Variant, shared
    from wam_backbone import Clock
    from world_policy import WorldPolicy

    policy = WorldPolicy.load(config.shared_times_policy, clock=Clock.linear(config.denoising_steps))
    learned_schedules: tuple[ScheduleName, ...] = ("shared", "monotone", "learned")
    return [
        Variant(name="shared-times", policy=policy, choose=shared),
        *(variant_of(config, schedule) for schedule in learned_schedules),
    ]


def run(config: EvalConfig) -> None:
    """Evaluate, print a table, and write `summary.json`."""
    for policy in (config.policy, config.shared_times_policy) if config.ablation else (config.policy,):
        require(policy / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
    if config.ablation or config.schedule == "learned":
        require(config.gate / "config.json", "a trained gate", "train one with `uv run apps/stage2.py`")
    folder = RunFolder(config.out / ("ablation" if config.ablation else config.schedule), config)
    from evaluation import HeldOutScenes, evaluate, print_table, rates_of, summarise
    from figures import success_bars
    from rollout import tabletop_pool

    variants = ablation_of(config) if config.ablation else [variant_of(config, config.schedule)]
    baseline = "shared" if config.ablation else config.schedule
    scenes = HeldOutScenes(
        tasks=config.tasks, episodes=config.episodes, first_seed=config.first_seed, scene=config.scene
    )
    with tabletop_pool(slots=config.slots, workers=config.workers) as pool:
        results = evaluate(variants, scenes, pool, folder.path / "outcomes")
    write_json(folder.path / "summary.json", summarise(results, baseline=baseline))
    success_bars(folder.path / "success.png", rates_of(results))
    title = "success on held-out scenes [95% interval]"
    print_table(results, baseline=baseline, title=title, label=lambda name: LABELS[name] if config.ablation else name)


if __name__ == "__main__":
    launch(EvalConfig, run, __doc__)

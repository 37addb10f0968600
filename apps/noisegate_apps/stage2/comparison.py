"""What a trained gate is compared with, on held-out scenes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch

from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.evaluation.lattice import best_fixed
from noisegate_apps.evaluation.running import held_out_scenes, play
from noisegate_apps.evaluation.tabletop import (
    Variant,
    evaluate,
    label_of,
    monotone,
    print_table,
    shared,
    summarise,
)
from noisegate_apps.play.worlds import executed_actions, pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.policy.world import WorldPolicy
from noisegate_apps.report.figures import save
from noisegate_apps.report.records import read_run
from noisegate_apps.report.sections import SECTIONS
from noisegate_apps.report.showcase import illustrate
from noisegate_apps.runs.files import write_json
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.runs.identity import identity_of
from noisegate_apps.runs.processes import in_background
from noisegate_apps.stage2.config import Stage2Config
from noisegate_apps.stage2.gate import learned
from noisegate_gpn import GatingPolicyNetwork
from wam_backbone import Blind
from wam_backbone.data import weights_digest

PICTURES = ("success", "learning-curve", "time-trajectories", "residual-times")
"""Figures of the report that also lie beside it."""


def fixed_variants(config: Stage2Config, policy: WorldPolicy) -> list[Variant]:
    """Return the schedules that need no gate."""
    return [
        Variant(name="shared", policy=policy, choose=shared),
        *([Variant(name="together", policy=policy.together(), choose=shared)] if policy.clock.waiting else ()),
        Variant(name="monotone", policy=policy, choose=monotone),
        Variant(name="blind", policy=policy, choose=lambda _: Blind()),
        *(best_fixed(policy, config.lattice) if config.lattice is not None else ()),
    ]


def playing_ahead(config: Stage2Config, folder: RunFolder, policy: WorldPolicy) -> AbstractContextManager[None]:
    """While a gate trains, play what needs none, on the cores that training leaves idle.

    Of worker processes that play the tabletop on the CPU, some wait for others, and all for the updates. Outcomes lie
    where `compare` looks for them; it plays what is missing.
    """
    kind = policy.device.type
    if config.skip_eval or config.env != "tabletop" or kind != "cpu" or config.executor_on(kind) != "processes":
        return nullcontext()
    return in_background(_play_ahead, config, folder.path)


def _play_ahead(config: Stage2Config, folder: Path) -> None:
    torch.set_num_threads(1)
    policy = load_policy(config.policy, steps=config.denoising_steps, head_start=config.head_start, device="cpu")
    settings = evaluation_of(config)
    with pool_of("tabletop", slots=settings.slots, workers=0) as pool:
        evaluate(fixed_variants(config, policy), held_out_scenes(settings), pool, folder / "outcomes")


def compared(config: Stage2Config, policy: WorldPolicy, gate: GatingPolicyNetwork) -> list[Variant]:
    """Return the fixed schedules, and the gate's."""
    own = Variant(name="learned", policy=policy, choose=learned(gate, policy), schedule=weights_digest(gate))
    return [*fixed_variants(config, policy), own]


def compared_in(folder: Path, config: Stage2Config) -> list[Variant]:
    """Return the same, in another process: of the gate that lies in the run's folder."""
    policy = load_policy(config.policy, steps=config.denoising_steps, head_start=config.head_start, device="cpu")
    return compared(config, policy, GatingPolicyNetwork.from_pretrained(folder / "gate"))


def compare(config: Stage2Config, folder: RunFolder, policy: WorldPolicy, gate: GatingPolicyNetwork) -> None:
    """Evaluate the gate beside fixed schedules, and leave summary, figures and videos."""
    variants, make = compared(config, policy, gate), partial(compared_in, folder.path, config)
    results, films, probed, times, _ = play(evaluation_of(config), variants, folder, identity_of(config), make=make)
    # First what cannot be had again without playing, then what is drawn from it, and last what may still go wrong.
    write_json(folder.path / "summary.json", summarise(results, baseline="shared"))
    print_table(
        results,
        baseline="shared",
        title=f"success on held-out scenes, {config.imagination.name} imagination [95% interval]",
        label=label_of,
    )
    if times:
        write_json(folder.path / "times.json", times)
    run = read_run(folder.path)
    for name in PICTURES:
        if (section := SECTIONS[name](run)) is not None:
            save(section.figure, folder.path / f"{name.replace('-', '_')}.png")
    if config.illustrate:
        illustrate(
            folder.path,
            [variants[0], variants[-1]],
            films,
            probed,
            env=config.env,
            tasks=config.tasks,
            imagination=config.imagination,
            replan_after=executed_actions(config.policy),
        )


def evaluation_of(config: Stage2Config) -> EvalConfig:
    """Return how the held-out scenes of a run are played."""
    return EvalConfig(
        policy=config.policy,
        env=config.env,
        robotwin=config.robotwin,
        seed_pools=config.seed_pools,
        tasks=config.tasks,
        scene=config.scene,
        imagination=config.imagination,
        episodes=config.eval_episodes,
        slots=config.eval_slots,
        workers=config.workers if config.env == "tabletop" else max(1, config.workers),
    )

"""An evaluation on the tabletop by several processes, each with policy and simulators of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from noisegate_apps.evaluation.tabletop import HeldOutScenes, Variant, evaluate, outcomes_in
from noisegate_apps.play.worlds import Pool, pool_of
from noisegate_apps.runs.processes import say_nothing, worker_processes
from noisegate_apps.runs.progress import progress_bar

WORTH = 200
"""Episodes below which starting the processes takes longer than they save."""

LIGHT = 200_000_000
"""Parameters above which a policy is not held in every process."""


def play_in_processes(
    make: Callable[[], Sequence[Variant]],
    variants: Sequence[Variant],
    scenes: HeldOutScenes,
    folder: Path,
    *,
    slots: int,
    processes: int,
) -> None:
    """Play what is missing of an evaluation, so that `evaluate` finds it.

    A process that plans for all simulators waits while they act, and they while it plans. Here each plans, in one
    thread, for environments of its own. Where one of them is killed, what is missing stays missing.

    Args:
        make: Makes the same variants in another process: picklable.
        variants: What is compared.
        scenes: What all are put through.
        folder: Of the outcomes.
        slots: Environments that a process plays at once.
        processes: How many.
    """
    names = {variant.name for variant in variants}
    missing = [
        (variant.name, task)
        for variant in variants
        for task in scenes.tasks
        if variant.same_as.get(task) not in names and outcomes_in(folder, variant, scenes, task) is None
    ]
    largest = max(sum(w.numel() for w in variant.policy.pipeline.model.parameters()) for variant in variants)
    if processes < 2 or len(missing) * scenes.episodes < WORTH or largest > LIGHT:
        return
    with worker_processes(min(processes, len(missing))) as pool, progress_bar() as bar:
        progress = bar.add_task("evaluation", total=len(missing) * scenes.episodes)
        runs = [pool.submit(_play, make, scenes, slots, folder, name, task) for name, task in missing]
        try:
            for run in as_completed(runs):
                live = f"evaluation: {run.result()}"
                bar.update(progress, advance=scenes.episodes, description=live)
        except BrokenProcessPool:
            Console(stderr=True).print("note: a process of the evaluation was killed; this one plays what is missing.")


class _Player(NamedTuple):
    variants: dict[str, Variant]
    pool: Pool


_players: list[_Player] = []
"""That of this process, once it has played."""


def _play(
    make: Callable[[], Sequence[Variant]], scenes: HeldOutScenes, slots: int, folder: Path, name: str, task: str
) -> str:
    """Play a variant on a task, and say what came of it."""
    if not _players:
        say_nothing()
        torch.set_num_threads(1)
        variants = {variant.name: variant for variant in make()}
        _players.append(_Player(variants, pool_of("tabletop", slots=slots, workers=0)))
    variants, pool = _players[0]
    found = evaluate([variants[name]], scenes, pool, folder, tasks=(task,))[name][task]
    return f"{name}, {task}, {sum(found)}/{len(found)} solved"

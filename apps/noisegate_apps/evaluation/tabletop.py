"""Success over held-out scenes: the same scenes and the same initial noise for every variant, resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from noisegate_apps.evaluation.chunks import Chunks
from noisegate_apps.evaluation.schedules import BY_NAME
from noisegate_apps.evaluation.statistics import (
    Mean,
    Outcomes,
    PairedDifference,
    SuccessRate,
    stratified_difference,
)
from noisegate_apps.play.episodes import ChooseSchedule, EpisodeJob, play
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.play.worlds import Pool
from noisegate_apps.policy.world import WorldPolicy
from noisegate_apps.runs.files import JsonValue, plain, read_json, write_json
from noisegate_apps.runs.progress import progress_bar
from noisegate_apps.runs.provenance import physics
from noisegate_apps.runs.seeds import seed_of
from robotwin_env import TabletopConfig
from robotwin_env.splits import EVALUATION_SEEDS
from wam_backbone import MonotoneSchedule, SharedSchedule

FIRST_HELD_OUT_SEED = EVALUATION_SEEDS.start
"""RoboTwin evaluates on seeds from here; demonstrations and Stage 2 use others."""

REPLACEMENTS = 8
"""How many simulator processes an evaluation replaces before it gives up."""

LABELS = {
    "shared-times": "Shared-t",
    **{name: row.label for name, row in BY_NAME.items()},
    "best-fixed": "best fixed",
    "best-per-task": "best per task",
}
"""The paper's names of our variants, where it has some."""


def label_of(name: str) -> str:
    """Name a variant as tables and figures do."""
    return LABELS.get(name, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of a comparison."""

    name: str
    policy: WorldPolicy
    choose: ChooseSchedule
    schedule: JsonValue = None
    """What its schedule depends on besides its name: the digest of a gate, or what a lattice chose."""
    same_as: Mapping[str, str] = field(default_factory=dict)
    """Task to the name of a variant of the same policy that plays the same schedule there: played before it, that one's
    episodes are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScenes:
    """What every variant is put through."""

    tasks: tuple[str, ...]
    episodes: int
    """Scenes per task."""
    first_seed: int = FIRST_HELD_OUT_SEED
    scene: str = "random"
    replan_after: int | None = None
    """Actions of a chunk that are played before the next plan; all where `None`."""
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    """Whether imagination is made to lie."""

    def jobs(self, task: str) -> list[EpisodeJob]:
        """Return the episodes of a task: initial noise depends on the scene alone, so that variants pair up.

        Seeds outside of the evaluation's own are scenes of training, on which a lattice may choose.
        """
        seeds = range(self.first_seed, self.first_seed + self.episodes)
        split: Literal["train", "eval"] = "eval" if self.first_seed in EVALUATION_SEEDS else "train"
        config = TabletopConfig(task=task, scene="clean" if self.scene == "clean" else "random", split=split)
        return [EpisodeJob(config=config, seed=seed, noise_seed=seed_of("evaluation", task, seed)) for seed in seeds]


def shared(_: object) -> SharedSchedule:
    """Choose the shared schedule."""
    return SharedSchedule()


def monotone(_: object) -> MonotoneSchedule:
    """Choose the hand-crafted schedule."""
    return MonotoneSchedule()


def evaluate(
    variants: Sequence[Variant],
    scenes: HeldOutScenes,
    pool: Pool,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
) -> dict[str, Outcomes]:
    """Play every variant over every task; what `folder` already holds of the same, or another has played, is not again.

    Args:
        variants: What is compared.
        scenes: What all are put through.
        pool: Where.
        folder: Of the outcomes.
        tasks: Those to play now; all unless told.

    Returns:
        Variant name to outcomes.
    """
    tasks = scenes.tasks if tasks is None else tasks
    results: dict[str, dict[str, list[bool]]] = {variant.name: {} for variant in variants}
    total = len(variants) * len(tasks) * scenes.episodes
    with progress_bar() as bar:
        progress = bar.add_task("evaluation", total=total)
        for variant in variants:
            imagination = variant.policy.unreliable(scenes.imagination, scenes.tasks)
            solved = played = 0
            for task in tasks:
                record = folder / variant.name / f"{task}.json"
                same = identity_of_outcomes(variant, scenes, task)
                held = outcomes_in(folder, variant, scenes, task)
                if held is not None:
                    outcomes = held
                    bar.update(progress, advance=len(outcomes))
                elif task in results.get(variant.same_as.get(task, ""), {}):
                    found = read_json(folder / variant.same_as[task] / f"{task}.json")
                    write_json(record, {**found, "identity": same})
                    outcomes = results[variant.same_as[task]][task]
                    bar.update(progress, advance=len(outcomes))
                else:
                    outcomes = [False] * scenes.episodes
                    seen = Chunks()
                    for place, episode in play(
                        variant.policy,
                        pool,
                        scenes.jobs(task),
                        variant.choose,
                        on_chunk=seen,
                        replan_after=scenes.replan_after,
                        imagination=imagination,
                        replacements=REPLACEMENTS,
                    ):
                        outcomes[place] = episode.success
                        solved, played = solved + episode.success, played + 1
                        live = f"evaluation: {variant.name}, {task}, {solved}/{played} solved"
                        bar.update(progress, advance=1, description=live)
                    seeds = [job.seed for job in scenes.jobs(task)]
                    write_json(record, {"identity": same, "outcomes": outcomes, **seen.of(seeds)})
                results[variant.name][task] = outcomes
    return dict(results)


def outcomes_in(folder: Path, variant: Variant, scenes: HeldOutScenes, task: str) -> list[bool] | None:
    """Return the outcomes of a variant on a task that `folder` holds, if they are of the same policy and scenes."""
    record = folder / variant.name / f"{task}.json"
    held = read_json(record) if record.exists() else {}
    same = identity_of_outcomes(variant, scenes, task)
    # A record without physics is from before they were kept; its run has them.
    if "calls" not in held or {"physics": same["physics"], **held.get("identity", {})} != same:
        return None
    return [bool(outcome) for outcome in held["outcomes"]]


def times_in(folder: Path, variant: str, tasks: Sequence[str]) -> dict[str, JsonValue]:
    """Return how the times of a variant's latents fell, by task: what `evaluate` kept of its chunks.

    Args:
        folder: Of the outcomes.
        variant: Its name.
        tasks: Which tasks.

    Returns:
        Task to `mean`, `deviation`, `low` and `high` (of the middle 80%) of every latent's time `(steps + 1, frames)`,
        and the number of `chunks`.
    """
    return {task: read_json(folder / variant / f"{task}.json")["times"] for task in tasks}


def calls_in(folder: Path, results: Mapping[str, Outcomes]) -> dict[str, list[float]]:
    """Return the network calls per chunk of every episode, by variant: what `evaluate` kept of its chunks.

    Args:
        folder: Of the outcomes.
        results: Variants and tasks, as `evaluate` returned them.
    """
    return {
        name: [calls for task in outcomes for calls in read_json(folder / name / f"{task}.json")["calls"]]
        for name, outcomes in results.items()
    }


def identity_of_outcomes(variant: Variant, scenes: HeldOutScenes, task: str) -> JsonValue:
    """Return all that the outcomes of a variant on a task depend on."""
    return plain(
        {
            "policy": variant.policy.digest,
            "clock": list(variant.policy.clock.times),
            "video_clock": list(variant.policy.video_clock.times),
            "variant": variant.name,
            "schedule": variant.schedule,
            "scenes": {**asdict(scenes), "tasks": [task]},
            "physics": physics(),
            # Of all tasks played, half are lied to.
            "lied_to": list(scenes.imagination.lied_to(scenes.tasks)),
        }
    )


def pooled(outcomes: Outcomes) -> list[bool]:
    """All scenes of all tasks."""
    return [outcome for task in outcomes.values() for outcome in task]


def rates_of(results: Mapping[str, Outcomes]) -> dict[str, dict[str, SuccessRate]]:
    """Count successes: variant to task to rate."""
    return {
        name: {task: SuccessRate.of(found) for task, found in outcomes.items()} for name, outcomes in results.items()
    }


def summarise(
    results: Mapping[str, Outcomes], *, baseline: str, calls: Mapping[str, Sequence[float]] | None = None
) -> JsonValue:
    """Return rates with intervals, and every variant's paired difference to `baseline`, as JSON values.

    Args:
        results: Variant to task to outcomes.
        baseline: With which the others are compared.
        calls: Network calls per chunk of each variant's episodes, where they are known.
    """
    summary: dict[str, JsonValue] = {"success": {}, f"difference_to_{baseline}": {}}
    for name, outcomes in results.items():
        summary["success"][name] = {
            "all": SuccessRate.of(pooled(outcomes)).record(),
            **{task: SuccessRate.of(found).record() for task, found in outcomes.items()},
        }
        if name != baseline:
            summary[f"difference_to_{baseline}"][name] = {
                "all": {
                    **PairedDifference.of(pooled(outcomes), pooled(results[baseline])).record(),
                    "stratified_interval95": list(stratified_difference([(outcomes, results[baseline])]).interval),
                },
                **{
                    task: PairedDifference.of(found, results[baseline][task]).record()
                    for task, found in outcomes.items()
                },
            }
    if calls:
        summary["calls_per_chunk"] = {name: Mean.of(found).record() for name, found in calls.items()}
    return summary


def print_table(
    results: Mapping[str, Outcomes],
    *,
    baseline: str,
    title: str,
    label: Callable[[str], str] = str,
    calls: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print success with intervals, one row a task and one column a variant, paired differences and calls below."""
    table = Table(title=title)
    table.add_column("task")
    for name in results:
        table.add_column(label(name), justify="right")
    tasks = list(results[baseline])
    for task in tasks:
        table.add_row(task, *(str(SuccessRate.of(outcomes[task])) for outcomes in results.values()))
    table.add_section()
    table.add_row("all tasks", *(str(SuccessRate.of(pooled(outcomes))) for outcomes in results.values()))
    differences = [
        "" if name == baseline else str(PairedDifference.of(pooled(outcomes), pooled(results[baseline])))
        for name, outcomes in results.items()
    ]
    if len(results) > 1:
        table.add_row(f"paired, minus {label(baseline)}", *differences)
    if calls:
        table.add_row("network calls per chunk", *(str(Mean.of(calls[name])) for name in results))
    Console(width=max(100, 30 + 36 * len(results))).print(table)


def print_rows(
    results: Mapping[str, Outcomes],
    *,
    baseline: str,
    title: str,
    label: Callable[[str], str] = str,
    calls: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print one row a variant: success over all tasks, the paired difference to `baseline`, network calls per chunk."""
    table = Table(title=title)
    for column in ("schedule", "success", f"paired, minus {label(baseline)}", "network calls per chunk"):
        table.add_column(column)
    base = pooled(results[baseline])
    for name, outcomes in results.items():
        found = pooled(outcomes)
        difference = "" if name == baseline else str(PairedDifference.of(found, base))
        table.add_row(label(name), str(SuccessRate.of(found)), difference, str(Mean.of(calls[name])) if calls else "")
    Console(width=130).print(table)

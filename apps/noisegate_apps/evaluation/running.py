"""An evaluation from its configuration to its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from rich.console import Console

from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.evaluation.lattice import SHARED, best_fixed, ceiling, grid, print_ceiling
from noisegate_apps.evaluation.robotwin import RoboTwinScenes, episode_job, outcomes_of
from noisegate_apps.evaluation.schedules import BY_NAME, LearnedRow
from noisegate_apps.evaluation.spread import play_in_processes
from noisegate_apps.evaluation.statistics import Outcomes
from noisegate_apps.evaluation.tables import evaluate_with_tables
from noisegate_apps.evaluation.tabletop import (
    HeldOutScenes,
    Variant,
    calls_in,
    evaluate,
    label_of,
    print_rows,
    print_table,
    rates_of,
    shared,
    summarise,
    times_in,
)
from noisegate_apps.evaluation.variants import variant_of
from noisegate_apps.play.episodes import EpisodeJob
from noisegate_apps.play.worlds import (
    at_policy_size,
    executed_actions,
    pool_of,
    scene_of,
    tasks_of,
)
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.report.figures import lattice_map, save, success
from noisegate_apps.report.page import announce
from noisegate_apps.report.showcase import illustrate, worth_filming
from noisegate_apps.runs.devices import one_thread
from noisegate_apps.runs.files import JsonValue, portable, read_json, write_json
from noisegate_apps.runs.folder import RunFolder, claimed
from noisegate_apps.runs.identity import identity_of
from robotwin_env.robotwin.evaluation import OfficialProtocol
from robotwin_env.robotwin50 import STEP_LIMITS


def variants_of(config: EvalConfig) -> list[Variant]:
    """Load what is compared; the first is the baseline where none is called `shared`."""
    load = partial(load_policy, steps=config.denoising_steps, head_start=config.head_start, device=config.device)
    policy = load(config.policy)
    names = grid(policy.settings.future_latents, config.paces) if config.comparison == "lattice" else config.compared
    variants = [variant_of(name, policy, gate=config.gate) for name in names]
    if config.comparison == "ablation":
        shared_times = load(config.shared_times_policy)
        variants.insert(0, Variant(name="shared-times", policy=shared_times, choose=shared))
        for row in config.missing:
            train = f"uv run apps/stage2.py {row.training} --skip-eval --out FOLDER"
            place = portable(row.folder(config.gate))
            Console(stderr=True).print(f"note: no row `{row.name}`; `{train}` trains its gate, to lie at {place}.")
    if config.lattice is not None:
        variants += best_fixed(policy, config.lattice)
    return variants


def run(config: EvalConfig) -> None:
    """Evaluate, print a table, and write `summary.json`."""
    tasks = tasks_of(config.env, config.tasks, config.policy)
    config = replace(config, tasks=tasks, scene=scene_of(config.scene, config.policy))
    variants = variants_of(config)
    known = () if config.env == "robotwin" else tuple(variants[0].policy.transitions)
    config = replace(config, imagination=config.imagination.resolved(tasks, known))
    # Pools spare the expert alone; what it made of the seeds is in the records.
    same = identity_of(config, digests_of(config, variants), without=("seed_pools",))
    on_tabletop = config.env == "tabletop"
    with claimed(config.out / config.name, "eval", config, same, config.folder, on_tabletop=on_tabletop) as folder:
        measure(config, variants, folder)
        announce(folder.path)


def digests_of(config: EvalConfig, variants: Sequence[Variant]) -> dict[str, JsonValue]:
    """Return what an evaluation reads, by the option that names it: digests, or what was chosen by a lattice."""
    policies = {variant.name: variant.policy.digest for variant in variants}
    shared_times = policies.pop("shared-times", None)
    gates = {one.name: one.schedule for one in variants if isinstance(BY_NAME.get(one.name), LearnedRow)}
    return {
        "policy": next(iter(policies.values())),
        "shared_times_policy": shared_times,
        "gate": gates.get("learned") if gates.keys() <= {"learned"} else gates,
        "lattice": None if config.lattice is None else read_json(config.lattice),
    }


class Played(NamedTuple):
    """What came of held-out scenes, and which of them are worth showing."""

    results: dict[str, Outcomes]
    """Variant to task to outcomes."""
    films: dict[str, EpisodeJob]
    """Of each of two tasks an episode to film: one that the last method solves and the baseline does not, if any."""
    probed: list[EpisodeJob]
    """Episodes of which attention is recorded."""
    times: dict[str, JsonValue]
    """Task to how the latents' times fell under the last method, where that is known."""
    calls: dict[str, list[float]]
    """Variant to the network calls per chunk of its episodes, where they are known."""


def ends_of(variants: Sequence[Variant]) -> tuple[Variant, Variant]:
    """Return the baseline, and the method of most interest: the last one, or NoiseGate where it was played."""
    by_name = {variant.name: variant for variant in variants}
    return by_name.get("shared", variants[0]), by_name.get("learned", variants[-1])


def held_out_scenes(config: EvalConfig) -> HeldOutScenes:
    """Return the tabletop's scenes of an evaluation."""
    return HeldOutScenes(
        tasks=config.tasks,
        episodes=config.episodes,
        first_seed=config.first_seed,
        scene=scene_of(config.scene, config.policy),
        replan_after=config.replan_after or executed_actions(config.policy),
        imagination=config.imagination,
    )


def play(
    config: EvalConfig,
    variants: Sequence[Variant],
    folder: RunFolder,
    settings: JsonValue,
    *,
    make: Callable[[], Sequence[Variant]],
) -> Played:
    """Play held-out scenes, resumable; on RoboTwin its official evaluation, whose tables are kept up to date.

    Args:
        config: Which scenes.
        variants: Policies with their schedules.
        folder: Of the run.
        settings: What the results are obtained with, for the record.
        make: Makes the variants again in another process: picklable.
    """
    baseline, last = (variant.name for variant in ends_of(variants))
    if config.env == "robotwin":
        scenes = RoboTwinScenes(
            config=replace(at_policy_size(config.robotwin, config.policy), split="eval"),
            protocol=OfficialProtocol(
                seed=config.first_seed // 100_000 - 1,
                episodes=config.episodes,
                expert_check=config.expert_check,
                undecided=config.undecided,
            ),
            simulators=config.workers,
            seed_pools=config.seed_pools,
            replan_after=config.replan_after or executed_actions(config.policy),
        )
        tasks = tuple(sorted(STEP_LIMITS)) if config.comparison == "robotwin50" else config.tasks
        measured = evaluate_with_tables(variants, tasks, scenes, folder.path, settings)
        results = outcomes_of(measured)
        films = {
            task: episode_job(replace(scenes.config, task=task), measured[last][task].result.episodes[place].seed)
            for task, place in worth_filming(results, last, baseline).items()
        }
        times = {task: one.chunks["times"] for task, one in measured[last].items() if one.chunks}
        calls = {
            name: [calls for one in found.values() for calls in one.chunks.get("calls", ())]
            for name, found in measured.items()
        }
        return Played(results, films, list(films.values()), times, calls if all(calls.values()) else {})
    held_out = held_out_scenes(config)
    records = folder.path / "outcomes"
    on_cpu = variants[0].policy.device.type == "cpu"
    if on_cpu:
        play_in_processes(make, variants, held_out, records, slots=config.slots, processes=config.workers)
    with (
        one_thread() if on_cpu else nullcontext(),
        pool_of("tabletop", slots=config.slots, workers=config.workers) as pool,
    ):
        results = evaluate(variants, held_out, pool, records)
    chosen = worth_filming(results, last, baseline)
    films = {task: held_out.jobs(task)[place] for task, place in chosen.items()}
    probed = [held_out.jobs(task)[0] for task in config.tasks]
    return Played(results, films, probed, times_in(records, last, config.tasks), calls_in(records, results))


def measure(config: EvalConfig, variants: list[Variant], folder: RunFolder) -> None:
    """Evaluate in a claimed folder."""
    make = partial(variants_of, config)
    results, films, probed, _, calls = play(config, variants, folder, identity_of(config), make=make)
    if config.comparison == "lattice":
        found = ceiling(results, "+".join([SHARED] * variants[0].policy.settings.future_latents))
        summary = summarise(results, baseline=found.shared)
        write_json(folder.path / "lattice.json", {"ceiling": found.record(), **summary})
        if variants[0].policy.settings.future_latents == 2:  # a map has two axes
            save(lattice_map(results, found), folder.path / "lattice.png")
        print_ceiling(results, found)
        return
    ends = {variant.name: variant for variant in ends_of(variants)}
    baseline = next(iter(ends))
    write_json(folder.path / "summary.json", summarise(results, baseline=baseline, calls=calls))
    if len(config.tasks) <= 24 and config.comparison != "robotwin50":
        save(success(rates_of(results)), folder.path / "success.png")
    title = f"success on held-out scenes, {config.imagination.name} imagination [95% interval]"
    show = print_rows if config.comparison == "ablation" else print_table
    show(results, baseline=baseline, title=title, label=label_of, calls=calls)
    if config.illustrate:
        illustrate(
            folder.path,
            list(ends.values()),
            films,
            probed,
            env=config.env,
            tasks=config.tasks,
            imagination=config.imagination,
            replan_after=config.replan_after or executed_actions(config.policy),
        )

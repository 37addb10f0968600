"""What methods are worth: success, paired differences, fixed schedules, several training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from noisegate_apps.evaluation.lattice import Ceiling
from noisegate_apps.evaluation.statistics import (
    PairedDifference,
    SuccessRate,
    interquartile_mean,
    stratified_difference,
)
from noisegate_apps.evaluation.tabletop import LABELS, label_of, pooled, rates_of
from noisegate_apps.report import figures
from noisegate_apps.report.records import RunRecord, training_seeds_of
from noisegate_apps.report.section import Section, Table, estimated_percent, in_percent, in_points

MOST_METHODS = len(LABELS)
"""Methods that one figure can tell apart: all that have a label and a colour; a lattice has its own."""


def success(run: RunRecord) -> Section | None:
    """Success by task and method: the paper's table 2 or 4."""
    if not run.outcomes or len(run.outcomes) > MOST_METHODS:
        return None
    rates = rates_of(run.outcomes)
    whole = {name: SuccessRate.of(pooled(found)) for name, found in run.outcomes.items()}
    tasks = list(next(iter(rates.values())))
    rows = [[task, *(in_percent(rates[name][task]) for name in rates)] for task in tasks]
    rows.append(["all", *(in_percent(whole[name]) for name in rates)])
    rows.append(["episodes (n)", *(str(whole[name].episodes) for name in rates)])
    said = ", ".join(f"{label_of(name)} {100 * rate.rate:.0f}%" for name, rate in whole.items())
    return Section(
        title="Success (tables 2 and 4)",
        alt=f"Success by task and method. Over all tasks: {said}.",
        caption="Share of solved scenes in percent with its 95% Wilson interval; every method has played the same "
        "scenes from the same initial noise.",
        figure=figures.success(rates),
        table=Table(header=["task", *map(label_of, rates)], rows=rows),
    )


def differences(run: RunRecord) -> Section | None:
    """Paired differences to the first method, by task and on average."""
    names = list(run.outcomes)
    if len(names) < 2 or len(names) > MOST_METHODS:
        return None
    baseline = "shared" if "shared" in names else names[0]
    others = [name for name in names if name != baseline and run.scenes.get(name) == run.scenes.get(baseline)]
    if not others:
        return None
    base = run.outcomes[baseline]
    found = {
        name: {task: PairedDifference.of(outcomes, base[task]) for task, outcomes in run.outcomes[name].items()}
        for name in others
    }
    means = {name: stratified_difference([(run.outcomes[name], base)]) for name in others}
    rows = [
        [
            label_of(name),
            task,
            in_points(one.difference, one.interval),
            f"{one.gained} / {one.lost}",
            f"{one.p_value:.3g}",
        ]
        for name in others
        for task, one in found[name].items()
    ]
    rows += [
        [label_of(name), "mean over tasks", in_points(one.value, one.interval), "", ""] for name, one in means.items()
    ]
    said = ", ".join(f"{label_of(name)} {100 * one.value:+.1f} points" for name, one in means.items())
    return Section(
        title="Paired differences",
        alt=f"Differences to {label_of(baseline)} by task. Mean over tasks: {said}.",
        caption="Points of success on the same scenes and noise. By task: Agresti and Min's interval and the exact "
        "two-sided McNemar test; the mean over tasks: bootstrap stratified by task.",
        figure=figures.differences(found, means, baseline=baseline),
        table=Table(header=["method", "task", "difference [95%]", "gained / lost", "McNemar p"], rows=rows),
    )


def lattice(run: RunRecord) -> Section | None:
    """The map of fixed schedules: what the best of them reaches."""
    if not run.lattice or any(name.count("+") != 1 for name in run.outcomes) or not run.outcomes:
        return None
    record = run.lattice["ceiling"]
    parts = {name: _paired(record[name]) for name in ("one_for_all", "one_per_task", "oracle")}
    flipped = SuccessRate(successes=record["flipped"]["successes"], episodes=record["flipped"]["episodes"])
    found = Ceiling(
        shared=record["shared"], best=record["best"], best_by_task=record["best_by_task"], flipped=flipped, **parts
    )
    rows = [
        ["best of all, chosen on other scenes", str(found.one_for_all)],
        ["best per task, chosen on other scenes", str(found.one_per_task)],
        ["oracle per scene", str(found.oracle)],
        ["scenes that some schedule flips", str(flipped)],
        *([f"best for {task}", name] for task, name in found.best_by_task.items()),
    ]
    return Section(
        title="The ceiling: fixed schedules",
        alt=f"Success of every fixed schedule. The best over all tasks is {found.best}.",
        caption="What each latent does: stay noise (blind), stop half-way (hold), fall slowly (lag), with the clock "
        "(shared) or ahead of it (lead). Differences are to the shared schedule.",
        figure=figures.lattice_map(run.outcomes, found),
        table=Table(header=["", "value"], rows=rows),
    )


def seeds(runs: Sequence[RunRecord]) -> list[Section]:
    """Several training seeds of the same run: interquartile means and the difference over tasks and seeds."""
    return [one for group in training_seeds_of(runs) if (one := _seeds(group)) is not None]


def _seeds(group: Sequence[RunRecord]) -> Section | None:
    names = [name for name in group[0].outcomes if all(name in run.outcomes for run in group)]
    if len(names) < 2:  # there is nothing to subtract
        return None
    baseline = "shared" if "shared" in names else names[0]
    tasks = list(group[0].outcomes[baseline])
    rows, means, found = [], {}, {}
    for name in names:
        scores = np.array([[np.mean(run.outcomes[name][task]) for task in tasks] for run in group])
        middle = interquartile_mean(scores)
        if name == baseline:
            rows.append([label_of(name), str(len(group)), estimated_percent(middle), ""])
            continue
        means[name] = stratified_difference([(run.outcomes[name], run.outcomes[baseline]) for run in group])
        found[name] = {
            task: PairedDifference.of(
                [one for run in group for one in run.outcomes[name][task]],
                [one for run in group for one in run.outcomes[baseline][task]],
            )
            for task in tasks
        }
        rows.append(
            [
                label_of(name),
                str(len(group)),
                estimated_percent(middle),
                in_points(means[name].value, means[name].interval),
            ]
        )
    said = ", ".join(f"{row[0]} {row[2]}" for row in rows)
    return Section(
        title=f"{len(group)} training seeds",
        alt=f"Interquartile mean of success over seeds and tasks: {said}.",
        caption="Interquartile mean over training seeds and tasks, and the mean paired difference; both with the 95% "
        "bootstrap interval stratified by task, training seeds and scenes drawn anew.",
        figure=figures.differences(found, means, baseline=baseline),
        table=Table(header=["method", "seeds", "IQM of success", f"minus {label_of(baseline)}"], rows=rows),
    )


def demonstrations(run: RunRecord) -> Section | None:
    """What was collected, by task."""
    if not run.demonstrations:
        return None
    rates = {
        task: SuccessRate(successes=one.recorded, episodes=one.recorded + one.failed)
        for task, one in run.demonstrations.items()
    }
    rows = [
        [task, str(one.successes), str(one.episodes - one.successes), in_percent(one)] for task, one in rates.items()
    ]
    total = sum(one.successes for one in rates.values())
    rows.append(["all", str(total), str(sum(one.episodes for one in rates.values()) - total), ""])
    return Section(
        title="Demonstrations",
        alt=f"{total} demonstrations of {len(rates)} tasks: share of scenes that the expert solved.",
        caption="Share of scenes that the scripted expert solved, with its 95% Wilson interval; others give no file.",
        figure=figures.success({"expert": rates}),
        table=Table(header=["task", "recorded", "unsolved", "expert (%)"], rows=rows),
    )


def _paired(record: Mapping[str, int]) -> PairedDifference:
    return PairedDifference(gained=record["gained"], lost=record["lost"], episodes=record["episodes"])

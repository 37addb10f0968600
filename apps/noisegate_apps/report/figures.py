"""The paper's figures and ours, as matplotlib figures: drawn from plain data, without a display.

Ink is black and backgrounds are clear, so that a page can show them on light and on dark ground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noisegate_apps.evaluation.lattice import Ceiling
from noisegate_apps.evaluation.statistics import Estimate, PairedDifference, SuccessRate
from noisegate_apps.evaluation.tabletop import label_of

Series = Float[np.ndarray, " points"]
Path2 = Float[np.ndarray, "steps_plus_one frames"]

SCHEDULE_COLORS = {
    "shared-times": "#b5547a",
    "shared": "#8a8a8a",
    "monotone": "#d98c21",
    "blind": "#8c62b0",
    "learned": "#2a7fd4",
    "imagine-first": "#4a9d5b",
    "together": "#a0793d",
    "fewer-steps": "#5bb5b0",
    "ddim": "#c26dbc",
    "edm": "#6f7f2e",
    "global": "#1f4e79",
    "stop": "#d1495b",
    "priced": "#7fb2e5",
    "best-fixed": "#2f6b3c",
    "best-per-task": "#c9ae1d",
}
"""Of every schedule with a label."""
FRAME_COLORS = ("#2a7fd4", "#d1495b", "#4a9d5b", "#8c62b0")
OTHER_COLORS = ("#444444", "#e07b91", "#00818a", "#9c6b00")


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's name says, on white ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def color_of(schedule: str, place: int) -> str:
    """Return a schedule's colour, the same in all figures if it has a label.

    Args:
        schedule: Its name.
        place: Among those drawn, for a point of the lattice.
    """
    return SCHEDULE_COLORS.get(schedule) or OTHER_COLORS[place % len(OTHER_COLORS)]


def _curve(axes: Axes, steps: Sequence[float], values: Sequence[float], *, label: str, window: int) -> None:
    """Draw a series faintly and its trailing mean over `window` points boldly."""
    (line,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    axes.plot(steps, (sums[ends] - sums[starts]) / (ends - starts), color=line.get_color(), label=label)


def curves(
    history: Sequence[Mapping[str, float]], panels: Mapping[str, Sequence[str]], *, window: int, x: str
) -> Figure:
    """Draw one panel per title, each with the named series of `history` over its `step`.

    Args:
        history: Metrics lines; a series may be missing from some of them.
        panels: Title to the names of the series drawn in it.
        window: Number of points in the trailing mean.
        x: Label of the horizontal axis.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows))
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name in names:
            points = [(line["step"], line[name]) for line in history if line.get(name) is not None]
            if points:
                steps, values = zip(*points, strict=True)
                _curve(axes, steps, values, label=name.replace("_", " "), window=window)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def learning_curve(history: Sequence[Mapping[str, float]], *, window: int = 5) -> Figure:
    """Draw Stage 2's training: success, share of mixed groups, entropy, scales and residual times of the latents.

    Args:
        history: Metrics lines of the updates.
        window: Number of points in the trailing mean.
    """
    lines = [{**line, "mixed groups": mixed_share(line)} for line in history]
    names = sorted({name for line in history for name in line})
    return curves(
        lines,
        {
            "success in training": ["reward_mean"],
            "share of mixed groups": ["mixed groups"],
            "entropy per decision (nats)": ["entropy"],
            "mean relative scale": [name for name in names if name.startswith("scale_")],
            "time after the last step": [name for name in names if name.startswith("residual_time_")],
            "KL of an update (nats)": ["approx_kl"],
        },
        window=window,
        x="update",
    )


def mixed_share(line: Mapping[str, float]) -> float:
    """Share of the groups played in an epoch that held both success and failure: the rest teaches nothing."""
    groups = line.get("groups", 0)
    return line.get("mixed_groups", 0) / groups * line.get("acceptance", 1.0) if groups else 0.0


def time_trajectories(
    paths: Mapping[str, Path2],
    action_times: Sequence[float],
    bands: Mapping[str, tuple[Path2, Path2]] | None = None,
    *,
    shared_times: Sequence[float] | None = None,
) -> Figure:
    """Draw the time of every predicted latent by denoising step, one panel a task (NoiseGate, figure 4 right).

    Args:
        paths: Task to the mean over chunks.
        action_times: The fixed clock of the actions.
        bands: Task to lower and upper end of an interval over chunks, where known.
        shared_times: Of the shared schedule, where it does not follow the actions' clock.
    """
    columns = min(4, len(paths))
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.4 * rows))
    for index, (title, times) in enumerate(paths.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(action_times, color="black", linestyle=":", label="actions (fixed clock)")
        if shared_times is not None and list(shared_times) != list(action_times):
            axes.plot(shared_times, color="grey", linestyle="--", linewidth=1, label="shared schedule")
        for frame in range(times.shape[1]):
            color = FRAME_COLORS[frame % len(FRAME_COLORS)]
            if bands is not None and title in bands:
                low, high = bands[title]
                axes.fill_between(range(len(times)), low[:, frame], high[:, frame], color=color, alpha=0.2, linewidth=0)
            axes.plot(times[:, frame], color=color, marker=".", label=f"latent {frame + 1}")
        axes.set_title(title, fontsize=9)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    figure.supxlabel("denoising step", fontsize=9)
    figure.supylabel("time (1 = noise, 0 = clean)", fontsize=9)
    figure.tight_layout()
    marks = figure.axes[0].get_legend_handles_labels()
    figure.legend(*marks, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return figure


def residual_times(
    residuals: Mapping[str, tuple[Sequence[float], Sequence[float]]], rates: Mapping[str, SuccessRate]
) -> Figure:
    """Draw the noise left in each latent after the last step, mean and deviation by task (NoiseGate, figure 7).

    Bars end at 0 and 1, beyond which there is no time.

    Args:
        residuals: Task to the mean and the deviation of each latent's last time over all chunks.
        rates: Task to success, by which the tasks are sorted, the best on top.
    """
    tasks = sorted(residuals, key=lambda task: rates[task].rate if task in rates else 0.0)
    latents = len(residuals[tasks[0]][0])
    figure = Figure(figsize=(6.4, 1.3 + 0.42 * len(tasks)))
    axes = figure.add_subplot()
    for latent in range(latents):
        places = np.arange(len(tasks)) - (latent - (latents - 1) / 2) * 0.25
        mean, deviation = (np.array([residuals[task][which][latent] for task in tasks]) for which in (0, 1))
        axes.errorbar(
            mean,
            places,
            xerr=np.minimum(deviation, [mean, 1.0 - mean]).clip(min=0.0),
            fmt="o",
            color=FRAME_COLORS[latent % len(FRAME_COLORS)],
            capsize=2,
            label=f"latent {latent + 1}",
        )
    named = [f"{task} ({100 * rates[task].rate:.0f}%)" if task in rates else task for task in tasks]
    axes.set_yticks(np.arange(len(tasks)), named, fontsize=8)
    axes.set_xlabel("time after the last step (1 = noise, 0 = clean)")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.6, len(tasks) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def success(rates: Mapping[str, Mapping[str, SuccessRate]]) -> Figure:
    """Draw success with 95% Wilson intervals: one row of marks a task, one colour a schedule.

    Args:
        rates: Schedule to task to rate.
    """
    schedules = list(rates)
    tasks = list(rates[schedules[0]])[::-1]
    figure = Figure(figsize=(6.4, 1.4 + (0.18 + 0.1 * len(schedules)) * len(tasks)))
    axes = figure.add_subplot()
    for index, schedule in enumerate(schedules):
        found = [rates[schedule][task] for task in tasks]
        places = np.arange(len(tasks)) - (index - (len(schedules) - 1) / 2) * 0.7 / len(schedules)
        heights = [100 * rate.rate for rate in found]
        below = [max(0.0, 100 * (rate.rate - rate.interval[0])) for rate in found]
        above = [max(0.0, 100 * (rate.interval[1] - rate.rate)) for rate in found]
        axes.errorbar(
            heights,
            places,
            xerr=[below, above],
            fmt="o",
            markersize=4,
            linewidth=1.2,
            color=color_of(schedule, index),
            label=label_of(schedule),
        )
    axes.set_yticks(np.arange(len(tasks)), tasks, fontsize=8)
    axes.set_xlabel("success (%), 95% Wilson interval")
    axes.set_xlim(-2, 102)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    figure.tight_layout()
    return figure


def differences(
    found: Mapping[str, Mapping[str, PairedDifference]], means: Mapping[str, Estimate], *, baseline: str
) -> Figure:
    """Draw paired differences to a baseline with 95% intervals, by task, and their mean over tasks.

    Args:
        found: Schedule to task to difference.
        means: Schedule to mean over tasks.
        baseline: Name of what is subtracted.
    """
    schedules = list(found)
    tasks = list(found[schedules[0]])
    names = ["mean over tasks", *tasks[::-1]]
    figure = Figure(figsize=(6.4, 1.4 + (0.18 + 0.1 * len(schedules)) * len(names)))
    axes = figure.add_subplot()
    axes.axvline(0, color="black", linewidth=0.8)
    for index, schedule in enumerate(schedules):
        rows = [(means[schedule].value, means[schedule].interval)]
        rows += [(found[schedule][task].difference, found[schedule][task].interval) for task in tasks[::-1]]
        places = np.arange(len(names)) - (index - (len(schedules) - 1) / 2) * 0.7 / len(schedules)
        color = color_of(schedule, index)
        for place, (_, (low, high)) in zip(places, rows, strict=True):
            axes.plot([100 * low, 100 * high], [place, place], color=color, linewidth=1.2)
        values = [100 * value for value, _ in rows]
        axes.plot(values, places, "o", markersize=4, color=color, label=label_of(schedule))
    axes.axhline(0.5, color="black", linewidth=0.4, linestyle=":")
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_xlabel(f"points minus {label_of(baseline)}, paired, 95% interval")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    figure.tight_layout()
    return figure


def lattice_map(results: Mapping[str, Mapping[str, Sequence[bool]]], found: Ceiling) -> Figure:
    """Draw the success of every fixed schedule, near latent down and far latent across, for all tasks and for each.

    Args:
        results: Schedule `near+far` to task to outcomes.
        found: What was read off it; the best schedule of each panel is in bold.
    """
    tasks = list(results[found.shared])
    paces = list(dict.fromkeys(name.split("+")[0] for name in results))
    panels = {"all tasks": (tasks, found.best), **{task: ([task], found.best_by_task[task]) for task in tasks}}
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows))
    for place, (title, (shown, best)) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        rates = np.array(
            [
                [100 * np.mean([x for task in shown for x in results[f"{near}+{far}"][task]]) for far in paces]
                for near in paces
            ]
        )
        axes.imshow(rates, cmap="viridis")
        middle = (rates.min() + rates.max()) / 2
        for near, far in np.ndindex(rates.shape):
            framed = f"{paces[near]}+{paces[far]}" == best
            color = "#fefefe" if rates[near, far] <= middle else "#101010"
            weight = "bold" if framed else "normal"
            axes.text(far, near, f"{rates[near, far]:.0f}", ha="center", va="center", color=color, fontweight=weight)
        axes.set_xticks(range(len(paces)), paces, fontsize=6, rotation=45)
        axes.set_yticks(range(len(paces)), paces, fontsize=6)
        axes.set_title(title, fontsize=8)
    figure.supxlabel("far latent")
    figure.supylabel("near latent")
    figure.tight_layout()
    return figure

"""How a gate works and what it costs: times, attention, films, training, latency."""

from __future__ import annotations

from collections.abc import Mapping

import imageio.v3 as imageio
import numpy as np
from matplotlib.figure import Figure

from noisegate_apps.evaluation.tabletop import label_of, rates_of
from noisegate_apps.report import figures, mechanism
from noisegate_apps.report.comparisons import MOST_METHODS
from noisegate_apps.report.records import RunRecord, in_order
from noisegate_apps.report.section import Section, Table
from noisegate_apps.report.showcase import RANDOM_SPEEDS
from noisegate_apps.runs.files import JsonValue


def attention(run: RunRecord) -> Section | None:
    """What the actions look at, by the latent's time: figure 4 left."""
    found = {label_of(name): one for name, one in run.attention.items()}
    if not found:
        return None
    rows = [
        [name, f"latent {frame + 1}", f"{centre:.2f}", f"{100 * mass:.2f}", f"{count:.0f}"]
        for name, one in found.items()
        for frame, masses in enumerate(one.overall)
        for centre, mass, count in zip(one.centres, masses, one.counts[frame], strict=True)
        if count
    ]
    clean, noisy = _ends(run)
    return Section(
        title="Attention against noise (figure 4, left)",
        alt=f"Mean attention of the action tokens to a latent, by that latent's time: {clean:.1f}% at the cleanest "
        f"times recorded, {noisy:.1f}% at the noisiest.",
        caption=f"Mean over layers, heads and action tokens; {RANDOM_SPEEDS}: every latent falls at a speed of its "
        "own, drawn anew for each chunk, so that time and denoising step are not confounded. Recorded on a held-out "
        f"scene of each of {len(run.illustrations['probed'])} tasks.",
        figure=mechanism.attention_by_time(found),
        table=Table(header=["schedule", "latent", "time", "attention (%)", "rows"], rows=rows),
    )


def attention_layers(run: RunRecord) -> Section | None:
    """The same by layer: figure 6."""
    if RANDOM_SPEEDS not in run.attention:
        return None
    found = run.attention[RANDOM_SPEEDS]
    rows = [
        [name, f"latent {frame + 1}", f"{centre:.2f}", f"{100 * mass:.2f}"]
        for name, masses in found.by_third.items()
        for frame, one in enumerate(masses)
        for centre, mass in zip(found.centres, one, strict=True)
        if not np.isnan(mass)
    ]
    return Section(
        title="Attention by layer and latent (figure 6)",
        alt=f"Attention of the actions against the latents' time, for {', '.join(found.by_third)} layers.",
        caption=f"As above under {RANDOM_SPEEDS}, in groups of the model's {found.mass.shape[2]} layers.",
        figure=mechanism.attention_by_layer(found),
        table=Table(header=["layers", "latent", "time", "attention (%)"], rows=rows),
    )


def time_trajectories(run: RunRecord) -> Section | None:
    """How the latents' times fall: figure 4 right."""
    name, times = _gated(run)
    if not times:
        return None
    paths = {task: np.asarray(found["mean"]) for task, found in times.items()}
    bands = {
        task: (np.asarray(found["low"]), np.asarray(found["high"])) for task, found in times.items() if "low" in found
    }
    latents = next(iter(paths.values())).shape[1]
    rows = [
        [task, f"latent {latent + 1}", *(f"{time:.2f}" for time in paths[task][:, latent])]
        for task in paths
        for latent in range(latents)
    ]
    steps = len(next(iter(paths.values())))
    return Section(
        title=f"Time trajectories under {label_of(name)} (figure 4, right)",
        alt=f"Mean time of each latent by denoising step under {label_of(name)}, one panel for each task.",
        caption="Mean over all chunks of the evaluation; the band holds the middle 80% of the chunks. Dotted: the "
        "actions' clock; the shared schedule follows it, or is dashed where the actions wait for imagination.",
        figure=figures.time_trajectories(paths, run.clock, bands, shared_times=run.video_clock),
        table=Table(header=["task", "latent", *map(str, range(steps))], rows=rows),
    )


def residual_times(run: RunRecord) -> Section | None:
    """Noise that is left after the last step: figure 7."""
    name, times = _gated(run)
    found = {task: (one["mean"][-1], one["deviation"][-1]) for task, one in times.items() if "deviation" in one}
    if not found:
        return None
    rates = rates_of({name: run.outcomes[name]})[name] if name in run.outcomes else {}
    rows = [
        [
            task,
            f"{100 * rates[task].rate:.0f}" if task in rates else "",
            *(f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in zip(*found[task], strict=True)),
            str(times[task]["chunks"]),
        ]
        for task in sorted(found, key=lambda task: -rates[task].rate if task in rates else 0.0)
    ]
    latents = len(next(iter(found.values()))[0])
    return Section(
        title=f"Residual noise under {label_of(name)} (figure 7)",
        alt=f"Time of each latent after the last step, mean and deviation, for {len(found)} tasks sorted by success.",
        caption="Mean and standard deviation over all chunks of the evaluation; tasks by success, the best on top. The "
        "shared schedule would end at 0.",
        figure=figures.residual_times(found, rates),
        table=Table(
            header=["task", "success (%)", *(f"latent {index + 1}" for index in range(latents)), "chunks"], rows=rows
        ),
    )


def side_by_side(run: RunRecord) -> Section | None:
    """Methods on the same scene and noise: figure 5; the page has the films themselves."""
    films = {task: in_order(one) for task, one in run.illustrations.get("films", {}).items()}
    strips = {task: run.folder / "videos" / f"{task}.png" for task in run.films if task in films}
    strips = {task: path for task, path in strips.items() if path.exists()}
    if not strips:
        return None
    pictures = {task: imageio.imread(path) for task, path in strips.items()}
    height = sum(6.4 * picture.shape[0] / picture.shape[1] + 0.3 for picture in pictures.values())
    figure = Figure(figsize=(6.4, height))
    for place, (task, picture) in enumerate(pictures.items(), start=1):
        axes = figure.add_subplot(len(pictures), 1, place)
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(task, fontsize=9)
    figure.tight_layout()
    rows = [
        [
            task,
            str(one["seed"]),
            label_of(name),
            "solved" if one["success"] else "failed",
            " / ".join(f"{time:.2f}" for time in np.asarray(one["times"])[:, -1].mean(axis=0)),
        ]
        for task, methods in films.items()
        for name, one in methods.items()
    ]
    said = "; ".join(f"{task}, {method}: {outcome}" for task, _, method, outcome, _ in rows)
    return Section(
        title="Side by side (figure 5)",
        alt=f"Executed frames over imagined ones over the gates, one scene and noise per film. {said}.",
        caption="Top: what the cameras saw (head over wrists). Middle: what the model imagined for the same moments. "
        "Bottom: how each latent's time falls over the denoising steps of the chunk that is being played.",
        figure=figure,
        table=Table(header=["task", "scene", "method", "outcome", "mean time at the end, by latent"], rows=rows),
    )


def learning_curve(run: RunRecord) -> Section | None:
    """What was measured in training."""
    if not run.history:
        return None
    if run.app == "stage2":
        drawn, panels = figures.learning_curve(run.history), ["reward_mean", "entropy", "approx_kl", "learning_rate"]
        lines = [{**line, "mixed groups": figures.mixed_share(line)} for line in run.history]
        panels.insert(1, "mixed groups")
    else:
        panels = [name for name in run.history[-1] if name != "step"][:6]
        lines = [dict(line) for line in run.history]
        drawn = figures.curves(lines, {name: [name] for name in panels}, window=25, x="step")
    chosen = [lines[place] for place in np.unique(np.linspace(0, len(lines) - 1, min(len(lines), 12)).astype(int))]
    rows = [
        [f"{line['step']:.0f}", *("" if line.get(name) is None else f"{line[name]:.4g}" for name in panels)]
        for line in chosen
    ]
    first, last = lines[0], lines[-1]
    said = ", ".join(
        f"{name.replace('_', ' ')} from {first[name]:.3g} to {last[name]:.3g}"
        for name in panels
        if first.get(name) is not None and last.get(name) is not None
    )
    return Section(
        title="Learning curve",
        alt=f"Training over {len(lines)} updates: {said}.",
        caption="Faint: each update; bold: trailing mean. A group of equal rewards is not mixed and teaches nothing.",
        figure=drawn,
        table=Table(header=["update", *(name.replace("_", " ") for name in panels)], rows=rows),
    )


def latency(run: RunRecord) -> Section | None:
    """What a chunk costs."""
    found = in_order(run.illustrations.get("latency", {}))
    if not found:
        return None
    rows = [
        [
            label_of(method),
            stage,
            *(f"{np.quantile(spent, share):.1f}" for share in (0.5, 0.95)),
            str(len(spent)),
        ]
        for method, stages in found.items()
        for stage, spent in stages.items()
    ]
    machine = run.config.get("machine") or {}
    where = ", ".join(machine.get("gpus") or []) or machine.get("processor") or "an unknown processor"
    slowest = max((row for row in rows), key=lambda row: float(row[2]))
    return Section(
        title="Latency by stage",
        alt=f"Milliseconds per chunk by stage. The most expensive is {slowest[1]} under {slowest[0]}: {slowest[2]} ms.",
        caption=f"One episode at a time on {where}, while the films were made; whatever else ran there slowed it down.",
        figure=mechanism.latency(found),
        table=Table(header=["method", "stage", "p50 (ms)", "p95 (ms)", "chunks"], rows=rows),
    )


def _gated(run: RunRecord) -> tuple[str, Mapping[str, JsonValue]]:
    """The method whose times are shown: the learned one, or the last that was played."""
    names = [name for name in run.outcomes if name in run.times] or list(run.times)
    if not names or len(run.outcomes) > MOST_METHODS:
        return "", {}
    name = "learned" if "learned" in names else names[-1]
    return name, run.times[name]


def _ends(run: RunRecord) -> tuple[float, float]:
    found = run.attention.get(RANDOM_SPEEDS) or next(iter(run.attention.values()))
    with np.errstate(invalid="ignore"):
        weighted = np.nansum(found.overall * found.counts, axis=0) / found.counts.sum(axis=0)
    seen = 100 * weighted[~np.isnan(weighted)]
    return float(seen[0]), float(seen[-1])

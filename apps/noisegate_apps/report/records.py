"""What a run has left in its folder, read back for its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noisegate_apps.evaluation.statistics import Outcomes
from noisegate_apps.evaluation.tabletop import LABELS
from noisegate_apps.report.mechanism import Attention
from noisegate_apps.report.showcase import ILLUSTRATIONS
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import JsonValue, read_json
from noisegate_apps.runs.folder import CONFIG, RunFolder

LAST = ("blind", "imagine-first", "best-fixed", "best-per-task", "learned")
"""Methods that stand at the end of a table, NoiseGate last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """Scenes or episodes that do not count, and why."""

    where: str
    reason: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """What was collected of one task."""

    recorded: int
    failed: int
    """Scenes that the expert did not solve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run, as its folder tells it."""

    folder: Path
    config: JsonValue
    """App, configuration, identity, command, commit, versions and machine."""
    history: Sequence[Mapping[str, float]]
    """Lines of its metrics."""
    outcomes: Mapping[str, Outcomes]
    """Method to outcomes."""
    scenes: Mapping[str, Mapping[str, Sequence[int]]]
    """Method to task to scene seeds, where methods may have played different ones."""
    times: Mapping[str, Mapping[str, JsonValue]]
    """Method to task to how the latents' times fell."""
    illustrations: JsonValue
    """What was recorded of a few episodes; empty where nothing was."""
    lattice: JsonValue
    """What a lattice of fixed schedules says; empty for other runs."""
    demonstrations: Mapping[str, Demonstrations]
    """Task to what was collected."""
    discarded: Sequence[Discarded]

    @property
    def app(self) -> str:
        """Whose run it is."""
        return str(self.config["app"])

    @property
    def name(self) -> str:
        """Its folder, short."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def clock(self) -> list[float]:
        """Times of the actions in the chunks of the recorded method."""
        return self._clock("clock")

    @property
    def video_clock(self) -> list[float]:
        """Times of the shared schedule likewise."""
        return self._clock("video_clock")

    def _clock(self, name: str) -> list[float]:
        steps = max((len(task["mean"]) for found in self.times.values() for task in found.values()), default=2)
        clock: list[float] = next(
            (task[name] for found in self.times.values() for task in found.values() if name in task),
            np.linspace(1, 0, steps).tolist(),
        )
        return clock

    @property
    def films(self) -> dict[str, Path]:
        """Task to film."""
        return {path.stem: path for path in sorted((self.folder / "videos").glob("*.mp4"))}

    @property
    def attention(self) -> dict[str, Attention]:
        """Schedule to where the actions look."""
        found = {}
        for name, record in self.illustrations.get("attention", {}).items():
            counts = np.asarray(record["counts"])
            with np.errstate(invalid="ignore", divide="ignore"):
                mass = np.asarray(record["mass"]) / counts[..., None]
            found[name] = Attention(centres=np.asarray(record["centres"]), mass=mass, counts=counts)
        return found


def read_runs(folders: Iterable[Path]) -> list[RunRecord]:
    """Read run folders; one that is none stands for all that lie below it.

    Raises:
        RunError: If there is no run in a folder.
    """
    found = []
    for folder in folders:
        runs = _runs_in(folder)
        if not runs:
            raise RunError(f"`{folder}` holds no run (no `{CONFIG}` that one left); give the `--out` of a run.")
        found += [read_run(path) for path in runs]
    return found


def _runs_in(folder: Path) -> list[Path]:
    if (folder / CONFIG).exists():
        return [folder] if "app" in read_json(folder / CONFIG) else []
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [run for path in below for run in _runs_in(path)]


def read_run(folder: Path) -> RunRecord:
    """Read one run folder; what the run has not left yet is empty."""
    config = read_json(folder / CONFIG)
    results = _read(folder / "results.json")
    outcomes, scenes, times = _played(folder) if not results else _on_robotwin(results)
    history = list(RunFolder(folder).history())
    return RunRecord(
        folder=folder,
        config=config,
        history=history,
        outcomes=in_order(outcomes),
        scenes=scenes,
        times=times,
        illustrations=_read(folder / ILLUSTRATIONS),
        lattice=_read(folder / "lattice.json"),
        demonstrations=_demonstrations(folder) if config["app"] == "collect" else {},
        discarded=[
            *_dropped(results),
            *_failed_groups(history),
            *(_unsolved(folder) if config["app"] == "collect" else ()),
        ],
    )


def training_seeds_of(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Group runs that differ in their training seed, or in the gate trained with it, alone.

    Of runs of the same seed the first one counts, and none without outcomes.
    """
    settings: list[JsonValue] = []
    groups: list[dict[str, RunRecord]] = []
    for run in runs:
        if run.outcomes:
            seed, same = _seed_and_settings(run)
            if same not in settings:
                settings.append(same)
                groups.append({})
            groups[settings.index(same)].setdefault(repr(seed), run)
    return [list(group.values()) for group in groups if len(group) > 1]


def _seed_and_settings(run: RunRecord) -> tuple[JsonValue, JsonValue]:
    """What tells training seeds apart, and all else: app, settings, and the tasks that have been played until now."""
    identity = dict(run.config.get("identity", {}))
    seed = identity.pop({"eval": "gate"}.get(run.app, "seed"), None)
    return seed, [run.app, identity, sorted(next(iter(run.outcomes.values())))]


def in_order(found: Mapping[str, Any]) -> dict[str, Any]:
    """Sort what is known by method: baselines first, NoiseGate last, as in the paper's tables."""
    known = list(LABELS)

    def place(name: str) -> tuple[int, int, str]:
        last = LAST.index(name) + 1 if name in LAST else 0
        return last, known.index(name) if name in known else len(known), name

    return {name: found[name] for name in sorted(found, key=place)}


def _read(path: Path) -> JsonValue:
    return read_json(path) if path.exists() else {}


Played = tuple[dict[str, dict[str, list[bool]]], dict[str, dict[str, list[int]]], dict[str, dict[str, JsonValue]]]


def _played(folder: Path) -> Played:
    outcomes: dict[str, dict[str, list[bool]]] = {}
    times: dict[str, dict[str, JsonValue]] = {}
    for path in sorted((folder / "outcomes").glob("*/*.json")):
        record = read_json(path)
        if "outcomes" not in record:
            continue
        outcomes.setdefault(path.parent.name, {})[path.stem] = [bool(one) for one in record["outcomes"]]
        if "mean" in record.get("times", {}):
            times.setdefault(path.parent.name, {})[path.stem] = _fallen(record["times"], record["identity"])
    whole = {task for found in outcomes.values() for task in found}
    complete = {name: found for name, found in outcomes.items() if set(found) == whole}
    return complete, {}, times


def _on_robotwin(results: JsonValue) -> Played:
    outcomes: dict[str, dict[str, list[bool]]] = {}
    scenes: dict[str, dict[str, list[int]]] = {}
    times: dict[str, dict[str, JsonValue]] = {}
    for name, found in results["measured"].items():
        tasks = found["tasks"]
        outcomes[name] = {task: [bool(one) for one in record["outcomes"]] for task, record in tasks.items()}
        scenes[name] = {task: record["seeds"] for task, record in tasks.items()}
        fallen = {task: record for task, record in tasks.items() if "times" in record}
        if fallen:
            times[name] = {task: _fallen(record["times"], record["identity"]) for task, record in fallen.items()}
    common = set.intersection(*(set(found) for found in outcomes.values())) if outcomes else set()
    return (
        {name: {task: found[task] for task in sorted(common)} for name, found in outcomes.items() if common},
        scenes,
        times,
    )


def _fallen(times: JsonValue, identity: JsonValue) -> JsonValue:
    """How times fell, with the clocks beside which they did."""
    clock = identity["clock"]
    return {**times, "clock": clock, "video_clock": identity.get("video_clock", clock)}


def _dropped(results: JsonValue) -> list[Discarded]:
    found = []
    for name, measured in results.get("measured", {}).items():
        for task, record in measured["tasks"].items():
            for reason, number in record["seeds_dropped"].items():
                found.append(Discarded(where=f"{name}, {task}", reason=f"scene dropped: {reason}", number=number))
            lost = Counter(failure["failure"] or "simulator lost" for failure in record["env_failures"])
            found += [
                Discarded(where=f"{name}, {task}", reason=f"counted as failed: {reason}", number=number)
                for reason, number in lost.items()
            ]
    return found


def _failed_groups(history: Sequence[Mapping[str, float]]) -> list[Discarded]:
    failed = int(sum(line.get("failed_trajectories", 0) for line in history))
    reason = "episode failed (its simulator or worker was lost); left out of the update"
    return [Discarded(where="training", reason=reason, number=failed)] if failed else []


def _demonstrations(folder: Path) -> dict[str, Demonstrations]:
    tasks = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {
        task.name: Demonstrations(recorded=len(list(task.glob("episode*.hdf5"))), failed=sum(_reasons(task).values()))
        for task in tasks
    }
    return {name: one for name, one in found.items() if one.recorded or one.failed}


def _unsolved(folder: Path) -> list[Discarded]:
    return [
        Discarded(where=task.name, reason=reason, number=number)
        for task in sorted(path for path in folder.iterdir() if path.is_dir())
        for reason, number in _reasons(task).items()
    ]


def _reasons(task: Path) -> Counter[str]:
    """Why scenes of a task gave no demonstration: the tabletop's notes, and RoboTwin's seed pool."""
    found = Counter(path.read_text(encoding="utf-8").split(" on seed")[0] for path in task.glob("episode*.failed"))
    for path in task.glob(f"{task.name}-*.json"):
        statuses = read_json(path).get("seeds", {}).values()
        found.update(f"expert: {status}" for status in statuses if status not in ("ok", "listed"))
    return found

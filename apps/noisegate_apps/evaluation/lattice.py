"""The ceiling: what fixed schedules reach, and what the best of them is worth on scenes that did not choose it.

A learned gate can beat the shared schedule only where schedules differ. So before it is trained, fixed schedules are
played on a grid, each latent at its own speed or held at a residual time, over the same scenes and initial noise. The
best per task is chosen on one half of the scenes and judged on the other, both ways round; what any schedule solves is
an upper bound (the oracle), and the pairs of scene and noise that some schedule flips say how much there is to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from noisegate_apps.evaluation.statistics import Outcomes, PairedDifference, SuccessRate
from noisegate_apps.evaluation.tabletop import Variant
from noisegate_apps.play.episodes import ChooseSchedule, PlayedEpisode
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.policy.world import WorldPolicy
from noisegate_apps.runs.files import JsonValue, read_json
from noisegate_gpn import ConstantSchedule

PACES: Mapping[str, tuple[float, float]] = {
    "blind": (0.0, 0.0),
    "hold": (1.0, 0.5),
    "lag": (0.5, 0.0),
    "shared": (1.0, 0.0),
    "lead": (2.0, 0.0),
}
"""What one latent may do, as (relative scale, end time): stay noise, stop half-way, fall at half speed (and so end at
half its way), follow the shared schedule, fall twice as fast."""

SHARED = "shared"
"""The pace against which everything is compared."""


def grid(frames: int, paces: Iterable[str] = tuple(PACES)) -> list[str]:
    """Name every combination of paces, `near+...+far`; the shared schedule is `shared+shared`."""
    return ["+".join(combination) for combination in product(paces, repeat=frames)]


def paces_of(name: str) -> Float[Tensor, "frames 2"]:
    """Return each latent's relative scale and end time under the schedule of that name."""
    return torch.tensor([PACES[pace] for pace in name.split("+")])


def fixed(name: str) -> Callable[[object], ConstantSchedule]:
    """Choose the schedule of that name for every row."""
    values = paces_of(name)
    schedule = ConstantSchedule(values[:, 0], end=values[:, 1])
    return lambda _: schedule


def by_task(names: Mapping[str, str]) -> ChooseSchedule:
    """Choose for every row the schedule that its task has."""
    values = {task: paces_of(name) for task, name in names.items()}

    def choose(rows: Sequence[PlayedEpisode]) -> ConstantSchedule:
        chosen = torch.stack([values[row.task] for row in rows])
        return ConstantSchedule(chosen[..., 0], end=chosen[..., 1])

    return choose


def lattice_beside(
    policy: Path, imagination: ImaginationConfig, tasks: Iterable[str], *, own_clocks: bool
) -> Path | None:
    """Return the lattice that a policy folder brings for an imagination, `lattices/<name>.json`.

    None without one, or if it is of other tasks (among others, other tasks are lied to) or of other clocks.

    Args:
        policy: Folder of the policy.
        imagination: When it lies.
        tasks: All that are played.
        own_clocks: Whether the policy plans in its own number of calls, with its own head start.
    """
    found = policy / "lattices" / f"{imagination.name}.json"
    if not own_clocks or not found.exists() or set(read_json(found)["ceiling"]["best_by_task"]) != set(tasks):
        return None
    return found


def best_fixed(policy: WorldPolicy, lattice: Path) -> list[Variant]:
    """Return what a lattice of other scenes chose: the best schedule for all tasks, and the best for each.

    Args:
        policy: That plays them.
        lattice: The `lattice.json`.
    """
    found = read_json(lattice)["ceiling"]
    best = dict.fromkeys(found["best_by_task"], found["best"])
    return [
        Variant(
            name="best-fixed",
            policy=policy,
            choose=fixed(found["best"]),
            schedule=found["best"],
            same_as=_well_known(best),
        ),
        Variant(
            name="best-per-task",
            policy=policy,
            choose=by_task(found["best_by_task"]),
            schedule=found["best_by_task"],
            same_as=_well_known(found["best_by_task"]),
        ),
    ]


def _well_known(names: Mapping[str, str]) -> dict[str, str]:
    """Where all latents follow the shared schedule or stay noise, the name of the row that does the same."""
    known = {task: set(name.split("+")) for task, name in names.items()}
    return {task: paces.pop() for task, paces in known.items() if paces in ({SHARED}, {"blind"})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What a lattice says of one set of scenes."""

    shared: str
    """Name of the shared schedule on this grid."""
    best: str
    """The one schedule that solves most, over all scenes."""
    best_by_task: Mapping[str, str]
    """The same, task by task."""
    one_for_all: PairedDifference
    """The best single schedule, chosen on the other half of the scenes, minus shared."""
    one_per_task: PairedDifference
    """The best schedule of each task, chosen on the other half of its scenes, minus shared."""
    oracle: PairedDifference
    """Whatever any schedule solves, minus shared: an upper bound, not a policy."""
    flipped: SuccessRate
    """Pairs of scene and noise whose outcome some schedule changes."""

    def record(self) -> JsonValue:
        """Return the JSON form."""
        return {
            "shared": self.shared,
            "best": self.best,
            "best_by_task": dict(self.best_by_task),
            "one_for_all": self.one_for_all.record(),
            "one_per_task": self.one_per_task.record(),
            "oracle": self.oracle.record(),
            "flipped": self.flipped.record(),
        }


def ceiling(results: Mapping[str, Outcomes], shared: str) -> Ceiling:
    """Read a lattice.

    Args:
        results: Schedule to task to the outcome of each scene; equally many scenes everywhere.
        shared: Name of the shared schedule among them.
    """
    names, tasks = list(results), list(results[shared])
    halves = (slice(0, None, 2), slice(1, None, 2))
    one: dict[str, list[bool]] = {task: [False] * len(results[shared][task]) for task in tasks}
    own: dict[str, list[bool]] = {task: list(outcomes) for task, outcomes in one.items()}
    for judged, chosen in (halves, halves[::-1]):
        best = _best(results, names, shared, tasks, chosen)
        for task in tasks:
            one[task][judged] = results[best][task][judged]
            own[task][judged] = results[_best(results, names, shared, [task], chosen)][task][judged]
    base = _joined(results[shared], tasks)
    solved = [[results[name][task][scene] for name in names] for task in tasks for scene in range(len(one[task]))]
    whole = slice(None)
    return Ceiling(
        shared=shared,
        best=_best(results, names, shared, tasks, whole),
        best_by_task={task: _best(results, names, shared, [task], whole) for task in tasks},
        one_for_all=PairedDifference.of(_joined(one, tasks), base),
        one_per_task=PairedDifference.of(_joined(own, tasks), base),
        oracle=PairedDifference.of([any(scene) for scene in solved], base),
        flipped=SuccessRate.of([any(scene) and not all(scene) for scene in solved]),
    )


def _best(
    results: Mapping[str, Outcomes], names: Sequence[str], shared: str, tasks: Sequence[str], scenes: slice
) -> str:
    """The schedule with most successes on some scenes; the shared one where none has more."""
    counts = {name: sum(sum(results[name][task][scenes]) for task in tasks) for name in names}
    return max(names, key=lambda name: (counts[name], name == shared))


def _joined(outcomes: Outcomes, tasks: Sequence[str]) -> list[bool]:
    return [bool(outcome) for task in tasks for outcome in outcomes[task]]


def print_ceiling(results: Mapping[str, Outcomes], found: Ceiling) -> None:
    """Print every schedule's difference to shared, then what choosing among them is worth."""
    tasks = list(results[found.shared])
    base = _joined(results[found.shared], tasks)
    table = Table(title="fixed schedules (near latent + far latent), success on common scenes and noise")
    for column in ("schedule", "success", "paired, minus shared"):
        table.add_column(column)
    for name in sorted(results, key=lambda name: -sum(_joined(results[name], tasks))):
        outcomes = _joined(results[name], tasks)
        difference = "" if name == found.shared else str(PairedDifference.of(outcomes, base))
        table.add_row(name, str(SuccessRate.of(outcomes)), difference)
    table.add_section()
    table.add_row("best of all, chosen on other scenes", "", str(found.one_for_all))
    table.add_row("best per task, chosen on other scenes", "", str(found.one_per_task))
    table.add_row("oracle per scene", "", str(found.oracle))
    table.add_row("pairs that some schedule flips", str(found.flipped), "")
    console = Console(width=110)
    console.print(table)
    console.print("best per task: " + ", ".join(f"{task} {name}" for task, name in found.best_by_task.items()))

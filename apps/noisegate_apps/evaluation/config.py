"""Evaluate schedules on held-out scenes, all on the same scenes with the same initial noise.

`uv run apps/eval.py` plays NoiseGate, the repository's policy under its learned gate; `--schedules shared blind` plays
others. The first word chooses a comparison: `ablation` is the paper's Table 2 (Shared-t, the Stage-1 model, the
hand-crafted schedule and NoiseGate) with the field's other schedules as rows beside it, `lattice` plays fixed schedules
on a grid and says what the best is worth on scenes that did not choose it, `robotwin50` compares the Stage-1 model and
NoiseGate on RoboTwin's fifty tasks, as the paper's Tables 1 and 5. `--env robotwin --robotwin.root PATH` evaluates on
RoboTwin by its official protocol. `--imagination.lies` makes imagination err on purpose. Killed and started again with
the same command, it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from noisegate_apps.evaluation.schedules import BY_NAME, ROWS, LearnedRow
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.play.worlds import EnvName, SceneName, head_start_of, known_tasks
from noisegate_apps.runs.command_line import (
    Comparison,
    Folder,
    RoboTwinOptions,
    Schedules,
    TaskNames,
    at_least,
    check_head_start,
    require,
    require_checkout,
)
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import CHECKPOINTS
from noisegate_apps.runs.folder import FolderOptions, refuse

SCHEDULES = tuple(BY_NAME)
"""Schedules with a name of their own; `blind+shared` and the like are points of the lattice, near latent first."""
PACES = ("blind", "hold", "lag", "shared", "lead")
"""What the lattice lets one latent do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What is evaluated, and on what."""

    comparison: Comparison = "schedules"
    """The `schedules` that are named, the paper's `ablation`, a `lattice` of fixed schedules, or the suite
    `robotwin50`."""
    policy: Path = CHECKPOINTS / "tabletop-independent"
    """Folder of the Stage-1 policy that plans."""
    shared_times_policy: Path = CHECKPOINTS / "tabletop-shared"
    """The ablation's policy, trained with one time for all latents."""
    gate: Path = CHECKPOINTS / "tabletop-gate"
    """Folder of the trained gating policy network, for `learned`; on RoboTwin name one that learned there. The gates of
    the registry's other learned rows lie beside it, under its name and `-global`, `-stop` or `-priced`."""
    schedules: Schedules = ("learned",)
    """What is compared by `schedules`: `shared` (the Stage-1 WAM), `monotone` (hand-crafted), `learned` (NoiseGate),
    `blind`, `imagine-first`, `together` (no head start), `fewer-steps` (half of them), `ddim` and `edm` (their
    spacings), the learned `global`, `stop` and `priced`, or a point of the lattice such as `hold+shared`."""
    lattice: Path | None = None
    """A `lattice.json` of other scenes: adds the best fixed schedule, and the best of each task, that it chose."""
    paces: tuple[str, ...] = PACES
    """What each latent may do on the lattice: `blind`, `hold`, `lag`, `shared`, `lead`."""
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    """A stress test: makes imagination lie."""
    out: Path = Path("runs/eval")
    """Results; a folder below it is named after what is compared."""
    folder: Folder = field(default_factory=FolderOptions)
    """What becomes of an earlier run."""
    env: EnvName = "tabletop"
    """Where episodes are played: on the embedded `tabletop`, or in a checkout of `robotwin`."""
    robotwin: RoboTwinOptions = field(default_factory=lambda: RoboTwinOptions(split="eval"))
    """RoboTwin's settings."""
    tasks: TaskNames = ()
    """Tasks to evaluate; those that the policy has learned unless given."""
    scene: SceneName | None = None
    """Which scenes of the tabletop: `random`, or `clean`, which varies poses alone; those on which the policy has
    learned unless given."""
    episodes: int = 100
    """How many scenes of each task are played."""
    first_seed: int = 100_000
    """Scene seed of the first episode; RoboTwin's evaluations start at multiples of 100,000."""
    expert_check: bool = True
    """On RoboTwin: drop seeds that its expert does not solve, as its evaluation does."""
    undecided: Literal["refuse", "drop"] = "refuse"
    """On RoboTwin: what becomes of a seed whose simulator was lost twice before the expert was done: `refuse` gives no
    result before another run has decided it, `drop` leaves it out and says so."""
    seed_pools: Path | None = None
    """On RoboTwin: folder of the pools that `python -m robotwin_env scan-seeds` fills; they spare the expert."""
    replan_after: int | None = None
    """Actions of a chunk that are played before the next plan; unless told, as many as the policy's training
    configuration says (Fast-WAM: 24 of 32), which is all on the tabletop."""
    denoising_steps: int | None = None
    """Network calls per chunk; the policy's own number unless given."""
    head_start: float | None = None
    """Part of those calls that belong to imagination, before the actions start; the policy's own unless given."""
    device: DeviceName = "auto"
    """Where the policy plans: `auto` takes the GPU where there is one."""
    illustrate: bool = True
    """Film two episodes and record attention and latency for the report: a few episodes more."""
    slots: int = 48
    """How many environments a planning process plays at once, in one batch."""
    workers: int = 2
    """Processes: of the tabletop's longer evaluations on the CPU each plans for simulators of its own; else they hold
    simulators, and this one plans. Results do not depend on it."""

    def __post_init__(self) -> None:
        at_least(self, 1, "episodes", "slots", "denoising_steps", "replan_after")
        at_least(self, 0 if self.env == "tabletop" else 1, "workers")
        at_least(self, 0, "first_seed")
        check_head_start(self.head_start)
        known_tasks(self.env, self.tasks)
        if self.env == "robotwin" and self.imagination.lies not in ("auto", "never"):
            raise ValueError("imagination is made to lie on the tabletop only; leave `imagination.lies` out.")
        if self.comparison == "robotwin50" and self.env == "tabletop":
            raise ValueError("`robotwin50` needs `--env robotwin`; the tabletop has other tasks.")
        if self.comparison == "lattice" and self.env == "robotwin":
            raise ValueError("`lattice` is for the tabletop; on RoboTwin name `schedules` of the lattice.")
        if self.env == "robotwin" and (self.first_seed % 100_000 or self.first_seed < 100_000):
            raise ValueError(f"`first_seed` is {self.first_seed}; RoboTwin's evaluations start at 100000, 200000, ...")
        unknown = [name for name in self.schedules if not _known(name)]
        if unknown or not self.schedules:
            raise ValueError(f"there are no schedules {unknown}; choose among {list(SCHEDULES)} and the lattice's.")
        if not set(self.paces) <= set(PACES) or "shared" not in self.paces:
            raise ValueError(f"`paces` is {list(self.paces)}; choose among {list(PACES)}, `shared` among them.")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If a policy, a gate or a checkout that is evaluated is not there.
        """
        refuse(self.out / self.name, "eval", self.folder)
        ablation = self.comparison == "ablation"
        for policy in (self.policy, self.shared_times_policy) if ablation else (self.policy,):
            require(policy / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
        rows = [row for name in self.compared if isinstance(row := BY_NAME.get(name), LearnedRow)]
        if rows and self.env == "robotwin" and self.gate == CHECKPOINTS / "tabletop-gate":
            raise RunError(
                f"`gate` is {self.gate}, which learned on the tabletop; name the gate that `uv run apps/stage2.py "
                "--env robotwin` trained, or evaluate without one: `--schedules shared`."
            )
        for row in rows:
            train = f"uv run apps/stage2.py {row.training}".rstrip()
            require(row.folder(self.gate) / "config.json", "a trained gate", f"train one with `{train}`")
        if self.lattice is not None:
            require(self.lattice, "a lattice", "make one with `uv run apps/eval.py lattice`")
        if self.env == "robotwin":
            require_checkout(self.robotwin)

    @property
    def compared(self) -> tuple[str, ...]:
        """Schedules that are played with `policy`, but for the lattice's."""
        return {
            "schedules": self.schedules,
            "ablation": self.ablation,
            "lattice": (),
            "robotwin50": ("shared", "learned"),
        }[self.comparison]

    @property
    def ablation(self) -> tuple[str, ...]:
        """The registry's rows, but for those whose gate has not been trained (`missing` names them).

        Nor is `together` played where it would be the shared schedule once more.
        """
        left_out = {row.name for row in self.missing} - {"learned"}
        if not (head_start_of(self.policy) if self.head_start is None else self.head_start):
            left_out.add("together")
        return tuple(row.name for row in ROWS if row.name not in left_out)

    @property
    def missing(self) -> tuple[LearnedRow, ...]:
        """Learned rows whose gate does not lie beside `gate`."""
        rows = (row for row in ROWS if isinstance(row, LearnedRow))
        return tuple(row for row in rows if not (row.folder(self.gate) / "config.json").exists())

    @property
    def name(self) -> str:
        """What is evaluated: the run's folder below `out`."""
        what = "-".join(self.schedules) if self.comparison == "schedules" else self.comparison
        parts = ["robotwin" if self.env == "robotwin" and self.comparison != "robotwin50" else "", what]
        return "-".join(
            part for part in [*parts, "" if self.imagination.lies == "never" else self.imagination.name] if part
        )


def _known(name: str) -> bool:
    return name in SCHEDULES or ("+" in name and set(name.split("+")) <= set(PACES))

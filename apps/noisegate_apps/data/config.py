"""Collect demonstrations: every task's scripted expert over randomised scenes, as RoboTwin HDF5 files.

`uv run apps/collect.py` plays 1,000 scenes of each task on the tabletop and writes them below `data/tabletop`.
`--env robotwin --robotwin.root PATH` has RoboTwin's own experts solve 50 scenes of each task for `data/robotwin`.
Started again, it adds what is missing; `--overwrite` removes what is there first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from noisegate_apps.play.worlds import TASK_NAMES, EnvName, SceneName, known_tasks
from noisegate_apps.runs.command_line import Folder, RoboTwinOptions, TaskNames, at_least, require_checkout
from noisegate_apps.runs.folder import FolderOptions, refuse
from robotwin_env.splits import check_seeds

DEFAULT_DATA: dict[EnvName, Path] = {"tabletop": Path("data/tabletop"), "robotwin": Path("data/robotwin")}
"""Where demonstrations lie unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """What to collect."""

    out: Path | None = None
    """Folder of the data set; one folder a task inside. `data/tabletop` or `data/robotwin` unless given."""
    folder: Folder = field(default_factory=FolderOptions)
    """What becomes of what was collected earlier."""
    env: EnvName = "tabletop"
    """Where the experts work: on the embedded `tabletop`, or in a checkout of `robotwin`."""
    robotwin: RoboTwinOptions = field(default_factory=RoboTwinOptions)
    """RoboTwin's settings."""
    tasks: TaskNames = TASK_NAMES
    """RoboTwin's task names."""
    episodes: int | None = None
    """Scenes per task; 1,000 unless given, or RoboTwin's 50. On the tabletop, one that the expert does not solve yields
    no file; on RoboTwin, seeds are tried until so many are solved, as by its own collector."""
    scene: SceneName = "random"
    """Which scenes of the tabletop: `clean` varies poses alone."""
    first_seed: int = 0
    """Scene seed of the first episode; the others follow one by one. None may be an evaluation's."""
    phrases: int | None = None
    """On the tabletop: instructions are drawn from the first so many of each task's training phrases. All unless given;
    with fewer, Stage 2 says things that demonstrations never did."""
    image_size: int = 64
    """Height and width of every camera of the tabletop (pixels); RoboTwin's are recorded as it renders them."""
    frame_stride: int = 2
    """Control steps between two recorded frames of the tabletop; RoboTwin's own tools and LeRobot need 1."""
    noise: float = 0.025
    """How far (m) the tabletop's expert may be off in approaches and starting points, so that it shows corrections."""
    workers: int = 2
    """How many processes record; on RoboTwin, how many simulators."""

    def __post_init__(self) -> None:
        at_least(self, 1, "episodes", "phrases", "frame_stride", "workers")
        at_least(self, 8, "image_size")
        at_least(self, 0, "first_seed", "noise")
        known_tasks(self.env, self.tasks)
        check_seeds(self.seeds, "train")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If there is no RoboTwin checkout where its experts are to work.
        """
        refuse(self.data_folder, "collect", self.folder)
        if self.env == "robotwin":
            require_checkout(self.robotwin)

    @property
    def data_folder(self) -> Path:
        """Where the data set lies."""
        return self.out or DEFAULT_DATA[self.env]

    @property
    def scenes(self) -> int:
        """How many scenes of each task."""
        return self.episodes or (1000 if self.env == "tabletop" else 50)

    @property
    def seeds(self) -> range:
        """Scene seeds of the tabletop's episodes; where RoboTwin's begin."""
        return range(self.first_seed, self.first_seed + self.scenes)

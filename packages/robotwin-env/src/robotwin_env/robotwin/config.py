"""The configuration of a RoboTwin environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..conventions import CameraName, Modality, check_modalities
from ..errors import SplitError, UnknownNameError
from ..splits import Split

ActionMode = Literal["qpos", "ee"]
Control = Literal["step", "chunk"]
Phrasing = Literal["seen", "unseen"]
Planner = Literal["auto", "curobo", "mplib", "none"]
Render = Literal["rt", "default", "minimal", "panda3d", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoboTwinConfig:
    """Which task of which checkout, how it is driven and observed, and when its process is given up."""

    root: Path = Path("RoboTwin")
    """The RoboTwin checkout, of either layout."""
    python: Path | None = None
    """The interpreter that RoboTwin is installed in; `None` takes this one."""
    simulator: Path | None = None
    """A Python file whose `make_simulator` replaces RoboTwin: another simulator, or a fake one for tests."""

    task: str = "click_bell"
    """One of RoboTwin's names."""
    split: Split = "train"
    """Which scene seeds may be played, and with them RoboTwin's held-out backgrounds and words: `train` draws `seen`
    textures and phrases, `eval` is the official evaluation's. Neither plays the other's seeds."""
    task_config: str = "demo_randomized"
    """The name of one of RoboTwin's task configurations, or the path of such a file (`.yml`)."""
    embodiment: tuple[str, ...] = ()
    """One two-arm robot, or a left and a right one; `()` takes the task configuration's."""
    embodiment_distance: float = 0.6
    """Between a left and a right robot (m)."""
    instructions: Phrasing | None = None
    """Which paraphrases an episode's instruction is drawn from. Training takes `seen` ones alone; for an evaluation
    `None` takes the task configuration's `eval_instruction`, or `unseen` where it names none (older checkouts)."""
    redraw_unstable: int = 0
    """How many other seeds a `reset` without a seed may draw where a scene does not come to rest."""
    max_steps: int | None = None
    """Actions until truncation; `None` takes RoboTwin's official limit of the task."""

    action_mode: ActionMode = "qpos"
    """`qpos`: joint targets; `ee`: gripper poses, for each arm `[x, y, z (m), qw, qx, qy, qz, gripper]`."""
    control: Control = "step"
    """How `step_chunk` plays: `step`, the official protocol, from rest to rest for every action; `chunk`, one
    time-optimal trajectory through all, as RLinf trains: faster, and other dynamics."""
    max_delta: float | None = None
    """Refuse joint targets that turn a joint further than this at once (rad), whatever `action_space` holds; clip to
    the command and so much around it."""

    cameras: tuple[CameraName, ...] = ("head", "left_wrist", "right_wrist")
    """Images in the observation; fewer are faster and leave the scenes what they are."""
    modalities: tuple[Modality, ...] = ()
    """What is observed of every camera beside its picture, as `depth/head`: `depth` (m), `segmentation` (the numbers of
    `segment_names()`), `intrinsics`, `extrinsics`."""
    image_size: int | tuple[int, int] | None = None
    """Height and width images are scaled to (pixels), one number for square ones; `None` leaves them as they are."""
    render: Render = "rt"
    """`rt`, the official one, traces rays on an NVIDIA GPU; `default` rasterises; `minimal` draws flat colours, many
    times faster on a software driver; `panda3d` draws boxes, spheres and cylinders without any driver, which is all
    that the five tasks of boxes have; `none` draws nothing."""
    planner: Planner = "auto"
    """`auto`: none where nothing is planned (joint targets, no expert), else cuRobo if there is one, else mplib."""

    setup_timeout: float = 600.0
    """Seconds for starting a process: imports and the planner's warm-up."""
    reset_timeout: float = 300.0
    """Seconds for a reset."""
    expert_timeout: float = 600.0
    """Seconds for the expert, on top of a reset."""
    step_timeout: float = 60.0
    """Seconds for an answer to actions, on top of `action_timeout` for each."""
    action_timeout: float = 5.0
    """Seconds per action."""
    recycle_after_resets: int | None = 100
    """Resets and expert runs after which a process is exchanged for a fresh one; `None` for never."""
    recycle_above_gib: float | None = 12.0
    """Resident memory (GiB) above which the next reset exchanges the process."""
    memory_limit_gib: float | None = 24.0
    """Resident memory (GiB) at which a process is ended even amid an episode."""
    clear_cache_every: int = 8
    """Resets after which the renderer's cache is cleared."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the process, such as `CUDA_VISIBLE_DEVICES` and `VK_ICD_FILENAMES`."""
    log_folder: Path | None = None
    """Where to keep what the process prints; `None` keeps only the end of it, in errors."""

    def __post_init__(self) -> None:
        for kind, name, allowed in (
            ("split", self.split, get_args(Split)),
            ("action mode", self.action_mode, get_args(ActionMode)),
            ("control", self.control, get_args(Control)),
            ("kind of instructions", self.instructions, (None, *get_args(Phrasing))),
            ("planner", self.planner, get_args(Planner)),
            ("render mode", self.render, get_args(Render)),
            *(("camera", name, get_args(CameraName)) for name in self.cameras),
        ):
            if name not in allowed:
                listed = ", ".join(f"`{choice}`" for choice in allowed)
                raise UnknownNameError(f"there is no {kind} `{name}`; choose one of {listed}.")
        if self.split == "train" and self.instructions == "unseen":
            raise SplitError("`instructions` is `unseen` and `split` is `train`; they are for evaluations.")
        if not re.fullmatch(r"\w+", self.task):
            raise UnknownNameError(
                f"`task` is `{self.task}`; it must be one of RoboTwin's names, such as `click_bell`."
            )
        if not re.fullmatch(r"\w+|.+\.ya?ml", self.task_config):
            raise UnknownNameError(
                f"`task_config` is `{self.task_config}`; it must be a name, such as `demo_clean`, or a `.yml` file."
            )
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"`cameras` are {self.cameras}; each may be named once.")
        check_modalities(self.modalities, self.cameras)
        if len(self.embodiment) > 2:
            raise ValueError(f"`embodiment` is {self.embodiment}; name one two-arm robot, or a left and a right one.")
        if self.image_size is not None and not all(8 <= side <= 4096 for side in self.find_image_size() or ()):
            raise ValueError(f"`image_size` is {self.image_size}; each side must lie between 8 and 4096 pixels.")
        if self.control == "chunk" and self.action_mode != "qpos":
            raise ValueError("`control` is `chunk`, which plays joint targets; set `action_mode` to `qpos`.")
        if self.max_delta is not None and self.action_mode == "ee":
            raise ValueError("`max_delta` is given and `action_mode` is `ee`; it limits joint targets alone.")
        if self.cameras and self.render == "none":
            raise ValueError(f"`render` is `none` and `cameras` are {self.cameras}; set `cameras` to `()`.")
        self._check_ranges()

    def find_image_size(self) -> tuple[int, int] | None:
        """Return height and width of the images, where they are scaled."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def _check_ranges(self) -> None:
        for name in ("setup", "reset", "expert", "step", "action"):
            seconds = getattr(self, f"{name}_timeout")
            if not 0 < seconds < float("inf"):
                raise ValueError(f"`{name}_timeout` is {seconds} s; it must be positive and finite.")
        for name in ("max_steps", "recycle_after_resets", "clear_cache_every"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"`{name}` is {count}; it must be at least 1.")
        if self.redraw_unstable < 0:
            raise ValueError(f"`redraw_unstable` is {self.redraw_unstable}; it must be 0 or more.")
        for name in ("embodiment_distance", "max_delta", "recycle_above_gib", "memory_limit_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}; it must be positive.")

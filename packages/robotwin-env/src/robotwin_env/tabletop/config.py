"""The configuration of a tabletop environment."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..conventions import CameraName, Modality, check_modalities
from ..errors import TaskError, UnknownNameError
from ..splits import Split
from ..visual import Renderer
from .scene import CLEAN, RANDOM, Randomization
from .tasks import TASKS, Task
from .views import CAMERAS

SceneName = Literal["clean", "random"]
RendererName = Literal["panda3d", "sapien"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TabletopConfig:
    """Which task, how varied, and what is observed."""

    task: str | Task = "click_bell"
    """The name of one of `TASKS`, or a task of your own."""
    scene: SceneName = "random"
    """`clean`: only poses vary; `random`: textures, colours, light, cameras, table height and distractors too."""
    randomization: Randomization | None = None
    """Replaces what `scene` stands for."""
    split: Split = "train"
    """`train` and `eval` share no seed of a scene, no texture and no paraphrase; the other's seeds are refused."""
    phrases: int | None = None
    """Of a task's paraphrases of the split, draw instructions from the first so many, or all where it has fewer."""
    cameras: tuple[CameraName, ...] = CAMERAS
    """Images in the observation; `()` for none, which is fast."""
    modalities: tuple[Modality, ...] = ()
    """What is observed of every camera beside its picture, as `depth/head`: `depth` (m), `segmentation` (the numbers of
    `segment_names()`), `intrinsics`, `extrinsics`."""
    image_size: int = 64
    """Height and width of every image (pixels)."""
    renderer: RendererName | Callable[[], Renderer] = "panda3d"
    """`panda3d` draws on the CPU, anywhere; `sapien` needs Vulkan. Or what makes a renderer, such as
    `partial(SapienRenderer, device="cuda:1", supersample=2)`."""
    max_steps: int | None = None
    """Control steps until truncation; None takes the task's own limit."""
    max_delta: float | None = None
    """Refuse actions that turn a joint further than this at once (rad), whatever `action_space` holds; None leaves it
    to the joints' speed limits."""

    def __post_init__(self) -> None:
        if isinstance(self.task, Task):
            _check_own(self.task)
        else:
            _known("task", self.task, tuple(task.name for task in TASKS))
        _known("scene", self.scene, get_args(SceneName))
        _known("split", self.split, get_args(Split))
        if not callable(self.renderer):
            _known("renderer", self.renderer, get_args(RendererName))
        if self.phrases is not None and self.phrases < 1:
            raise ValueError(f"`phrases` is {self.phrases}; it must be at least 1.")
        for camera in self.cameras:
            _known("camera", camera, CAMERAS)
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"`cameras` are {self.cameras}; each may be named once.")
        check_modalities(self.modalities, self.cameras)
        if not 8 <= self.image_size <= 1024:
            raise ValueError(f"`image_size` is {self.image_size}; it must lie between 8 and 1024 pixels.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"`max_steps` is {self.max_steps}; it must be at least 1.")
        if self.max_delta is not None and not self.max_delta > 0:
            raise ValueError(f"`max_delta` is {self.max_delta} rad; it must be positive.")

    def find_task(self) -> Task:
        """Return the task itself."""
        if isinstance(self.task, Task):
            return self.task
        return next(task for task in TASKS if task.name == self.task)

    def find_randomization(self) -> Randomization:
        """Return what varies besides poses."""
        if self.randomization is not None:
            return self.randomization
        return CLEAN if self.scene == "clean" else RANDOM


def _check_own(task: Task) -> None:
    """Refuse a task that is incomplete or cannot be sent to a worker process."""
    kind = type(task).__qualname__
    missing = [name for name in ("name", "instructions", "max_steps") if not hasattr(task, name)]
    if missing:
        raise TaskError(f"task `{kind}` has no {', '.join(f'`{name}`' for name in missing)}; set it in the class.")
    if any(task.name == known.name and task != known for known in TASKS):
        raise TaskError(f"task `{kind}` is called `{task.name}` like one of `TASKS`; give it another name.")
    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TaskError(
            f"task `{kind}` cannot be pickled ({error}), so no worker process could play it; define its class at the "
            "top of a module that can be imported, with fields that pickle."
        ) from error


def _known(kind: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise UnknownNameError(f"there is no {kind} `{name}`; choose one of {', '.join(f'`{n}`' for n in allowed)}.")

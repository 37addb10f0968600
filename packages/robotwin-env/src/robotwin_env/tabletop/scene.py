"""One episode's scene, drawn from a seed: what stands where, how it looks, what is to be done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..visual import Lighting
from .appearance import Appearance
from .objects import SceneObject, box, cylinder
from .tasks import Task

TABLE_HALF = (0.55, 0.38)
"""m."""
TABLE_CENTER = (0.0, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomization:
    """What a scene varies beyond the poses of the task's objects."""

    colors: float = 0.0
    """Strength of colour and light randomisation: 0 (none) to 1."""
    table_height: float = 0.0
    """The table stands up to this much higher or lower (m)."""
    distractors: int = 0
    """At most so many small objects that have nothing to do with the task."""

    def __post_init__(self) -> None:
        if not 0 <= self.colors <= 1:
            raise ValueError(f"`colors` is {self.colors}; it must lie between 0 and 1.")
        if not 0 <= self.table_height <= 0.05:
            raise ValueError(f"`table_height` is {self.table_height} m; it must lie between 0 and 0.05 m.")
        if not 0 <= self.distractors <= 5:
            raise ValueError(f"`distractors` is {self.distractors}; it must lie between 0 and 5.")


CLEAN = Randomization()
RANDOM = Randomization(colors=1.0, table_height=0.03, distractors=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that a seed decides."""

    table: SceneObject
    table_height: float
    """z of the table's top (m)."""
    objects: tuple[SceneObject, ...]
    distractors: tuple[SceneObject, ...]
    lighting: Lighting
    instruction: str


def sample_scene(
    task: Task, seed: int, randomization: Randomization, instructions: Literal["seen", "unseen"] = "seen"
) -> Scene:
    """Draw the scene of a seed.

    Poses, looks and the instruction come from separate streams of the seed and the task's name: the objects of a seed
    stand at the same places in `clean` and `random` scenes.
    """
    poses, looks, words = (np.random.default_rng(stream) for stream in streams(task.name, seed)[:3])
    appearance = Appearance(looks, randomization.colors)
    table = SceneObject(
        name="table",
        shapes=(box((*TABLE_HALF, 0.02), appearance.table(), (0.0, 0.0, -0.02)),),
        position=TABLE_CENTER,
        motion="fixed",
        friction=0.8,
    )
    lighting = appearance.lighting()
    table_height = randomization.table_height * looks.uniform(-1, 1)
    objects = task.objects(poses, appearance)
    texts = task.instructions.seen if instructions == "seen" else task.instructions.unseen
    return Scene(
        table=table,
        table_height=table_height,
        objects=objects,
        distractors=_distractors(looks, appearance, objects, randomization.distractors),
        lighting=lighting,
        instruction=texts[int(words.integers(len(texts)))],
    )


def streams(task: str, seed: int) -> list[np.random.SeedSequence]:
    """Split a seed into independent streams: poses, looks, instruction, expert."""
    return np.random.SeedSequence([seed, *task.encode()]).spawn(4)


def _distractors(
    rng: np.random.Generator, appearance: Appearance, objects: tuple[SceneObject, ...], most: int
) -> tuple[SceneObject, ...]:
    """Draw small objects for the far edge of the table, clear of everything else."""
    if most == 0:
        return ()
    placed: list[SceneObject] = []
    for index in range(int(rng.integers(1, most + 1))):
        size, round_ = rng.uniform(0.014, 0.022), rng.uniform() < 0.5
        color, yaw = appearance.distractor(), rng.uniform(-math.pi, math.pi)
        shape = cylinder(size, size, color, (0, 0, size)) if round_ else box((size,) * 3, color, (0, 0, size))
        for _ in range(20):
            position = (rng.uniform(-0.33, 0.33), rng.uniform(0.21, 0.29))
            if all(math.dist(position, other.position) > 0.09 for other in (*objects, *placed)):
                placed.append(SceneObject(name=f"distractor_{index}", shapes=(shape,), position=position, yaw=yaw))
                break
    return tuple(placed)

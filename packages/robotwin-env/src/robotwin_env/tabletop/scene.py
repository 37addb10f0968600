"""One episode's scene, drawn from a seed: what stands where, how it looks, what is to be done."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..splits import Split
from ..visual import Lighting, ShadowPlane, Shape, Vector3
from .appearance import TABLE, WALL, Appearance, lighting, mean_color, surface_color, texture
from .distractors import draw_distractors
from .objects import SceneObject, box
from .splits import TEXTURES, phrases
from .tasks import Task

TABLE_HALF = (0.55, 0.38)
"""m."""
TABLE_CENTER = (0.0, 0.05)
WALL_HALF: Vector3 = (2.0, 0.02, 1.5)
WALL_AT: Vector3 = (0.0, 0.58, 0.0)
"""Middle of the wall behind the table, from the middle of the table's top (m)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomization:
    """What a scene varies beyond the poses of the task's objects; each switch changes its own thing alone."""

    textures: float = 0.0
    """Share of scenes whose table and wall have textures of the split, 0 to 1; the others have plain colours."""
    colors: float = 0.0
    """Strength of what objects', tables' and walls' colours vary by: 0 (nothing) to 1 (9 degrees of hue, 15% of
    saturation and 20% of value for objects; anything dull for a plain table or wall)."""
    light: float = 0.0
    """Strength of what the light varies by: 0 (nothing) to 1 (up to 39 degrees from straight above, a third of the
    brightness, 8% of tint, any dull background)."""
    camera: float = 0.0
    """Strength of the cameras' displacement: 0 (none) to 1. At 1 the head camera moves by up to 1 cm along each of
    its axes and turns by up to 1 degree about each, a wrist's by 2 mm and 1 degree; each field of view changes by up
    to 1 degree."""
    table_height: float = 0.0
    """The table stands up to this much higher or lower (m)."""
    distractors: int = 0
    """At most so many objects that have nothing to do with the task, at least one unless it is 0."""

    def __post_init__(self) -> None:
        for name in ("textures", "colors", "light", "camera"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must lie between 0 and 1.")
        if not 0 <= self.table_height <= 0.05:
            raise ValueError(f"`table_height` is {self.table_height} m; it must lie between 0 and 0.05 m.")
        if not 0 <= self.distractors <= 10:
            raise ValueError(f"`distractors` is {self.distractors}; it must lie between 0 and 10.")


CLEAN = Randomization()
RANDOM = Randomization(textures=1.0, colors=1.0, light=1.0, camera=1.0, table_height=0.03, distractors=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraShift:
    """How far a camera is from its nominal place, in its own frame (x ahead, y left, z up)."""

    offset: Vector3 = (0.0, 0.0, 0.0)
    """m."""
    turn: Vector3 = (0.0, 0.0, 0.0)
    """A rotation vector (rad)."""
    fovy: float = 0.0
    """Added to the field of view (rad)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that a seed decides."""

    table: SceneObject
    table_height: float
    """z of the table's top (m)."""
    wall: Shape
    """Seen only; in the table's frame."""
    objects: tuple[SceneObject, ...]
    distractors: tuple[SceneObject, ...]
    lighting: Lighting
    head: CameraShift
    wrists: tuple[CameraShift, CameraShift]
    """Left and right."""
    instruction: str


def sample_scene(
    task: Task,
    seed: int,
    randomization: Randomization,
    split: Split = "train",
    *,
    first_phrases: int | None = None,
) -> Scene:
    """Draw the scene of a seed.

    Poses, the instruction and each part of the looks come from separate streams of the seed and the task's name: the
    objects of a seed stand at the same places in `clean` and `random` scenes, and in those of either split. With
    `first_phrases`, the instruction is one of so many of the task's.
    """
    poses, looks, words = streams(task.name, seed)[:3]
    of_objects, of_surfaces, of_textures, of_light, of_cameras, of_height, of_distractors = (
        np.random.default_rng(stream) for stream in looks.spawn(7)
    )
    objects = task.objects(np.random.default_rng(poses), Appearance(of_objects, randomization.colors))
    table_height = randomization.table_height * of_height.uniform(-1, 1)
    top, wall = _surfaces(of_surfaces, of_textures, randomization, TEXTURES[split])
    texts = phrases(split, task)[:first_phrases]
    shadows = ShadowPlane(height=table_height, center=TABLE_CENTER, half=TABLE_HALF)
    return Scene(
        table=SceneObject(name="table", shapes=(top,), position=TABLE_CENTER, motion="fixed", friction=0.8),
        table_height=table_height,
        wall=wall,
        objects=objects,
        distractors=draw_distractors(of_distractors, objects, task.keep_clear(objects), randomization.distractors),
        lighting=lighting(of_light, randomization.light, shadows),
        head=_shift(of_cameras, randomization.camera, 0.01),
        wrists=(_shift(of_cameras, randomization.camera, 0.002), _shift(of_cameras, randomization.camera, 0.002)),
        instruction=texts[int(np.random.default_rng(words).integers(len(texts)))],
    )


def streams(task: str, seed: int) -> list[np.random.SeedSequence]:
    """Split a seed into independent streams: poses, looks, instruction, expert."""
    return np.random.SeedSequence([seed, *task.encode()]).spawn(4)


def _surfaces(
    colors: np.random.Generator, textures: np.random.Generator, randomization: Randomization, numbers: range
) -> tuple[Shape, Shape]:
    """Draw the table's top and the wall: plain ones, or textured ones where this scene has textures."""
    plain = (surface_color(colors, nominal, randomization.colors) for nominal in (TABLE, WALL))
    textured = textures.uniform() < randomization.textures
    patterns = [texture(int(number)) if textured else None for number in textures.choice(numbers, 2, replace=False)]
    places = (((*TABLE_HALF, 0.02), (0.0, 0.0, -0.02)), (WALL_HALF, WALL_AT))
    table, wall = (
        Shape(
            kind="box",
            size=half,
            color=color if pattern is None else mean_color(pattern),
            pattern=pattern,
            pose=box(half, color, at).pose,
        )
        for (half, at), color, pattern in zip(places, plain, patterns, strict=True)
    )
    return table, wall


def _shift(rng: np.random.Generator, strength: float, reach: float) -> CameraShift:
    """Draw where a camera is: up to `reach` (m) and a degree off at full strength."""
    offset, turn, fovy = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), rng.uniform(-1, 1)
    degree = math.radians(strength)
    return CameraShift(offset=_vector(strength * reach * offset), turn=_vector(degree * turn), fovy=degree * fovy)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return (x, y, z)

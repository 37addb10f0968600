"""What a task is: objects, words, a success check and an expert."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from ...visual import Vector3
from ..appearance import Appearance
from ..kinematics import Side
from ..motion import Action, Motion
from ..objects import SceneObject
from ..world import World


@dataclass(frozen=True, slots=True)
class Instructions:
    """Paraphrases of one command: those for training and those held out."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


class Task(ABC):
    """One task of the tabletop.

    A task is a value: two of one class with the same fields are equal, and it goes to other processes by pickle, which
    needs a class that can be imported.
    """

    name: ClassVar[str]
    """RoboTwin's name of the task."""
    instructions: ClassVar[Instructions]
    max_steps: ClassVar[int]
    """Control steps (40 ms) until an episode is cut off; about twice what the expert needs."""

    @abstractmethod
    def objects(self, rng: np.random.Generator, appearance: Appearance) -> tuple[SceneObject, ...]:
        """Draw the objects' poses from `rng` and their colours from `appearance`."""

    def keep_clear(self, objects: tuple[SceneObject, ...]) -> tuple[tuple[float, float, float], ...]:
        """Discs `(x, y, radius)` (m) without distractors, besides the objects' own places: goals, for example."""
        return ()

    @abstractmethod
    def success(self, world: World) -> bool:
        """Tell whether the task is done now."""

    @abstractmethod
    def expert(self, world: World, motion: Motion) -> Iterator[Action]:
        """Solve the task from privileged state, one action per control step; the world moves between two of them."""

    def __eq__(self, other: object) -> bool:
        """Compare class and fields."""
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(type(self))


def side_of(x: float) -> Side:
    """Choose the arm whose half of the table x lies in."""
    return Side.LEFT if x < 0 else Side.RIGHT


def askew(rng: np.random.Generator, *, least: float, most: float) -> float:
    """Draw a yaw (rad) to either side, never so small that it could be ignored."""
    return float(rng.choice((-1, 1)) * rng.uniform(least, most))


def heading(pose: Float[np.ndarray, " 7"]) -> float:
    """Return how far an object that stands upright is turned about z (rad)."""
    return 2 * math.atan2(pose[6], pose[3])


def upright_share(pose: Float[np.ndarray, " 7"]) -> float:
    """Return the cosine of an object's tilt: 1 upright, 0 lying."""
    return float(1 - 2 * (pose[4] ** 2 + pose[5] ** 2))


def point_of(pose: Float[np.ndarray, " 7"], offset: Vector3) -> Float[np.ndarray, " 3"]:
    """Return where a point of a body's frame is in the world (m)."""
    x, y, z, w, i, j, k = pose.tolist()
    a, b, c = offset
    # The axis crossed with the point, plus w times the point: by hand, as `numpy.cross` takes 50 us for three numbers.
    u, v, t = j * c - k * b + w * a, k * a - i * c + w * b, i * b - j * a + w * c
    return np.array([x + a + 2 * (j * t - k * v), y + b + 2 * (k * u - i * t), z + c + 2 * (i * v - j * u)])


def turn_between(a: Float[np.ndarray, " 7"], b: Float[np.ndarray, " 7"]) -> float:
    """Return the angle between two upright things' long axes (rad); either end may point forward."""
    return abs((heading(a) - heading(b) + math.pi / 2) % math.pi - math.pi / 2)

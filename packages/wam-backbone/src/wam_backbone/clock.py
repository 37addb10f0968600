"""Fixed paths of one time from noise to data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from wam_backbone.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Clock:
    """A fixed path of one time from 1 to 0: the actions' times, and the nominal decrements that schedules scale.

    Args:
        times: `steps + 1` times, from 1 down to 0; equal neighbours wait.

    Raises:
        ConfigurationError: The times do not fall from 1 to 0.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(later <= earlier for earlier, later in pairwise(self.times))
        if len(self.times) < 2 or self.times[0] != 1 or self.times[-1] != 0 or not falls:
            raise ConfigurationError(f"`times` are {self.times}; a clock falls from 1 to 0 in at least one step.")

    @classmethod
    def linear(cls, num_steps: int = 10) -> Self:
        """Equal steps."""
        return cls(_grid(num_steps))

    @classmethod
    def cosine(cls, num_steps: int = 10) -> Self:
        """`cos(pi s / 2S)`: small steps near noise, large ones near clean."""
        inner = (math.cos(math.pi / 2 * (1 - time)) for time in _grid(num_steps)[1:-1])
        return cls((1.0, *inner, 0.0))

    @classmethod
    def shifted(cls, shift: float, num_steps: int = 10) -> Self:
        """Wan's sampling times `k u / (1 + (k - 1) u)` on an even grid u."""
        if not shift > 0:
            raise ConfigurationError(f"`shift` is {shift}; it must be above 0.")
        return cls(tuple(shift * time / (shift * time + (1 - time)) for time in _grid(num_steps)))

    @classmethod
    def edm(cls, num_steps: int = 10, *, rho: float = 7.0, sigmas: tuple[float, float] = (0.002, 80.0)) -> Self:
        """The noise levels of EDM as times, `sigma / (1 + sigma)`: ever smaller steps towards the clean end.

        Args:
            num_steps: Network calls.
            rho: How much the levels crowd at the clean end.
            sigmas: Least and greatest level; the first time is pure noise in place of the greatest.

        References:
            Karras et al. (2022), arXiv 2206.00364, eq. (5).
        """
        least, greatest = (sigma ** (1 / rho) for sigma in sigmas)
        fractions = (index / (num_steps - 1) for index in range(1, num_steps))
        levels = [(greatest + fraction * (least - greatest)) ** rho for fraction in fractions]
        return cls((1.0, *(level / (1 + level) for level in levels), 0.0))

    @classmethod
    def ddim(cls, num_steps: int = 10, *, betas: tuple[float, float] = (0.1, 20.0)) -> Self:
        """Even steps of a variance-preserving diffusion with linear beta, as times of the same ratio of noise to data.

        Args:
            num_steps: Network calls.
            betas: Rate of noising at the clean and at the noisy end.

        References:
            Song et al. (2021), arXiv 2010.02502, §4.2; Song et al. (2021), arXiv 2011.13456, eq. (33).
        """
        first, last = betas
        times = []
        for moment in _grid(num_steps)[1:-1]:
            kept = math.exp(-(first * moment + (last - first) * moment**2 / 2))  # alpha bar
            noise, data = math.sqrt(1 - kept), math.sqrt(kept)
            times.append(noise / (noise + data))
        return cls((1.0, *times, 0.0))

    def delayed(self, steps: int) -> Clock:
        """The same path after waiting at 1 for some steps."""
        return Clock((1.0,) * steps + self.times)

    def held(self, steps: int) -> Clock:
        """The same path, then waiting at 0 for some steps."""
        return Clock(self.times + (0.0,) * steps)

    @property
    def num_steps(self) -> int:
        """Network calls."""
        return len(self.times) - 1

    @property
    def waiting(self) -> int:
        """Steps at the start in which the time stays at 1."""
        return self.times.count(1.0) - 1


def in_turn(path: Callable[[int], Clock], steps: int, waiting: int) -> tuple[Clock, Clock]:
    """Clocks of actions and video where the video falls first, in `waiting` of the steps, and the actions in the rest.

    Where none waits both fall together.

    Args:
        path: Makes a clock of some number of steps.
        steps: Network calls in all.
        waiting: Of these, those in which the actions wait; below `steps`.
    """
    if not waiting:
        return path(steps), path(steps)
    return path(steps - waiting).delayed(waiting), path(waiting).held(steps - waiting)


def _grid(num_steps: int) -> tuple[float, ...]:
    if num_steps < 1:
        raise ConfigurationError(f"`num_steps` is {num_steps}; it must be at least 1.")
    return tuple((num_steps - step) / num_steps for step in range(num_steps + 1))

"""Schedules that need no training: the baselines of the paper and of the systems that it compares to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wam_backbone.clock import Clock, in_turn
from wam_backbone.errors import ConfigurationError, ScheduleError
from wam_backbone.interface import DenoisingStep


@dataclass(frozen=True, slots=True)
class SharedSchedule:
    """Every latent falls by the nominal decrement: one scalar time, the standard practice.

    References:
        NoiseGate §3, eq. (1); eq. (6) with every alpha = 1.
    """

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step."""
        return step.times - step.decrement


@dataclass(frozen=True, slots=True, kw_only=True)
class MonotoneSchedule:
    """Near latents are cleaned before far ones: the hand-crafted schedule.

    Latent f of F follows the nominal clock at the speed `1 + lag`, starting later by `lag * f / (F - 1)`. The first
    latent moves from the first step, the last arrives with the last step; all end at 0.

    References:
        NoiseGate, ablation *hand-crafted schedule* (its exact form is not in the paper; this one is ours).
    """

    lag: float = 0.5
    """How much later the last latent starts, in units of a latent's own path; 0 is the shared schedule, 1 one after the
    other. At least 0."""

    def __post_init__(self) -> None:
        if not self.lag >= 0:
            raise ConfigurationError(f"`lag` is {self.lag}; it must be at least 0.")

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step."""
        latents = step.times.shape[1]
        progress = 1 - (step.nominal_time - step.decrement) / step.begin
        delays = self.lag * torch.linspace(0, 1, latents, device=step.times.device)
        speed = 1 + (self.lag if latents > 1 else 0)
        return step.begin * (1 - (progress * speed - delays)).clamp(0, 1).expand_as(step.times)


@dataclass(frozen=True, slots=True, eq=False)
class MatrixSchedule:
    """Any fixed schedule, as a matrix of times.

    Args:
        matrix: Times `(steps + 1, future)` or one matrix per row, `(batch, steps + 1, future)`; row 0 is where the
            latents start and must be 1, no time may rise.

    Raises:
        ScheduleError: The matrix is not such a path.
    """

    matrix: Float[Tensor, "*batch steps_and_one future"]

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.ndim not in (2, 3) or matrix.shape[-2] < 2:
            raise ScheduleError(
                f"the matrix is {tuple(matrix.shape)}; it must be (steps + 1, future) or (batch, steps + 1, future)."
            )
        rises = matrix.diff(dim=-2) > 0
        if not bool((matrix[..., 0, :] == 1).all()) or bool(rises.any()) or not bool((matrix[..., -1, :] >= 0).all()):
            raise ScheduleError("the matrix must start at 1, never rise and stay at or above 0 along its steps.")

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step.

        Raises:
            ScheduleError: The matrix has another number of steps than the clock.
        """
        if self.matrix.shape[-2] != step.num_steps + 1:
            raise ScheduleError(
                f"the matrix has {self.matrix.shape[-2] - 1} steps and the clock {step.num_steps}; they must agree."
            )
        row = self.matrix[..., step.index + 1, :].to(step.times)
        if row.shape[-1] != step.times.shape[1] or (row.ndim == 2 and row.shape[0] != step.times.shape[0]):
            raise ScheduleError(
                f"the matrix gives times of {tuple(row.shape)} for rows and latents of {tuple(step.times.shape)}."
            )
        return step.begin * row.expand_as(step.times)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagineFirst:
    """Video first, then actions: the order of inverse-dynamics models.

    The video falls to 0 in the first `video_steps` steps while the actions wait at 1; pass `clock(num_steps)` to the
    sampler, so that the number of network calls stays that of every other schedule.
    """

    video_steps: int = 5
    """Steps spent on the video; at least 1."""
    shift: float
    """Of both paths: what the model was trained for, its `sampling.shift` (Wan's 5); 1 for equal steps."""

    def __post_init__(self) -> None:
        if self.video_steps < 1:
            raise ConfigurationError(f"`video_steps` is {self.video_steps}; it must be at least 1.")
        self._path(self.video_steps)

    def clock(self, num_steps: int = 10) -> Clock:
        """The action clock that waits for the video and takes the remaining steps.

        Raises:
            ConfigurationError: No step remains for the actions.
        """
        if num_steps <= self.video_steps:
            raise ConfigurationError(
                f"`num_steps` is {num_steps} with {self.video_steps} `video_steps`; leave at least one for the actions."
            )
        return in_turn(self._path, num_steps, self.video_steps)[0]

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step."""
        times = self._path(self.video_steps).times
        return torch.full_like(step.times, step.begin * times[min(step.index + 1, self.video_steps)])

    def _path(self, steps: int) -> Clock:
        return Clock.linear(steps) if self.shift == 1 else Clock.shifted(self.shift, steps)


@dataclass(frozen=True, slots=True)
class Blind:
    """The video stays pure noise: actions without imagination (Fast-WAM at test time)."""

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step."""
        return step.times

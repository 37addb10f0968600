"""What Stage 1 trains on, wherever it comes from: clips of latents with their actions, states and instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from noisegate_apps.runs.seeds import generator_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Some training windows, in CPU memory."""

    video: Float[Tensor, "batch channels latents h w"]
    """Latents of the observation and of the future."""
    actions: Float[Tensor, "batch steps 14"]
    """Normalised."""
    states: Float[Tensor, "batch 14"]
    """Normalised."""
    instructions: tuple[str, ...]
    """One per window."""
    video_valid: Bool[Tensor, "batch future"] | None = None
    """False for latents past an episode's end; None where these are trained on."""
    actions_valid: Bool[Tensor, "batch steps"] | None = None
    """False for actions past an episode's end; None where these are trained on."""
    labelled: Bool[Tensor, " batch"] | None = None
    """False for videos without actions; None where all have some."""


def one_window_each(episode: Int[Tensor, " windows"]) -> Int[Tensor, " episodes"]:
    """Draw a window of every episode, at a random place.

    Args:
        episode: Number of each window's episode, from 0 on and rising.
    """
    count = episode.bincount()
    place = torch.rand(len(count), generator=generator_of("futures"))
    return count.cumsum(0) - count + (place * count).long()


class ClipSource(Protocol):
    """A data set of training windows with fixed order and contents."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that a clip is made of."""
        ...

    @property
    def instructions(self) -> Sequence[str]:
        """Every instruction that a clip may have."""
        ...

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channels, latents, rows and columns of a clip."""
        ...

    @property
    def action_steps(self) -> int:
        """Actions of a clip."""
        ...

    @property
    def labelled(self) -> Bool[Tensor, " windows"] | None:
        """False for windows without actions; None where all have some."""
        ...

    def __len__(self) -> int:
        """Number of windows."""
        ...

    def windows_by_task(self) -> Mapping[str, Int[Tensor, " windows"]]:
        """Numbers of each task's windows, of one randomly placed window per solved episode."""
        ...

    def read(self, windows: Int[Tensor, " batch"], phrasings: Sequence[int]) -> Clips:
        """Read some windows.

        Args:
            windows: Their numbers.
            phrasings: For each, any number; it chooses among the instructions that the window's episode has.
        """
        ...

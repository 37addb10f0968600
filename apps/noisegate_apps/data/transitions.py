"""Transitions: what was observed and what followed, some of every task, which a policy brings along as clean latents.

Two things need a future that is known to be true or wrong. The stress test lies with another scene's, and a gate learns
from observations and what followed them to see what does not follow. Neither sees the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from noisegate_apps.data.clips import ClipSource
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import TRANSITIONS
from noisegate_apps.runs.seeds import generator_of

LYING = 24
"""Transitions of each task that are there to lie with; of fewer than twice as many, half."""

FEWEST = 8
"""Transitions of a task with which a gate can learn to see: half of them are left for that."""

Transitions = Mapping[str, Float[Tensor, "count channels latents height width"]]
"""Task to clips, the latent of the observation first, each from another episode where there are enough."""


def some_transitions(source: ClipSource, *, per_task: int, seed: int) -> Transitions:
    """Pick clips of every task, in half precision."""
    picked = {}
    for task, windows in source.windows_by_task().items():
        # The name of the seed is older than the observations: with it, stress tests lie as they always have.
        chosen = windows[torch.randperm(len(windows), generator=generator_of(seed, "futures", task))[:per_task]]
        picked[task] = source.read(chosen, [0] * len(chosen)).video.half()
    return picked


def to_lie_with(transitions: Transitions) -> dict[str, Float[Tensor, "count channels future height width"]]:
    """Futures of other scenes by task."""
    return {task: clips[: _lying(clips), :, 1:] for task, clips in transitions.items()}


def to_learn_from(transitions: Transitions) -> dict[str, Float[Tensor, "count channels latents height width"]]:
    """Clips by task, none of which is lied with.

    Raises:
        RunError: If they are too few of a task to tell one's future from another's, or there are none at all.
    """
    few = {task: len(clips) for task, clips in transitions.items() if len(clips) < FEWEST}
    if few or not transitions:
        raise RunError(
            f"a gate cannot learn to see from the policy's transitions of {few or 'no task'}; train the policy on "
            f"{FEWEST} solved episodes of each task or more, or let `orient` be 0."
        )
    return {task: clips[_lying(clips) :] for task, clips in transitions.items()}


def _lying(clips: Tensor) -> int:
    return min(LYING, (len(clips) + 1) // 2)


def save_transitions(folder: Path, transitions: Transitions) -> None:
    """Write them beside a policy."""
    save_file({task: clips.contiguous() for task, clips in transitions.items()}, folder / TRANSITIONS)


def load_transitions(folder: Path) -> Transitions:
    """Read those of a policy; none where it brings none.

    Raises:
        RunError: If the file is damaged.
    """
    file = folder / TRANSITIONS
    try:
        return load_file(file) if file.exists() else {}
    except SafetensorError as error:
        raise RunError(f"`{file}` cannot be read ({error}); restore it as Stage 1 left it.") from error

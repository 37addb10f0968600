"""Which scenes are trained on and which are evaluated on, the same for both worlds.

RoboTwin's evaluation plays scene seeds from `100000 * (1 + s)` upward, its data collection from 0. What belongs to one
is refused to the other, so that nothing of an evaluation is ever trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from .errors import SplitError

Split = Literal["train", "eval"]

EVALUATION_SEEDS = range(100_000, 1_000_000)
"""Scene seeds of evaluations: of RoboTwin's official one with s = 0 to 8."""

FIRST_SEEDS: dict[Split, int] = {"train": 1_000_000, "eval": EVALUATION_SEEDS.start}
"""Where a search for scenes starts; training's own starts past the demonstrations, which are counted from 0."""

LAST_SEED = 2**31
"""No drawn seed reaches it."""


def split_of(seed: int) -> Split:
    """Name the split that a scene seed belongs to."""
    return "eval" if seed in EVALUATION_SEEDS else "train"


def check_seeds(seeds: Iterable[int], split: Split) -> None:
    """Refuse seeds of the other split.

    Raises:
        SplitError: one of the seeds does not belong to `split`.
    """
    for seed in seeds:
        if split_of(seed) != split:
            first, last = EVALUATION_SEEDS[0], EVALUATION_SEEDS[-1]
            raise SplitError(
                f"seed {seed} does not belong to the split `{split}`: {first} to {last} are for evaluation, all others "
                f'for training. Take another seed, or `split="{split_of(seed)}"`.'
            )


def check_recordings(seeds: Mapping[str, int | None]) -> None:
    """Refuse to train on recordings of an evaluation's scenes.

    Args:
        seeds: Name of each recording to its scene's seed; `None` where it says none.

    Raises:
        SplitError: one of the seeds is an evaluation's; the message names the recording.
    """
    for name, seed in seeds.items():
        if seed is not None and split_of(seed) == "eval":
            first, last = EVALUATION_SEEDS[0], EVALUATION_SEEDS[-1]
            raise SplitError(
                f"{name} was recorded on seed {seed}; {first} to {last} are for evaluation. Take it out of the "
                "training data, or write it without a seed if the number is none of a scene's."
            )


def draw_seed(split: Split, generator: np.random.Generator) -> int:
    """Draw one of the split's seeds below `LAST_SEED`, all equally likely."""
    if split == "eval":
        return int(generator.integers(EVALUATION_SEEDS.start, EVALUATION_SEEDS.stop))
    seed = int(generator.integers(LAST_SEED - len(EVALUATION_SEEDS)))
    return seed if seed < EVALUATION_SEEDS.start else seed + len(EVALUATION_SEEDS)

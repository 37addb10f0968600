"""Success rates as they must be reported: with episodes, with an interval, and compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Z95 = 1.959963984540054
"""The two-sided 95% point of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRate:
    """A rate over a number of episodes with its 95% Wilson score interval (Wilson 1927)."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        """Share of successful episodes."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95% interval."""
        n, p, z2 = self.episodes, self.rate, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> SuccessRate:
        """Count outcomes.

        Raises:
            ValueError: If there are none.
        """
        if not outcomes:
            raise ValueError("a success rate needs at least one episode.")
        return cls(successes=sum(outcomes), episodes=len(outcomes))

    def record(self) -> dict[str, float | int | list[float]]:
        """Return the JSON form."""
        return {
            "success": self.rate,
            "interval95": list(self.interval),
            "successes": self.successes,
            "episodes": self.episodes,
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.rate:.1f}% [{100 * low:.1f}, {100 * high:.1f}] (n = {self.episodes})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The difference of two rates over the same scenes, from the pairs that disagree.

    The interval is Agresti and Min's adjusted Wald interval for matched pairs (2005): half a pair is added to each
    of the four cells, which holds its level also where few pairs disagree. It ends at -1 and 1, beyond which there is
    no difference.
    """

    gained: int
    """Pairs that only the first solves."""
    lost: int
    """Pairs that only the second solves."""
    episodes: int

    @property
    def difference(self) -> float:
        """First rate minus second rate."""
        return (self.gained - self.lost) / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95% interval."""
        n, b, c = self.episodes + 2, self.gained + 0.5, self.lost + 0.5
        centre = (b - c) / n
        half = Z95 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
        return max(-1.0, centre - half), min(1.0, centre + half)

    @property
    def p_value(self) -> float:
        """Two-sided exact p-value of McNemar's test: how the disagreeing pairs fall if both were equally good."""
        discordant = self.gained + self.lost
        tail = sum(math.comb(discordant, k) for k in range(min(self.gained, self.lost) + 1))
        return min(1.0, 2 * tail / (1 << discordant))

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
        """Compare outcomes of the same scenes in the same order.

        Raises:
            ValueError: If the numbers differ, or there are none.
        """
        if len(first) != len(second) or not first:
            raise ValueError(f"pairs need equally many outcomes on both sides, found {len(first)} and {len(second)}.")
        pairs = list(zip(first, second, strict=True))
        return cls(
            gained=sum(a and not b for a, b in pairs), lost=sum(b and not a for a, b in pairs), episodes=len(pairs)
        )

    def record(self) -> dict[str, float | int | list[float]]:
        """Return the JSON form."""
        return {
            "difference": self.difference,
            "interval95": list(self.interval),
            "gained": self.gained,
            "lost": self.lost,
            "episodes": self.episodes,
            "mcnemar_p": self.p_value,
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] (n = {self.episodes})"


Outcomes = Mapping[str, Sequence[bool]]
"""Task to the success of each scene, in the order of the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95% percentile interval, from the bootstrap."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, value: float, draws: Float[np.ndarray, " draws"]) -> Estimate:
        """Take the interval from what the resampled data gave."""
        low, high = np.quantile(draws, (0.025, 0.975))
        return cls(value=value, interval=(float(low), float(high)))


def stratified_difference(pairs: Sequence[tuple[Outcomes, Outcomes]], *, draws: int = 4000, seed: int = 0) -> Estimate:
    """Mean difference of two methods over tasks, each weighing the same, by the bootstrap stratified by task.

    Within each task the training seeds are drawn anew, and within each of these its scenes; a scene's two outcomes
    stay together.

    Args:
        pairs: One per training seed: outcomes of the first and of the second method on the same scenes.
        draws: Resampled data sets.
        seed: Of the resampling.

    Raises:
        ValueError: If there are no pairs, or two sides differ in their tasks or numbers of scenes.
    """
    if not pairs or any(set(first) != set(second) or not first for first, second in pairs):
        raise ValueError("a stratified difference needs pairs of outcomes of the same tasks.")
    tasks = list(pairs[0][0])
    rng = np.random.default_rng(seed)
    values, resampled = [], []
    for task in tasks:
        found = [PairedDifference.of(first[task], second[task]) for first, second in pairs]
        shares = np.array([[one.gained, one.lost, one.episodes - one.gained - one.lost] for one in found], dtype=float)
        scenes = shares.sum(axis=1)
        values.append(float(np.mean([one.difference for one in found])))
        chosen = rng.integers(len(found), size=(draws, len(found)))
        counts = rng.multinomial(scenes[chosen].astype(int), (shares / scenes[:, None])[chosen])
        resampled.append(((counts[..., 0] - counts[..., 1]) / scenes[chosen]).mean(axis=1))
    return Estimate.of(float(np.mean(values)), np.mean(resampled, axis=0))


def interquartile_mean(scores: Float[np.ndarray, "seeds tasks"], *, draws: int = 4000, seed: int = 0) -> Estimate:
    """Mean of the middle half of all scores, by the bootstrap stratified by task.

    Args:
        scores: Of each training seed on each task.
        draws: Resampled data sets: training seeds are drawn anew within each task.
        seed: Of the resampling.

    References:
        Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv 2108.13264.
    """
    seeds, tasks = scores.shape
    chosen = np.random.default_rng(seed).integers(seeds, size=(draws, seeds, tasks))
    resampled = np.take_along_axis(scores[None], chosen, axis=1)
    return Estimate.of(float(_middle(scores[None])[0]), _middle(resampled))


def _middle(scores: Float[np.ndarray, "draws seeds tasks"]) -> Float[np.ndarray, " draws"]:
    ordered = np.sort(scores.reshape(len(scores), -1), axis=1)
    cut = ordered.shape[1] // 4
    middle: Float[np.ndarray, " draws"] = ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)
    return middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over episodes with its 95% bootstrap interval (Efron 1979, percentiles of 2,000 draws of one seed)."""

    mean: float
    interval: tuple[float, float]
    episodes: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Take the mean.

        Raises:
            ValueError: If there are no values.
        """
        if not values:
            raise ValueError("a mean needs at least one episode.")
        array = np.asarray(values, dtype=np.float64)
        drawn = np.random.default_rng(0).choice(array, (2_000, len(array))).mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        return cls(mean=float(array.mean()), interval=(float(low), float(high)), episodes=len(array))

    def record(self) -> dict[str, float | int | list[float]]:
        """Return the JSON form."""
        return {"mean": self.mean, "interval95": list(self.interval), "episodes": self.episodes}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:.2f} [{low:.2f}, {high:.2f}] (n = {self.episodes})"

"""Normalisation of actions and states: measured on the training data, saved beside the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError

STATISTICS_FILE = "statistics.json"
"""Lies beside a model's weights."""
_LEAST_RANGE = 1e-4
"""A number that moves less than this is only centred, as Fast-WAM does."""


class Scaling(Enum):
    """What of the data becomes what; the values are Fast-WAM's names."""

    MOMENTS = "z-score"
    """Mean 0, standard deviation 1."""
    RANGE = "min/max"
    """Least and greatest value to -1 and 1."""
    QUANTILES = "q01/q99"
    """The 1 % and 99 % quantiles to -1 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalizer:
    """`(x - center) / scale` for each number of an action or a state.

    Raises:
        ConfigurationError: Sizes differ, a number is not finite, or a scale or the limit is not above 0.
    """

    center: tuple[float, ...]
    """In the data's units."""
    scale: tuple[float, ...]
    """In the data's units; positive."""
    limit: float | None = None
    """Normalised values are clamped to plus and minus this; None lets outliers through."""

    def __post_init__(self) -> None:
        fitting = len(self.center) == len(self.scale) and all(0 < scale < math.inf for scale in self.scale)
        if not fitting or not all(map(math.isfinite, self.center)):
            raise ConfigurationError(
                f"`center` is {self.center} and `scale` {self.scale}; give as many finite numbers each, scales above 0."
            )
        if self.limit is not None and not self.limit > 0:
            raise ConfigurationError(f"`limit` is {self.limit}; it must be above 0, or None.")

    @classmethod
    def from_moments(
        cls, values: Float[Tensor, "steps dim"], *, least: float = 1e-2, limit: float | None = None
    ) -> Self:
        """Mean to 0 and standard deviation to 1.

        Args:
            values: Data; all steps count alike.
            least: Deviations below this are replaced by it: a number that hardly moves is not blown up.
            limit: Clamp of normalised values.
        """
        center, scale = values.double().mean(0), values.double().std(0).clamp(min=least)
        return cls(center=tuple(center.tolist()), scale=tuple(scale.tolist()), limit=limit)

    @classmethod
    def from_deviations(
        cls, mean: Sequence[float], std: Sequence[float], *, least: float = 1e-2, limit: float | None = None
    ) -> Self:
        """Mean to 0 and standard deviation to 1, from statistics that are already known.

        Args:
            mean: Of each number.
            std: Of each number; those below `least` are replaced by it.
            least: In the data's units.
            limit: Clamp of normalised values.
        """
        return cls(center=tuple(mean), scale=tuple(max(deviation, least) for deviation in std), limit=limit)

    @classmethod
    def identity(cls, dim: int) -> Self:
        """Leave `dim` numbers in the data's units."""
        return cls(center=(0.0,) * dim, scale=(1.0,) * dim)

    @classmethod
    def from_range(cls, low: Float[Tensor, " dim"], high: Float[Tensor, " dim"], *, limit: float | None = None) -> Self:
        """`low` to -1 and `high` to 1; where they are almost equal, `low` to 0 and no scaling."""
        low, high = low.double(), high.double()
        flat = high - low < _LEAST_RANGE
        center = torch.where(flat, low, (low + high) / 2)
        scale = torch.where(flat, torch.ones_like(low), (high - low) / 2)
        return cls(center=tuple(center.tolist()), scale=tuple(scale.tolist()), limit=limit)

    @classmethod
    def from_quantiles(
        cls, values: Float[Tensor, "steps dim"], *, outside: float = 0.01, limit: float | None = None
    ) -> Self:
        """The quantiles `outside` and `1 - outside` to -1 and 1."""
        levels = torch.tensor([outside, 1 - outside], dtype=torch.float64, device=values.device)
        low, high = torch.quantile(values.double(), levels, dim=0)
        return cls.from_range(low, high, limit=limit)

    @property
    def dim(self) -> int:
        """Numbers in one action or state."""
        return len(self.center)

    def normalize(self, values: Float[Tensor, "*rest dim"]) -> Float[Tensor, "*rest dim"]:
        """From the data's units.

        Raises:
            ShapeError: The last dimension is not `dim`.
        """
        self._check(values)
        normal = (values - values.new_tensor(self.center)) / values.new_tensor(self.scale)
        return normal if self.limit is None else normal.clamp(-self.limit, self.limit)

    def restore(self, values: Float[Tensor, "*rest dim"]) -> Float[Tensor, "*rest dim"]:
        """Back to the data's units; a clamp is not undone.

        Raises:
            ShapeError: The last dimension is not `dim`.
        """
        self._check(values)
        return values * values.new_tensor(self.scale) + values.new_tensor(self.center)

    def _check(self, values: Tensor) -> None:
        if values.shape[-1:] != (self.dim,):
            raise ShapeError(f"values of {tuple(values.shape)} came to a normaliser of {self.dim} numbers.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How a model's actions and states were normalised in training."""

    actions: Normalizer
    states: Normalizer | None = None
    """None for a model without state."""

    def save(self, folder: str | Path) -> None:
        """Write `statistics.json` into a folder."""
        (Path(folder) / STATISTICS_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            WeightsError: The file does not hold statistics.
        """
        record = _read(Path(file))
        try:
            fields = {name: None if value is None else Normalizer(**_tuples(value)) for name, value in record.items()}
            return cls(**fields)  # type: ignore[arg-type]  # a missing `actions` is the TypeError below
        except (TypeError, AttributeError) as error:
            raise WeightsError(
                f"`{file}` holds no normalisation statistics ({error}); save the model again."
            ) from error

    @classmethod
    def load_fastwam(cls, file: str | Path, scaling: Scaling = Scaling.MOMENTS) -> Self:
        """Read a `dataset_stats.json` of Fast-WAM.

        Args:
            file: Holds moments, ranges and quantiles of `action` and `state`.
            scaling: Which of them the policy was trained with: moments for the released RoboTwin policy, the range for
                LIBERO.

        Raises:
            WeightsError: The file does not hold them.
        """
        record = _read(Path(file))
        try:
            return cls(actions=_fastwam(record["action"], scaling), states=_fastwam(record["state"], scaling))
        except (KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"`{file}` holds no Fast-WAM statistics ({error!r}); pass the `dataset_stats.json` of the checkpoint."
            ) from error


_FASTWAM_LIMIT = 5.0
_FASTWAM_REGULARIZER = 1e-8


def _fastwam(fields: dict[str, dict[str, list[float]]], scaling: Scaling) -> Normalizer:
    """Fast-WAM keeps one record per named part of the vector; parts follow each other in the file's order."""

    def joined(statistic: str) -> Tensor:
        return torch.cat([torch.tensor(part[f"global_{statistic}"], dtype=torch.float64) for part in fields.values()])

    if scaling is Scaling.MOMENTS:
        scale = joined("std") + _FASTWAM_REGULARIZER
        return Normalizer(center=tuple(joined("mean").tolist()), scale=tuple(scale.tolist()), limit=_FASTWAM_LIMIT)
    low, high = ("min", "max") if scaling is Scaling.RANGE else ("q01", "q99")
    return Normalizer.from_range(joined(low), joined(high), limit=_FASTWAM_LIMIT)


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise WeightsError(f"`{file}` does not exist; it lies beside the weights.") from error
    except json.JSONDecodeError as error:
        raise WeightsError(f"`{file}` is no JSON ({error}); download or save it again.") from error
    if not isinstance(record, dict):
        raise WeightsError(f"`{file}` holds a {type(record).__name__}; statistics are an object.")
    return record

"""How a trained model is to be sampled: what its weights do not say, in a file beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Self

from wam_backbone.clock import Clock, in_turn
from wam_backbone.errors import ConfigurationError, WeightsError

SAMPLING_FILE = "sampling.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a policy was trained to plan, and from what.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    action_steps: int
    """Actions of a chunk."""
    future_latents: int
    """Imagined latents of a chunk."""
    shift: float
    """Of the clock: Wan's shift, 1 for equal steps."""
    steps: int = 10
    """Network calls per chunk."""
    head_start: float = 0.0
    """Part of the calls, from the first on, that belong to imagination while the actions wait as pure noise: under the
    shared schedule it is done when they start. At 0 both fall together."""
    codec: str = "codec"
    """Folder of a `ConvCodec`, relative to the weights', or folder or hub id of a Wan repository."""
    text: str = "hash"
    """`hash` for `HashTextEncoder`, or folder or hub id of a Wan repository."""
    text_length: int = 24
    """Text tokens."""
    template: str = "{instruction}"
    """What the text encoder reads."""
    tiling: tuple[int, int, int] | None = None
    """Rows and columns of the codec's frame, rows of the head camera's part; None for square cameras as they are."""

    def __post_init__(self) -> None:
        if self.action_steps < 1 or self.future_latents < 0 or self.text_length < 1:
            raise ConfigurationError(f"{self} plans nothing; sizes are at least 1, `future_latents` at least 0.")
        if not 0 <= self.head_start < 1:
            raise ConfigurationError(
                f"`head_start` is {self.head_start}; it is a part of the calls, from 0 to below 1."
            )
        if "{instruction}" not in self.template:
            raise ConfigurationError(f"`template` is `{self.template}`; it must contain `{{instruction}}`.")
        self.clock(self.steps)

    def clock(self, steps: int | None = None) -> Clock:
        """Path of the action time in some number of steps, its own where None."""
        return self._clocks(steps)[0]

    def video_clock(self, steps: int | None = None) -> Clock:
        """Path of the shared video time likewise: the same unless imagination has a head start."""
        return self._clocks(steps)[1]

    def _clocks(self, steps: int | None) -> tuple[Clock, Clock]:
        steps = self.steps if steps is None else steps
        waiting = int(self.head_start * steps + 1e-9)  # 0.29 * 100 is 28.999...
        path = Clock.linear if self.shift == 1 else partial(Clock.shifted, self.shift)
        return in_turn(path, steps, waiting)

    def save(self, folder: Path) -> None:
        """Write `sampling.json` into a folder."""
        (folder / SAMPLING_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            WeightsError: The file does not say how to sample.
        """
        try:
            record = json.loads(file.read_text())
            return cls(**record | {"tiling": record["tiling"] and tuple(record["tiling"])})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"`{file}` does not say how to sample ({error}); save the pipeline again.") from error

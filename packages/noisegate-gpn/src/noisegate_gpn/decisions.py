"""What a learned schedule decided, as flat tensors for a learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from noisegate_gpn.errors import NoDecisionsError


@dataclass(frozen=True, slots=True)
class ScheduleDecisions:
    """Recorded decisions, one per denoising step and batch row, ordered by row, then by time of recording.

    The state of a decision is what the policy saw: re-evaluated by the same weights it gives the recorded log-density.
    """

    latents: Float[Tensor, "decisions channels frames height width"]
    """Predicted latents before the step, in the schedule's `state_dtype`."""

    observation: Float[Tensor, "decisions channels 1 height width"]
    """Clean observation latent, in the schedule's `state_dtype`; the same for all steps of one chunk."""

    times: Float[Tensor, "decisions frames"]
    """Times before the step."""

    u: Float[Tensor, "decisions frames"]
    """Pre-squash actions."""

    log_prob: Float[Tensor, "decisions frames"]
    """Log-density of each relative scale, before the clip of NoiseGate eq. (6)."""

    row: Int[Tensor, " decisions"]
    """Batch row of each decision."""

    step: Int[Tensor, " decisions"]
    """Denoising step of each decision."""

    @property
    def states(self) -> dict[str, Tensor]:
        """The states, as `GatingPolicyNetwork.evaluate` takes them."""
        return {"latents": self.latents, "observation": self.observation, "times": self.times}

    def of_row(self, row: int) -> Self:
        """The decisions of one batch row, in the order in which they were made."""
        return self._map(lambda tensor: tensor[self.row == row])

    def to(self, device: torch.device | str) -> Self:
        """The same decisions on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Joins the decisions of several chunks of one episode, in the given order.

        Raises:
            NoDecisionsError: `parts` is empty.
        """
        if not parts:
            raise NoDecisionsError("`parts` is empty; give the decisions of at least one chunk.")
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.u)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))

"""How much the actions look at each latent: attention mass without full attention maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from wam_backbone.errors import ShapeError
from wam_backbone.model import WorldActionModel


@dataclass(slots=True)
class AttentionRecord:
    """What a probe saw, one entry per call of the model."""

    calls: list[Float[Tensor, "layers batch heads frames"]] = field(default_factory=list)
    """Mean mass that an action token gives to each latent frame, the observation first. What is missing to 1 went to
    state and action tokens."""

    def stacked(self) -> Float[Tensor, "calls layers batch heads frames"]:
        """All calls in one tensor, for instance the steps of one chunk."""
        return torch.stack(self.calls)


@contextmanager
def attention_mass(model: WorldActionModel) -> Iterator[AttentionRecord]:
    """Record the mean attention from action tokens to each latent frame while the context is open.

    Only the action queries' probabilities are computed a second time, one layer at a time; the model's outputs do not
    change. The state token is no action and is not counted. Not for compiled blocks.

    Args:
        model: Called inside the context with actions.

    References:
        NoiseGate, figures 4 and 6.
    """
    record = AttentionRecord()
    layers: list[Tensor] = []
    state_tokens = 1 if model.state_embedding is not None else 0

    def collect(probabilities: Tensor, frames: int) -> None:
        by_frame = rearrange(probabilities[:, :, state_tokens:], "b h q (f n) -> b h q f n", f=frames)
        layers.append(reduce(by_frame, "b h q f n -> b h f", "sum") / by_frame.shape[2])
        if len(layers) == len(model.layers):
            record.calls.append(torch.stack(layers))
            layers.clear()

    for block in model.layers:
        block.probe = collect
    try:
        yield record
    finally:
        for block in model.layers:
            block.probe = None


def mass_by_time(
    mass: Float[Tensor, "calls layers batch heads future"],
    times: Float[Tensor, "calls batch future"],
    *,
    bins: int = 10,
) -> Float[Tensor, "bins layers"]:
    """Mean mass given to a latent, by that latent's own time: the curves of figures 4 and 6.

    Args:
        mass: Recorded mass of the predicted latents (without the observation).
        times: Time of each latent in each call.
        bins: Equal bins of [0, 1]; the last includes 1.

    Returns:
        Mean over everything that fell into a bin, NaN where nothing did. Average layers as you like: overall, or early,
        middle and late thirds.

    Raises:
        ShapeError: `mass` and `times` do not describe the same latents.
    """
    calls, layers, batch, _, future = mass.shape
    if times.shape != (calls, batch, future):
        raise ShapeError(
            f"`times` are {tuple(times.shape)}; `mass` of {tuple(mass.shape)} needs {(calls, batch, future)}."
        )
    index = rearrange((times * bins).long().clamp(0, bins - 1), "calls b f -> (calls b f)")
    values = rearrange(reduce(mass, "calls layers b h f -> calls layers b f", "mean"), "c l b f -> (c b f) l")
    total = values.new_zeros(bins, layers).index_add_(0, index, values)
    count = values.new_zeros(bins).index_add_(0, index, torch.ones_like(index, dtype=values.dtype))
    return total / count.unsqueeze(1)  # 0 / 0 is the NaN of an empty bin

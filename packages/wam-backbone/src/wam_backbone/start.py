"""Where a chunk starts: what is known, noise, an earlier plan, actions that are carried out in any case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.flow import add_noise
from wam_backbone.interface import ContextCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is known when a chunk is planned."""

    latent: Float[Tensor, "batch channels 1 height width"]
    """Clean latent of the current frame."""
    context: Float[Tensor, "batch text text_dim"] | ContextCache
    """Text embedding of the instruction, or its `encode_context`, which may be made once per instruction."""
    state: Float[Tensor, "batch state_dim"] | None = None
    """Normalised state of the robot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Where a chunk starts."""

    video: Float[Tensor, "batch channels future height width"]
    actions: Float[Tensor, "batch steps action_dim"]

    @classmethod
    def draw(
        cls,
        observation: Observation,
        *,
        frames: int,
        action_steps: int,
        action_dim: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Self:
        """Draw standard normal noise.

        Args:
            observation: Gives batch, latent size and device.
            frames: Future latents.
            action_steps: Actions of the chunk.
            action_dim: Numbers in one action.
            generator: One source for the batch, or one per row: then a row's noise does not depend on the others.

        Raises:
            ShapeError: There are not as many generators as rows.
        """
        batch, channels, _, height, width = observation.latent.shape
        device = observation.latent.device
        shapes = ((channels, frames, height, width), (action_steps, action_dim))
        if generator is None or isinstance(generator, torch.Generator):
            drawn = [_normal((batch, *shape), generator, device) for shape in shapes]
            return cls(video=drawn[0], actions=drawn[1])
        if len(generator) != batch:
            raise ShapeError(f"{len(generator)} generators came for {batch} rows; pass one per row, or a single one.")
        rows = [[_normal(shape, source, device) for shape in shapes] for source in generator]
        return cls(video=torch.stack([row[0] for row in rows]), actions=torch.stack([row[1] for row in rows]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WarmStart:
    """An earlier plan to start from instead of pure noise; see `after` for what was executed since.

    Raises:
        ConfigurationError: `time` is not in (0, 1].
    """

    actions: Float[Tensor, "batch steps action_dim"]
    """Normalised."""
    latents: Float[Tensor, "batch channels future height width"]
    """Clean, for instance the `estimates` of the last chunk."""
    time: float = 0.5
    """How much noise is put on both; clock and schedule run from here. 1 forgets the plan."""

    def __post_init__(self) -> None:
        if not 0 < self.time <= 1:
            raise ConfigurationError(f"`time` is {self.time}; it must be above 0 and at most 1.")

    def after(self, executed: int) -> Self:
        """The plan moved on by the actions that were executed; its last action and latent stand for what it lacks.

        Latents move by whole ones, as many as the actions spanned, rounded.

        Raises:
            ConfigurationError: `executed` is below 0 or more than was planned.
        """
        steps, latents = self.actions.shape[1], self.latents.shape[2]
        if not 0 <= executed <= steps:
            raise ConfigurationError(f"`executed` is {executed}; the plan has {steps} actions.")
        passed = round(executed * latents / steps)
        return replace(
            self,
            actions=_moved_on(self.actions, executed, dim=1),
            latents=_moved_on(self.latents, passed, dim=2),
        )

    def under(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Latents and actions under noise.

        Raises:
            ShapeError: The plan is of another size than the noise.
        """
        for name, found, needed in (("latents", self.latents, noise.video), ("actions", self.actions, noise.actions)):
            if found.shape != needed.shape:
                raise ShapeError(f"`warm_start.{name}` is {tuple(found.shape)}; the chunk needs {tuple(needed.shape)}.")
        time = noise.video.new_tensor(self.time)
        return (
            add_noise(self.latents.to(noise.video), noise.video, time),
            add_noise(self.actions.to(noise.actions), noise.actions, time),
        )


def pinned(actions: Tensor, prefix: Tensor | None, noise: Noise, time: float) -> Tensor:
    """Actions with their first ones those that are known, under their noise."""
    if prefix is None:
        return actions
    rows, known, numbers = prefix.shape
    if (rows, numbers) != (actions.shape[0], actions.shape[2]) or known > actions.shape[1]:
        raise ShapeError(f"`prefix` is {tuple(prefix.shape)}; the chunk's actions are {tuple(actions.shape)}.")
    first = add_noise(prefix.to(actions), noise.actions[:, :known], actions.new_tensor(time))
    return torch.cat((first, actions[:, known:]), dim=1)


def _moved_on(plan: Tensor, passed: int, *, dim: int) -> Tensor:
    length = plan.shape[dim]
    kept = (torch.arange(length, device=plan.device) + passed).clamp(max=length - 1)
    return plan.index_select(dim, kept)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Drawn where the generator lives, so that a CPU generator gives the same noise on every device."""
    source = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=source).to(device)

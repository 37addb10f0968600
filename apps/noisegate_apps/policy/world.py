"""A trained world action model with all that it needs to act: codec, text encoder, normalisation, chunk sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from noisegate_apps.data.transitions import Transitions, to_lie_with
from noisegate_apps.play.imagination import UnreliableImagination
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import plain
from noisegate_apps.runs.seeds import generator_of
from wam_backbone import (
    Chunk,
    Clock,
    Hallucination,
    Normalizer,
    Observation,
    Schedule,
    WorldActionModel,
    WorldActionPipeline,
)
from wam_backbone.cameras import to_pictures
from wam_backbone.data import digest_of, weights_digest

CameraImages = Mapping[str, NDArray[Any]]
"""One observation of an environment: camera pictures and `state`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Sizes and statistics that were fixed in training."""

    states: Normalizer
    actions: Normalizer
    action_steps: int = 16
    """Actions of a chunk, at 25 Hz."""
    future_latents: int = 2
    """Imagined latents of a chunk, four frames each."""
    frame_stride: int = 2
    """Control steps between two imagined frames."""
    denoising_steps: int = 10
    """S of the linear clock under which the policy plans unless told otherwise."""
    head_start: float = 0.0
    """Part of the network calls that belong to imagination, before the actions start; at 0 both fall together."""
    tasks: tuple[str, ...] = ()
    """Tasks that it has learned; empty where that is not known."""
    scene: Literal["clean", "random"] = "random"
    """The tabletop's scenes on which it has learned."""
    text_dim: int = 64
    """Channels of a text token."""
    text_length: int = 24
    """Text tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the policy wants to do, and what it imagines."""

    actions: Float[np.ndarray, "batch steps 14"]
    """Joint targets (rad) and grippers; may lie outside the limits."""
    chunk: Chunk
    """The same actions, what was imagined and the path to them."""
    observation: Float[Tensor, "batch channels 1 h w"]
    """The observed latent."""


class WorldPolicy:
    """Observations and instructions in, action chunks and imagined video out.

    Args:
        pipeline: Model, codec and text encoder.
        settings: Sizes and statistics of its training.
        transitions: Of its demonstrations, for stress tests and for gates to learn from; none where None.
        digest: Of all files that it was loaded from; of the weights in memory where None.

    Raises:
        RunError: If a weight is not finite.
    """

    def __init__(
        self,
        pipeline: WorldActionPipeline,
        settings: PolicySettings,
        *,
        transitions: Transitions | None = None,
        digest: str | None = None,
    ) -> None:
        refuse_broken(pipeline.model, "the policy's weights")
        if isinstance(pipeline.codec, nn.Module):
            refuse_broken(pipeline.codec, "the weights of the policy's codec")
        pipeline.model.requires_grad_(False)
        self.pipeline = pipeline
        self.settings = settings
        self.clock = pipeline.sampling.clock()
        self.video_clock = pipeline.sampling.video_clock()
        self.transitions = transitions or {}
        self._digest = digest

    @property
    def backbone(self) -> WorldActionModel:
        """The world action model."""
        return self.pipeline.model

    @property
    def device(self) -> torch.device:
        """Where it plans; a gate has to be there too."""
        return self.backbone.device

    @property
    def digest(self) -> str:
        """What makes this policy the same as another, whatever its folder is called."""
        if self._digest is not None:
            return self._digest
        parts = [weights_digest(part) for part in (self.backbone, self.pipeline.codec) if isinstance(part, nn.Module)]
        return digest_of([parts, plain(self.settings)])

    def under(self, clock: Clock, video_clock: Clock | None = None) -> Self:
        """Return this policy with other paths of action time and shared video time, which are one unless told.

        Weights are shared.
        """
        other = copy(self)
        other.clock, other.video_clock = clock, video_clock or clock
        return other

    def in_steps(self, steps: int) -> Self:
        """Return this policy with another number of network calls per chunk, on the kind of clock of its training."""
        return self.under(self.pipeline.sampling.clock(steps), self.pipeline.sampling.video_clock(steps))

    def together(self) -> Self:
        """Return this policy without a head start: one clock for imagination and actions."""
        return self.under(replace(self.pipeline.sampling, head_start=0.0).clock(self.clock.num_steps))

    def unreliable(self, config: ImaginationConfig, tasks: Sequence[str]) -> UnreliableImagination | None:
        """Return what makes this policy's imagination lie; None for `never`.

        Args:
            config: When and where.
            tasks: All tasks that are played.

        Raises:
            RunError: If the policy brings no transitions of such tasks.
        """
        if config.lies == "never":
            return None
        futures = to_lie_with(self.transitions)
        try:
            return UnreliableImagination(config, futures, tasks, frames=self.settings.future_latents)
        except ValueError as error:
            raise RunError(str(error)) from error

    def embed(self, instructions: Sequence[str]) -> Float[Tensor, "batch text text_dim"]:
        """Embed instructions; each is embedded once."""
        return self.pipeline.embed(instructions)

    @torch.no_grad()
    def plan(
        self,
        observations: Sequence[CameraImages],
        instructions: Sequence[str],
        schedule: Schedule,
        noise_seeds: Sequence[tuple[int | str, ...]],
        *,
        hallucination: Hallucination | None = None,
    ) -> Plan:
        """Denoise one chunk per row.

        Args:
            observations: One per row.
            instructions: One per row.
            schedule: Chooses the video times.
            noise_seeds: What each row's initial noise depends on, and nothing else.
            hallucination: Latents that are made wrong, for stress tests.
        """
        return self.plan_from(
            self.observe(observations, instructions), schedule, noise_seeds, hallucination=hallucination
        )

    @torch.no_grad()
    def observe(self, observations: Sequence[CameraImages], instructions: Sequence[str]) -> Observation:
        """Encode what is seen, what is asked and the robot's state, one row each; pictures may differ in size."""
        states = np.stack([observation["state"] for observation in observations])
        return self.pipeline.observe_frames(self._frames(observations), states, instructions)

    def plan_from(
        self,
        known: Observation,
        schedule: Schedule,
        noise_seeds: Sequence[tuple[int | str, ...]],
        *,
        hallucination: Hallucination | None = None,
    ) -> Plan:
        """Denoise one chunk per row of what `observe` gave; the rest is as in `plan`."""
        chunk = self.pipeline.plan(
            known,
            schedule,
            clock=self.clock,
            video_clock=self.video_clock,
            generator=[generator_of("noise", *seed) for seed in noise_seeds],
            hallucination=hallucination,
        )
        return Plan(actions=chunk.actions.float().cpu().numpy(), chunk=chunk, observation=known.latent)

    def seen(self, observations: Sequence[CameraImages]) -> NDArray[np.uint8]:
        """Lay observations out as the codec sees them: `(n, rows, columns, 3)` RGB."""
        return to_pictures(rearrange(self._frames(observations), "b c h w -> c b h w"))

    def _frames(self, observations: Sequence[CameraImages]) -> Float[Tensor, "batch 3 rows columns"]:
        return torch.cat([self.pipeline.frames(observation) for observation in observations])

    @torch.no_grad()
    def picture(self, plan: Plan, row: int) -> NDArray[np.uint8]:
        """Decode the imagined frames of one row, the observed one first: `(1 + 4 F, rows, columns, 3)` RGB."""
        latents = torch.cat((plan.observation[row : row + 1], plan.chunk.latents[row : row + 1]), dim=2)
        return to_pictures(self.pipeline.codec.decode(latents)[0])


def refuse_broken(model: nn.Module, what: str) -> None:
    """Refuse a model that cannot plan: its training diverged, or its file was damaged.

    Args:
        model: Any part of a policy.
        what: Its weights, in words.

    Raises:
        RunError: If a weight is NaN or infinite.
    """
    broken = [name for name, weight in model.state_dict().items() if not bool(weight.isfinite().all())]
    if broken:
        raise RunError(
            f"{what} are not finite in {broken[:3]}{' ...' if len(broken) > 3 else ''}: its training "
            "diverged; take an earlier checkpoint, or train with a lower learning rate."
        )

"""What model, sampler, loss and schedules hand each other, so that none of them needs the others' code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "ContextCache",
    "DenoisingStep",
    "JointDenoiser",
    "KeysValues",
    "LayerContext",
    "Objective",
    "ObservationCache",
    "ObservingModel",
    "Padding",
    "Prediction",
    "SamplerModel",
    "Schedule",
    "Stamp",
    "StoppingSchedule",
    "objective_of",
]


class Objective(Enum):
    """What the model predicts."""

    VELOCITY = "velocity"
    """`eps - x_0`."""
    EPSILON = "epsilon"
    """`eps`."""


class Prediction(NamedTuple):
    """What one call of a model says about every latent and action, in the terms of its `objective`."""

    video: Float[Tensor, "batch channels frames height width"]
    """Velocity or noise of every frame; the observation's (frame 0) carries no meaning."""
    actions: Float[Tensor, "batch steps action_dim"] | None
    """Velocity or noise of the action chunk; None when the video half ran alone."""


class Padding(NamedTuple):
    """What of a training batch is real; nothing attends to the rest."""

    video: Bool[Tensor, "batch future"] | None
    """False for future latents that are padding; None when all are real."""
    actions: Bool[Tensor, "batch steps"] | None
    """False for actions that are padding; None when all are real."""


class KeysValues(NamedTuple):
    """Keys and values of one layer that hold for a whole chunk."""

    keys: Float[Tensor, "batch heads tokens channels"]
    values: Float[Tensor, "batch heads tokens channels"]


class LayerContext(NamedTuple):
    """What one layer needs of the instruction."""

    video: KeysValues
    action: KeysValues


class Stamp(NamedTuple):
    """What a cache was made with; a model takes back what bears its present stamp."""

    model: object
    """The model itself, by identity."""
    weights: tuple[object, ...]
    """Of the text's embedders, then of every layer: changes when weights are trained, loaded, averaged or cast."""
    adapters: object
    """Changes when adapters are added, switched, scaled or merged."""


@dataclass(frozen=True, slots=True)
class ContextCache:
    """Text keys and values of every layer: computed once per instruction, read by every denoising step."""

    layers: tuple[LayerContext, ...]
    stamp: Stamp | None = None
    """None where whoever made it does not say."""
    holds_state: bool = False
    """Whether the robot's state is the last token of it: then it holds for one chunk."""


@dataclass(frozen=True, slots=True)
class ObservationCache:
    """The observation's keys and values of every layer: computed once per chunk where it sees only itself."""

    layers: tuple[Float[Tensor, "2 batch tokens heads channels"], ...]
    """Keys, turned by their places, and values."""
    grid: tuple[int, int]
    """Rows and columns of the observation's tokens."""
    stamp: Stamp | None = None
    """None where whoever made it does not say."""


class JointDenoiser(Protocol):
    """What the loss calls: `WorldActionModel`, a wrapper of it, or an analytic stand-in.

    It has an `objective`, itself or as `module.objective` (a distributed wrapper); without one it predicts velocity.
    With padding in a batch it is also given `padding=Padding(...)`.
    """

    def __call__(
        self,
        video: Tensor,
        actions: Tensor,
        video_times: Tensor,
        action_time: Tensor,
        context: Tensor | ContextCache,
        state: Tensor | None = None,
        /,
    ) -> Prediction:
        """Predict velocity or noise of every latent and action."""
        ...


class SamplerModel(JointDenoiser, Protocol):
    """A model that the sampler can run: it knows its action size and caches instructions."""

    action_dim: int

    def encode_context(self, context: Tensor | ContextCache, state: Tensor | None = None, /) -> ContextCache:
        """Text keys and values, with the state's added where it is a text token; what is cached already stays."""
        ...


@runtime_checkable
class ObservingModel(SamplerModel, Protocol):
    """A sampler's model that can also compute the observation's keys and values once per chunk."""

    @property
    def caches_observation(self) -> bool:
        """Whether it may: the observation sees only itself."""
        ...

    @property
    def plans_without_video(self) -> bool:
        """Whether its actions do not depend on the future, so that the video need not be computed."""
        ...

    def encode_observation(self, observation: Tensor, context: ContextCache, /) -> ObservationCache:
        """The observation's keys and values, once per chunk."""
        ...

    def __call__(
        self,
        video: Tensor | None,
        actions: Tensor,
        video_times: Tensor,
        action_time: Tensor,
        context: Tensor | ContextCache,
        state: Tensor | None = None,
        observation: ObservationCache | None = None,
        /,
    ) -> Prediction:
        """Predict velocity or noise of every future latent and action."""
        ...


def objective_of(model: object) -> Objective:
    """What a model, or the model inside a wrapper, predicts; velocity where nobody says."""
    while not hasattr(model, "objective") and hasattr(model, "module"):
        model = model.module
    found = getattr(model, "objective", Objective.VELOCITY)
    assert isinstance(found, Objective)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingStep:
    """What a schedule sees before step `index`: everything known, for all rows at once.

    Its tensors are copies, so that a schedule may write to them; those of `noise` and `observation` serve all steps.

    References:
        NoiseGate §3, eq. (4).
    """

    index: int
    """0 for the first step."""
    num_steps: int
    """S."""
    latents: Float[Tensor, "batch channels future height width"]
    """Future latents at `times`, fp32."""
    times: Float[Tensor, "batch future"]
    """Their times in [0, 1], fp32."""
    estimates: Float[Tensor, "batch channels future height width"]
    """What the model takes each latent for when clean: `x_t - t v`, fp32."""
    noise: Float[Tensor, "batch channels future height width"]
    """What the latents started from, fp32: without `times * noise` of it, only what was imagined since is left."""
    observation: Float[Tensor, "batch channels 1 height width"]
    """Clean latent of the current frame."""
    nominal_time: float
    """Time of the scalar video schedule before this step."""
    decrement: float
    """D_s: how far the scalar video schedule falls in this step; the D_s add to `begin`."""
    action_time: float
    """Time of the action chunk before this step."""
    begin: float = 1.0
    """Time at which the chunk started: 1, or that of the plan that it goes on from. Paths are drawn to this scale."""


class Schedule(Protocol):
    """Decides how far each latent is denoised in each step."""

    def next_times(self, step: DenoisingStep) -> Float[Tensor, "batch future"]:
        """Times after this step.

        The sampler clips them to `[0, step.times]`: noise is never put back. Whatever stays above 0 after the last step
        is residual noise, and allowed.
        """
        ...


@runtime_checkable
class StoppingSchedule(Schedule, Protocol):
    """A schedule that may end a row's denoising early."""

    def stops(self, step: DenoisingStep) -> Bool[Tensor, " batch"]:
        """Rows whose actions take all that is left of their way in this step, so that no network call follows.

        Asked after `next_times` of the same step. A row that has stopped is no longer changed, whatever is answered.
        """
        ...

"""Rectified flow with one time per latent: noising, targets, time distributions and the Stage-1 loss.

Convention: `x_t = (1 - t) x_0 + t eps`, velocity `v = eps - x_0`; t = 1 is pure noise and t = 0 is clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.interface import JointDenoiser, Objective, Padding, objective_of

Shape: TypeAlias = tuple[int, ...]

EPSILON_HORIZON = 0.02
"""How far below t = 1 a noise-predicting model is asked: at t = 1 its noise is the input, which says nothing of x_0."""

_BELL_EDGE = 0.6065306597126334  # exp(-1/2), the bell at both ends
_BELL_MEAN = 0.189496  # mean of the bell above its edge under Wan's training times, `ShiftedUniform(5)`


class TimeDistribution(Protocol):
    """How times are drawn in training."""

    def sample(
        self, batch: int, frames: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "batch frames"]:
        """Draw a time in [0, 1] for every sample and latent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedUniform:
    """Wan's training times, independent per latent: `t = k u / (1 + (k - 1) u)` with u uniform.

    References:
        NoiseGate §4.2; Esser et al. 2024, arXiv 2403.03206, §5.3.2.
    """

    shift: float = 5.0
    """k > 0; 1 is uniform, above 1 leans towards noise."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ConfigurationError(f"`shift` is {self.shift}; it must be above 0.")

    def sample(
        self, batch: int, frames: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "batch frames"]:
        """Draw a time for every sample and latent."""
        uniform = torch.rand(batch, frames, generator=generator, device=device)
        return shifted(uniform, self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitNormal:
    """`t = sigmoid(n)` with n normal, independent per latent.

    References:
        Esser et al. 2024, arXiv 2403.03206, §3.1.
    """

    mean: float = 0.0
    """Of `logit t`."""
    std: float = 1.0
    """Of `logit t`; positive."""

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigurationError(f"`std` is {self.std}; it must be above 0.")

    def sample(
        self, batch: int, frames: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "batch frames"]:
        """Draw a time for every sample and latent."""
        normal = torch.randn(batch, frames, generator=generator, device=device)
        return torch.sigmoid(normal * self.std + self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTimes:
    """One draw for all latents of a sample: the ablation *Shared-t*.

    References:
        NoiseGate §4.2.
    """

    times: TimeDistribution
    """Where the one time comes from."""

    def sample(
        self, batch: int, frames: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "batch frames"]:
        """Draw a time for every sample and give it to every latent."""
        return self.times.sample(batch, 1, generator=generator, device=device).expand(batch, frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithEndpoints:
    """Times that are exactly 0 or exactly 1 now and then.

    A continuous density never draws its ends, yet a sampler starts at 1 and may hold a latent at 0 for many steps.
    Times that all latents of a sample share stay shared, wherever they come from.
    """

    times: TimeDistribution
    """Where all other times come from."""
    clean: float = 0.0
    """Probability of exactly 0."""
    noise: float = 0.0
    """Probability of exactly 1."""

    def __post_init__(self) -> None:
        if self.clean < 0 or self.noise < 0 or self.clean + self.noise > 1:
            raise ConfigurationError(
                f"`clean` and `noise` are {self.clean} and {self.noise}; they are probabilities and add to 1 at most."
            )

    def sample(
        self, batch: int, frames: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "batch frames"]:
        """Draw a time for every sample and latent, replacing some by an end."""
        drawn = self.times.sample(batch, frames, generator=generator, device=device)
        coin = torch.rand(batch, frames, generator=generator, device=device)
        shared = (drawn == drawn[:, :1]).all(dim=1, keepdim=True)  # independent times hardly ever agree
        coin = torch.where(shared, coin[:, :1], coin)
        drawn = torch.where(coin < self.clean, torch.zeros_like(drawn), drawn)
        return torch.where(coin >= 1 - self.noise, torch.ones_like(drawn), drawn)


class Weighting(Enum):
    """Weight of a sample's loss by its time."""

    UNIFORM = "uniform"
    """1 everywhere."""
    BELL = "bell"
    """Fast-WAM's bell around t = 1/2, 0 at both ends, mean 1 under `ShiftedUniform(shift=5)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Recipe:
    """How Stage 1 draws times and weighs its losses.

    References:
        NoiseGate §4.2.
    """

    video_times: TimeDistribution = ShiftedUniform()
    """Times of the predicted latents; wrap in `SharedTimes` for the ablation."""
    action_times: TimeDistribution = ShiftedUniform()
    """Time of the action chunk, drawn separately."""
    video_weight: float = 1.0
    """lambda_v."""
    action_weight: float = 1.0
    """lambda_a."""
    weighting: Weighting = Weighting.UNIFORM
    """Weight of each latent's and each chunk's loss by its time."""

    def draw(
        self, video: Shape, actions: Shape, *, generator: torch.Generator | None = None, device: torch.device
    ) -> Stage1Draw:
        """Draw times and noise of one batch, in a fixed order.

        Args:
            video: Shape `(batch, channels, 1 + future, height, width)` of the clean latents.
            actions: Shape `(batch, steps, action_dim)` of the clean actions.
            generator: Source of randomness, on `device`.
            device: Where the numbers are drawn.
        """
        rows, future = video[0], video[2] - 1
        video_times = self.video_times.sample(rows, future, generator=generator, device=device)
        action_time = self.action_times.sample(rows, 1, generator=generator, device=device)
        latents = (*video[:2], future, *video[3:])
        return Stage1Draw(
            video_times,
            rearrange(action_time, "batch 1 -> batch"),
            torch.randn(latents, generator=generator, device=device),
            torch.randn(actions, generator=generator, device=device),
        )


class Stage1Draw(NamedTuple):
    """Times and noise of one training step: all that is random in the Stage-1 loss.

    Drawn for the whole batch of a step and then cut into `rows`, a step does not depend on how many processes and
    accumulation steps share it.
    """

    video_times: Float[Tensor, "batch future"]
    action_time: Float[Tensor, " batch"]
    video_noise: Float[Tensor, "batch channels future height width"]
    action_noise: Float[Tensor, "batch steps action_dim"]

    def rows(self, chosen: slice) -> Stage1Draw:
        """The draws of some rows of the batch."""
        return Stage1Draw(*(drawn[chosen] for drawn in self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Batch:
    """Clean data of one training step."""

    video: Float[Tensor, "batch channels frames height width"]
    """Observation latent and future latents; none of these for a policy of actions alone."""
    actions: Float[Tensor, "batch steps action_dim"]
    """Normalised action chunk."""
    context: Float[Tensor, "batch text text_dim"]
    """Text embedding of the instruction."""
    state: Float[Tensor, "batch state_dim"] | None = None
    """Normalised state of the robot."""
    video_valid: Bool[Tensor, "batch future"] | None = None
    """False for future latents that are padding; None when all are real."""
    actions_valid: Bool[Tensor, "batch steps"] | None = None
    """False for actions that are padding; None when all are real."""
    labelled: Bool[Tensor, " batch"] | None = None
    """False for videos without actions: their action tokens are pure noise at time 1 and have no loss, and whatever
    their row of `actions` holds is never read. None when all have actions."""
    labelled_share: float | None = None
    """Share of labelled samples in the whole step, where this batch is one of several equal parts of it (accumulated,
    or on other processes); None where it is the whole step."""


class Stage1Losses(NamedTuple):
    """Losses of one step: means over the valid numbers of each sample, then over samples (labelled ones for actions).

    So sizes do not matter, and the mean over equal parts of a batch is the batch's (with `labelled_share`, where some
    samples have no actions).
    """

    total: Float[Tensor, ""]
    """`lambda_v * video + lambda_a * action`."""
    video: Float[Tensor, ""]
    """0 where there is no future latent."""
    action: Float[Tensor, ""]
    """0 where no sample is labelled."""


def shifted(times: Tensor, shift: float) -> Tensor:
    """Wan's time shift `k u / (1 + (k - 1) u)`; keeps 0 and 1, and rounding never leaves the interval."""
    return shift * times / (shift * times + (1 - times))


def add_noise(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """`(1 - t) x_0 + t eps`; `times` broadcasts against `clean`."""
    return torch.lerp(clean, noise, times.expand_as(clean))


def target(clean: Tensor, noise: Tensor, objective: Objective) -> Tensor:
    """What the model should predict."""
    return noise if objective is Objective.EPSILON else noise - clean


def velocity(prediction: Tensor, noisy: Tensor, times: Tensor, objective: Objective) -> Tensor:
    """Velocity from a prediction at `times`, which broadcasts against `noisy`.

    A noise prediction gives `(eps - x_t) / (1 - t)`; above `1 - EPSILON_HORIZON` the model was asked at that time
    instead, and so is the division.
    """
    if objective is Objective.VELOCITY:
        return prediction
    return (prediction - noisy) / (1 - times).clamp(min=EPSILON_HORIZON)


def bell_weight(times: Tensor) -> Tensor:
    """Fast-WAM's loss weight of a time."""
    return (torch.exp(-2 * (times - 0.5) ** 2) - _BELL_EDGE) / _BELL_MEAN


def stage1_loss(
    model: JointDenoiser,
    batch: Stage1Batch,
    recipe: Stage1Recipe,
    *,
    generator: torch.Generator | None = None,
    draw: Stage1Draw | None = None,
) -> Stage1Losses:
    """Flow-matching loss of one batch with one time per latent.

    The observation latent is input only: it stays clean, its time is 0 and it has no loss. Where no latent follows it,
    the actions are all that is learned. What padding and unlabelled actions hold, NaN included, reaches neither the
    model nor the losses; nothing attends to padding.

    Args:
        model: The model or a distributed wrapper of it; called once.
        batch: Clean data.
        recipe: Times and weights.
        generator: Source of times and noise, on the device of `batch.video`.
        draw: Times and noise drawn beforehand with `recipe.draw`, instead of `generator`.

    Raises:
        ShapeError: `batch.video` has no latent, or a mask has another shape than what it masks.
        ConfigurationError: `labelled_share` is not in [0, 1], or came without `labelled`.

    References:
        NoiseGate §4.2.
    """
    video, actions = batch.video, batch.actions
    if video.ndim != 5 or video.shape[2] < 1:
        raise ShapeError(
            f"`video` is {tuple(video.shape)}; it must be (batch, channels, 1 + future, height, width), the "
            "observation first."
        )
    if draw is None:
        draw = recipe.draw(video.shape, actions.shape, generator=generator, device=video.device)
    video_times, action_time, video_noise, action_noise = draw
    future = video[:, :, 1:]
    if video_noise.shape != future.shape or action_noise.shape != actions.shape:
        raise ShapeError(
            f"noise of {tuple(video_noise.shape)} and {tuple(action_noise.shape)} was drawn for latents of "
            f"{tuple(future.shape)} and actions of {tuple(actions.shape)}; they must agree."
        )
    video_valid = _mask(batch.video_valid, video_times.shape)
    actions_valid, labelled = _mask(batch.actions_valid, actions.shape[:2]), _mask(batch.labelled, action_time.shape)
    _check_share(batch)
    # Fewer bits than fp32 would round the noise, and with it the target.
    future, actions = future.float(), actions.float()
    if video_valid is not None:
        future = torch.where(rearrange(video_valid, "b f -> b 1 f 1 1"), future, 0)
    if actions_valid is not None:
        actions = torch.where(actions_valid.unsqueeze(-1), actions, 0)
    if labelled is not None:
        actions = torch.where(rearrange(labelled, "b -> b 1 1"), actions, 0)
        action_time = torch.where(labelled, action_time, 1)
    frame_times = rearrange(video_times, "b f -> b 1 f 1 1")
    chunk_time = rearrange(action_time, "b -> b 1 1")

    padding = {} if video_valid is None and actions_valid is None else {"padding": Padding(video_valid, actions_valid)}
    prediction = model(
        torch.cat((video[:, :, :1].float(), add_noise(future, video_noise, frame_times)), dim=2),
        add_noise(actions, action_noise, chunk_time),
        torch.cat((video_times.new_zeros(len(video_times), 1), video_times), dim=1),
        action_time,
        batch.context,
        batch.state,
        **padding,
    )
    if prediction.actions is None:
        raise ShapeError("the model predicted no actions; the Stage-1 loss needs both halves.")
    objective = objective_of(model)
    video_error = prediction.video[:, :, 1:].float() - target(future, video_noise, objective)
    action_error = prediction.actions.float() - target(actions, action_noise, objective)
    per_latent = reduce(video_error.square(), "b c f h w -> b f", "mean")
    per_action = reduce(action_error.square(), "b t a -> b t", "mean")
    if recipe.weighting is Weighting.BELL:
        per_latent = per_latent * bell_weight(video_times)
        per_action = per_action * bell_weight(action_time).unsqueeze(1)
    video_loss = _per_sample(per_latent, video_valid).mean()
    per_chunk = _per_sample(per_action, actions_valid)
    if labelled is None:
        action_loss = per_chunk.mean()
    else:
        share = batch.labelled_share
        count = labelled.sum().clamp(min=1) if share is None else len(labelled) * share or 1
        action_loss = torch.where(labelled, per_chunk, 0).sum() / count
    return Stage1Losses(recipe.video_weight * video_loss + recipe.action_weight * action_loss, video_loss, action_loss)


def _per_sample(values: Tensor, valid: Tensor | None) -> Float[Tensor, " batch"]:
    """Mean over the valid values of each sample; 0 where there are none."""
    if valid is None:
        return values.mean(1) if values.shape[1] else values.sum(1)
    return torch.where(valid, values, 0).sum(1) / valid.sum(1).clamp(min=1)


def _mask(mask: Tensor | None, shape: Shape) -> Tensor | None:
    if mask is not None and mask.shape != shape:
        raise ShapeError(f"a mask of {tuple(mask.shape)} came for losses of {tuple(shape)}; they must agree.")
    return mask


def _check_share(batch: Stage1Batch) -> None:
    share = batch.labelled_share
    if share is not None and (batch.labelled is None or not 0 <= share <= 1):
        raise ConfigurationError(
            f"`labelled_share` is {share} and `labelled` {'missing' if batch.labelled is None else 'given'}; give "
            "both, the share between 0 and 1."
        )

"""Denoising an observation into an action chunk, with whatever schedule one hands in.

A schedule is a value that the sampler asks for the next times. The sampler keeps the state in fp32, steps every latent
by the decrement really taken, and never lets a batch row depend on another. What a schedule decides on the way it
records itself (a stateless one has nothing to record); the sampler returns the times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wam_backbone.clock import Clock
from wam_backbone.errors import ConfigurationError, ScheduleError, ShapeError
from wam_backbone.flow import velocity
from wam_backbone.hallucination import Hallucination
from wam_backbone.interface import (
    ContextCache,
    DenoisingStep,
    Objective,
    ObservingModel,
    Prediction,
    SamplerModel,
    Schedule,
    StoppingSchedule,
    objective_of,
)
from wam_backbone.sampling import Sampling
from wam_backbone.start import Noise, Observation, WarmStart, pinned

TIME_RESOLUTION = 1e-6
"""Times below this are 0: ten fp32 decrements of 0.1 leave 1e-8 of rounding, which is no residual noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A denoised plan and the path to it."""

    actions: Float[Tensor, "batch steps action_dim"]
    """Normalised actions."""
    latents: Float[Tensor, "batch channels future height width"]
    """Imagined latents at their last times: noise remains where a time stayed above 0."""
    estimates: Float[Tensor, "batch channels future height width"]
    """What the model took each latent for in the last step, `x_t - t v`: without noise whatever the times, so what to
    decode for a picture. `latents` themselves where a time has fallen to 0."""
    times: Float[Tensor, "batch steps_and_one future"]
    """Video times before the first step and after every step."""
    action_times: Float[Tensor, " steps_and_one"]
    """Action times likewise, of rows that do not stop early."""
    evaluated: Int[Tensor, " batch"]
    """Network calls that each row needed: all steps of the clock, but for a schedule that stops."""


@torch.no_grad()
def denoise(
    model: SamplerModel,
    observation: Observation,
    schedule: Schedule,
    *,
    frames: int,
    action_steps: int,
    clock: Clock | None = None,
    video_clock: Clock | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    warm_start: WarmStart | None = None,
    prefix: Float[Tensor, "batch known action_dim"] | None = None,
    on_step: Callable[[DenoisingStep], None] | None = None,
    hallucination: Hallucination | None = None,
) -> Chunk:
    """Denoise a chunk of actions and future latents together.

    Args:
        model: Predicts velocity or noise.
        observation: What is known. The instruction's keys and values are computed once, and the observation's too
            where the model's layout allows (`JOINT`, `FASTWAM`); frames are never decoded here.
        schedule: Chooses the video times; a `StoppingSchedule` also when a row is done.
        frames: Future latents F.
        action_steps: Actions T of the chunk.
        clock: Path of the action time; that of the model's `sampling` unless told.
        video_clock: Scalar video schedule behind `DenoisingStep.decrement`, as many steps as `clock`; `clock` itself
            unless told.
        noise: Where to start; drawn from `generator` unless given.
        generator: One source for the batch, or one per row.
        warm_start: A plan to start from.
        prefix: Normalised first actions of the chunk that are carried out in any case: they are noised like the rest,
            and the rest is planned to follow them (real-time chunking).
        on_step: Called with every step, before the schedule is asked.
        hallucination: Latents to be made wrong on the way, for stress tests.

    Returns:
        Actions, latents, and the times on the way.

    Raises:
        ScheduleError: The schedule returned times of another shape, or NaN.
        ShapeError: Noise, `warm_start`, `prefix` or `hallucination` do not fit the observation.
        ConfigurationError: There is no clock, or the clocks disagree on the number of steps.

    References:
        NoiseGate eq. (6).
    """
    clock = clock or _clock_of(model)
    video_clock = video_clock or clock
    if video_clock.num_steps != clock.num_steps:
        raise ConfigurationError(
            f"`clock` has {clock.num_steps} steps and `video_clock` {video_clock.num_steps}; give both the same number."
        )
    if noise is None:
        noise = Noise.draw(
            observation, frames=frames, action_steps=action_steps, action_dim=model.action_dim, generator=generator
        )
    context, state = _encoded(model, observation)
    objective = objective_of(model)

    known = observation.latent.float()
    latents, actions = noise.video.float(), noise.actions.float()
    _check_noise(known, latents, actions, frames, action_steps)
    if hallucination is not None:
        hallucination.check(latents)
    start, begin = Noise(video=latents, actions=actions), 1.0
    drawn, seen = latents.clone(), known.clone()  # for the schedule, which may write to what it is given
    if warm_start is not None:
        latents, actions, begin = *warm_start.under(start), warm_start.time
    actions = pinned(actions, prefix, start, begin)
    predict = _denoiser(model, known, context, state)
    batch = known.shape[0]
    times = torch.full((batch, frames), begin, device=known.device)
    path, estimates = [times], latents
    action_times = [begin * time for time in clock.times]
    stopping = schedule if isinstance(schedule, StoppingSchedule) else None
    if stopping is not None and prefix is not None:
        raise ConfigurationError("a schedule that stops early does not go with a `prefix` of actions; leave one out.")
    running = torch.ones(batch, dtype=torch.bool, device=known.device)
    evaluated = torch.zeros(batch, dtype=torch.long, device=known.device)
    for index in range(clock.num_steps):
        evaluated = evaluated + running
        before = (latents, actions, estimates)
        action_time = torch.full((batch,), action_times[index], device=known.device)
        prediction = predict(latents, actions, times, action_time)
        now = rearrange(times, "b f -> b 1 f 1 1")
        video_velocity = velocity(prediction.video.float(), latents, now, objective)
        estimates = latents - now * video_velocity
        step = DenoisingStep(
            index=index,
            num_steps=clock.num_steps,
            latents=latents.clone(),
            times=times.clone(),
            estimates=estimates.clone(),
            noise=drawn,
            observation=seen,
            nominal_time=begin * video_clock.times[index],
            decrement=begin * (video_clock.times[index] - video_clock.times[index + 1]),
            action_time=action_times[index],
            begin=begin,
        )
        if on_step is not None:
            on_step(step)
        following = _next_times(schedule, step, times)
        end = torch.full_like(action_time, action_times[index + 1])
        if stopping is not None:
            stopped = _stopped(stopping, step)
            end = torch.where(stopped, torch.zeros_like(end), end)
            following = torch.where(rearrange(running, "b -> b 1"), following, times)
        latents = latents - rearrange(times - following, "b f -> b 1 f 1 1") * video_velocity
        if hallucination is not None:
            latents = hallucination.pull(latents, start.video, following)
        actions = _step_actions(actions, prediction, action_time, end, objective)
        actions = pinned(actions, prefix, start, action_times[index + 1])
        times = following
        path.append(times)
        if stopping is not None:
            latents, actions, estimates = (
                torch.where(running.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip((latents, actions, estimates), before, strict=True)
            )
            running = running & ~stopped
            if not bool(running.any()):  # a look costs a GPU wait, which the calls that are spared are worth
                path += [times] * (clock.num_steps - index - 1)
                break
    times_taken = torch.stack(path, dim=1)
    _check_path(times_taken)
    return Chunk(
        actions=actions,
        latents=latents,
        estimates=estimates,
        times=times_taken,
        action_times=torch.tensor(action_times, device=known.device),
        evaluated=evaluated,
    )


@torch.no_grad()
def denoise_actions(
    model: ObservingModel,
    observation: Observation,
    *,
    frames: int,
    action_steps: int,
    clock: Clock | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Float[Tensor, "batch steps action_dim"]:
    """Denoise the actions alone, without computing the video that they do not see (Fast-WAM at test time).

    The actions are those of `denoise` under any schedule. At full size a step takes a fortieth of the work.

    Args:
        model: Its layout hides the future from the actions (`FASTWAM`).
        observation: What is known.
        frames: Future latents F that the chunk spans: they place the actions in time.
        action_steps: Actions T of the chunk.
        clock: Path of the action time; that of the model's `sampling` unless told.
        noise: Where to start; drawn from `generator` unless given.
        generator: One source for the batch, or one per row.

    Returns:
        Normalised actions.

    Raises:
        ConfigurationError: The model's actions see the future.
    """
    if not model.plans_without_video:
        raise ConfigurationError(
            "the actions of this model see the imagined video; use `denoise`, or a model of the layout `fastwam`."
        )
    clock = clock or _clock_of(model)
    if noise is None:
        noise = Noise.draw(
            observation, frames=frames, action_steps=action_steps, action_dim=model.action_dim, generator=generator
        )
    known, actions = observation.latent.float(), noise.actions.float()
    _check_noise(known, noise.video, actions, frames, action_steps)
    context, state = _encoded(model, observation)
    objective = objective_of(model)
    cache = model.encode_observation(known, context)
    times = torch.ones(len(known), frames, device=known.device)
    for now, following in pairwise(clock.times[clock.waiting :]):
        time = torch.full((len(known),), now, device=known.device)
        prediction = model(None, actions, times, time, context, state, cache)
        actions = _step_actions(actions, prediction, time, torch.full_like(time, following), objective)
    return actions


def _denoiser(
    model: SamplerModel, known: Tensor, context: ContextCache, state: Tensor | None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]:
    """The model as a function of future latents, actions and their times."""
    if isinstance(model, ObservingModel) and model.caches_observation:
        observing, cache = model, model.encode_observation(known, context)

        def predict(latents: Tensor, actions: Tensor, times: Tensor, action_time: Tensor) -> Prediction:
            return observing(latents, actions, times, action_time, context, state, cache)

        return predict

    clean_time = torch.zeros(len(known), 1, device=known.device)

    def predict_with_observation(latents: Tensor, actions: Tensor, times: Tensor, action_time: Tensor) -> Prediction:
        video, video_times = torch.cat((known, latents), dim=2), torch.cat((clean_time, times), dim=1)
        prediction = model(video, actions, video_times, action_time, context, state)
        return prediction._replace(video=prediction.video[:, :, 1:])

    return predict_with_observation


def _next_times(schedule: Schedule, step: DenoisingStep, now: Tensor) -> Tensor:
    """Ask the schedule and clip as eq. (6) does."""
    times = schedule.next_times(step)
    if times.shape != now.shape:
        raise ScheduleError(
            f"the schedule returned times of {tuple(times.shape)} in step {step.index}; it must return one per row and "
            f"future latent, {tuple(now.shape)}."
        )
    times = times.detach().to(now)
    times = torch.where(times.isfinite(), times, torch.nan)  # refused at the end of the chunk: a look costs a GPU wait
    times = torch.minimum(times.clamp(min=0.0), now)
    return torch.where(times < TIME_RESOLUTION, torch.zeros_like(times), times)


def _stopped(schedule: StoppingSchedule, step: DenoisingStep) -> Bool[Tensor, " batch"]:
    stopped = schedule.stops(step)
    if stopped.dtype != torch.bool or stopped.shape != step.times.shape[:1]:
        raise ScheduleError(
            f"`stops` returned {stopped.dtype} {tuple(stopped.shape)} in step {step.index}; it must say yes or no for "
            f"each of {len(step.times)} rows."
        )
    return stopped.to(step.times.device)


def _check_path(times: Float[Tensor, "batch steps_and_one future"]) -> None:
    broken = times.isnan().any(dim=2).any(dim=0)
    if bool(broken.any()):
        step = int(broken.int().argmax()) - 1
        raise ScheduleError(f"the schedule returned NaN or infinite times in step {step}; they must be numbers.")


def _encoded(model: SamplerModel, observation: Observation) -> tuple[ContextCache, Tensor | None]:
    """Cached text, and the state that is still to be passed with every step."""
    context = model.encode_context(observation.context, observation.state)
    return context, None if context.holds_state else observation.state


def _clock_of(model: SamplerModel) -> Clock:
    sampling = getattr(model, "sampling", None)
    if not isinstance(sampling, Sampling):
        raise ConfigurationError(
            "there is no `clock`, and the model does not say which it was trained for; pass one, such as "
            "`Clock.shifted(5.0, 10)`, or set the model's `sampling`."
        )
    return sampling.clock()


def _step_actions(
    actions: Tensor, prediction: Prediction, time: Tensor, following: Tensor, objective: Objective
) -> Tensor:
    if prediction.actions is None:
        raise ShapeError("the model predicted no actions; the sampler needs both halves.")
    now, then = rearrange(time, "b -> b 1 1"), rearrange(following, "b -> b 1 1")
    return actions - (now - then) * velocity(prediction.actions.float(), actions, now, objective)


def _check_noise(known: Tensor, latents: Tensor, actions: Tensor, frames: int, action_steps: int) -> None:
    batch, channels, observed, height, width = known.shape
    if observed != 1:
        raise ShapeError(
            f"`observation.latent` has {observed} frames; pass the current one alone: the model reads no history."
        )
    if latents.shape != (batch, channels, frames, height, width):
        raise ShapeError(
            f"`noise.video` is {tuple(latents.shape)}; observation and `frames` need "
            f"{(batch, channels, frames, height, width)}."
        )
    if actions.shape[:2] != (batch, action_steps):
        raise ShapeError(
            f"`noise.actions` is {tuple(actions.shape)}; observation and `action_steps` need "
            f"{(batch, action_steps)} in front."
        )

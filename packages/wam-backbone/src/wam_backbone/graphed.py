"""Denoising and training steps as CUDA graphs: one launch instead of thousands.

At batch 1 a step of the full-size model is bound by how fast the host launches kernels, not by the GPU; so is a
training step of a small one. A graph replays them in one launch; what it reads and writes has fixed addresses, so
inputs are copied in and results out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from wam_backbone.errors import ConfigurationError
from wam_backbone.flow import Stage1Batch, Stage1Draw, Stage1Losses
from wam_backbone.interface import (
    ContextCache,
    KeysValues,
    LayerContext,
    Objective,
    ObservationCache,
    ObservingModel,
    Prediction,
    objective_of,
)

Replay: TypeAlias = Callable[[], None]
_Inputs: TypeAlias = tuple[Tensor | None, ...]
_Outputs = TypeVar("_Outputs")

_WATCHED = 100
_WARM_UP = 3  # kernels choose their algorithms and workspaces before anything is captured


class Capture(Protocol):
    """Runs a step, keeps its outputs and returns them with a function that computes them anew in place."""

    def __call__(self, step: Callable[[], _Outputs], /) -> tuple[_Outputs, Replay]:
        """Capture a step: `cuda_graph`, or a stand-in where there is no GPU."""
        ...


class GraphedModel:
    """A model for the sampler whose step is captured once per set of shapes and replayed from then on.

    Pass it to `denoise` in place of the model. Keys and values of text and observation are copied in once per chunk.
    Weights are read where they are; once they were moved, replaced or merged with adapters, steps are captured anew
    from the next text on. Compile the model first to capture fused kernels.

    Args:
        model: On a CUDA device, in `eval` mode.
        capture: How steps are captured; `cuda_graph` unless told.
    """

    def __init__(self, model: ObservingModel, *, capture: Capture | None = None) -> None:
        self.model = model
        self.action_dim = model.action_dim
        self.sampling = getattr(model, "sampling", None)
        self._capture = capture or cuda_graph
        self._steps: dict[tuple[object, ...], _StaticStep] = {}
        self._context: ContextCache | None = None
        self._weights: object = None

    @property
    def caches_observation(self) -> bool:
        """As the model."""
        return self.model.caches_observation

    @property
    def plans_without_video(self) -> bool:
        """As the model."""
        return self.model.plans_without_video

    @property
    def objective(self) -> Objective:
        """As the model."""
        return objective_of(self.model)

    def encode_context(self, context: Tensor | ContextCache, state: Tensor | None = None, /) -> ContextCache:
        """As the model, not captured: it runs once per chunk."""
        return self.model.encode_context(context, state)

    def encode_observation(self, observation: Tensor, context: ContextCache, /) -> ObservationCache:
        """As the model, not captured: it runs once per chunk."""
        return self.model.encode_observation(observation, context)

    @torch.no_grad()
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
        """As the model, with a cached context; the prediction is the caller's to keep.

        Raises:
            ConfigurationError: `context` is not an `encode_context`, or one of other weights.
        """
        if isinstance(context, Tensor):
            raise ConfigurationError("a captured step reads cached text; pass `encode_context(context)`.")
        if context is not self._context:
            self._context = self.model.encode_context(context)  # which refuses what others made, or other weights
            weights = _places(self.model), context.stamp and context.stamp.adapters
            if weights != self._weights:
                self._steps.clear()
                self._weights = weights
        inputs = (video, actions, video_times, action_time, state)
        caches = (*_context_tensors(context), *_observation_tensors(observation))
        key = tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in (*inputs, *caches))
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = _StaticStep(self.model, self._capture, inputs, context, observation)
        return step(inputs, context, observation)


class _StaticStep:
    """One captured step with the buffers that it reads."""

    def __init__(
        self,
        model: ObservingModel,
        capture: Capture,
        inputs: _Inputs,
        context: ContextCache,
        observation: ObservationCache | None,
    ) -> None:
        self._inputs = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        copies = tuple(LayerContext(_clone(layer.video), _clone(layer.action)) for layer in context.layers)
        self._context = replace(context, layers=copies, stamp=None)
        self._observation = (
            None
            if observation is None
            else replace(observation, layers=tuple(layer.clone() for layer in observation.layers), stamp=None)
        )
        self._loaded: tuple[ContextCache, ObservationCache | None] = (context, observation)
        video, actions, video_times, action_time, state = self._inputs
        assert actions is not None
        assert video_times is not None
        assert action_time is not None

        def step() -> Prediction:
            return model(video, actions, video_times, action_time, self._context, state, self._observation)

        self._outputs, self._replay = capture(step)

    def __call__(self, inputs: _Inputs, context: ContextCache, observation: ObservationCache | None) -> Prediction:
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            if buffer is not None and tensor is not None:
                buffer.copy_(tensor)
        if context is not self._loaded[0]:
            torch._foreach_copy_(_context_tensors(self._context), _context_tensors(context))
        if observation is not self._loaded[1]:
            torch._foreach_copy_(_observation_tensors(self._observation), _observation_tensors(observation))
        self._loaded = (context, observation)
        self._replay()
        video, actions = self._outputs
        return Prediction(video.clone(), None if actions is None else actions.clone())


class GraphedLoss:
    """The Stage-1 loss and its gradients, captured once per set of shapes and replayed from then on.

    Call it in place of `stage1_loss(...)` and `backward()`; it leaves the gradients in `.grad`, those of this step
    alone. Clipping, optimizer and average stay outside: they are a few launches in their `foreach` and fused forms. On
    one process; a wrapper that talks to others in backward cannot be captured.

        loss = GraphedLoss(lambda batch, draw: stage1_loss(model, batch, recipe, draw=draw), model.parameters())
        draw = recipe.draw(batch.video.shape, batch.actions.shape, device=batch.video.device)
        losses = loss(batch, draw)
        optimizer.step()

    Args:
        loss: Of a batch and its draw; times and noise come from the draw alone. Autocast belongs inside.
        parameters: Those that are trained, on a CUDA device. They are read where they are: load, move and freeze them
            before the first call.
        capture: How steps are captured; `cuda_graph` unless told.
    """

    def __init__(
        self,
        loss: Callable[[Stage1Batch, Stage1Draw], Stage1Losses],
        parameters: Iterable[nn.Parameter],
        *,
        capture: Capture | None = None,
    ) -> None:
        self._loss, self._capture = loss, capture or cuda_graph
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._steps: dict[tuple[object, ...], _StaticLoss] = {}

    def __call__(self, batch: Stage1Batch, draw: Stage1Draw) -> Stage1Losses:
        """Losses, detached and the caller's to keep; gradients are in the parameters' `.grad` until the next call."""
        key = tuple(
            (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value
            for value in (*_values(batch), *draw)
        )
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = _StaticLoss(self._loss, self._parameters, self._capture, batch, draw)
        return step(batch, draw)


class _StaticLoss:
    """One captured loss with the buffers that it reads and the gradients that it writes."""

    def __init__(
        self,
        loss: Callable[[Stage1Batch, Stage1Draw], Stage1Losses],
        parameters: list[nn.Parameter],
        capture: Capture,
        batch: Stage1Batch,
        draw: Stage1Draw,
    ) -> None:
        buffers: dict[str, Any] = {
            field.name: value.clone() if isinstance(value, Tensor) else value
            for field, value in zip(fields(batch), _values(batch), strict=True)
        }
        self._batch, self._draw = replace(batch, **buffers), Stage1Draw(*(drawn.clone() for drawn in draw))
        self._parameters = parameters

        def step() -> tuple[Stage1Losses, list[Tensor | None]]:
            for parameter in parameters:
                parameter.grad = None
            with torch.enable_grad():
                losses = loss(self._batch, self._draw)
                losses.total.backward()  # type: ignore[no-untyped-call]  # torch types it so
            return Stage1Losses(*(part.detach() for part in losses)), [parameter.grad for parameter in parameters]

        (self._losses, self._gradients), self._replay = capture(step)

    def __call__(self, batch: Stage1Batch, draw: Stage1Draw) -> Stage1Losses:
        for buffer, value in zip((*_values(self._batch), *self._draw), (*_values(batch), *draw), strict=True):
            if isinstance(buffer, Tensor) and isinstance(value, Tensor):
                buffer.copy_(value, non_blocking=True)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return Stage1Losses(*(part.clone() for part in self._losses))


def cuda_graph(step: Callable[[], _Outputs]) -> tuple[_Outputs, Replay]:
    """Capture a step in a CUDA graph.

    Raises:
        ConfigurationError: There is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigurationError("CUDA graphs need a CUDA device; on the CPU call the model itself.")
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's constructor has no types
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    return outputs, graph.replay


def _places(model: object) -> list[int]:
    """Where the first parameters lie, those of the first layers: whoever moves or replaces weights does it to all."""
    if not isinstance(model, nn.Module):
        return []
    return [parameter.data_ptr() for parameter in islice(model.parameters(), _WATCHED)]


def _values(batch: Stage1Batch) -> tuple[Tensor | float | None, ...]:
    return tuple(getattr(batch, field.name) for field in fields(batch))


def _clone(layer: KeysValues) -> KeysValues:
    return KeysValues(layer.keys.clone(), layer.values.clone())


def _context_tensors(context: ContextCache) -> list[Tensor]:
    return [tensor for layer in context.layers for half in layer for tensor in half]


def _observation_tensors(observation: ObservationCache | None) -> list[Tensor]:
    return [] if observation is None else list(observation.layers)

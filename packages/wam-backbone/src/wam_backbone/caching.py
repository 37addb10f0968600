"""What a model computes once and reads in every step: text, and the robot's state where it is a text token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.optimizer import register_optimizer_step_post_hook

from wam_backbone._diffusers import adapter_settings, linear
from wam_backbone.blocks import MoTBlock, TextTokens
from wam_backbone.checks import StateToken
from wam_backbone.embedding import append_token
from wam_backbone.errors import ShapeError
from wam_backbone.interface import ContextCache, LayerContext, ObservationCache, Stamp

if TYPE_CHECKING:
    from wam_backbone.model import WorldActionModel

_STEPS = "_fused_steps"


def embed_text(model: WorldActionModel, context: Tensor) -> TextTokens:
    """Text tokens of both experts."""
    context = context.to(model.compute_dtype)
    return TextTokens(
        linear(model.condition_embedder.text_embedder, context),
        linear(model.action_condition_embedder.text_embedder, context),
    )


def with_state(model: WorldActionModel, context: ContextCache, state: Tensor) -> ContextCache:
    """The same with the state's keys and values as the last token, where the state is a text token."""
    if model.state_token is not StateToken.TEXT or model.state_embedding is None:
        return context
    if context.holds_state:
        raise ShapeError(
            "`state` came with a `context` cache that holds one already; pass the cache of the text alone, "
            "`encode_context(context)`, or no state."
        )
    model.checks.state(state, len(context.layers[0].video.keys))
    token = embed_text(model, linear(model.state_embedding, state.to(model.compute_dtype)).unsqueeze(1))
    layers = tuple(
        LayerContext(*(append_token(old, new) for old, new in zip(layer, block.project_context(token), strict=True)))
        for layer, block in zip(context.layers, model.layers, strict=True)
    )
    return ContextCache(layers, context.stamp, holds_state=True)


def contexts(
    model: WorldActionModel, context: Tensor | ContextCache, state: Tensor | None, batch: int
) -> Sequence[LayerContext | TextTokens]:
    """Per layer, cached text keys and values or the text tokens to project."""
    needs_state = model.state_token is StateToken.TEXT and model.state_embedding is not None
    if isinstance(context, ContextCache):
        if needs_state and state is None and not context.holds_state:
            model.checks.state(state, batch)
        return context.layers if state is None else with_state(model, context, state).layers
    if model.state_token is StateToken.TEXT:
        model.checks.state(state, batch)
    context = context.to(model.compute_dtype)
    if needs_state and model.state_embedding is not None and state is not None:
        context = torch.cat((context, linear(model.state_embedding, state.to(context)).unsqueeze(1)), dim=1)
    return (embed_text(model, context),) * len(model.layers)


def stamp_of(model: WorldActionModel, identity: object) -> Stamp | None:
    """What caches made now bear; nothing while compiling.

    Weights are watched in one linear layer of every part that text enters: an optimizer, an average or loading touches
    them all. What is written to a parameter's `.data` cannot be seen.
    """
    if torch.compiler.is_compiling():
        return None
    _watch_optimizers()
    text = None if _is_sharded(model) else _text_weights(model)
    return Stamp(identity, (text, *map(_layer_weights, model.layers)), adapter_settings(model.layers[0]))


def refuse_foreign(
    model: WorldActionModel, identity: object, *caches: Tensor | ContextCache | ObservationCache | None
) -> None:
    """Refuse caches of another model, or made before its weights changed.

    Asked with every call, and so of the first and the last layer alone; all of the stamp is compared when encoding.
    Sharded weights are other parameters within a call than outside of it.
    """
    now = None
    for held in caches:
        if isinstance(held, Tensor | None) or held.stamp is None:
            continue
        if held.stamp.model is not identity:
            model.checks.stamp(held, held.stamp._replace(model=identity))
        if torch.compiler.is_compiling() or _is_sharded(model):
            continue
        now = now or _ends((_text_weights(model), *map(_layer_weights, (model.blocks[0], model.blocks[-1]))))
        if _ends(held.stamp.weights) != now:
            model.checks.stamp(held, held.stamp._replace(weights=now))


def _ends(weights: tuple[object, ...]) -> tuple[object, ...]:
    """Of the text's embedders, the first and the last layer."""
    return *weights[:2], weights[-1]


def _is_sharded(model: WorldActionModel) -> bool:
    return isinstance(model, FSDPModule)


def _text_weights(model: WorldActionModel) -> tuple[object, ...]:
    embedders = (model.condition_embedder, model.action_condition_embedder)
    return _present([embedder.text_embedder.linear_1 for embedder in embedders])


def _layer_weights(layer: nn.Module) -> tuple[object, ...]:
    assert isinstance(layer, MoTBlock)
    return _present([expert.attn2.to_v for expert in (layer.video, layer.action)])


def _present(modules: Sequence[nn.Module]) -> tuple[object, ...]:
    """Which parameters there are and how often each has changed, but for those that are offloaded."""
    return tuple(
        (id(parameter), parameter.dtype, _version(parameter))
        for module in modules
        for parameter in module.parameters()
        if not parameter.is_meta
    )


def _version(parameter: nn.Parameter) -> tuple[int, int]:
    return 0 if parameter.is_inference() else parameter._version, getattr(parameter, _STEPS, 0)


@cache
def _watch_optimizers() -> None:
    """Count the steps of fused optimizers on their parameters, whose own versions they leave alone."""

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            if group.get("fused"):
                for parameter in group["params"]:
                    setattr(parameter, _STEPS, getattr(parameter, _STEPS, 0) + 1)

    register_optimizer_step_post_hook(count)

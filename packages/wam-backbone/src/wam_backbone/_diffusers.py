"""The one door to diffusers, with types.

diffusers ships no types: its decorators erase constructors and its base classes are `Any`. For the type checker this
module declares the part that we use, so that a misspelt argument fails; at run time the names are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

AttentionBackend: TypeAlias = str | None
"""A member of diffusers' `AttentionBackendName`, which is a string; None for the one in force."""
_Init = TypeVar("_Init", bound=Callable[..., None])

if TYPE_CHECKING:

    class DiffusersModel(nn.Module):
        """diffusers' `ModelMixin` and `ConfigMixin`: a config, `save_pretrained` and `from_pretrained`."""

        config: Any
        gradient_checkpointing: bool

        @property
        def dtype(self) -> torch.dtype: ...
        @property
        def device(self) -> torch.device: ...
        @classmethod
        def from_pretrained(
            cls,
            pretrained_model_name_or_path: str | PathLike[str],
            *,
            subfolder: str | None = None,
            torch_dtype: torch.dtype | None = None,
            local_files_only: bool = False,
        ) -> Self: ...
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Self: ...
        @classmethod
        def load_config(cls, pretrained_model_name_or_path: str | PathLike[str]) -> dict[str, Any]: ...
        def save_pretrained(
            self,
            save_directory: str | PathLike[str],
            *,
            max_shard_size: int | str = "10GB",
            is_main_process: bool = True,
        ) -> None: ...
        def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str: ...
        def enable_gradient_checkpointing(self) -> None: ...
        def disable_gradient_checkpointing(self) -> None: ...
        def enable_layerwise_casting(
            self, storage_dtype: torch.dtype, compute_dtype: torch.dtype | None, **options: Any
        ) -> None: ...
        def enable_group_offload(self, onload_device: torch.device, *, offload_type: str, **options: Any) -> None: ...
        def set_attention_backend(self, backend: str) -> None: ...
        def compile_repeated_blocks(self, *, fullgraph: bool = False, dynamic: bool | None = None) -> None: ...
        def _gradient_checkpointing_func(self, module: nn.Module, *args: object) -> Any: ...

    class DiffusersAdapterModel(DiffusersModel):
        """A `DiffusersModel` with LoRA adapters (`PeftAdapterMixin`)."""

        peft_config: dict[str, Any]

        def add_adapter(self, adapter_config: Any, adapter_name: str) -> None: ...
        def set_adapter(self, adapter_name: list[str]) -> None: ...
        def fuse_lora(self) -> None: ...
        def unload_lora(self) -> None: ...

    class WanAttention(nn.Module):
        """Projections and query/key norms of one attention; `to_out[0]` is the output projection."""

        to_q: nn.Linear
        to_k: nn.Linear
        to_v: nn.Linear
        to_out: nn.ModuleList
        norm_q: nn.RMSNorm
        norm_k: nn.RMSNorm
        processor: object

        def __init__(
            self, dim: int, heads: int, dim_head: int, eps: float, cross_attention_dim_head: int | None = None
        ) -> None: ...

    class FeedForward(nn.Module):
        """Linear with activation, dropout, linear."""

        def __init__(self, dim: int, *, inner_dim: int, activation_fn: str) -> None: ...

    class WanTransformerBlock(nn.Module):
        """One Wan block; we drive its submodules and never call its `forward`."""

        attn1: WanAttention
        norm2: nn.LayerNorm
        attn2: WanAttention
        ffn: FeedForward
        scale_shift_table: nn.Parameter

        def __init__(
            self, dim: int, ffn_dim: int, num_heads: int, *, cross_attn_norm: bool = False, eps: float = 1e-6
        ) -> None: ...

    class TextProjection(nn.Module):
        """Two linear layers with an activation between them."""

        linear_1: nn.Module

    class WanTimeTextImageEmbedding(nn.Module):
        """Time and text embedders of one expert."""

        time_embedder: nn.Module
        act_fn: nn.Module
        time_proj: nn.Linear
        text_embedder: TextProjection

        def __init__(self, *, dim: int, time_freq_dim: int, time_proj_dim: int, text_embed_dim: int) -> None: ...

    class AutoencoderKLWan(DiffusersModel):
        """Wan's video autoencoder."""

        def encode(self, x: Tensor) -> Any: ...
        def decode(self, z: Tensor, *, return_dict: bool) -> Any: ...

    def dispatch_attention_fn(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, *, backend: AttentionBackend
    ) -> Any: ...

    def register_to_config(init: _Init) -> _Init:
        """Record the constructor's arguments in the model's config."""
else:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.loaders import PeftAdapterMixin
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_dispatch import dispatch_attention_fn
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.models.transformers.transformer_wan import (
        WanAttention,
        WanTimeTextImageEmbedding,
        WanTransformerBlock,
    )

    class DiffusersModel(ModelMixin, ConfigMixin):
        """diffusers' `ModelMixin` and `ConfigMixin`."""

    class DiffusersAdapterModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
        """A `DiffusersModel` with LoRA adapters."""


def linear(module: nn.Module, inputs: Tensor) -> Tensor:
    """Call a submodule that maps a tensor to a tensor; `nn.Module.__call__` is untyped."""
    outputs: Tensor = module(inputs)
    return outputs


def adapter_settings(module: nn.Module) -> tuple[object, ...]:
    """What decides which adapters act inside a module: there, active, merged, switched off, scales."""
    return tuple(
        (name, str(layer.active_adapters), str(layer.merged_adapters), layer.disable_adapters, str(layer.scaling))
        for name, layer in module.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "merged_adapters")
    )


def is_offloaded_as_one(module: nn.Module) -> bool:
    """Whether group offloading brings the weights within a module for its `forward` alone."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None


def attention_backend(attention: WanAttention) -> AttentionBackend:
    """What `set_attention_backend` chose for a module; None leaves the choice to diffusers' context and environment."""
    return cast(AttentionBackend, getattr(attention.processor, "_attention_backend", None))


def dispatch_attention(
    queries: Float[Tensor, "batch asking heads channels"],
    keys: Float[Tensor, "batch tokens heads channels"],
    values: Float[Tensor, "batch tokens heads channels"],
    mask: Bool[Tensor, "batch 1 1 tokens"] | None,
    backend: AttentionBackend,
) -> Float[Tensor, "batch asking heads channels"]:
    """Attention by diffusers' dispatcher."""
    return cast(Tensor, dispatch_attention_fn(queries, keys, values, mask, backend=backend))


def flow_solver(steps: int, shift: float, device: torch.device) -> Any:
    """Wan's solver of the flow, UniPC, with its timesteps set."""
    from diffusers import UniPCMultistepScheduler

    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    solver.set_timesteps(steps, device=device)
    return solver


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[], object]]:
    """A bar that a call moves on."""
    from huggingface_hub import utils

    bars: Any = utils  # it exports the class without saying so
    with bars.tqdm(total=total, disable=not shown) as bar:
        yield bar.update


__all__ = [
    "AttentionBackend",
    "AutoencoderKLWan",
    "DiffusersAdapterModel",
    "DiffusersModel",
    "FeedForward",
    "WanAttention",
    "WanTimeTextImageEmbedding",
    "WanTransformerBlock",
    "adapter_settings",
    "attention_backend",
    "dispatch_attention",
    "flow_solver",
    "is_offloaded_as_one",
    "linear",
    "progress_bar",
    "register_to_config",
]

"""Linear layers on the same input as one batched product, while their parameters keep their names and their owners.

Queries, keys and values are three layers in Wan's checkpoints, adapters, quantisers and offloaders. Their weights lie
one after the other in memory here, so that one kernel may read all of them; each stays a parameter of its own layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from wam_backbone._diffusers import linear

_OWN_MEMORY = (Tensor, nn.Parameter, FakeTensor)


@torch.no_grad()
def lay_together(layers: Sequence[nn.Module]) -> None:
    """Move the parameters of plain linear layers of one size next to each other; other layers stay as they are.

    Parameters remain the same objects with the same values, for whoever holds them.
    """
    if not all(is_plain(layer, nn.Linear) for layer in layers):
        return
    for name in ("weight", "bias"):
        parameters = [getattr(layer, name) for layer in layers]
        kinds = {(type(p), p.shape, p.dtype, p.device) for p in parameters if p is not None}
        if len(kinds) != 1 or any(p is None or p.is_inference() for p in parameters):
            continue
        if _as_one(parameters) is not None:
            continue
        with torch.inference_mode(False):
            together = torch.stack([parameter.detach() for parameter in parameters])
            for parameter, own in zip(parameters, together, strict=True):
                parameter.data = own


def apply_together(
    layers: Sequence[nn.Module], inputs: Float[Tensor, "*batch width"]
) -> Sequence[Float[Tensor, "*batch out"]]:
    """What the layers make of one input: one product in inference, one call per layer where that cannot be.

    That is where gradients are taken, under autocast and compilation, and for layers that are hooked (offloading,
    casting), adapted, quantised, sharded, or whose parameters were moved apart.
    """
    product = product_of(layers) if may_join(inputs) else None
    if product is None:
        return [linear(layer, inputs) for layer in layers]
    return product.apply(inputs).view(len(layers), *inputs.shape[:-1], -1).unbind(0)


class Product(NamedTuple):
    """Linear layers that read the same input."""

    weights: Float[Tensor, "layers width out"]
    biases: Float[Tensor, "layers 1 out"]

    def apply(
        self, inputs: Float[Tensor, "*batch width"], into: Float[Tensor, "layers rows out"] | None = None
    ) -> Float[Tensor, "layers rows out"]:
        """What each layer makes of every row, written into a tensor where there is one."""
        rows = inputs.reshape(1, -1, inputs.shape[-1]).expand(len(self.weights), -1, -1)
        return torch.baddbmm(self.biases, rows, self.weights, out=into)


def product_of(layers: Sequence[nn.Module]) -> Product | None:
    """The layers as one product, if calling them is nothing but their own."""
    if not all(is_plain(layer, nn.Linear) for layer in layers):
        return None
    weights, biases = (_as_one([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    if weights is None or biases is None:
        return None
    return Product(weights.transpose(1, 2), biases.unsqueeze(1))


def may_join(inputs: Tensor) -> bool:
    """Whether parameters may be read beside their modules: neither gradients, autocast nor a compiler would see it."""
    kind = inputs.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return not (torch.is_grad_enabled() or cast or torch.compiler.is_compiling())


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module is nothing but what its class computes, on parameters whose memory is their numbers.

    A subclass of `Tensor` (quantised, sharded) computes in its own way, of whatever module it is the weight.
    """
    if type(module) is not kind or is_hooked(module):
        return False
    return all(type(parameter) in _OWN_MEMORY for parameter in module._parameters.values() if parameter is not None)


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module is more than its class's `forward`: it may bring the weights that lie within."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _as_one(parameters: Sequence[Tensor | None]) -> Tensor | None:
    """The memory of several parameters of one shape as one tensor, if they lie one after the other."""
    first = parameters[0]
    if first is None:
        return None
    storage, start, size = first.untyped_storage()._cdata, first.storage_offset(), first.numel()
    for index, parameter in enumerate(parameters):
        if (
            parameter is None
            or parameter.untyped_storage()._cdata != storage
            or parameter.storage_offset() != start + index * size
            or not parameter.is_contiguous()
        ):
            return None
    return first.detach().as_strided((len(parameters), *first.shape), (size, *first.stride()), start)

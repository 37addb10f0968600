"""Kernels of a joint step of the full-size model whose layers are compiled, counted in the code that inductor writes.

Regional compilation makes one code for all layers, so one layer is compiled, in bf16 at batch 1 with cached text, for
an H100 that need not be there: on fake tensors, up to the code and not into it. Attention is one kernel. The last line
is one JSON object:

    kernels_per_layer           calls of Triton's kernels, matrix products and attention in that code
    kernels_per_step_30_layers  the same of 30 layers
    operators_around            operators of the step outside of the layers, which stay as they are (`bench_joint_step`)

Run: python benchmarks/count_kernels.py [--plain]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from bench_joint_step import call_full_joint, count_on_cuda, keep_fake
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._subclasses.fake_tensor import FakeTensorMode

from wam_backbone import WorldActionModel
from wam_backbone.rotary import PositionTables

OPTIONS = {"combo_kernels": True, "realize_reads_threshold": 8}
"""For `model.compile_repeated_blocks(options=...)`: independent kernels of the two experts run as one, and heads are
normalised and turned in one go."""

H100 = {"major": 9, "multi_processor_count": 132, "regs_per_multiprocessor": 65536, "warp_size": 32}
H100 |= {"max_threads_per_multi_processor": 2048, "max_threads_per_block": 1024}
KERNEL = re.compile(r"^ +(?:\w+ = )?(?:\w+\.run|extern_kernels\.\w+|torch\.ops\.\w+\.\w+\.\w+)\(", re.MULTILINE)


class Written(BaseException):
    """The code is there; nothing needs to be compiled."""


@torch.library.custom_op("wam_count::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Stands for whatever kernel attends."""
    return torch.empty_like(query)


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(query)


@contextmanager
def imagined_gpu() -> Iterator[None]:
    """What inductor asks of a GPU before it writes code for it."""
    hints, properties = DeviceProperties(type="cuda", index=0, cc=90, **H100), SimpleNamespace(name="H100", **H100)
    with ExitStack() as stack:
        for owner, name, answer in (
            (DeviceProperties, "create", hints),
            (CudaInterface, "get_device_properties", properties),
            (CudaInterface, "get_compute_capability", 90),
            (CudaInterface, "is_bf16_supported", True),
        ):
            stack.enter_context(mock.patch.object(owner, name, staticmethod(mock.Mock(return_value=answer))))
        for name, answer in (
            ("torch.cuda.current_device", 0),
            ("torch.cuda.get_device_capability", (9, 0)),
            ("torch._inductor.scheduler.has_triton", True),
            ("torch.utils._triton.triton_hash_with_backend", "NONE"),
        ):
            stack.enter_context(mock.patch(name, return_value=answer))
        yield


def code_of_a_layer(options: dict[str, object]) -> str:
    """What inductor writes for one layer."""
    written: list[str] = []

    def keep(code: str) -> None:
        written.append(code)
        raise Written

    def write(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        with imagined_gpu():
            return compile_fx(graph, inputs)

    torch.set_default_dtype(torch.bfloat16)
    try:
        with (
            mock.patch.object(
                F,
                "scaled_dot_product_attention",
                lambda query, key, value, **_: torch.ops.wam_count.attention(query, key, value),
            ),
            mock.patch.object(PositionTables, "_keep", keep_fake()),
            mock.patch.object(GraphLowering, "save_output_code", staticmethod(keep)),
            config.patch(fx_graph_cache=False, shape_padding=False, compile_threads=1, **options),
            FakeTensorMode(),
            torch.device("cuda"),
            torch.no_grad(),
        ):
            model = WorldActionModel(state_dim=0, num_layers=1)
            step = call_full_joint(model)
            torch.set_default_dtype(torch.float32)  # times are fp32
            step()
            model.compile_repeated_blocks(fullgraph=True, backend=write)
            with suppress(Written):
                step()
    finally:
        torch.set_default_dtype(torch.float32)
    (code,) = written
    return code


def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="without the options")
    kernels = len(KERNEL.findall(code_of_a_layer({} if parser.parse_args().plain else OPTIONS)))
    one, two = (
        count_on_cuda(lambda layers=layers: WorldActionModel(state_dim=0, num_layers=layers), call_full_joint)
        for layers in (1, 2)
    )
    counts = {"kernels_per_layer": kernels, "kernels_per_step_30_layers": 30 * kernels}
    print(json.dumps(counts | {"operators_around": 2 * one - two}))


if __name__ == "__main__":
    main()

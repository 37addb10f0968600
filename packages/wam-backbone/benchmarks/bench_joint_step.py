"""Joint denoising and training step against diffusers' video-only transformer, in paired rounds on one thread.

Ratios of CPU time; below 1 is faster (or smaller) than the reference. The last line is one JSON object:

    joint_forward_vs_diffusers  forward of video and actions with cached text, as every denoising step makes it /
                                diffusers' forward of the video alone with per-token times, which cannot cache text
    uncached_forward_vs_diffusers   the same without the cache
    train_step_vs_diffusers     forward, backward and AdamW, likewise
    saved_bytes_vs_diffusers    bytes kept for backward per sample, likewise
    chunk_vs_ten_forwards       a chunk of ten steps, text cached by the sampler / ten forwards without caches
    heterogeneous_vs_shared     a chunk with one schedule per row / a chunk with the shared schedule
    observation_cache_vs_none   a chunk in the layout `joint` with the observation's keys and values computed once / in
                                every step
    joint_forward_vs_fastwam    a step of the layout `joint` with cached text against one of Fast-WAM's own code, both
                                with two heads (only where FASTWAM_ROOT names a checkout of it)
    compiled_...                with --compiled: the same with our layers compiled (`compile_repeated_blocks`), the
                                reference as it comes; `..._both` where diffusers' layers are compiled, too
    ops_per_step_30_layers      operators that launch something on CUDA, one joint step of the full-size model in the
                                layout `full` with cached text in bf16 at batch 1, counted on fake tensors (no GPU
                                needed)
    ops_per_joint_step_30_layers  the same in the layout `joint`, nothing of the observation cached
    ops_per_chunk_30_layers     the same of a whole chunk of ten steps in the layout `joint`, text and observation
                                encoded within it
    diffusers_ops_30_layers     the first of diffusers' video-only step

Run: python benchmarks/bench_joint_step.py [--rounds 10] [--compiled] [--tiny]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from wam_backbone import (
    Clock,
    MatrixSchedule,
    Observation,
    SharedSchedule,
    ShiftedUniform,
    Stage1Batch,
    Stage1Recipe,
    WorldActionModel,
    denoise,
    stage1_loss,
)
from wam_backbone import sampler as sampler_module
from wam_backbone.interface import Prediction, SamplerModel
from wam_backbone.rotary import PositionTables

CHANNELS, GRID, TEXT, TEXT_DIM, ACTIONS, ACTION_DIM = 16, 16, 64, 512, 16, 14
FRAMES = 2


LAUNCH_NOTHING = {
    torch.ops.aten._unsafe_view,
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.new_empty,
}


class CountOperators(TorchDispatchMode):
    """Counts ATen operators that are neither views, under any name, nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        launches = func.namespace == "aten" and not func.is_view and func.overloadpacket not in LAUNCH_NOTHING
        self.count += launches
        return func(*args, **(kwargs or {}))


def count_on_cuda(build: Callable[[], nn.Module], call: Callable[[nn.Module], Callable[[], object]]) -> int:
    """Operators of one call of a model, on fake CUDA tensors in bf16 with attention as one operator."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with (
            mock.patch.object(F, "scaled_dot_product_attention", lambda query, *_, **__: query.clone()),
            mock.patch.object(PositionTables, "_keep", keep_fake()),
            mock.patch.object(sampler_module, "_check_path"),  # looks at values
            FakeTensorMode(),
            torch.device("cuda"),
            torch.no_grad(),
        ):
            run = call(build())
            torch.set_default_dtype(torch.float32)  # times are fp32
            run()  # tables are made once
            with CountOperators() as counter:
                run()
    finally:
        torch.set_default_dtype(torch.float32)
    return counter.count


def count_of_thirty(build: Callable[[int], nn.Module], call: Callable[[nn.Module], Callable[[], object]]) -> int:
    """Operators of one call at 30 layers, from 2 and 3: every layer has as many."""
    two, three = (count_on_cuda(lambda layers=layers: build(layers), call) for layers in (2, 3))
    return two + 28 * (three - two)


def keep_fake() -> Callable[..., Tensor]:
    """Position tables, kept as on a real device; a model keeps none of fake tensors."""
    kept: dict[object, Tensor] = {}

    def keep(
        tables: PositionTables, key: tuple[object, ...], make: Callable[[torch.device], Tensor], like: Tensor
    ) -> Tensor:
        if key not in kept:
            kept[key] = make(like.device)
        return kept[key]

    return keep


def call_full_chunk(model: nn.Module) -> Callable[[], object]:
    """A chunk of the same layout, as a policy plans it."""
    observation = Observation(latent=torch.randn(1, 48, 1, 24, 20), context=torch.randn(1, 128, 4096))
    sizes = {"frames": FRAMES, "action_steps": 32, "clock": Clock.linear(10)}
    return lambda: denoise(model, observation, SharedSchedule(), **sizes)


def call_full_joint(model: nn.Module) -> Callable[[], object]:
    """One step of the RoboTwin layout: 3 latents of 24 x 20, 32 actions, 128 text tokens."""
    video, actions, context = torch.randn(1, 48, 3, 24, 20), torch.randn(1, 32, ACTION_DIM), torch.randn(1, 128, 4096)
    times, time = torch.rand(1, 3, dtype=torch.float32), torch.rand(1, dtype=torch.float32)
    cache = model.encode_context(context)
    return lambda: model(video, actions, times, time, cache)


def call_full_video(model: nn.Module) -> Callable[[], object]:
    """The same video in diffusers."""
    video, context = torch.randn(1, 48, 3, 24, 20), torch.randn(1, 128, 4096)
    times = torch.rand(1, 360, dtype=torch.float32)
    return lambda: model(video, times, context)


class Uncached:
    """A model whose observation cache the sampler does not see."""

    def __init__(self, model: WorldActionModel) -> None:
        self.model, self.action_dim, self.encode_context = model, model.action_dim, model.encode_context

    def __call__(self, *inputs: Tensor | None) -> Prediction:
        """As the model."""
        return self.model(*inputs)


def make_joint(layers: int, tiny: bool, layout: str = "full", heads: int = 4) -> WorldActionModel:
    """Video 256 wide, actions 128 wide; a quarter of it when tiny."""
    part = 4 if tiny else 1
    return WorldActionModel(
        latent_channels=CHANNELS, num_layers=layers, num_heads=heads, head_dim=256 // heads // part,
        video_ffn=1024 // part, action_width=128 // part, action_ffn=512 // part, action_dim=ACTION_DIM, state_dim=0,
        text_dim=TEXT_DIM, layout=layout,
    )  # fmt: skip


def make_video(layers: int, tiny: bool) -> WanTransformer3DModel:
    """The same video half in diffusers."""
    part = 4 if tiny else 1
    return WanTransformer3DModel(
        num_attention_heads=4, attention_head_dim=64 // part, in_channels=CHANNELS, out_channels=CHANNELS,
        text_dim=TEXT_DIM, ffn_dim=1024 // part, num_layers=layers,
    )  # fmt: skip


def make_fastwam(code: Callable[[str], Any], vae: nn.Module, layers: int, tiny: bool) -> Any:
    """The same sizes in Fast-WAM's code, whose actions see the future as ours do; its axes divide heads of 128."""
    part = 4 if tiny else 1
    video = code("models.wan22.wan_video_dit").WanVideoDiT(
        hidden_dim=256 // part, in_dim=CHANNELS, ffn_dim=1024 // part, out_dim=CHANNELS, text_dim=TEXT_DIM,
        freq_dim=256, eps=1e-6, patch_size=(1, 2, 2), num_heads=2, attn_head_dim=128 // part, num_layers=layers,
        has_image_input=False, seperated_timestep=True, video_attention_mask_mode="first_frame_causal",
    )  # fmt: skip
    actions = code("models.wan22.action_dit").ActionDiT(
        hidden_dim=128 // part, action_dim=ACTION_DIM, ffn_dim=512 // part, text_dim=TEXT_DIM, freq_dim=256, eps=1e-6,
        num_heads=2, attn_head_dim=128 // part, num_layers=layers,
    )  # fmt: skip
    mot = code("models.wan22.mot").MoT({"video": video, "action": actions}, mot_checkpoint_mixed_attn=False)
    return code("models.wan22.fastwam_joint").FastWAMJoint(video, actions, mot, vae, text_dim=TEXT_DIM).eval()


def race_fastwam(root: str, layers: int, tiny: bool, rounds: int, compiled: bool) -> dict[str, float]:
    """One joint step in two heads, ours with cached text, against theirs."""
    recipe = Path(__file__).parents[1] / "tests" / "golden" / "make_fastwam.py"
    spec = importlib.util.spec_from_file_location("make_fastwam", recipe)
    assert spec is not None
    assert spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    with golden.fastwam_code(Path(root)) as code:
        theirs = make_fastwam(code, golden.ConstantVAE(torch.zeros(1)), layers, tiny)
        video, actions = torch.randn(8, CHANNELS, 1 + FRAMES, GRID, GRID), torch.randn(8, ACTIONS, ACTION_DIM)
        context, mask = torch.randn(8, TEXT, TEXT_DIM), torch.ones(8, TEXT, dtype=torch.bool)
        times = torch.rand(8)
        joint = make_joint(layers, tiny, layout="joint", heads=2)
        per_frame = torch.cat((torch.zeros(8, 1), times[:, None].expand(-1, FRAMES)), dim=1)
        with torch.no_grad():
            cache = joint.encode_context(context)

        def ours() -> None:
            with torch.no_grad():
                joint(video, actions, per_frame, times, cache)

        def step() -> None:
            theirs._predict_joint_noise(video, actions, 1000 * times, 1000 * times, context, mask, True)

        results = {"joint_forward_vs_fastwam": paired("joint forward / Fast-WAM", ours, step, rounds)}
        if compiled:
            torch.compiler.reset()
            joint.compile_repeated_blocks(fullgraph=True)
            results["compiled_forward_vs_fastwam"] = paired("compiled / Fast-WAM", ours, step, rounds)
        return results


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of one call: other processes on the machine count less than in wall time."""
    start = time.process_time()
    function()
    return time.process_time() - start


def paired(name: str, ours: Callable[[], object], reference: Callable[[], object], rounds: int) -> float:
    """Median ratio over rounds that run both, in alternating order."""
    ours(), reference()
    mine, theirs = [], []
    for index in range(rounds):
        for function, times in ((ours, mine), (reference, theirs))[:: 1 if index % 2 else -1]:
            times.append(cpu_seconds(function))
    ratios = sorted(one / other for one, other in zip(mine, theirs, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
    ratio = statistics.median(ratios)
    print(
        f"{name:28s} {ratio:.3f} [{low:.3f}, {high:.3f}]   ours {1e3 * statistics.median(mine):.0f} ms   "
        f"reference {1e3 * statistics.median(theirs):.0f} ms"
    )
    return ratio


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of distinct storages kept for backward, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    size = sum(storage.nbytes() for storage in storages.values())
    del output
    return size


def main() -> None:
    """Print one line per case and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compiled", action="store_true", help="compiled layers, too: needs a C++ compiler")
    parser.add_argument("--tiny", action="store_true", help="a quarter of the width: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch, layers, rounds, tiny = 8, 6, options.rounds, options.tiny

    joint, video_only = make_joint(layers, tiny), make_video(layers, tiny)
    video = torch.randn(batch, CHANNELS, 1 + FRAMES, GRID, GRID)
    actions, context = torch.randn(batch, ACTIONS, ACTION_DIM), torch.randn(batch, TEXT, TEXT_DIM)
    times, action_time = torch.rand(batch, 1 + FRAMES), torch.rand(batch)
    times[:, 0] = 0
    per_token = (times * 1000).repeat_interleave((GRID // 2) ** 2, dim=1)
    observation = Observation(latent=video[:, :, :1], context=context)

    def joint_forward() -> None:
        with torch.no_grad():
            joint(video, actions, times, action_time, context)

    def diffusers_forward() -> None:
        with torch.no_grad():
            video_only(video, per_token, context)

    training_batch = Stage1Batch(video=video, actions=actions, context=context)
    recipe = Stage1Recipe(video_times=ShiftedUniform(shift=5.0))
    joint_optimizer = torch.optim.AdamW(joint.parameters(), lr=1e-4, fused=True)
    video_optimizer = torch.optim.AdamW(video_only.parameters(), lr=1e-4, fused=True)

    def joint_step() -> None:
        joint_optimizer.zero_grad()
        stage1_loss(joint, training_batch, recipe).total.backward()
        joint_optimizer.step()

    def diffusers_step() -> None:
        video_optimizer.zero_grad()
        noise = torch.randn_like(video[:, :, 1:])
        now = times[:, None, 1:, None, None]
        noisy = torch.cat((video[:, :, :1], torch.lerp(video[:, :, 1:], noise, now)), dim=2)
        predicted = video_only(noisy, per_token, context).sample[:, :, 1:]
        (predicted - (noise - video[:, :, 1:])).square().mean().backward()
        video_optimizer.step()

    noise = torch.Generator().manual_seed(0)
    paths = torch.cat((torch.ones(batch, 1, FRAMES), torch.rand(batch, 10, FRAMES)), dim=1)
    per_row = MatrixSchedule(paths.cummin(dim=1).values)

    def chunk(schedule: SharedSchedule | MatrixSchedule) -> None:
        denoise(
            joint, observation, schedule, frames=FRAMES, action_steps=ACTIONS, clock=Clock.linear(10), generator=noise
        )

    once = make_joint(layers, tiny, layout="joint")

    def joint_chunk(model: SamplerModel) -> None:
        denoise(
            model,
            observation,
            SharedSchedule(),
            frames=FRAMES,
            action_steps=ACTIONS,
            clock=Clock.linear(),
            generator=noise,
        )

    def ten_forwards() -> None:
        for _ in range(10):
            joint_forward()

    with torch.no_grad():
        cache = joint.encode_context(context)

    def cached_forward() -> None:
        with torch.no_grad():
            joint(video, actions, times, action_time, cache)

    results: dict[str, float] = {}
    results["joint_forward_vs_diffusers"] = paired(
        "joint forward, text cached", cached_forward, diffusers_forward, rounds
    )
    results["uncached_forward_vs_diffusers"] = paired("joint forward", joint_forward, diffusers_forward, rounds)
    if root := os.environ.get("FASTWAM_ROOT"):
        results |= race_fastwam(root, layers, tiny, rounds, options.compiled)
    results["train_step_vs_diffusers"] = paired("train step", joint_step, diffusers_step, rounds)
    ours = saved_bytes(joint, lambda: joint(video, actions, times, action_time, context).video)
    theirs = saved_bytes(video_only, lambda: video_only(video, per_token, context).sample)
    results["saved_bytes_vs_diffusers"] = ours / theirs
    sizes = f"{ours / batch / 1e6:.1f} MB and {theirs / batch / 1e6:.1f} MB a sample"
    print(f"{'saved for backward':28s} {ours / theirs:.3f}   {sizes}")
    few = max(1, rounds // 3)
    results["chunk_vs_ten_forwards"] = paired("chunk of ten steps", lambda: chunk(SharedSchedule()), ten_forwards, few)
    results["heterogeneous_vs_shared"] = paired(
        "one schedule per row", lambda: chunk(per_row), lambda: chunk(SharedSchedule()), few
    )
    results["observation_cache_vs_none"] = paired(
        "observation computed once", lambda: joint_chunk(once), lambda: joint_chunk(Uncached(once)), few
    )
    ours, in_joint = (
        count_of_thirty(
            lambda layers, layout=layout: WorldActionModel(state_dim=0, num_layers=layers, layout=layout),
            call_full_joint,
        )
        for layout in ("full", "joint")
    )
    theirs = count_of_thirty(
        lambda layers: WanTransformer3DModel(
            num_layers=layers,
            num_attention_heads=24,
            attention_head_dim=128,
            ffn_dim=14336,
            in_channels=48,
            out_channels=48,
        ),
        call_full_video,
    )
    whole = count_of_thirty(
        lambda layers: WorldActionModel(state_dim=0, num_layers=layers, layout="joint"), call_full_chunk
    )
    results |= {"ops_per_step_30_layers": ours, "ops_per_joint_step_30_layers": in_joint}
    results |= {"ops_per_chunk_30_layers": whole, "diffusers_ops_30_layers": theirs}
    steps = f"{ours} a step in the layout `full`, {in_joint} in `joint`"
    print(f"{'operators, 30 layers':28s} {steps}, {whole} a chunk; diffusers' step {theirs}")
    races = {"forward": (cached_forward, diffusers_forward), "train_step": (joint_step, diffusers_step)}
    for suffix in ("", "_both") if options.compiled else ():
        for what, (own, reference) in races.items():
            torch.compiler.reset()  # what was compiled for other sizes makes these dynamic
            joint, video_only = make_joint(layers, tiny), make_video(layers, tiny)
            joint_optimizer = torch.optim.AdamW(joint.parameters(), lr=1e-4, fused=True)
            video_optimizer = torch.optim.AdamW(video_only.parameters(), lr=1e-4, fused=True)
            joint.compile_repeated_blocks(fullgraph=True)
            if suffix:
                video_only.compile_repeated_blocks(fullgraph=True)
            with torch.no_grad():
                cache = joint.encode_context(context)
            name = f"compiled_{what}_vs_diffusers{suffix}"
            results[name] = paired(name, own, reference, rounds)
    print(json.dumps({name: round(value, 4) for name, value in results.items()}))


if __name__ == "__main__":
    main()

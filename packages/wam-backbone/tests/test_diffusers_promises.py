"""What diffusers promises of every model, asked of ours and of its own Wan transformer by the same call."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, attention_backend
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from wam_backbone import Clock, Observation, SharedSchedule, denoise
from wam_backbone.errors import ConfigurationError

BOTH = ["ours", "diffusers"]


@pytest.fixture(autouse=True)
def the_default_backend():
    """`set_attention_backend` chooses for the whole process, too."""
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


class Runner:
    """One of the two models with a call of it on the same video."""

    def __init__(self, model, inputs) -> None:
        self.model, self.inputs = model, inputs

    def __call__(self, dtype=torch.float32) -> torch.Tensor:
        video, context = self.inputs.video.to(dtype), self.inputs.context.to(dtype)
        if isinstance(self.model, WanTransformer3DModel):
            return self.model(video, self.inputs.action_time * 1000, context).sample
        moved = (self.inputs.actions.to(dtype), self.inputs.video_times, self.inputs.action_time, context)
        found = self.model(video, *moved, self.inputs.state.to(dtype))
        return torch.cat((found.video.flatten(1), found.actions.flatten(1)), dim=1)


@pytest.fixture(params=BOTH)
def runner(request, make_model, wan, inputs) -> Runner:
    return Runner(make_model("joint") if request.param == "ours" else wan, inputs)


def chunk(model):
    torch.manual_seed(0)
    observation = Observation(latent=torch.randn(2, 4, 1, 4, 6), context=torch.randn(2, 8, 10), state=torch.randn(2, 6))
    generator = torch.Generator().manual_seed(1)
    found = denoise(
        model, observation, SharedSchedule(), frames=2, action_steps=5, clock=Clock.linear(2), generator=generator
    )
    return torch.cat((found.latents.flatten(), found.actions.flatten()))


@torch.no_grad()
def test_the_chosen_attention_backend_is_used_by_every_attention(runner, monkeypatch):
    name, calls = AttentionBackendName._NATIVE_MATH, []
    backend = _AttentionBackendRegistry._backends[name]
    monkeypatch.setitem(
        _AttentionBackendRegistry._backends, name, lambda **inputs: calls.append(1) or backend(**inputs)
    )
    monkeypatch.setitem(
        _AttentionBackendRegistry._supported_arg_names, name, _AttentionBackendRegistry._supported_arg_names[name]
    )
    plain = runner()
    assert calls == []
    with attention_backend("_native_math"):
        runner()
    layers, ours = 2, not isinstance(runner.model, WanTransformer3DModel)
    # Joint: the observation, the future and the actions ask one after the other; then both experts read the text.
    assert len(calls) == layers * (5 if ours else 2)
    calls.clear()
    runner.model.set_attention_backend("_native_math")
    torch.testing.assert_close(runner(), plain, rtol=0, atol=1e-5)
    assert len(calls) == layers * (5 if ours else 2)
    with pytest.raises(ValueError, match="backend"):
        runner.model.set_attention_backend("no_such_backend")


@pytest.fixture
def accelerate():
    return pytest.importorskip("accelerate", reason="offloading by accelerate needs accelerate")


@torch.no_grad()
def test_weights_offloaded_to_cpu_memory_come_back_when_needed(runner, accelerate):
    expected = runner()
    accelerate.cpu_offload(runner.model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in runner.model.parameters())
    assert torch.equal(runner(), expected)


@torch.no_grad()
def test_a_whole_chunk_runs_from_offloaded_weights(make_model, tmp_path, accelerate):
    for layout, state_token in (("joint", "actions"), ("full", "text"), ("fastwam", "text")):
        model = make_model(layout, state_token=state_token)
        expected, grouped = chunk(model), copy.deepcopy(model)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert torch.equal(chunk(model), expected)
        offload_to_disk(grouped, tmp_path / layout)
        assert torch.equal(chunk(grouped), expected)


def offload_to_disk(model, folder):
    """Group offloading with nothing left in memory: what no hook brings back is lost."""
    cpu = torch.device("cpu")
    model.enable_group_offload(cpu, offload_device=cpu, offload_type="leaf_level", offload_to_disk_path=str(folder))


@torch.no_grad()
def test_groups_of_weights_are_offloaded_leaf_by_leaf(runner, tmp_path):
    expected = runner()
    offload_to_disk(runner.model, tmp_path)
    assert torch.equal(runner(), expected)


@torch.no_grad()
def test_groups_of_layers_are_offloaded_from_a_step_and_refused_beside_it(runner, tmp_path):
    expected, cpu, inputs = runner(), torch.device("cpu"), runner.inputs
    apply_group_offloading(
        runner.model, cpu, offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=str(tmp_path)
    )
    torch.testing.assert_close(runner(), expected, rtol=0, atol=1e-5)
    if not isinstance(runner.model, WanTransformer3DModel):
        for encode in (runner.model.encode_context, partial(runner.model.encode_observation, inputs.video[:, :, :1])):
            with pytest.raises(ConfigurationError, match="`leaf_level`"):
                encode(inputs.context)
        with pytest.raises(ConfigurationError, match="`leaf_level`"):
            chunk(runner.model)


def test_groups_of_layers_are_refused(make_model):
    cpu = torch.device("cpu")
    with pytest.raises(ConfigurationError, match="`leaf_level`"):
        make_model().enable_group_offload(cpu, offload_type="block_level", num_blocks_per_group=1)


@torch.no_grad()
def test_weights_are_stored_in_eight_bits_and_computed_in_sixteen(runner):
    runner.model.to(torch.bfloat16)
    expected = runner(torch.bfloat16).float()
    runner.model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    stored = [parameter.dtype for parameter in runner.model.parameters()]
    assert stored.count(torch.float8_e4m3fn) > len(stored) / 3
    found = runner(torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert 1e-3 < float((found.float() - expected).norm() / expected.norm()) < 0.06


def test_casting_to_another_type_than_the_models_is_refused(make_model):
    with pytest.raises(ConfigurationError, match=r"load the model in torch.bfloat16"):
        make_model().enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


class Int8Linear(nn.Module):
    """A linear layer of 8-bit weights with a scale per row, in the shape of bitsandbytes'."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.scale, self.bias = nn.Parameter(scale), linear.bias

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.weight.to(inputs) * self.scale.to(inputs), self.bias)


class PackedLinear(nn.Module):
    """The same with a method that unpacks the weight, in the shape of `torch.ao`'s."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = Int8Linear(linear)

    def weight(self):
        return self.packed.weight

    def forward(self, inputs):
        return self.packed(inputs)


@pytest.mark.parametrize("kind", [Int8Linear, PackedLinear])
@torch.no_grad()
def test_every_linear_layer_may_be_quantised(kind, runner):
    expected = runner()
    for name, module in list(runner.model.named_modules()):
        if isinstance(module, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            setattr(runner.model.get_submodule(owner), leaf, kind(module))
    error = float((runner() - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.02


class Int8Weight(torch.Tensor):
    """A weight of 8-bit numbers within an ordinary linear layer, in the shape of torchao's."""

    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype, device=numbers.device)

    def __init__(self, numbers, scale) -> None:
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            return cls(args[0].numbers, args[0].scale)
        if func is not torch.ops.aten.t.default:
            raise NotImplementedError(func)
        return (args[0].numbers * args[0].scale).t()


@torch.no_grad()
def test_weights_that_compute_in_their_own_way_stay_in_their_layers(runner):
    expected = runner()
    for module in runner.model.modules():
        if isinstance(module, nn.Linear):
            scale = module.weight.abs().amax(dim=1, keepdim=True) / 127
            numbers = (module.weight / scale).round().to(torch.int8)
            module.weight = nn.Parameter(Int8Weight(numbers, scale), requires_grad=False)
    found = runner()
    assert 1e-4 < float((found - expected).norm() / expected.norm()) < 0.02
    runner.model.to("cpu")
    assert torch.equal(runner(), found)
    runner.model = copy.deepcopy(runner.model)
    assert torch.equal(runner(), found)


@torch.no_grad()
def test_a_step_is_exported(runner):
    inputs = runner.inputs
    if isinstance(runner.model, WanTransformer3DModel):
        arguments = (inputs.video, inputs.action_time * 1000, inputs.context)
    else:
        arguments = (
            inputs.video, inputs.actions, inputs.video_times, inputs.action_time, inputs.context, inputs.state
        )  # fmt: skip
    exported = torch.export.export(runner.model.eval(), arguments, strict=False).module()
    for found, expected in zip(exported(*arguments), runner.model(*arguments), strict=False):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_directional_derivative_is_that_of_a_finite_difference(runner):
    # Its attention has no forward-mode rule in every kernel; the one of plain products has.
    runner.model.double().set_attention_backend("_native_math")
    video = runner.inputs.video.double()
    direction = torch.randn(video.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def call(moved):
        runner.inputs = replace(runner.inputs, video=moved)
        return runner(torch.float64)

    _, tangent = torch.func.jvp(call, (video,), (direction,))
    with torch.no_grad():
        step = 1e-3  # rotation, times and norms are computed in fp32
        expected = (call(video + step * direction) - call(video - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-2, atol=1e-3)
    assert float(tangent.abs().max()) > 0.1


@pytest.mark.slow
@torch.no_grad()
def test_a_whole_step_compiles_for_several_lengths(make_model, inputs):
    model = make_model("joint", num_layers=1)
    plain, counter = copy.deepcopy(model), CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    model.compile(backend=counter, fullgraph=True)
    compiled = []
    for steps, frames in 2 * ((5, 3), (4, 3), (3, 3), (6, 2)):
        shorter = replace(
            inputs,
            video=inputs.video[:, :, :frames],
            video_times=inputs.video_times[:, :frames],
            actions=torch.randn(3, steps, 7, generator=torch.Generator().manual_seed(steps)),
        )
        torch.testing.assert_close(shorter.call(model), shorter.call(plain), rtol=0, atol=1e-5)
        compiled.append(counter.frame_count)
    assert compiled[4:] == [compiled[3]] * 4  # nothing is compiled twice


def test_gradients_are_differentiated_again(runner):
    runner.model.double().set_attention_backend("_native_math")
    parameter = next(p for name, p in runner.model.named_parameters() if name.endswith("attn1.to_v.weight"))
    (first,) = torch.autograd.grad(runner(torch.float64).square().mean(), parameter, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), parameter)
    assert bool(second.isfinite().all())
    assert float(second.abs().max()) > 0

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCHES = (slice(0, 1), slice(None))


def with_modules_called(model):
    """A copy whose modules are called one by one: one of them is hooked."""
    model = copy.deepcopy(model)
    model.layers[0].video.attn1.norm_q.register_forward_hook(lambda *_: None)
    return model


@torch.no_grad()
@pytest.mark.parametrize("rows", BATCHES, ids=["one", "batch"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-2)])
def test_joint_heads_are_what_the_modules_make(rows, dtype, close, make_model, inputs):
    model = make_model("joint").to(dtype)
    for layer in model.layers:
        for norm in (layer.video.attn1.norm_q, layer.video.attn1.norm_k, layer.action.attn1.norm_q):
            norm.weight.uniform_(0.5, 1.5)  # each its own
    for one, other in zip(inputs.call(model, rows), inputs.call(with_modules_called(model), rows), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=close)


@torch.no_grad()
@pytest.mark.parametrize("expert", ["video", "action"])
def test_whatever_a_norm_does_beyond_its_weights_is_done(expert, make_model, inputs):
    model = make_model()
    plain = inputs.call(model)
    norm = getattr(model.layers[1], expert).attn1.norm_k
    norm.register_forward_hook(lambda module, arguments, outputs: -outputs)
    hooked = inputs.call(model)
    with torch.enable_grad():
        expected = inputs.call(model)
    torch.testing.assert_close(hooked, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(hooked.actions, plain.actions, atol=1e-4)


@sdpa_kernel(SDPBackend.MATH)  # others have no tangents
@pytest.mark.parametrize("rows", BATCHES, ids=["one", "batch"])
def test_tangents_pass_where_no_gradients_are_taken(rows, make_model, inputs):
    model = make_model()

    def call(actions):
        rest = (inputs.video_times[rows], inputs.action_time[rows], inputs.context[rows], inputs.state[rows])
        return model(inputs.video[rows], actions, *rest).actions

    actions = inputs.actions[rows]
    _, expected = torch.func.jvp(call, (actions,), (torch.ones_like(actions),))
    with torch.no_grad():
        _, tangent = torch.func.jvp(call, (actions,), (torch.ones_like(actions),))
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_norms_with_constants_of_their_own_keep_them(make_model, inputs):
    model = make_model()
    for layer in model.layers:
        layer.action.attn1.norm_k.eps = 1.0
    found, expected = inputs.call(model), inputs.call(with_modules_called(model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rows", BATCHES, ids=["one", "batch"])
def test_blocks_compiled_by_themselves_write_nothing_in_place(rows, make_model, inputs):
    model = make_model("joint")
    expected = inputs.call(model, rows)
    torch.compiler.reset()
    model.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(inputs.call(model, rows), expected, rtol=0, atol=1e-6)
    torch.compiler.reset()

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.utils._pytree import tree_leaves

from wam_backbone import WorldActionModel
from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError
from wam_backbone.flow import EPSILON_HORIZON
from wam_backbone.weights import load_wan_weights, wan_weights

LAYOUTS = ["full", "joint", "fastwam", "idm"]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max().detach())


@pytest.mark.parametrize("layout", ["full", "idm"])
def test_the_video_half_alone_is_diffusers_wan_with_per_token_times(layout, make_model, wan, inputs):
    model = make_model(layout)
    load_wan_weights(model, wan.state_dict())
    tokens_per_frame = 2 * 3
    per_token = (inputs.video_times * 1000).repeat_interleave(tokens_per_frame, dim=1)
    with torch.no_grad():
        theirs = wan(inputs.video, per_token, inputs.context).sample
        ours = model(inputs.video, None, inputs.video_times, None, inputs.context)
    assert ours.actions is None
    assert theirs.abs().max() > 0.5
    assert difference(ours.video, theirs) < 1e-5


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("layout", ["full", "joint"])
def test_what_a_hook_keeps_of_a_module_stays_what_it_was(layout, gradients, make_model, inputs):
    model, kept = make_model(layout), []

    def keep(module, arguments, outputs):
        kept.extend((output, output.detach().clone()) for output in tree_leaves(outputs) if output is not None)

    for module in model.modules():
        module.register_forward_hook(keep)
    with torch.set_grad_enabled(gradients):
        inputs.call(model)
    assert len(kept) > 50
    assert all(torch.equal(output, value) for output, value in kept)


def test_one_shared_time_through_the_per_latent_path_is_wans_scalar_path(make_model, wan, inputs):
    model = make_model()
    load_wan_weights(model, wan.state_dict())
    time = torch.tensor([0.0, 0.37, 1.0])
    with torch.no_grad():
        theirs = wan(inputs.video, time * 1000, inputs.context).sample
        ours = model(inputs.video, None, time.unsqueeze(1).expand(3, 3), None, inputs.context)
    assert difference(ours.video, theirs) < 1e-5


def test_wan_weights_come_back_under_their_own_names(make_model, wan):
    model = make_model()
    load_wan_weights(model, wan.state_dict())
    back = wan_weights(model)
    assert back.keys() == wan.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in wan.state_dict().items())


def test_weights_that_do_not_fit_are_listed_and_nothing_is_copied(make_model, wan):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = dict(wan.state_dict())
    weights["blocks.7.ffn.extra"] = weights.pop("proj_out.bias")
    weights["patch_embedding.bias"] = torch.zeros(3)
    listed = (
        r"missing: `proj_out.bias`; unexpected: `blocks.7.video.ffn.extra`; misshapen: `patch_embedding.bias \(3,\)"
    )
    with pytest.raises(WeightsError, match=listed):
        load_wan_weights(model, weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_rows_are_independent(layout, make_model, inputs):
    model = make_model(layout)
    with torch.no_grad():
        together = inputs.call(model)
        alone = inputs.call(model, slice(1, 2))
    assert difference(together.video[1:2], alone.video) < 1e-5
    assert difference(together.actions[1:2], alone.actions) < 1e-5


def test_every_input_reaches_the_actions(make_model, inputs):
    model = make_model("full")
    with torch.no_grad():
        actions = inputs.call(model).actions
        for field in ("video", "actions", "video_times", "action_time", "context", "state"):
            value = 1 - getattr(inputs, field)
            if field == "video_times":
                value[:, 0] = 0
            changed = replace(inputs, **{field: value})
            assert difference(changed.call(model).actions, actions) > 1e-4, field


def test_a_state_among_the_text_reaches_video_and_actions(make_model, inputs):
    model = make_model("fastwam", state_token="text")
    changed = replace(inputs, state=1 - inputs.state)
    with torch.no_grad():
        before, after = inputs.call(model), changed.call(model)
        alone = model(inputs.video, None, inputs.video_times, None, inputs.context, inputs.state)
    assert difference(before.video, after.video) > 1e-4
    assert difference(before.actions, after.actions) > 1e-4
    assert difference(before.video, alone.video) < 1e-6


def test_a_state_that_belongs_to_the_text_must_come_with_it(make_model, inputs):
    model = make_model(state_token="text")
    for context in (inputs.context, model.encode_context(inputs.context)):
        with pytest.raises(ShapeError, match="`state` is None"):
            model(inputs.video, None, inputs.video_times, None, context)


@pytest.mark.parametrize(("objective", "equal"), [("epsilon", True), ("velocity", False)])
def test_a_model_of_noise_is_asked_a_little_below_time_one(objective, equal, make_model, inputs):
    model = make_model(objective=objective)
    with torch.no_grad():
        top, below, lower = (
            replace(inputs, video_times=inputs.video_times.clone().index_fill_(1, torch.tensor([1]), time)).call(model)
            for time in (1.0, 1 - EPSILON_HORIZON, 0.9)
        )
    assert (difference(top.video, below.video) < 1e-6) == equal
    assert difference(top.video, lower.video) > 1e-5


@pytest.mark.parametrize("layout", ["joint", "fastwam", "idm"])
def test_video_that_never_sees_actions_does_not_depend_on_them(layout, make_model, inputs):
    model = make_model(layout)
    with torch.no_grad():
        video = inputs.call(model).video
        changed = replace(inputs, actions=-inputs.actions, state=-inputs.state, action_time=1 - inputs.action_time)
        assert torch.equal(changed.call(model).video, video)
        assert not torch.equal(replace(inputs, actions=-inputs.actions).call(make_model("full")).video, video)


def test_fastwam_actions_do_not_depend_on_the_future(make_model, inputs):
    model = make_model("fastwam")
    future = inputs.video.clone()
    future[:, :, 1:] *= -1
    with torch.no_grad():
        assert torch.equal(replace(inputs, video=future).call(model).actions, inputs.call(model).actions)


@pytest.mark.parametrize("state_dim", [0, 6])
@pytest.mark.parametrize("modulated_action_head", [True, False])
def test_a_gradient_reaches_every_parameter(state_dim, modulated_action_head, make_model, inputs):
    model = make_model(state_dim=state_dim, modulated_action_head=modulated_action_head)
    state = inputs.state if state_dim else None
    prediction = model(inputs.video, inputs.actions, inputs.video_times, inputs.action_time, inputs.context, state)
    (prediction.video.square().mean() + prediction.actions.square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert len(list(model.parameters())) > 50
    assert without == []


def test_checkpointing_changes_no_gradient(make_model, inputs):
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train()
        prediction = inputs.call(model)
        (prediction.video.sum() + prediction.actions.sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_saving_and_loading_is_bit_exact(make_model, inputs, tmp_path):
    model = make_model("joint", "epsilon", modulated_action_head=False)
    model.save_pretrained(tmp_path)
    loaded = WorldActionModel.from_pretrained(tmp_path)
    assert (loaded.layout, loaded.objective) == (model.layout, model.objective)
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(inputs.call(loaded).video, inputs.call(model).video)
        assert torch.equal(inputs.call(loaded).actions, inputs.call(model).actions)


def test_a_model_first_run_in_inference_mode_can_still_train(make_model, inputs):
    model = make_model(rope_theta=777.0)  # its own entry of the rotation cache
    with torch.inference_mode():
        inputs.call(model)
    inputs.call(model).actions.sum().backward()
    assert model.action_proj_out.weight.grad is not None


@torch.no_grad()
def test_half_precision_rounds_as_little_as_diffusers_own(make_model, wan, inputs):
    """diffusers keeps time embeddings, tables and norms in fp32; ours does not, and loses no more."""
    model = make_model(num_layers=6)
    wan = WanTransformer3DModel.from_config(dict(wan.config) | {"num_layers": 6})
    for parameter in wan.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    wan.to(torch.bfloat16).float()  # both round the same weights
    load_wan_weights(model, wan.state_dict())
    video, context = inputs.video, inputs.context
    per_token = (inputs.video_times * 1000).repeat_interleave(6, dim=1)
    exact, actions = wan(video, per_token, context).sample, inputs.call(model).actions

    def error(found):
        assert found.dtype == torch.bfloat16
        return float((found.float() - exact).norm() / exact.norm())

    kept = {name: p for name, p in wan.named_parameters() if any(k in name for k in wan._keep_in_fp32_modules)}
    assert len(kept) > 20
    wan.to(torch.bfloat16)
    for name, parameter in wan.named_parameters():
        if name in kept:
            parameter.data = parameter.data.float()
    theirs = error(wan(video.bfloat16(), per_token, context.bfloat16()).sample)
    model.to(torch.bfloat16)
    ours = error(model(video.bfloat16(), None, inputs.video_times, None, context.bfloat16()).video)
    assert 1e-3 < theirs < 0.05
    assert ours < 1.25 * theirs
    half = inputs.call(model).actions
    assert float((half.float() - actions).norm() / actions.norm()) < 1.5 * theirs


def test_shapes_can_be_traced_without_memory(make_model, inputs):
    with torch.device("meta"):
        model = make_model()
        moved = type(inputs)(**{name: tensor.to("meta") for name, tensor in vars(inputs).items()})
        prediction = moved.call(model)
        prediction.actions.sum().backward()
    assert prediction.video.shape == inputs.video.shape
    assert model.blocks[0].action.ffn.net[2].weight.grad.shape == (16, 32)


def test_full_size_has_the_published_parameter_counts():
    with torch.device("meta"):
        model = WorldActionModel(modulated_action_head=False)
    total = sum(parameter.numel() for parameter in model.parameters())
    video = sum(tensor.numel() for tensor in wan_weights(model).values())
    action = total - video
    assert round(video / 1e9, 3) == 5.000  # Wan 2.2 TI2V-5B
    assert round(action / 1e9, 3) == 1.021  # Fast-WAM's action expert


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "dense"}, "`layout` is `dense`; use one of `full`, `joint`, `fastwam`, `idm`"),
        ({"objective": "x0"}, "`objective` is `x0`"),
        ({"state_token": "video"}, "`state_token` is `video`; use one of `actions`, `text`"),
        ({"action_axis": "time"}, "`action_axis` is `time`; use one of `frames`, `own`"),
        ({"action_index": "learned"}, "`action_index` is `learned`; use one of `sinusoid`, `none`"),
        ({"head_dim": 7}, "`head_dim` is 7"),
        ({"patch_size": (2, 2, 2)}, "`patch_size`"),
        ({"num_layers": 0}, "`num_layers` is 0"),
        ({"state_dim": -1}, "`state_dim` is -1"),
        ({"freq_dim": 1}, "`freq_dim` is 1"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, message, make_model):
    with pytest.raises(ConfigurationError, match=message):
        make_model(**changes)

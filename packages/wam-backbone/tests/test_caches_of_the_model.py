import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from wam_backbone import Clock, Noise, Observation, SharedSchedule, denoise
from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.training import Adapter, WeightAverage, add_adapters, merge_adapters

FRAMES, STEPS = 2, 5


@pytest.fixture
def observation() -> Observation:
    torch.manual_seed(0)
    return Observation(latent=torch.randn(3, 4, 1, 4, 6), context=torch.randn(3, 8, 10), state=torch.randn(3, 6))


def plan(model, observation):
    noise = Noise.draw(
        observation, frames=FRAMES, action_steps=STEPS, action_dim=7, generator=torch.Generator().manual_seed(7)
    )
    return denoise(
        model, observation, SharedSchedule(), frames=FRAMES, action_steps=STEPS, noise=noise, clock=Clock.linear(4)
    ).actions


@pytest.mark.parametrize("state_token", ["actions", "text"])
@pytest.mark.parametrize("layout", ["full", "joint", "fastwam", "idm"])
def test_cached_text_gives_the_same_prediction(layout, state_token, make_model, inputs):
    model = make_model(layout, state_token=state_token)
    with torch.no_grad():
        plain = inputs.call(model)
        text = replace(inputs, context=model.encode_context(inputs.context)).call(model)
        both = model.encode_context(inputs.context, inputs.state)
        of_text = state_token == "text"
        assert both.holds_state == of_text
        whole = replace(inputs, context=both, state=None if of_text else inputs.state)
        whole = model(whole.video, whole.actions, whole.video_times, whole.action_time, whole.context, whole.state)
    for cached in (text, whole):
        torch.testing.assert_close(cached.video, plain.video, rtol=0, atol=1e-6)
        torch.testing.assert_close(cached.actions, plain.actions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["full", "fastwam"])
def test_text_cached_once_per_instruction_never_freezes_the_state(layout, make_model, observation):
    model = make_model(layout, state_token="text")
    text = model.encode_context(observation.context)
    plans = []
    for state in (observation.state, observation.state + 100):
        now = replace(observation, state=state)
        plans.append(plan(model, replace(now, context=text)))
        torch.testing.assert_close(plans[-1], plan(model, now), rtol=0, atol=1e-5)
    assert float((plans[0] - plans[1]).abs().max()) > 0.1


def test_a_state_that_comes_to_a_cache_with_one_is_refused(make_model, observation):
    model = make_model(state_token="text")
    cached = replace(observation, context=model.encode_context(observation.context, observation.state))
    with pytest.raises(ShapeError, match="holds one already"):
        plan(model, cached)
    torch.testing.assert_close(plan(model, replace(cached, state=None)), plan(model, observation), rtol=0, atol=1e-5)


def average(model):
    averaged = WeightAverage(model, decay=0.5)
    averaged.update()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.copy_to_module()


def optimise(model, **options):
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def shift(part):
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1)


CHANGES = {
    "average": average,
    "optimizer": optimise,
    "fused optimizer": partial(optimise, fused=True),
    "last layer": lambda model: shift(model.layers[-1]),
    "text embedder": lambda model: shift(model.action_condition_embedder.text_embedder),
    "loading": lambda model: model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}),
    "assigning": lambda model: model.load_state_dict(
        {n: t.clone() for n, t in model.state_dict().items()}, assign=True
    ),
    "type": lambda model: model.double(),
    "adapters": lambda model: add_adapters(model, {"video": Adapter(rank=2)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_text_encoded_with_other_weights_is_refused(change, make_model, observation):
    model = make_model("joint")
    cached = replace(observation, context=model.encode_context(observation.context))
    plan(model, cached)
    CHANGES[change](model)
    with pytest.raises(ConfigurationError, match=r"was made before the .* changed, or by another model; encode again"):
        plan(model, cached)


@pytest.mark.parametrize("change", CHANGES)
def test_caches_of_other_weights_are_refused_wherever_they_come_in(change, make_model, inputs):
    model = make_model("joint")
    observed, rest = inputs.video[:, :, :1], (inputs.video_times[:, 1:], inputs.action_time)
    future = (inputs.video[:, :, 1:], inputs.actions, *rest)
    text = model.encode_context(inputs.context)
    observation = model.encode_observation(observed, text)
    model(*future, text, inputs.state, observation)
    CHANGES[change](model)
    new = model.encode_context(inputs.context)
    with pytest.raises(ConfigurationError, match=r"ContextCache was made before the weights changed"):
        model(*future, text, inputs.state, model.encode_observation(observed, new))
    with pytest.raises(ConfigurationError, match=r"ObservationCache was made before the weights changed"):
        model(*future, new, inputs.state, observation)
    with pytest.raises(ConfigurationError, match=r"ContextCache was made before the .* changed"):
        model.encode_observation(observed, text)
    model(*future, new, inputs.state, model.encode_observation(observed, new))


def test_the_steps_of_another_models_optimizer_change_nothing(make_model, observation):
    model = make_model("joint")
    cached = replace(observation, context=model.encode_context(observation.context))
    optimise(make_model("joint"), fused=True)
    plan(model, cached)


@pytest.mark.parametrize("change", ["merge", "switch off"])
def test_text_encoded_with_other_adapters_is_refused(change, make_model, observation):
    model = make_model("joint")
    add_adapters(model, {"video": Adapter(rank=2)})
    cached = replace(observation, context=model.encode_context(observation.context))
    plan(model, cached)
    if change == "merge":
        merge_adapters(model)
    else:
        model.disable_adapters()
    with pytest.raises(ConfigurationError, match="encode again"):
        plan(model, cached)


def test_caches_of_another_model_are_refused(make_model, inputs):
    model = make_model("joint")
    other = copy.deepcopy(model)
    context = model.encode_context(inputs.context)
    observed = model.encode_observation(inputs.video[:, :, :1], context)
    future = (inputs.video[:, :, 1:], inputs.actions, inputs.video_times[:, 1:], inputs.action_time)
    model(*future, context, inputs.state, observed)
    with pytest.raises(ConfigurationError, match=r"ContextCache was made .* by another model"):
        other(*future, context, inputs.state, observed)
    with pytest.raises(ConfigurationError, match=r"ObservationCache was made .* by another model"):
        other(*future, other.encode_context(inputs.context), inputs.state, observed)
    with pytest.raises(ConfigurationError, match=r"ContextCache was made .* by another model"):
        other.encode_observation(inputs.video[:, :, :1], context)
    deeper = make_model("joint", num_layers=3)
    with pytest.raises(ShapeError, match="2 layers and 3 rows; it must have 3 layers"):
        replace(inputs, context=replace(context, stamp=None)).call(deeper)


def test_cached_text_of_another_batch_is_refused(make_model, inputs):
    model = make_model()
    context = model.encode_context(inputs.context[:1])
    with pytest.raises(ShapeError, match="2 layers and 1 rows; it must have 2 layers and 3 rows"):
        replace(inputs, context=context).call(model)

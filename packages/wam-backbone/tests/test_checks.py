from dataclasses import asdict, replace

import pytest
import torch

from wam_backbone.errors import ConfigurationError, ShapeError, TimeError
from wam_backbone.interface import Padding

TIMES = torch.tensor([[0.0, 0.5, 0.5]]).expand(3, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("video", torch.zeros(3, 5, 3, 4, 6), "latent_channels = 4"),
        ("video", torch.zeros(3, 4, 3, 5, 6), "5 x 6"),
        ("video_times", torch.zeros(3), r"\(3, 3\)"),
        ("actions", torch.zeros(3, 5, 8), "action_dim = 7"),
        ("actions", torch.zeros(3, 0, 7), "steps of at least 1"),
        ("actions", torch.zeros(2, 5, 7), "batch = 3"),
        ("actions", None, "without `actions`"),
        ("action_time", torch.zeros(3, 1), "`action_time`"),
        ("context", torch.zeros(3, 8, 11), "text_dim = 10"),
        ("context", torch.zeros(1, 8, 10), r"`context` is \(1, 8, 10\); it must be \(batch = 3"),
        ("context", torch.zeros(2, 8, 10), "batch = 3"),
        ("state", None, "`state` is None"),
    ],
)
def test_an_input_of_the_wrong_shape_is_named(field, value, message, make_model, inputs):
    with pytest.raises(ShapeError, match=message):
        make_model()(**(asdict(inputs) | {field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("video_times", 1000 * TIMES, "between 0 and 500; .*divide Wan's 0 to 1000 by 1000"),
        ("video_times", (1000 * TIMES).long(), "`video_times` is torch.int64"),
        ("video_times", TIMES.bfloat16(), "`video_times` is torch.bfloat16"),
        ("video_times", TIMES.half(), "`video_times` is torch.float16"),
        ("video_times", -TIMES, "between -0.5 and -?0;"),
        ("video_times", TIMES * torch.nan, "between nan"),
        ("video_times", TIMES + 0.1, r"gives the observation \(frame 0\) the time 0.1"),
        ("action_time", torch.full((3,), 1.5), "`action_time` lies between 1.5"),
        ("action_time", torch.ones(3).bfloat16(), "`action_time` is torch.bfloat16"),
    ],
)
def test_times_that_are_none_are_refused_by_name(field, value, message, make_model, inputs):
    with pytest.raises(TimeError, match=message):
        make_model()(**(asdict(inputs) | {field: value}))


def test_on_a_gpu_the_first_times_of_a_model_are_looked_at_alone_and_none_of_a_graph(make_model, monkeypatch):
    model, gpu, capturing = make_model(), torch.device("cuda", 0), [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    assert not model.checks._may_look("video_times", gpu)
    capturing[0] = False
    assert [model.checks._may_look("video_times", gpu) for _ in range(3)] == [True, False, False]
    assert model.checks._may_look("action_time", gpu)
    assert [model.checks._may_look("video_times", torch.device("cpu")) for _ in range(2)] == [True, True]
    assert make_model().checks._may_look("video_times", gpu)


def test_the_ends_and_double_precision_are_times(make_model, inputs):
    times = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    for dtype in (torch.float32, torch.float64):
        replace(inputs, video_times=times.to(dtype), action_time=torch.ones(3, dtype=dtype)).call(make_model())


def test_a_video_alone_may_be_noisy_in_every_frame(make_model, inputs):
    make_model()(inputs.video, None, torch.ones(3, 3), None, inputs.context)


def test_a_model_without_state_takes_an_empty_one(make_model, inputs):
    model = make_model(state_dim=0)
    with torch.no_grad():
        empty = replace(inputs, state=torch.zeros(3, 0)).call(model)
        none = model(inputs.video, inputs.actions, inputs.video_times, inputs.action_time, inputs.context)
    assert torch.equal(empty.actions, none.actions)


@pytest.mark.parametrize("layout", ["full", "joint", "fastwam", "idm"])
def test_nothing_attends_to_padding(layout, make_model, inputs):
    model = make_model(layout, action_axis="own")  # where places do not depend on how many there are
    padding = Padding(torch.tensor([[True, True], [True, False], [True, True]]), torch.ones(3, 5) > 0)
    padding.actions[0, 3:] = False
    other = replace(inputs, video=inputs.video.clone(), actions=inputs.actions.clone())
    other.video[1, :, 2], other.actions[0, 3:] = -9.0, 9.0
    with torch.no_grad():
        one, two = (model(**asdict(batch), padding=padding) for batch in (inputs, other))
        shorter = model(**asdict(replace(inputs, actions=inputs.actions[:, :3])))  # as if it were not there
    assert torch.equal(one.actions[0, :3], two.actions[0, :3])
    assert torch.equal(one.video[:, :, :2], two.video[:, :, :2])
    assert not torch.equal(one.actions[0, 3:], two.actions[0, 3:])
    torch.testing.assert_close(one.actions[0, :3], shorter.actions[0, :3], rtol=0, atol=1e-5)
    with torch.no_grad():
        unpadded = model(**asdict(inputs))
        trivial = model(**asdict(inputs), padding=Padding(None, torch.ones(3, 5) > 0))
    torch.testing.assert_close(trivial.actions, unpadded.actions, rtol=0, atol=1e-6)


def test_a_mask_that_does_not_fit_is_refused(make_model, inputs):
    model = make_model()
    with pytest.raises(ShapeError, match=r"`padding.actions` is \(3, 4\)"):
        model(**asdict(inputs), padding=Padding(None, torch.ones(3, 4) > 0))
    with pytest.raises(ShapeError, match=r"`padding.video` is .* of torch.float32"):
        model(**asdict(inputs), padding=Padding(torch.ones(3, 2), None))
    with pytest.raises(ConfigurationError, match="belongs to training"):
        model(inputs.video, None, inputs.video_times, None, inputs.context, padding=Padding(None, None))

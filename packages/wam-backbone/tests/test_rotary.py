import copy

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch._subclasses.fake_tensor import FakeTensorMode

from wam_backbone.errors import ConfigurationError
from wam_backbone.presets import ActionAxis
from wam_backbone.rotary import PositionTables, head_split, line_rotation, positions, rotate, rotation


@pytest.mark.parametrize("head_dim", [12, 24, 32, 64, 128])
def test_the_video_table_is_wans(head_dim):
    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 64)(torch.zeros(1, 4, 3, 8, 6))
    ours = rotation(positions(3, 4, 3), head_dim)
    for index, table in enumerate(theirs):
        torch.testing.assert_close(ours[..., index].repeat_interleave(2, dim=-1), table[0, :, 0], rtol=0, atol=1e-6)


def test_the_complex_and_the_real_rotation_agree(monkeypatch):
    torch.manual_seed(0)
    heads, table = torch.randn(2, 5, 3, 12), rotation(torch.rand(5, 3) * 9, 12).unsqueeze(1)
    fast = rotate(heads, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(heads, table), fast, rtol=0, atol=1e-6)


def test_scores_depend_on_relative_positions_only():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 24), torch.randn(1, 1, 1, 24)
    scores = []
    for offset in (0.0, 4.5):
        turned = [
            rotate(heads, rotation(torch.tensor([place]) + offset, 24).unsqueeze(1))
            for heads, place in ((query, [0.5, 1.0, 2.0]), (key, [2.0, 3.0, 0.0]))
        ]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)


def test_actions_span_the_predicted_frames_outside_the_grid():
    places = positions(3, 2, 2, actions=4, state_tokens=1)[12:]
    assert places[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert bool((places[:, 1:] == -1).all())


@pytest.mark.parametrize(("head_dim", "split"), [(128, (44, 42, 42)), (32, (12, 10, 10)), (24, (8, 8, 8))])
def test_heads_split_as_in_wan(head_dim, split):
    assert head_split(head_dim) == split
    assert sum(split) == head_dim


@pytest.mark.parametrize("head_dim", [4, 31])
def test_a_head_that_cannot_turn_is_refused(head_dim):
    with pytest.raises(ConfigurationError, match=f"{head_dim}"):
        head_split(head_dim)


def test_on_an_axis_of_their_own_actions_are_numbered_and_the_video_stays():
    frames, own = (
        PositionTables(12, 100.0, axis).rotation(3, 2, 2, 4, 1, left_out=0, like=torch.zeros(1))[:17, 0]
        for axis in (ActionAxis.FRAMES, ActionAxis.OWN)
    )
    assert torch.equal(own[:12], frames[:12])
    assert torch.equal(own[12:], line_rotation(5, 12, 100.0))
    assert not torch.equal(own[12:], frames[12:])
    angles = torch.atan2(own[13, :, 1], own[13, :, 0])
    torch.testing.assert_close(angles, 100.0 ** -(torch.arange(6) / 6), rtol=0, atol=1e-6)


def test_tables_are_kept_with_the_model_and_tracing_leaves_none_behind(make_model, inputs):
    model = make_model()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake = type(inputs)(**{name: torch.empty(tensor.shape) for name, tensor in vars(inputs).items()})
        fake.call(copy.deepcopy(model))
        assert model.tables._kept == {}
    inputs.call(model)
    kept = dict(model.tables._kept)
    assert len(kept) == 3  # rotation, index and the frequencies of times
    inputs.call(model)
    assert all(model.tables._kept[key] is table for key, table in kept.items())
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake.call(model)
    with torch.no_grad():
        inputs.call(model)

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam_backbone import SharedTimes, ShiftedUniform, Stage1Batch, Stage1Recipe, stage1_loss
from wam_backbone.errors import ConfigurationError, ShapeError
from wam_backbone.flow import add_noise, bell_weight, target, velocity
from wam_backbone.interface import Objective, Prediction
from wam_backbone.training import LogitNormal, Weighting, WithEndpoints

MANY = 40_000
unit = st.floats(0, 1, width=32)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(rows: int = 4, **changes) -> Stage1Batch:
    torch.manual_seed(3)
    fields = {
        "video": torch.randn(rows, 4, 3, 4, 6),
        "actions": torch.randn(rows, 5, 7),
        "context": torch.randn(rows, 8, 10),
        "state": torch.randn(rows, 6),
    }
    return Stage1Batch(**(fields | changes))


class Recorder:
    """Answers with constants and remembers what it was asked."""

    def __init__(self, objective: Objective = Objective.VELOCITY) -> None:
        self.objective = objective

    def __call__(self, video, actions, video_times, action_time, context, state=None, padding=None):
        self.asked = (video, actions, video_times, action_time)
        return Prediction(torch.zeros_like(video), torch.zeros_like(actions))


# --- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 5.0, 0.3])
def test_shifted_uniform_has_its_distribution_function(shift):
    drawn = ShiftedUniform(shift=shift).sample(MANY, 1, generator=source())
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = shift * quantile / (1 + (shift - 1) * quantile)
        assert abs((drawn < expected).float().mean() - quantile) < 0.01


def test_shift_five_gives_the_quantiles_of_fast_wam():
    drawn = 1000 * ShiftedUniform(shift=5.0).sample(200_000, 1, generator=source()).flatten()
    published = torch.tensor([206.0, 627.0, 834.0, 938.0, 990.0])
    found = torch.stack([drawn[:100_000].quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)])
    torch.testing.assert_close(found, published, rtol=0.02, atol=0)


def test_logit_normal_is_normal_in_logits():
    logits = LogitNormal(mean=0.4, std=1.5).sample(MANY, 1, generator=source()).logit()
    assert abs(logits.mean() - 0.4) < 0.03
    assert abs(logits.std() - 1.5) < 0.03


@pytest.mark.parametrize("distribution", [ShiftedUniform(), LogitNormal(), WithEndpoints(times=ShiftedUniform())])
def test_latents_draw_independently(distribution):
    times = distribution.sample(MANY, 2, generator=source())
    assert abs(torch.corrcoef(times.T)[0, 1]) < 0.02


class OneTime:
    """A user's own distribution: one time for all latents."""

    def sample(self, batch, frames, *, generator=None, device=None):
        return torch.rand(batch, 1, generator=generator, device=device).expand(batch, frames)


def test_shared_times_are_one_draw():
    ends = {"clean": 0.2, "noise": 0.2}
    for distribution in (
        WithEndpoints(times=OneTime(), **ends),
        WithEndpoints(times=WithEndpoints(times=SharedTimes(times=ShiftedUniform()), **ends), **ends),
        SharedTimes(times=LogitNormal()),
        WithEndpoints(times=SharedTimes(times=ShiftedUniform()), clean=0.3, noise=0.3),
        SharedTimes(times=WithEndpoints(times=ShiftedUniform(), clean=0.3, noise=0.3)),
    ):
        times = distribution.sample(200, 3, generator=source())
        assert torch.equal(times, times[:, :1].expand(200, 3))
        assert times[:, 0].unique().numel() > 50


class SomeShared:
    """A user's own distribution: every other sample has one time for all latents."""

    def sample(self, batch, frames, *, generator=None, device=None):
        times = torch.rand(batch, frames, generator=generator, device=device)
        times[::2] = times[::2, :1]
        return times


def test_ends_are_shared_by_the_samples_whose_times_are():
    times = WithEndpoints(times=SomeShared(), clean=0.3, noise=0.3).sample(400, 3, generator=source())
    alike = (times == times[:, :1]).all(dim=1)
    assert bool(alike[::2].all())
    assert alike[1::2].float().mean() < 0.1  # 2 * 0.3 ** 3 of them by chance
    assert set(times[::2, 0].tolist()) >= {0.0, 1.0}


def test_end_points_come_as_often_as_asked():
    times = WithEndpoints(times=ShiftedUniform(), clean=0.1, noise=0.2).sample(MANY, 2, generator=source())
    assert abs((times == 0).float().mean() - 0.1) < 0.01
    assert abs((times == 1).float().mean() - 0.2) < 0.01


@given(shift=st.floats(0.01, 100), std=st.floats(0.01, 3), mean=st.floats(-2, 2), seed=st.integers(0, 10**6))
def test_times_stay_in_the_unit_interval_and_follow_the_generator(shift, std, mean, seed):
    for distribution in (ShiftedUniform(shift=shift), LogitNormal(mean=mean, std=std)):
        times = distribution.sample(5, 3, generator=source(seed))
        assert bool(((times >= 0) & (times <= 1)).all())
        assert torch.equal(times, distribution.sample(5, 3, generator=source(seed)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShiftedUniform(shift=0),
        lambda: LogitNormal(std=0),
        lambda: WithEndpoints(times=ShiftedUniform(), clean=0.6, noise=0.6),
        lambda: WithEndpoints(times=ShiftedUniform(), clean=-0.1),
    ],
)
def test_a_distribution_that_cannot_work_is_refused(make):
    with pytest.raises(ConfigurationError):
        make()


# --- noising and targets -------------------------------------------------------------------------------------------


def test_the_ends_of_the_path_are_exact():
    clean, noise = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(add_noise(clean, noise, torch.zeros(4, 1)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(4, 1)), noise)


@given(time=st.floats(0, 0.97), seed=st.integers(0, 1000))
def test_both_objectives_name_the_same_velocity(time, seed):
    clean, noise = torch.randn(2, 3, 4, generator=source(seed))
    noisy = add_noise(clean, noise, torch.tensor(time))
    for objective in Objective:
        found = velocity(target(clean, noise, objective), noisy, torch.tensor(time), objective)
        torch.testing.assert_close(found, noise - clean, rtol=0, atol=2e-4)


@given(time=unit)
def test_the_bell_is_symmetric_and_not_negative(time):
    weight, mirrored = bell_weight(torch.tensor([time, 1 - time])).tolist()
    assert weight == pytest.approx(mirrored, abs=1e-5)
    assert weight >= -1e-6


def test_the_bell_has_the_published_values():
    published = {1.0: 0.0, 0.99: 0.06, 0.9: 0.63, 0.5: 2.08, 0.0: 0.0}
    for time, weight in published.items():
        assert float(bell_weight(torch.tensor(time))) == pytest.approx(weight, abs=0.005)
    times = ShiftedUniform(shift=5.0).sample(400_000, 1, generator=source())
    assert float(bell_weight(times).mean()) == pytest.approx(1, abs=0.005)


# --- the Stage-1 loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", Objective)
def test_the_loss_of_a_silent_model_is_the_mean_square_of_the_target(objective):
    model, batch = Recorder(objective), batch_of(256)
    losses = stage1_loss(model, batch, Stage1Recipe(video_weight=0.5, action_weight=2.0), generator=source())
    variance = 2.0 if objective is Objective.VELOCITY else 1.0  # clean data are standard normal here
    assert float(losses.video) == pytest.approx(variance, rel=0.03)
    assert float(losses.action) == pytest.approx(variance, rel=0.05)
    torch.testing.assert_close(losses.total, 0.5 * losses.video + 2.0 * losses.action)


def test_the_observation_stays_clean_at_time_zero_and_has_no_loss():
    model, batch = Recorder(), batch_of()
    losses = stage1_loss(model, batch, Stage1Recipe(), generator=source())
    video, _, video_times, action_time = model.asked
    assert torch.equal(video[:, :, 0], batch.video[:, :, 0])
    assert torch.equal(video_times[:, 0], torch.zeros(4))
    assert bool((video_times[:, 1:] > 0).all())
    assert len(set(video_times[:, 1:].flatten().tolist() + action_time.tolist())) == 12  # all drawn separately

    batch.video[:, :, 0] = 100.0
    assert torch.equal(stage1_loss(model, batch, Stage1Recipe(), generator=source()).video, losses.video)


def test_a_perfect_model_has_no_loss():
    batch = batch_of()
    zeros = batch_of(video=torch.zeros_like(batch.video), actions=torch.zeros_like(batch.actions))

    class Perfect(Recorder):
        def __call__(self, video, actions, video_times, action_time, context, state=None):
            # With clean data of zero the velocity is the noise, x_t / t.
            times = video_times[:, None, :, None, None]
            return Prediction(torch.where(times > 0, video / times, 0), actions / action_time[:, None, None])

    losses = stage1_loss(Perfect(), zeros, Stage1Recipe(), generator=source())
    assert float(losses.total) < 1e-10


def losses_and_gradients(model, batch: Stage1Batch, **options) -> list[torch.Tensor]:
    model.zero_grad()
    losses = stage1_loss(model, batch, Stage1Recipe(weighting=Weighting.BELL), generator=source(), **options)
    losses.total.backward()
    return [*losses, *(parameter.grad.clone() for parameter in model.parameters())]


def test_what_padding_holds_changes_nothing_even_when_it_is_nan(make_model):
    model = make_model()
    valid, frames = torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool)
    valid[1, 3:], frames[2, 1] = False, False
    found = []
    for padding in (0.0, -7.0, math.nan):
        batch = batch_of(actions_valid=valid, video_valid=frames)
        batch.actions[1, 3:] = padding
        batch.video[2, :, 2] = padding
        found.append(losses_and_gradients(model, batch))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))
    unmasked = losses_and_gradients(model, batch_of())
    assert not torch.equal(unmasked[0], found[0][0])


LABELLED = torch.tensor([True, False, True, False])


def test_no_action_of_an_unlabelled_video_reaches_the_model(make_model):
    model = make_model()
    found = []
    for content in (0.0, -7.0, math.nan):
        batch = batch_of(labelled=LABELLED)
        batch.actions[~LABELLED] = content
        found.append(losses_and_gradients(model, batch))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))
    changed = batch_of(labelled=LABELLED)
    changed.actions[LABELLED] = -7.0
    assert not torch.equal(losses_and_gradients(model, changed)[0], found[0][0])


def test_an_unlabelled_videos_actions_are_pure_noise_at_time_one():
    model, batch, recipe = Recorder(), batch_of(labelled=LABELLED), Stage1Recipe()
    draw = recipe.draw(batch.video.shape, batch.actions.shape, generator=source(), device=torch.device("cpu"))
    stage1_loss(model, batch, recipe, draw=draw)
    _, actions, _, action_time = model.asked
    assert torch.equal(actions[~LABELLED], draw.action_noise[~LABELLED])
    assert torch.equal(action_time, torch.where(LABELLED, draw.action_time, 1.0))
    expected = add_noise(batch.actions, draw.action_noise, draw.action_time[:, None, None])
    assert torch.equal(actions[LABELLED], expected[LABELLED])


def test_the_action_loss_is_the_mean_over_labelled_samples_and_the_video_loss_over_all(make_model):
    model, recipe = make_model(), Stage1Recipe()
    batch = batch_of(labelled=LABELLED)
    draw = recipe.draw(batch.video.shape, batch.actions.shape, generator=source(), device=torch.device("cpu"))
    mixed = stage1_loss(model, batch, recipe, draw=draw)
    everything = [
        stage1_loss(model, rows_of(batch, slice(row, row + 1)), recipe, draw=draw.rows(slice(row, row + 1)))
        for row in range(4)
    ]
    torch.testing.assert_close(mixed.action, (everything[0].action + everything[2].action) / 2)
    torch.testing.assert_close(mixed.video, sum(one.video for one in everything) / 4)
    assert [everything[row].action.item() for row in (1, 3)] == [0.0, 0.0]
    plain = stage1_loss(model, batch_of(), recipe, draw=draw)
    assert torch.equal(stage1_loss(model, batch_of(labelled=torch.ones(4) > 0), recipe, draw=draw).total, plain.total)


def test_a_batch_without_any_action_trains_the_video_alone(make_model):
    losses = losses_and_gradients(make_model(), batch_of(labelled=torch.zeros(4) > 0))
    assert float(losses[2]) == 0
    assert torch.equal(losses[0], losses[1])
    assert all(bool(tensor.isfinite().all()) for tensor in losses)


def test_the_parts_of_a_mixed_step_have_its_gradient(make_model):
    model = make_model()
    labelled = torch.tensor([True, False, True, True])  # one of two, then two of two: counts differ between the parts
    batch = batch_of(labelled=labelled)
    recipe = Stage1Recipe(weighting=Weighting.BELL)
    draw = recipe.draw(batch.video.shape, batch.actions.shape, generator=source(), device=torch.device("cpu"))
    whole = losses_and_gradients(model, batch)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        model.zero_grad()
        losses = stage1_loss(model, rows_of(batch, rows, labelled_share=0.75), recipe, draw=draw.rows(rows))
        losses.total.backward()
        parts.append([*losses, *(parameter.grad.clone() for parameter in model.parameters())])
    for one, other, together in zip(*parts, whole, strict=True):
        torch.testing.assert_close((one + other) / 2, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{"labelled_share": 0.5}, {"labelled": LABELLED, "labelled_share": 1.5}])
def test_a_share_of_labels_that_cannot_be_is_refused(fields):
    with pytest.raises(ConfigurationError, match="`labelled_share` is"):
        stage1_loss(Recorder(), batch_of(**fields), Stage1Recipe())


def rows_of(batch: Stage1Batch, rows: slice, **changes) -> Stage1Batch:
    fields = {name: getattr(batch, name) for name in Stage1Batch.__dataclass_fields__}
    cut = {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
    return Stage1Batch(**(cut | changes))


def test_a_step_is_the_mean_of_its_parts_whatever_is_padded(make_model):
    actions, frames = torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool)
    actions[0, 1:], frames[3, 1] = False, False
    batch = batch_of(actions_valid=actions, video_valid=frames)
    model, recipe = make_model(), Stage1Recipe(weighting=Weighting.BELL)
    draw = recipe.draw(batch.video.shape, batch.actions.shape, generator=source(), device=torch.device("cpu"))
    whole = stage1_loss(model, batch, recipe, draw=draw)
    assert torch.equal(whole.total, stage1_loss(model, batch, recipe, generator=source()).total)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        parts.append(stage1_loss(model, rows_of(batch, rows), recipe, draw=draw.rows(rows)))
    for index in range(3):
        torch.testing.assert_close((parts[0][index] + parts[1][index]) / 2, whole[index])
    with pytest.raises(ShapeError, match="was drawn for latents"):
        stage1_loss(model, batch, recipe, draw=draw.rows(slice(0, 2)))


@pytest.mark.parametrize(
    ("field", "shape", "needed"),
    [("actions_valid", (4, 4), (4, 5)), ("video_valid", (4, 3), (4, 2)), ("labelled", (4, 1), (4,))],
)
def test_a_mask_of_another_shape_is_refused(field, shape, needed):
    with pytest.raises(ShapeError, match=f"{re.escape(str(shape))}.*{re.escape(str(needed))}"):
        stage1_loss(Recorder(), batch_of(**{field: torch.ones(shape, dtype=torch.bool)}), Stage1Recipe())


def test_video_without_an_observation_is_refused():
    with pytest.raises(ShapeError, match="the observation first"):
        stage1_loss(Recorder(), batch_of(video=torch.zeros(4, 4, 0, 4, 6)), Stage1Recipe())


@pytest.mark.parametrize("layout", ["full", "joint", "fastwam"])
@pytest.mark.parametrize("times", [ShiftedUniform(), WithEndpoints(times=SharedTimes(times=ShiftedUniform()))])
def test_a_policy_of_actions_alone_learns_from_what_no_latent_follows(layout, times, make_model):
    model, batch = make_model(layout).train(), batch_of()
    batch = replace(batch, video=batch.video[:, :, :1], video_valid=torch.ones(4, 0, dtype=torch.bool))
    optimizer, first, recipe = torch.optim.Adam(model.parameters(), lr=3e-3), None, Stage1Recipe(video_times=times)
    for _ in range(30):
        losses = stage1_loss(model, batch, recipe, generator=source())
        assert losses.video.item() == 0
        assert losses.total.item() == losses.action.item()
        first = losses.action.item() if first is None else first
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.action.item() < 0.8 * first
    masked, alone = (
        stage1_loss(model, one, recipe, generator=source()) for one in (batch, replace(batch, video_valid=None))
    )
    assert alone.video.item() == 0
    torch.testing.assert_close(alone.action, masked.action)


def test_bell_weights_scale_the_loss_of_each_latent():
    at_the_end = WithEndpoints(times=ShiftedUniform(), noise=1.0)
    recipe = Stage1Recipe(video_times=at_the_end, action_times=at_the_end, weighting=Weighting.BELL)
    assert abs(float(stage1_loss(Recorder(), batch_of(), recipe, generator=source()).total)) < 1e-5


def test_each_latent_is_weighed_by_its_own_time():
    batch, recipe = batch_of(2), Stage1Recipe(weighting=Weighting.BELL)
    draw = recipe.draw(batch.video.shape, batch.actions.shape, generator=source(), device=torch.device("cpu"))
    times = torch.tensor([[0.5, 1.0], [0.9, 0.0]])
    losses = stage1_loss(Recorder(), batch, recipe, draw=draw._replace(video_times=times))
    squares = (draw.video_noise - batch.video[:, :, 1:]).square().mean(dim=(1, 3, 4))
    published = torch.tensor([[2.08, 0.0], [0.63, 0.0]])  # the bell of 0.5, 1, 0.9 and 0
    torch.testing.assert_close(losses.video, (published * squares).mean(), rtol=0.01, atol=0)


@pytest.mark.parametrize("objective", ["velocity", "epsilon"])
def test_training_lowers_the_loss(objective, make_model):
    model, batch = make_model(objective=objective), batch_of(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(40):
        losses = stage1_loss(model, batch, Stage1Recipe(), generator=source(step % 4))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert sum(history[-4:]) < 0.8 * sum(history[:4])

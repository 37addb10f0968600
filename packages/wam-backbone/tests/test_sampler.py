import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam_backbone import (
    Blind,
    Clock,
    MatrixSchedule,
    MonotoneSchedule,
    Noise,
    Observation,
    SharedSchedule,
    denoise,
    denoise_actions,
)
from wam_backbone.errors import ConfigurationError, ScheduleError, ShapeError
from wam_backbone.flow import EPSILON_HORIZON
from wam_backbone.interface import ContextCache, Objective, Prediction
from wam_backbone.start import WarmStart

FRAMES, STEPS, ACTION_DIM = 2, 5, 7


class PointMass:
    """The exact model of data that is one point: velocity `(x - m) / t`, along which Euler makes no error.

    From any start e, the state at time t is `(1 - t) m + t e`, whatever the steps.
    """

    action_dim = ACTION_DIM

    def __init__(self, video: float, action: float, objective: Objective = Objective.VELOCITY) -> None:
        self.video, self.action, self.objective = video, action, objective

    def encode_context(self, context, state=None):
        return ContextCache(())

    def __call__(self, video, actions, video_times, action_time, context, state=None):
        times, time = video_times[:, None, :, None, None], action_time[:, None, None]
        return Prediction(self._predict(video, times, self.video), self._predict(actions, time, self.action))

    def _predict(self, noisy, times, point):
        if self.objective is Objective.EPSILON:
            times = times.clamp(max=1 - EPSILON_HORIZON)
            return torch.where(times > 0, (noisy - (1 - times) * point) / times, 0)
        return torch.where(times > 0, (noisy - point) / times, 0)


class Scales:
    """A stand-in for a learned gate: alpha per step and latent, eq. (5); it may overshoot."""

    def __init__(self, alpha: torch.Tensor) -> None:
        self.alpha = alpha
        self.steps = []

    def next_times(self, step):
        self.steps.append(step)
        return step.times - self.alpha[:, step.index] * step.decrement


@pytest.fixture
def observation() -> Observation:
    torch.manual_seed(0)
    return Observation(latent=torch.randn(3, 4, 1, 4, 6), context=torch.randn(3, 8, 10), state=torch.randn(3, 6))


def run(model, observation, schedule, **options):
    options = {"generator": torch.Generator().manual_seed(7), "clock": Clock.linear()} | options
    return denoise(model, observation, schedule, frames=FRAMES, action_steps=STEPS, **options)


def start(observation) -> Noise:
    generator = torch.Generator().manual_seed(7)
    return Noise.draw(observation, frames=FRAMES, action_steps=STEPS, action_dim=ACTION_DIM, generator=generator)


@pytest.mark.parametrize("clock", [Clock.linear(1), Clock.linear(10), Clock.cosine(6), Clock.shifted(5.0, 10)])
@pytest.mark.parametrize("schedule", [SharedSchedule(), MonotoneSchedule(lag=0.7)])
def test_the_exact_velocity_is_followed_to_the_data(clock, schedule, observation):
    chunk = run(PointMass(0.5, -2.0), observation, schedule, clock=clock)
    torch.testing.assert_close(chunk.latents, torch.full_like(chunk.latents, 0.5), rtol=0, atol=2e-5)
    torch.testing.assert_close(chunk.actions, torch.full_like(chunk.actions, -2.0), rtol=0, atol=2e-5)
    assert torch.equal(chunk.times[:, -1], torch.zeros(3, FRAMES))


def test_the_exact_noise_is_followed_to_the_data_as_well(observation):
    chunk = run(PointMass(0.5, -2.0, Objective.EPSILON), observation, SharedSchedule())
    torch.testing.assert_close(chunk.latents, torch.full_like(chunk.latents, 0.5), rtol=0, atol=1e-4)
    torch.testing.assert_close(chunk.actions, torch.full_like(chunk.actions, -2.0), rtol=0, atol=1e-4)


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 12))
def test_eq_6_holds_for_any_scales_and_residual_noise_is_what_the_times_say(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    observation = Observation(latent=torch.zeros(3, 4, 1, 2, 2), context=torch.zeros(3, 1, 1))
    alpha = 2 * torch.rand(3, steps, FRAMES, generator=generator)
    noise = start(observation)
    chunk = run(PointMass(0.5, 0.0), observation, Scales(alpha), clock=Clock.linear(steps), noise=noise)

    times = torch.ones(3, FRAMES)
    for step in range(steps):
        assert torch.allclose(chunk.times[:, step], times, atol=2e-6)
        times = (times - alpha[:, step] / steps).clamp(0, 1)
    assert torch.allclose(chunk.times[:, -1], times, atol=2e-6)
    left = chunk.times[:, -1, None, :][..., None, None].movedim(1, 1)
    torch.testing.assert_close(chunk.latents, (1 - left) * 0.5 + left * noise.video, rtol=0, atol=5e-5)


@pytest.mark.parametrize("objective", Objective)
def test_the_estimates_are_free_of_the_noise_that_remains(objective, observation):
    matrix = torch.tensor([[1.0, 1.0], [0.6, 1.0], [0.0, 0.7], [0.0, 0.7]])
    model, schedule, noise = PointMass(0.5, 0.0, objective), Scales(torch.ones(3, 3, FRAMES)), start(observation)
    chunk = run(model, observation, MatrixSchedule(matrix), clock=Clock.linear(3), noise=noise)
    torch.testing.assert_close(chunk.estimates, torch.full_like(chunk.estimates, 0.5), rtol=0, atol=2e-4)
    assert float((chunk.latents[:, :, 1] - 0.5).abs().max()) > 0.5
    assert torch.equal(chunk.latents[:, :, 0], chunk.estimates[:, :, 0])
    run(model, observation, schedule, clock=Clock.linear(3), noise=noise)
    for step in schedule.steps[1:]:  # a noise prediction says little of the data at time 1
        torch.testing.assert_close(step.estimates, torch.full_like(step.estimates, 0.5), rtol=0, atol=2e-4)


def test_a_latent_that_does_not_fall_does_not_move(observation):
    matrix = torch.tensor([[1.0, 1.0], [0.4, 1.0], [0.4, 1.0], [0.0, 1.0]])
    noise = start(observation)
    chunk = run(PointMass(0.5, 0.0), observation, MatrixSchedule(matrix), clock=Clock.linear(3), noise=noise)
    assert torch.equal(chunk.latents[:, :, 1], noise.video[:, :, 1])
    assert not torch.equal(chunk.latents[:, :, 0], noise.video[:, :, 0])


def test_a_schedule_sees_every_step_of_all_rows(observation):
    schedule = Scales(torch.full((3, 4, FRAMES), 0.5))
    chunk = run(PointMass(0.5, 0.0), observation, schedule, clock=Clock.linear(4), video_clock=Clock.shifted(5.0, 4))
    seen = schedule.steps
    assert [step.index for step in seen] == [0, 1, 2, 3]
    assert {step.num_steps for step in seen} == {4}
    assert sum(step.decrement for step in seen) == pytest.approx(1)
    assert [step.action_time for step in seen] == [1.0, 0.75, 0.5, 0.25]
    assert [step.nominal_time for step in seen] == list(Clock.shifted(5.0, 4).times[:4])
    assert all(torch.equal(step.observation, observation.latent) for step in seen)
    assert torch.equal(torch.stack([step.times for step in seen], dim=1), chunk.times[:, :-1])
    assert torch.equal(seen[0].latents, start(observation).video)
    assert all(torch.equal(step.noise, start(observation).video) for step in seen)
    assert torch.allclose(chunk.times[:, -1], torch.full((3, FRAMES), 0.5))


def test_a_schedule_is_told_where_a_plan_goes_on_from(observation):
    schedule = Scales(torch.full((3, 4, FRAMES), 0.5))
    drawn = start(observation)
    plan = WarmStart(actions=torch.zeros_like(drawn.actions), latents=torch.zeros_like(drawn.video), time=0.4)
    clocks = {"clock": Clock.linear(4), "video_clock": Clock.shifted(5.0, 4)}
    chunk = run(PointMass(0.5, 0.0), observation, schedule, warm_start=plan, **clocks)
    seen, path = schedule.steps, torch.tensor(Clock.shifted(5.0, 4).times)
    assert {step.begin for step in seen} == {0.4}
    torch.testing.assert_close(torch.tensor([step.nominal_time for step in seen]), 0.4 * path[:-1])
    torch.testing.assert_close(torch.tensor([step.decrement for step in seen]), -0.4 * path.diff())
    torch.testing.assert_close(chunk.times[:, -1], torch.full((3, FRAMES), 0.2))  # half of the way from 0.4


def test_a_plan_moves_on_by_what_was_executed():
    plan = WarmStart(actions=torch.arange(8.0).view(1, 8, 1), latents=torch.arange(2.0).view(1, 1, 2, 1, 1))
    for executed, actions, latents in (
        (0, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1]),
        (1, [1, 2, 3, 4, 5, 6, 7, 7], [0, 1]),
        (4, [4, 5, 6, 7, 7, 7, 7, 7], [1, 1]),
        (8, [7] * 8, [1, 1]),
    ):
        moved = plan.after(executed)
        assert moved.actions.flatten().tolist() == actions
        assert moved.latents.flatten().tolist() == latents
        assert moved.time == plan.time
    for wrong in (-1, 9):
        with pytest.raises(ConfigurationError, match=rf"`executed` is {wrong}; the plan has 8 actions"):
            plan.after(wrong)


@pytest.mark.parametrize("name", ["latents", "times", "estimates", "noise", "observation"])
def test_what_a_schedule_does_to_what_it_is_given_changes_nothing(name, make_model, observation):
    class Writes(SharedSchedule):
        def next_times(self, step):
            following = super().next_times(step)
            getattr(step, name).mul_(0.5)
            return following

    model, noise, before = make_model("joint"), start(observation), observation.latent.clone()
    expected = run(model, observation, SharedSchedule(), noise=noise)
    found = run(model, observation, Writes(), noise=noise)
    for part in ("actions", "latents", "estimates", "times"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part
    assert torch.equal(observation.latent, before)
    assert torch.equal(noise.video, start(observation).video)


def test_the_real_model_samples_each_row_as_if_it_were_alone(make_model, observation):
    model = make_model()
    alpha = 2 * torch.rand(3, 10, FRAMES, generator=torch.Generator().manual_seed(1))
    noise = start(observation)
    together = run(model, observation, Scales(alpha), noise=noise)
    for row in range(3):
        only = slice(row, row + 1)
        alone = run(
            model,
            Observation(
                latent=observation.latent[only], context=observation.context[only], state=observation.state[only]
            ),
            Scales(alpha[only]),
            noise=Noise(video=noise.video[only], actions=noise.actions[only]),
        )
        torch.testing.assert_close(together.actions[only], alone.actions, rtol=0, atol=1e-4)
        torch.testing.assert_close(together.latents[only], alone.latents, rtol=0, atol=1e-4)
        assert torch.equal(together.times[only], alone.times)


def test_a_generator_per_row_makes_noise_independent_of_the_batch(observation):
    sources = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    together = Noise.draw(observation, frames=2, action_steps=5, action_dim=7, generator=sources)
    last = Observation(latent=observation.latent[2:], context=observation.context[2:])
    alone = Noise.draw(last, frames=2, action_steps=5, action_dim=7, generator=[torch.Generator().manual_seed(7)])
    assert torch.equal(together.video[2:], alone.video)
    assert torch.equal(together.actions[2:], alone.actions)
    with pytest.raises(ShapeError, match="2 generators came for 3 rows"):
        Noise.draw(observation, frames=2, action_steps=5, action_dim=7, generator=sources[:2])


def test_the_same_generator_gives_the_same_chunk(make_model, observation):
    model = make_model()
    one, other = (run(model, observation, SharedSchedule()) for _ in range(2))
    assert torch.equal(one.actions, other.actions)
    assert not one.actions.requires_grad


def test_an_encoded_context_is_used_as_it_is(make_model, observation):
    model = make_model()
    cached = replace(observation, context=model.encode_context(observation.context))
    assert torch.equal(run(model, cached, SharedSchedule()).actions, run(model, observation, SharedSchedule()).actions)


def test_blind_sampling_leaves_the_video_as_noise(make_model, observation):
    chunk = run(make_model(), observation, Blind())
    assert torch.equal(chunk.latents, start(observation).video)
    assert bool((chunk.times == 1).all())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda step: step.times[:, :1], r"\(3, 1\) in step 0.*\(3, 2\)"),
        (lambda step: step.times * math.nan, "NaN"),
    ],
)
def test_times_that_make_no_sense_are_refused(bad, message, observation):
    class Bad:
        next_times = staticmethod(bad)

    with pytest.raises(ScheduleError, match=message):
        run(PointMass(0.0, 0.0), observation, Bad())


def test_noise_is_never_put_back(observation):
    class Upwards:
        def next_times(self, step):
            return step.times + 0.3 if step.index % 2 else step.times - 0.3

    times = run(PointMass(0.0, 0.0), observation, Upwards()).times
    assert bool((times.diff(dim=1) <= 0).all())


def test_clocks_that_disagree_are_refused(observation):
    with pytest.raises(ConfigurationError, match="3 steps and `video_clock` 4"):
        run(PointMass(0.0, 0.0), observation, SharedSchedule(), clock=Clock.linear(3), video_clock=Clock.linear(4))


def test_noise_of_another_shape_is_refused(observation):
    noise = start(observation)
    with pytest.raises(ShapeError, match=r"`noise.video`"):
        run(PointMass(0.0, 0.0), observation, Blind(), noise=replace(noise, video=noise.video[:, :, :1]))
    with pytest.raises(ShapeError, match=r"`noise.actions`"):
        run(PointMass(0.0, 0.0), observation, Blind(), noise=replace(noise, actions=noise.actions[:, :3]))


@given(steps=st.integers(1, 50), shift=st.floats(0.1, 20))
def test_clocks_fall_from_one_to_zero(steps, shift):
    for clock in (Clock.linear(steps), Clock.cosine(steps), Clock.shifted(shift, steps), Clock.linear(steps).held(2)):
        assert clock.times[0] == 1
        assert clock.times[-1] == 0
        assert clock.num_steps in (steps, steps + 2)


def test_clocks_have_their_shapes():
    assert Clock.linear(4).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert Clock.cosine(3).times == pytest.approx((1, math.cos(math.pi / 6), 0.5, 0), abs=1e-12)
    published = (1, 0.978, 0.952, 0.921, 0.882, 0.833, 0.769, 0.682, 0.556, 0.357, 0)
    assert Clock.shifted(5.0, 10).times == pytest.approx(published, abs=5e-4)
    assert Clock.linear(2).delayed(2).times == (1.0, 1.0, 1.0, 0.5, 0.0)


@pytest.mark.parametrize("times", [(1.0,), (0.9, 0.0), (1.0, 0.1), (1.0, 0.2, 0.3, 0.0)])
def test_a_clock_that_does_not_fall_is_refused(times):
    with pytest.raises(ConfigurationError, match="falls from 1 to 0"):
        Clock(times)


class Uncached:
    """The same model without its observation cache."""

    def __init__(self, model) -> None:
        self.model, self.action_dim = model, model.action_dim

    def encode_context(self, context, state=None):
        return self.model.encode_context(context, state)

    def __call__(self, *inputs):
        return self.model(*inputs)


@pytest.mark.parametrize("layout", ["joint", "fastwam"])
def test_the_observation_is_computed_once_and_the_chunk_is_the_same(layout, make_model, observation, monkeypatch):
    model, encoded = make_model(layout), []
    encode = model.encode_observation
    monkeypatch.setattr(model, "encode_observation", lambda *inputs: encoded.append(1) or encode(*inputs))
    schedule = Scales(2 * torch.rand(3, 10, FRAMES, generator=torch.Generator().manual_seed(1)))  # one per row
    cached, plain = (run(one, observation, schedule) for one in (model, Uncached(model)))
    assert encoded == [1]
    torch.testing.assert_close(cached.actions, plain.actions, rtol=0, atol=2e-5)
    torch.testing.assert_close(cached.latents, plain.latents, rtol=0, atol=2e-5)
    assert torch.equal(cached.times, plain.times)
    assert bool((cached.times[:, -1] > 0).any())


@pytest.mark.parametrize("layout", ["joint", "fastwam"])
def test_the_observations_keys_are_those_of_every_step(layout, make_model, inputs):
    model = make_model(layout).double()
    with torch.no_grad():
        full = inputs.call(model)
        context = model.encode_context(inputs.context)
        cache = model.encode_observation(inputs.video[:, :, :1], context)
        future, times = inputs.video[:, :, 1:], inputs.video_times[:, 1:]
        cached = model(future, inputs.actions, times, inputs.action_time, context, inputs.state, cache)
    torch.testing.assert_close(cached.video, full.video[:, :, 1:], rtol=0, atol=1e-12)
    torch.testing.assert_close(cached.actions, full.actions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", ["full", "idm"])
def test_an_observation_that_sees_the_video_is_not_cached(layout, make_model, observation):
    model = make_model(layout)
    with pytest.raises(ConfigurationError, match=f"in the layout `{layout}` the observation sees the noised video"):
        model.encode_observation(observation.latent, observation.context)
    run(model, observation, SharedSchedule())  # the sampler knows
    other = make_model("joint")
    cache = other.encode_observation(observation.latent, observation.context)
    noise = start(observation)
    times = torch.ones(3, FRAMES)
    with pytest.raises(ConfigurationError, match="does not hold"):
        model(noise.video, noise.actions, times, times[:, 0], observation.context, observation.state, cache)
    with pytest.raises(ShapeError, match=r"3 rows of \(2, 3\) tokens in 2 layers; the video needs 2 rows"):
        other(noise.video[:2], noise.actions[:2], times[:2], times[:2, 0], observation.context[:2], None, cache)


def test_actions_that_do_not_see_the_future_are_not_asked_for_while_they_wait(make_model, observation):
    model = make_model("fastwam")
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    noise = start(observation)
    chunk = {"frames": FRAMES, "action_steps": STEPS, "noise": noise}
    alone = denoise_actions(model, observation, **chunk, clock=Clock.linear(2).delayed(3))
    assert len(calls) == 2
    assert torch.equal(alone, denoise_actions(model, observation, **chunk, clock=Clock.linear(2)))


@pytest.mark.parametrize("action_axis", ["frames", "own"])
@pytest.mark.parametrize("schedule", [SharedSchedule(), Blind()])
def test_actions_that_do_not_see_the_future_need_no_video(action_axis, schedule, make_model, observation):
    model = make_model("fastwam", action_axis=action_axis)
    noise = start(observation)
    imagined = run(model, observation, schedule, noise=noise)
    alone = denoise_actions(model, observation, frames=FRAMES, action_steps=STEPS, noise=noise, clock=Clock.linear())
    torch.testing.assert_close(alone, imagined.actions, rtol=0, atol=2e-5)
    with pytest.raises(ConfigurationError, match="see the imagined video"):
        denoise_actions(make_model("joint"), observation, frames=FRAMES, action_steps=STEPS)
    with pytest.raises(ShapeError, match="`video` is None"):
        make_model("joint")(None, noise.actions, torch.ones(3, FRAMES), torch.ones(3), observation.context)


def test_half_precision_weights_leave_the_samplers_state_in_fp32(make_model, observation):
    model = make_model("joint").bfloat16()
    chunk = run(model, observation, MonotoneSchedule())
    assert chunk.latents.dtype == chunk.actions.dtype == chunk.times.dtype == torch.float32
    assert bool(chunk.actions.isfinite().all())
    assert not torch.equal(chunk.actions, chunk.actions.bfloat16().float())


@pytest.mark.parametrize("layout", ["full", "joint", "fastwam"])
def test_a_chunk_without_future_latents_is_actions_alone(layout, make_model, observation):
    model = make_model(layout)
    noise = Noise.draw(observation, frames=0, action_steps=STEPS, action_dim=ACTION_DIM)
    cached, plain = (
        denoise(one, observation, SharedSchedule(), frames=0, action_steps=STEPS, noise=noise, clock=Clock.linear())
        for one in (model, Uncached(model))
    )
    assert cached.latents.shape == (3, 4, 0, 4, 6)
    assert cached.times.shape == (3, 11, 0)
    torch.testing.assert_close(cached.actions, plain.actions, rtol=0, atol=2e-5)


class StopsAt:
    """The shared schedule, ended for each row in a step of its own."""

    def __init__(self, *last: int) -> None:
        self.last = torch.tensor(last)

    def next_times(self, step):
        return step.times - step.decrement

    def stops(self, step):
        return self.last <= step.index


class Counted(PointMass):
    """Counts its calls, and curves the actions' way, so that where it is left makes a difference."""

    calls = 0

    def __call__(self, video, actions, video_times, action_time, context, state=None):
        self.calls += 1
        predicted = super().__call__(video, actions, video_times, action_time, context, state)
        return predicted._replace(actions=predicted.actions * (1 + action_time[:, None, None]))


def test_a_row_that_stops_takes_the_rest_of_its_actions_way_at_once_and_is_left_alone(observation):
    model = Counted(0.3, -0.2)
    whole = run(model, observation, SharedSchedule())
    model.calls = 0
    chunk = run(model, observation, StopsAt(9, 2, 4))
    assert model.calls == 10
    assert chunk.evaluated.tolist() == [10, 3, 5]
    assert whole.evaluated.tolist() == [10, 10, 10]
    for name in ("actions", "latents", "estimates", "times"):
        assert torch.equal(getattr(chunk, name)[0], getattr(whole, name)[0]), name
    assert torch.allclose(chunk.times[1, 3:], torch.tensor(0.7).expand(8, FRAMES))
    assert torch.allclose(chunk.times[2, 5:], torch.tensor(0.5).expand(6, FRAMES))
    # Three steps of a tenth, the last of which goes on to the end: a clock that falls so gives the same actions.
    short = run(model, observation, StopsAt(9, 9, 9), clock=Clock((1.0, 0.9, 0.8, 0.0)))
    assert torch.allclose(chunk.actions[1], short.actions[1], atol=1e-6)


def test_no_call_follows_once_all_rows_have_stopped(observation):
    model = Counted(0.3, -0.2)
    chunk = run(model, observation, StopsAt(1, 0, 2))
    assert model.calls == 3
    assert chunk.times.shape == (3, 11, FRAMES)
    alone = run(Counted(0.3, -0.2), observation, StopsAt(1, 0, 0))
    assert torch.equal(chunk.actions[:2], alone.actions[:2])
    assert torch.equal(chunk.latents[:2], alone.latents[:2])


def test_what_a_stop_cannot_do_is_refused(observation):
    model = PointMass(0.3, -0.2)
    with pytest.raises(ConfigurationError, match="prefix"):
        run(model, observation, StopsAt(1, 1, 1), prefix=torch.zeros(3, 2, ACTION_DIM))
    with pytest.raises(ScheduleError, match="yes or no"):
        run(model, observation, StopsAt(1, 1))


def test_the_spacings_of_other_samplers_keep_their_noise_levels():
    times = Clock.edm(18).times
    sigmas = [time / (1 - time) for time in times[1:-1]]
    # Karras et al. 2022, eq. (5), for N = 18, sigma from 80 to 0.002, rho = 7: its second and last levels.
    assert sigmas[0] == pytest.approx(57.586, abs=2e-3)
    assert sigmas[-1] == pytest.approx(0.002, rel=1e-6)
    (middle,) = Clock.ddim(2).times[1:-1]
    # alpha bar of the linear schedule from 0.1 to 20 at its middle: exp(-(0.05 + 19.9 / 8)).
    kept = math.exp(-2.5375)
    assert (middle / (1 - middle)) ** 2 == pytest.approx((1 - kept) / kept)
    assert Clock.edm(1).times == Clock.ddim(1).times == (1.0, 0.0)

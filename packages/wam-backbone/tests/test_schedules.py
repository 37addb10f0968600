from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam_backbone import Blind, Clock, DenoisingStep, ImagineFirst, MatrixSchedule, MonotoneSchedule, SharedSchedule
from wam_backbone.clock import in_turn
from wam_backbone.errors import ConfigurationError, ScheduleError


def follow(schedule, clock: Clock, frames: int = 2, rows: int = 3, begin: float = 1.0) -> torch.Tensor:
    """Times `(rows, steps + 1, frames)` along a schedule."""
    times = torch.full((rows, frames), begin)
    path = [times]
    for index in range(clock.num_steps):
        step = DenoisingStep(
            index=index,
            num_steps=clock.num_steps,
            latents=torch.zeros(rows, 4, frames, 2, 2),
            times=times,
            estimates=torch.zeros(rows, 4, frames, 2, 2),
            noise=torch.zeros(rows, 4, frames, 2, 2),
            observation=torch.zeros(rows, 4, 1, 2, 2),
            nominal_time=begin * clock.times[index],
            decrement=begin * (clock.times[index] - clock.times[index + 1]),
            action_time=begin * clock.times[index],
            begin=begin,
        )
        times = schedule.next_times(step).clamp(min=0)
        assert times.shape == (rows, frames)
        path.append(times)
    return torch.stack(path, dim=1)


clocks = st.one_of(
    st.integers(1, 20).map(Clock.linear),
    st.integers(1, 20).map(Clock.cosine),
    st.tuples(st.floats(0.2, 8), st.integers(1, 20)).map(lambda values: Clock.shifted(*values)),
)


@given(clock=clocks)
def test_shared_times_are_the_nominal_clock(clock):
    path = follow(SharedSchedule(), clock, frames=3)
    torch.testing.assert_close(path, torch.tensor(clock.times)[:, None].expand_as(path), rtol=0, atol=1e-5)


@given(clock=clocks, lag=st.floats(0, 3), frames=st.integers(1, 5))
def test_near_latents_are_never_noisier_than_far_ones_and_all_arrive(clock, lag, frames):
    path = follow(MonotoneSchedule(lag=lag), clock, frames)
    assert bool((path.diff(dim=2) >= -1e-6).all())
    assert bool((path.diff(dim=1) <= 1e-6).all())
    assert path[:, -1].abs().max() < 1e-5


def test_lag_zero_is_the_shared_schedule_and_lag_one_is_one_after_the_other():
    clock = Clock.linear(8)
    torch.testing.assert_close(follow(MonotoneSchedule(lag=0), clock), follow(SharedSchedule(), clock))
    path = follow(MonotoneSchedule(lag=1), clock)[0]
    torch.testing.assert_close(path[:, 0], torch.tensor([1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(path[:, 1], torch.tensor([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]))
    with pytest.raises(ConfigurationError, match="`lag` is -1"):
        MonotoneSchedule(lag=-1)


def test_a_matrix_is_followed_for_all_rows_or_row_by_row():
    matrix = torch.tensor([[1.0, 1.0], [0.5, 0.9], [0.2, 0.9]])
    assert torch.equal(follow(MatrixSchedule(matrix), Clock.linear(2))[1], matrix)
    rows = torch.stack([matrix, matrix**2, torch.ones(3, 2)])
    assert torch.equal(follow(MatrixSchedule(rows), Clock.linear(2)), rows)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.ones(3),
        torch.ones(1, 2),
        torch.tensor([[0.9, 1.0], [0.0, 0.0]]),
        torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.6, 0.0]]),
        torch.tensor([[1.0, 1.0], [-0.1, 0.0]]),
        torch.tensor([[1.0, 1.0], [float("nan"), 0.0]]),
    ],
)
def test_a_matrix_that_is_no_path_is_refused(matrix):
    with pytest.raises(ScheduleError, match="matrix"):
        MatrixSchedule(matrix)


def test_a_matrix_for_other_steps_or_rows_is_refused():
    with pytest.raises(ScheduleError, match="2 steps and the clock 3"):
        follow(MatrixSchedule(torch.ones(3, 2)), Clock.linear(3))
    with pytest.raises(ScheduleError, match=r"\(4, 2\).*\(3, 2\)"):
        follow(MatrixSchedule(torch.ones(4, 3, 2)), Clock.linear(2))


def test_imagination_is_finished_before_the_actions_start():
    schedule = ImagineFirst(video_steps=4, shift=1)
    clock = schedule.clock(num_steps=10)
    path = follow(schedule, clock)
    torch.testing.assert_close(path[0, :5, 0], torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    assert path[:, 4:].abs().max() == 0
    assert clock.times[:5] == (1.0,) * 5
    assert clock.times[5] == pytest.approx(5 / 6)
    assert clock.num_steps == 10
    with pytest.raises(ConfigurationError, match="leave at least one"):
        schedule.clock(num_steps=4)
    with pytest.raises(ConfigurationError, match="`video_steps` is 0"):
        ImagineFirst(video_steps=0, shift=1)


def test_a_shared_schedule_in_turn_with_the_actions_imagines_first():
    clock, video_clock = in_turn(partial(Clock.shifted, 5.0), 10, 4)
    first = ImagineFirst(video_steps=4, shift=5.0)
    assert clock == first.clock(num_steps=10)
    torch.testing.assert_close(follow(SharedSchedule(), video_clock), follow(first, clock), rtol=0, atol=1e-6)
    assert in_turn(Clock.linear, 10, 0) == (Clock.linear(10), Clock.linear(10))


def test_imagine_first_keeps_the_shift_of_the_model():
    schedule = ImagineFirst(video_steps=4, shift=5.0)
    path = follow(schedule, schedule.clock(num_steps=10))
    expected = torch.tensor([*Clock.shifted(5.0, 4).times, *[0.0] * 6])
    torch.testing.assert_close(path[0, :, 0], expected, rtol=0, atol=1e-6)
    assert schedule.clock(num_steps=10).times == (1.0,) * 4 + Clock.shifted(5.0, 6).times
    with pytest.raises(ConfigurationError, match="`shift` is 0"):
        ImagineFirst(shift=0)


@pytest.mark.parametrize(
    "schedule",
    [
        SharedSchedule(),
        MonotoneSchedule(lag=0.7),
        MatrixSchedule(torch.tensor([[1.0, 1.0], [0.4, 0.9], [0.2, 0.5], [0.0, 0.3]])),
        ImagineFirst(video_steps=2, shift=5.0),
        Blind(),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_plan_that_goes_on_from_another_falls_by_the_same_path_from_lower(schedule):
    whole, half = (follow(schedule, Clock.shifted(5.0, 3), begin=begin) for begin in (1.0, 0.5))
    torch.testing.assert_close(half, 0.5 * whole, rtol=0, atol=1e-6)


def test_blind_times_never_fall():
    assert bool((follow(Blind(), Clock.linear(5)) == 1).all())

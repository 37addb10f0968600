import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisegate_gpn import ScheduleNoiseError, schedule_noise

SETTINGS = [("step", 0.0), ("step", 0.9), ("chunk", 0.0), ("chunk", 0.7), ("episode", 0.0)]
ROWS = 1000


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@cache
def episodes(held: str, correlation: float, *, chunks: int = 3, steps: int = 4, rows: int = ROWS) -> torch.Tensor:
    """Noise of whole episodes, (rows, chunks * steps, 2); drawn once for all tests."""
    parts = [
        schedule_noise(
            generators(range(rows)), steps=steps, frames=2, chunks=[chunk] * rows, held=held, correlation=correlation
        )
        for chunk in range(chunks)
    ]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("held", "correlation"), SETTINGS)
def test_every_decision_alone_is_standard_normal(held, correlation):
    noise = episodes(held, correlation)
    assert noise.mean(dim=0).abs().max() < 5 / math.sqrt(ROWS)
    assert (noise.var(dim=0) - 1).abs().max() < 5 * math.sqrt(2 / ROWS)
    ordered = noise[:, -1, 1].sort().values  # Kolmogorov-Smirnov: 1.95 / sqrt(n) at the 0.1% level
    distance = (torch.special.ndtr(ordered) - (torch.arange(ROWS) + 0.5) / ROWS).abs().max()
    assert distance < 1.95 / math.sqrt(ROWS)


@pytest.mark.parametrize(
    ("held", "correlation", "expected"),
    [
        ("step", 0.0, lambda lag: 0.0),
        ("step", 0.9, lambda lag: 0.9**lag),
        ("chunk", 0.0, lambda lag: 1.0 if lag < 4 else 0.0),
        ("chunk", 0.7, lambda lag: 0.7 ** (lag // 4)),
        ("episode", 0.0, lambda lag: 1.0),
    ],
)
def test_the_first_decision_covaries_with_every_later_one_of_its_latent_as_asked(held, correlation, expected):
    noise = episodes(held, correlation)
    covariance = (noise[:, :1, 0] * noise[..., 0]).mean(dim=0)
    across = (noise[:, :1, 0] * noise[..., 1]).mean(dim=0)
    wanted = torch.tensor([expected(lag) for lag in range(1, 12)])
    torch.testing.assert_close(covariance[1:], wanted, atol=5 * math.sqrt(2 / ROWS), rtol=0)
    assert across.abs().max() < 5 / math.sqrt(ROWS), "latents are independent"


def test_noise_held_over_the_chunk_or_the_episode_is_the_same_number_in_all_their_steps():
    chunk, episode = episodes("chunk", 0.7, rows=20), episodes("episode", 0.0, rows=20)
    for start in (0, 4, 8):
        assert torch.equal(chunk[:, start : start + 4], chunk[:, start : start + 1].expand(-1, 4, -1))
    assert not torch.equal(chunk[:, 0], chunk[:, 4])
    assert torch.equal(episode, episode[:, :1].expand(-1, 12, -1))


@pytest.mark.parametrize(("held", "correlation"), SETTINGS)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4), chunk=st.integers(0, 5), steps=st.integers(1, 20))
def test_a_row_repeats_whatever_shares_its_batch_and_however_far_the_others_are(held, correlation, seeds, chunk, steps):
    settings = {"steps": steps, "frames": 3, "held": held, "correlation": correlation}
    together = schedule_noise(generators(seeds), chunks=[chunk + row for row in range(len(seeds))], **settings)
    assert together.shape == (len(seeds), steps, 3)
    for row, seed in enumerate(seeds):
        alone = schedule_noise(generators([seed]), chunks=[chunk + row], **settings)
        assert torch.equal(together[row : row + 1], alone)


def test_independent_noise_differs_between_the_chunks_of_an_episode():
    first, second = (schedule_noise(generators([5]), steps=4, frames=2, chunks=[chunk]) for chunk in (0, 1))
    assert (first - second).abs().min() > 0


def test_noise_comes_from_the_given_generators_alone():
    before = torch.get_rng_state()
    schedule_noise(generators([1]), steps=4, frames=2, held="chunk", correlation=0.5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"generators": []}, "`generators`"),
        ({"steps": 0}, "`steps`"),
        ({"frames": 0}, "`frames`"),
        ({"chunks": [0, 1]}, "`chunks`"),
        ({"chunks": [-1]}, "`chunks`"),
        ({"held": "task"}, "`held`"),
        ({"correlation": 1.0}, "`correlation`"),
        ({"correlation": -0.1}, "`correlation`"),
        ({"held": "episode", "correlation": 0.5}, "`correlation`"),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused_by_name(wrong, named):
    asked = {"generators": generators([0]), "steps": 2, "frames": 2} | wrong
    with pytest.raises(ScheduleNoiseError, match=named):
        schedule_noise(asked.pop("generators"), **asked)

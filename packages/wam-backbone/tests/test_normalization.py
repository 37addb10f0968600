import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam_backbone import Normalizer, Statistics
from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError


@pytest.fixture
def values() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(500, 3) * torch.tensor([0.1, 2.0, 30.0]) + torch.tensor([5.0, 0.0, -7.0])


def test_moments_give_mean_zero_and_deviation_one(values):
    normal = Normalizer.from_moments(values).normalize(values)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal.std(0), torch.ones(3), rtol=1e-4, atol=0)


def test_a_number_that_hardly_moves_is_not_blown_up():
    values = torch.full((10, 1), 0.3)
    values[0] += 1e-6
    assert Normalizer.from_moments(values, least=0.01).scale == (0.01,)
    assert Normalizer.from_range(values.amin(0), values.amax(0)).scale == (1.0,)


def test_the_range_becomes_minus_one_to_one(values):
    normal = Normalizer.from_range(values.amin(0), values.amax(0)).normalize(values)
    torch.testing.assert_close(normal.amin(0), -torch.ones(3))
    torch.testing.assert_close(normal.amax(0), torch.ones(3))


def test_quantiles_leave_the_given_share_outside(values):
    normal = Normalizer.from_quantiles(values, outside=0.05).normalize(values)
    outside = (normal.abs() > 1).float().mean(0)
    torch.testing.assert_close(outside, torch.full((3,), 0.1), rtol=0, atol=0.005)


@given(
    center=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
    numbers=st.lists(st.floats(-50, 50), min_size=1, max_size=5),
)
def test_restoring_undoes_normalising(center, scale, numbers):
    values = torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)
    normalizer = Normalizer(center=(center,), scale=(scale,))
    torch.testing.assert_close(normalizer.restore(normalizer.normalize(values)), values, rtol=1e-9, atol=1e-9)


def test_outliers_are_clamped_where_a_limit_is_set():
    values = torch.tensor([[-100.0], [2.0], [100.0]])
    assert Normalizer(center=(0.0,), scale=(1.0,), limit=5.0).normalize(values).flatten().tolist() == [-5.0, 2.0, 5.0]
    assert Normalizer(center=(0.0,), scale=(1.0,)).normalize(values).equal(values)


@pytest.mark.parametrize("limit", [None, 5.0])
@pytest.mark.parametrize("with_states", [True, False])
def test_statistics_come_back_from_disk_exactly(limit, with_states, values, tmp_path):
    statistics = Statistics(
        actions=Normalizer.from_moments(values, limit=limit),
        states=Normalizer.from_quantiles(values) if with_states else None,
    )
    statistics.save(tmp_path)
    assert Statistics.load(tmp_path / "statistics.json") == statistics


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"center": (0.0, 1.0), "scale": (1.0,)}, r"`center` is \(0\.0, 1\.0\) and `scale` \(1\.0,\)"),
        ({"center": (0.0,), "scale": (0.0,)}, "scales above 0"),
        ({"center": (0.0,), "scale": (math.inf,)}, "finite numbers"),
        ({"center": (math.nan,), "scale": (1.0,)}, "finite numbers"),
        ({"center": (0.0,), "scale": (1.0,), "limit": 0.0}, "`limit` is 0.0"),
    ],
)
def test_statistics_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        Normalizer(**fields)


def test_values_of_another_size_are_refused():
    with pytest.raises(ShapeError, match=r"\(4, 2\) came to a normaliser of 3 numbers"):
        Normalizer(center=(0.0,) * 3, scale=(1.0,) * 3).normalize(torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "holds a list"),
        (json.dumps({"mean": [0.0]}), "no normalisation statistics"),
        (json.dumps({"actions": {"center": [0.0]}}), "no normalisation statistics"),
        (json.dumps({"states": None}), "no normalisation statistics"),
    ],
)
def test_a_file_that_holds_no_statistics_is_named(content, message, tmp_path):
    file = tmp_path / "statistics.json"
    file.write_text(content)
    with pytest.raises(WeightsError, match=message):
        Statistics.load(file)


def test_missing_statistics_are_named(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        Statistics.load(tmp_path / "statistics.json")
    (tmp_path / "mine.json").write_text(json.dumps({"action": {"default": {}}}))
    with pytest.raises(WeightsError, match=r"no Fast-WAM statistics .*global_std"):
        Statistics.load_fastwam(tmp_path / "mine.json")

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage1.config import BackboneSize, Stage1Config, WanSettings
from noisegate_apps.stage1.material import start_digest, statistics_of, wan_material
from noisegate_apps.stage1.models import backbone_of, first_model
from noisegate_apps.stage1.parallel import Parallel
from robotwin_env.episodes import Episode, EpisodeIndex, read_episode, write_episode, write_lerobot
from robotwin_env.errors import SplitError
from wam_backbone import Normalizer, Statistics, WorldActionModel
from wam_backbone.weights import wan_weights

PLAIN = WanSettings(source="wan", limit=5.0)


@pytest.fixture
def index(tmp_path: Path) -> EpisodeIndex:
    rng = np.random.default_rng(0)
    states = rng.normal(0.3, 0.2, (9, 14)).clip(0, 1).astype(np.float32)
    picture = np.zeros((9, 16, 16, 3), np.uint8)
    episode = Episode(
        states=states[:-1],
        actions=states[1:],
        instructions=("go",),
        frequency=15,
        images=dict.fromkeys(("head", "left_wrist", "right_wrist"), picture[:-1]),
    )
    folder = tmp_path / "episodes"
    folder.mkdir()
    write_episode(folder / "episode_0000000.hdf5", episode)
    return EpisodeIndex.open(folder)


@pytest.mark.parametrize("kind", ["robotwin", "lerobot"])
def test_recordings_of_an_evaluations_scenes_are_refused_before_weights_are_read(
    index: EpisodeIndex, tmp_path: Path, kind: str
) -> None:
    file = index.root / "episode_0000000.hdf5"
    recorded = replace(read_episode(file), seed=100_000)
    if kind == "robotwin":
        write_episode(file, recorded)
    else:
        pytest.importorskip("pyarrow")
        write_lerobot(tmp_path / "set", [recorded], pictures="png")
    data = {"robotwin": index.root, "lerobot": tmp_path / "set"}[kind]
    config = Stage1Config(data=data, wan=WanSettings(source=str(tmp_path / "none")))
    with pytest.raises(SplitError, match="was recorded on seed 100000; 100000 to 999999 are for evaluation"):
        wan_material(config, Parallel.start("cpu"))


def test_episodes_give_their_own_statistics_unless_told_otherwise(index: EpisodeIndex) -> None:
    found = statistics_of(PLAIN, index)
    assert found.actions.center == pytest.approx(index.statistics.action.mean)
    assert found.actions.limit == 5.0
    left_alone = statistics_of(replace(PLAIN, normalize=False), index)
    values = torch.linspace(-1, 1, 14)
    assert torch.equal(left_alone.actions.normalize(values), values)


def test_a_policy_to_start_from_brings_the_statistics_it_was_trained_with(index: EpisodeIndex, tmp_path: Path) -> None:
    theirs = Normalizer(center=tuple(range(14)), scale=(2.0,) * 14)
    Statistics(actions=theirs, states=theirs).save(tmp_path)
    assert statistics_of(replace(PLAIN, start=str(tmp_path)), index).actions == theirs
    given = replace(PLAIN, start="policy.pt", statistics=tmp_path / "statistics.json")
    assert statistics_of(given, index).states == theirs


def test_statistics_of_fast_wam_are_read(index: EpisodeIndex, tmp_path: Path) -> None:
    names = ("mean", "std", "min", "max", "q01", "q99")
    part = {f"global_{name}": [float(number)] * 14 for number, name in enumerate(names)}
    file = tmp_path / "dataset_stats.json"
    file.write_text(json.dumps({"action": {"default": part}, "state": {"default": part}}))
    found = statistics_of(replace(PLAIN, start="policy.pt", statistics=file), index)
    assert found.actions.center == (0.0,) * 14
    assert found.actions.scale == pytest.approx((1.0,) * 14)


def test_missing_statistics_are_asked_for(index: EpisodeIndex, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="normalisation statistics"):
        statistics_of(replace(PLAIN, statistics=tmp_path / "none.json"), index)


TINY = BackboneSize(num_layers=1, num_heads=1, head_dim=12, video_ffn=16, action_width=8, action_ffn=8, freq_dim=8)


def first(start: Path, **options: str) -> WorldActionModel:
    wan = replace(WanSettings(start=str(start)), **options)
    return first_model(TINY, wan, {}, latent_channels=4, text_dim=8)


@pytest.fixture
def trained(tmp_path: Path) -> WorldActionModel:
    """A model none of whose tensors is what a new one starts with, below `model`."""
    torch.manual_seed(0)
    model = backbone_of(TINY, latent_channels=4, text_dim=8)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_()
    model.save_pretrained(tmp_path / "model")
    return model


def test_all_or_the_video_half_of_a_model_is_kept(trained: WorldActionModel, tmp_path: Path) -> None:
    def kept(model: WorldActionModel) -> set[str]:
        theirs = dict(trained.named_parameters())
        return {name for name, tensor in model.named_parameters() if torch.equal(tensor, theirs[name])}

    names = {name for name, _ in trained.named_parameters()}
    places = {tensor.data_ptr() for tensor in wan_weights(trained).values()}
    video = {name for name, tensor in trained.named_parameters() if tensor.data_ptr() in places}
    assert video
    assert video < names
    assert kept(first(tmp_path / "model")) == names
    assert kept(first(tmp_path / "model", keep="video")) == video


def test_half_of_a_file_is_not_to_be_had(tmp_path: Path) -> None:
    file = tmp_path / "policy.pt"
    with pytest.raises(RunError, match=r"policy.pt` does not exist: the checkpoint to start from is needed"):
        first(file)
    file.write_bytes(b"")
    with pytest.raises(RunError, match=r"policy.pt` is a file, and `--wan.keep video`"):
        first(file, keep="video")


def test_first_weights_are_known_by_what_they_are(trained: WorldActionModel, tmp_path: Path) -> None:
    one = start_digest(WanSettings(start=str(tmp_path / "model")))
    (tmp_path / "model").rename(tmp_path / "moved")
    assert start_digest(WanSettings(start=str(tmp_path / "moved"))) == one
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    trained.save_pretrained(tmp_path / "moved")
    assert start_digest(WanSettings(start=str(tmp_path / "moved"))) != one
    assert start_digest(WanSettings()) == ""

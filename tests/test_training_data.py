"""From demonstration files to training windows: which frames, states and actions belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from noisegate_apps.data.batches import with_lost_words
from noisegate_apps.data.demonstrations import load_demonstrations, windows_of
from noisegate_apps.data.pack import read_pack, write_pack
from noisegate_apps.data.tabletop import cached_windows, labelled_episodes
from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage1 import training
from noisegate_apps.stage1.config import Stage1Config, WanSettings
from robotwin_env.episodes import Episode, EpisodeFile, episode_path, write_episode
from robotwin_env.errors import SplitError
from wam_backbone import ConvCodec
from wam_backbone.cameras import tile, to_codec, to_pictures


def episode(steps, seed, *, stride=2):
    """States that count up, and pictures whose brightness says which step they show."""
    count = np.arange(steps + 1, dtype=np.float32) / 100 + seed
    states = np.repeat(count[:, None], 14, axis=1)
    frame_steps = np.arange(0, steps + 1, stride, dtype=np.int32)
    pictures = np.broadcast_to((4 * frame_steps).astype(np.uint8)[:, None, None, None], (len(frame_steps), 32, 32, 3))
    return Episode(
        states=states[:-1],
        actions=states[1:],
        instructions=(f"do {seed}",),
        frequency=25,
        images={name: pictures.copy() for name in ("head", "left_wrist", "right_wrist")},
        frame_steps=frame_steps,
        task="lift_pot",
        seed=seed,
        success=True,
        extra={"pot": np.full((len(frame_steps), 7), seed, dtype=np.float32)},
    )


@pytest.fixture
def root(tmp_path):
    for seed, steps in enumerate((21, 6, 16)):
        (tmp_path / "lift_pot").mkdir(exist_ok=True)
        write_episode(episode_path(tmp_path / "lift_pot", seed), episode(steps, seed))
    return tmp_path


@pytest.fixture
def demonstrations(root):
    return load_demonstrations(root)


def test_a_window_starts_where_its_observation_was_taken(demonstrations):
    windows = windows_of(demonstrations, action_steps=16, future_latents=2)
    for index in range(len(windows)):
        number = int(windows.episode[index])
        shown = float(demonstrations.frames[windows.frame[index, 0]].float().mean()) / 4
        state = demonstrations.states[windows.step[index, 0]]
        assert round((float(state[0]) - number) * 100) == pytest.approx(shown, abs=0.3)


def test_frames_advance_with_the_actions_and_hold_past_the_end(demonstrations):
    windows = windows_of(demonstrations, action_steps=16, future_latents=2)
    for index in range(len(windows)):
        number = int(windows.episode[index])
        last = int(demonstrations.step_start[number + 1]) - 1
        first = int(windows.step[index, 0])
        assert windows.step[index].tolist() == [min(first + ahead, last) for ahead in range(16)]
        frames = demonstrations.frames[windows.frame[index]].float().mean(dim=(1, 2, 3)) / 4
        begin = first - int(demonstrations.step_start[number])
        final = int(demonstrations.frame_start[number + 1] - demonstrations.frame_start[number] - 1) * 2
        expected = torch.tensor([float(min(begin + 2 * ahead, final)) for ahead in range(9)])
        torch.testing.assert_close(frames, expected, atol=0.3, rtol=0)


def test_every_step_with_a_frame_starts_one_window(demonstrations):
    windows = windows_of(demonstrations, action_steps=16, future_latents=2)
    starts = [windows.step[windows.episode == number, 0] - demonstrations.step_start[number] for number in range(3)]
    assert [start.tolist() for start in starts] == [list(range(0, 21, 2)), [0, 2, 4], list(range(0, 16, 2))]


def test_an_action_is_the_next_state(demonstrations):
    for number in range(3):
        own = slice(int(demonstrations.step_start[number]), int(demonstrations.step_start[number + 1]))
        torch.testing.assert_close(demonstrations.actions[own][:-1], demonstrations.states[own][1:])


def test_frames_that_do_not_span_the_actions_are_refused(demonstrations):
    with pytest.raises(RunError, match="span 16 actions, not 32"):
        windows_of(demonstrations, action_steps=32, future_latents=2)


def test_the_second_reading_comes_from_the_pack_and_is_the_same(root, demonstrations):
    assert len(list((root / ".packed").iterdir())) == 1
    again = load_demonstrations(root)
    assert torch.equal(again.frames, demonstrations.frames)
    assert tuple(again.instructions) == ("do 0", "do 1", "do 2")
    assert torch.equal(again.object_positions["lift_pot/pot"], demonstrations.object_positions["lift_pot/pot"])


def test_a_changed_file_is_read_again(root, demonstrations):
    write_episode(episode_path(root / "lift_pot", 1), episode(10, 7))
    again = load_demonstrations(root)
    assert again.instructions[1] == "do 7"
    assert again.fingerprint != demonstrations.fingerprint


@pytest.mark.parametrize("pack", [b"", b"{", save({"frames": torch.zeros(1)}, {"structure": "[]"})])
def test_a_damaged_pack_is_made_again(root, demonstrations, pack):
    (packed,) = (root / ".packed").iterdir()
    packed.write_bytes(pack)
    assert torch.equal(load_demonstrations(root).frames, demonstrations.frames)
    assert packed.stat().st_size > 1000


def test_arrays_that_are_no_positions_in_every_frame_are_left_aside(root):
    whole = episode(6, 1)
    others = {"camera": np.zeros((9, 7)), "weight": np.float32(1.0).reshape(()), "flat": np.zeros((4, 2))}
    write_episode(episode_path(root / "lift_pot", 1), replace(whole, extra={**whole.extra, **others}))
    assert set(load_demonstrations(root).object_positions) == {"lift_pot/pot"}


def test_episodes_that_cannot_be_laid_end_to_end_are_named(root):
    small = {name: pictures[:, :16, :16] for name, pictures in episode(6, 1).images.items()}
    write_episode(episode_path(root / "lift_pot", 1), replace(episode(6, 1), images=small))
    with pytest.raises(RunError, match=r"48x32 in `.*episode_0000000\.hdf5` and 24x16 in `.*episode_0000001\.hdf5`"):
        load_demonstrations(root)
    flat = {name: pictures[:, :, :16] for name, pictures in episode(6, 1).images.items()}
    write_episode(episode_path(root / "lift_pot", 1), replace(episode(6, 1), images=flat))
    with pytest.raises(RunError, match=r"episode_0000001\.hdf5`: camera pictures .* must be square"):
        load_demonstrations(root)
    write_episode(episode_path(root / "lift_pot", 1), episode(6, 1, stride=3))
    with pytest.raises(RunError, match=r"\[2, 3\] steps apart \(2 in `.*0\.hdf5`, 3 in `.*1\.hdf5`\)"):
        load_demonstrations(root)


def test_demonstrations_that_are_there_twice_are_told(root, caplog):
    write_episode(episode_path(root / "lift_pot", 7), episode(6, 1))
    assert load_demonstrations(root).episodes == 4
    (record,) = caplog.records
    assert "1 of 4 episodes are there twice" in record.getMessage()


def test_recordings_of_an_evaluations_scenes_are_refused_by_name_also_from_a_pack(root, demonstrations):
    (packed,) = (root / ".packed").iterdir()
    write_pack(packed, {name: value for name, value in read_pack(packed).items() if name != "seeds"})  # an earlier one
    assert load_demonstrations(root).seeds == demonstrations.seeds == (0, 1, 2)
    write_episode(episode_path(root / "lift_pot", 3), replace(episode(6, 1), seed=None))
    assert load_demonstrations(root).seeds[3] is None
    (root / "seed.txt").write_text("0 1 2 100000")  # as RoboTwin's own collector notes them
    for _ in range(2):
        with pytest.raises(SplitError, match=r"episode_0000003\.hdf5 was recorded on seed 100000"):
            load_demonstrations(root)


@pytest.mark.parametrize(
    ("most", "scarce", "kept"),
    [
        (0, {}, [True, False, True, True, True, True]),
        (1, {}, [True, False, False, True, False, False]),
        (0, {"scarce": ("lift_pot",)}, [False, False, False, True, True, True]),
        (0, {"scarce": ("slide_bolt",), "most_of_scarce": 2}, [True, False, True, True, True, False]),
        (1, {"scarce": ("slide_bolt",), "most_of_scarce": 2}, [True, False, False, True, True, False]),
    ],
)
def test_actions_are_kept_of_the_first_solved_episodes(demonstrations, most, scarce, kept):
    six = replace(
        demonstrations,
        tasks=("lift_pot",) * 3 + ("slide_bolt",) * 3,
        success=(True, False, True, True, True, True),
    )
    assert labelled_episodes(six, most, **scarce).tolist() == kept


@pytest.mark.parametrize(
    ("most", "scarce", "said"),
    [
        (4, (), r"`lift_pot` has 3 solved demonstrations; `labelled` asks for 4"),
        (0, ("lift_pod",), r"no demonstrations of \['lift_pod'\], which `scarce` names; there are of \['lift_pot'\]"),
        (0, ("lift_pot",), r"`scarce` names all tasks, \['lift_pot'\]"),
    ],
)
def test_labels_that_cannot_be_had_are_refused(demonstrations, most, scarce, said):
    with pytest.raises(RunError, match=said):
        labelled_episodes(demonstrations, most, scarce=scarce)


@pytest.mark.parametrize("chosen", [{"labelled": 3}, {"scarce": ("lift_pot",)}])
def test_labels_are_not_chosen_among_wans_clips(chosen):
    with pytest.raises(ValueError, match="leave `--labelled` and `--scarce` out"):
        Stage1Config(wan=WanSettings(source="somewhere"), **chosen)


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return ConvCodec(latent_channels=3, base_width=8, image_size=(48, 32)).eval()


def test_window_latents_are_the_encoded_clips(root, demonstrations, codec, monkeypatch):
    monkeypatch.setattr("noisegate_apps.data.tabletop.EPISODES_PER_SHARD", 2)
    windows = windows_of(demonstrations, action_steps=16, future_latents=2)
    clips = cached_windows(codec, demonstrations, root).clips(windows, torch.arange(len(windows)))
    assert len(list(root.glob(".latents/*/shard-*.safetensors"))) == 2
    for index in (0, 5, len(windows) - 1):
        frames = to_codec(demonstrations.frames[windows.frame[index]]).unsqueeze(0)
        with torch.no_grad():
            torch.testing.assert_close(clips[index], codec.encode(frames)[0], rtol=1e-4, atol=1e-4)


def test_kept_latents_belong_to_their_codec(root, demonstrations, codec, monkeypatch):
    rows = torch.arange(5)
    first = cached_windows(codec, demonstrations, root).cache.read("single", rows)
    with monkeypatch.context() as patch:
        patch.setattr(ConvCodec, "encode_every", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(cached_windows(codec, demonstrations, root).cache.read("single", rows), first)
    with torch.no_grad():
        codec.to_first.weight += 0.1
    assert not torch.equal(cached_windows(codec, demonstrations, root).cache.read("single", rows), first)


def test_the_head_lies_over_the_wrists_at_half_size():
    images = {name: np.full((2, 64, 64, 3), value, np.uint8) for name, value in
              (("head", 10), ("left_wrist", 20), ("right_wrist", 30))}  # fmt: skip
    frames = tile(images)
    assert frames.shape == (2, 96, 64, 3)
    assert (frames[:, :64] == 10).all()
    assert (frames[:, 64:, :32] == 20).all()
    assert (frames[:, 64:, 32:] == 30).all()


def test_pictures_survive_the_way_to_the_codec_and_back():
    frames = torch.randint(0, 256, (3, 48, 32, 3), dtype=torch.uint8)
    assert np.array_equal(to_pictures(to_codec(frames)), frames.numpy())


def test_missing_or_unequal_cameras_are_refused():
    head = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="left_wrist"):
        tile({"head": head})
    with pytest.raises(ValueError, match="alike"):
        tile({"head": head, "left_wrist": head[:32, :32], "right_wrist": head})


def test_robotwins_episodes_are_read_at_the_tabletops_size_and_rate(tmp_path):
    """A frame at every step, pictures of 48x64: what `RoboTwinEnv` would show the policy is what it learns from."""
    from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv

    wide = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    made = episode(20, 0, stride=1)
    pictures = dict.fromkeys(("head", "left_wrist", "right_wrist"), wide)
    write_episode(
        episode_path(tmp_path, 0), replace(made, images=pictures, frame_steps=np.arange(20, dtype=np.int32), extra={})
    )
    demonstrations = load_demonstrations(tmp_path, frame_stride=2, picture_size=(32, 32))
    assert demonstrations.frame_stride == 2
    assert demonstrations.frames.shape == (10, 48, 32, 3)
    with EpisodeFile(episode_path(tmp_path, 0)) as file:
        stored = file.frames("head", [6])[0]
    shown = RoboTwinEnv(RoboTwinConfig(image_size=(32, 32)))._scaled(stored)
    np.testing.assert_array_equal(demonstrations.frames[3, :32], shown)
    windows = windows_of(demonstrations, action_steps=16, future_latents=2)
    np.testing.assert_allclose(demonstrations.states[windows.step[2, 0], 0], 0.04, atol=1e-6)
    assert (
        load_demonstrations(tmp_path, frame_stride=4, picture_size=(32, 32)).fingerprint != demonstrations.fingerprint
    )


def test_lost_words_become_noise_of_their_size_and_padding_stays_padding():
    generator = torch.Generator().manual_seed(0)
    words = 3 * torch.randn(40, 12, 16, generator=generator)
    words[:, 9:] = 0
    seeds = list(range(40))
    heard = with_lost_words(words, 0.3, seeds)
    lost = (heard != words).any(dim=2)
    assert not lost[:, 9:].any()
    assert 0.22 < lost[:, :9].float().mean() < 0.38
    assert torch.equal(heard[~lost], words[~lost])
    ratio = heard[lost].square().mean().sqrt() / words[lost].square().mean().sqrt()
    assert 0.9 < ratio < 1.1
    correlation = torch.nn.functional.cosine_similarity(heard[lost], words[lost]).mean()
    assert correlation.abs() < 0.1
    assert torch.equal(with_lost_words(words[5:9], 0.3, seeds[5:9]), heard[5:9])  # by its own seed, in any batch


def test_stage_1_loses_as_many_words_as_it_is_told(root, codec, tmp_path_factory, monkeypatch):
    folder, heard = tmp_path_factory.mktemp("runs"), []
    codec.save_pretrained(folder / "codec")
    monkeypatch.setattr(training, "train", lambda *given: heard.append(given[4].of(0)[0].batch.context))
    monkeypatch.setattr(training, "keep", lambda *_: None)
    for name, word_noise in (("all", 0.0), ("some", 0.5)):
        options = {"data": root, "codec": folder / "codec", "out": folder / name, "batch_size": 32, "steps": 1}
        training.run(Stage1Config(**options, word_noise=word_noise))
    lost, words = (heard[0] != heard[1]).any(dim=2), heard[0].any(dim=2)
    assert 0.3 < lost[words].float().mean() < 0.7
    assert not lost[~words].any()


def test_stage_1_takes_the_labels_that_it_is_told(root, codec, tmp_path_factory, monkeypatch):
    (root / "slide_bolt").mkdir()
    for seed in (3, 4, 5):
        write_episode(episode_path(root / "slide_bolt", seed), replace(episode(16, seed), task="slide_bolt"))
    folder, given = tmp_path_factory.mktemp("runs"), []
    codec.save_pretrained(folder / "codec")
    monkeypatch.setattr(training, "train", lambda *told: given.append(told[4]._without))
    monkeypatch.setattr(training, "keep", lambda *_: None)
    options = {"data": root, "codec": folder / "codec", "out": folder / "run", "batch_size": 4, "steps": 1}
    training.run(Stage1Config(**options, scarce=("slide_bolt",), scarce_labelled=1))
    assert given[0].tolist() == list(range(11 + 3 + 8 + 8, 11 + 3 + 8 + 3 * 8))

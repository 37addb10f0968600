from __future__ import annotations

import base64
import io
import json
import resource
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import robotwin_env.episodes.layouts as layouts
from robotwin_env.episodes import (
    Episode,
    EpisodeFile,
    decode_frame,
    encode_frame,
    episode_files,
    episode_path,
    read_episode,
    write_episode,
)
from robotwin_env.errors import EpisodeError, EpisodeFormatError, RobotwinEnvError

RED = (220, 30, 10)
OPENCV_RED = (
    # OpenCV 5.0.0: `cv2.imencode(".jpg", picture)` of 8x8 pixels of RED in RGB order, handed over as RoboTwin does.
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
    "CgoKBggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoK"
    "CgoKCgoKCgr/wAARCAAIAAgDASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUF"
    "BAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi"
    "4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAEC"
    "AxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVm"
    "Z2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq"
    "8vP09fb3+Pn6/9oADAMBAAIRAxEAPwD8t6KKK/2IPxs//9k="
)


def picture(color=RED, size=(16, 24)):
    return np.broadcast_to(np.array(color, dtype=np.uint8), (*size, 3)).copy()


def make_episode(steps=5, **changes):
    generator = np.random.default_rng(steps)
    joints = generator.normal(size=(steps + 1, 14)).astype(np.float32)
    ramp = np.stack([picture((220, 40 + 10 * index, 10)) for index in range(steps)])
    made = Episode(
        states=joints[:-1],
        actions=joints[1:],
        instructions=("press the bell", "ring it"),
        frequency=25,
        images={"head": ramp, "left_wrist": ramp[:, :8, :8], "right_wrist": ramp[:, ::-1]},
        ee_poses=generator.normal(size=(steps + 1, 2, 7)).astype(np.float32),
        task="click_bell",
        seed=17,
        success=True,
        extra={"object_bell": generator.normal(size=(steps + 1, 7)), "phase": np.arange(steps)},
    )
    return replace(made, **changes)


def assert_equal_episodes(left, right, *, pixels=6):
    for name in ("states", "actions", "image_steps", "ee_poses"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for name in ("instructions", "frequency", "task", "seed", "success"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("images", "extra"):
        assert set(getattr(left, name)) == set(getattr(right, name))
    for camera, images in left.images.items():
        np.testing.assert_allclose(images.astype(int), right.images[camera], atol=pixels)
    for name, array in left.extra.items():
        np.testing.assert_array_equal(array, right.extra[name])


@pytest.fixture
def path(tmp_path):
    return episode_path(tmp_path, 0)


@pytest.fixture
def raw_path(tmp_path):
    """A file of the older layout with four rows, as RoboTwin's collector writes it."""
    made = tmp_path / "task" / "demo" / "data" / "episode3.hdf5"
    made.parent.mkdir(parents=True)
    instructions = made.parent.parent / "instructions" / "episode3.json"
    instructions.parent.mkdir()
    instructions.write_text(json.dumps({"seen": ["stack them"], "unseen": ["pile them"]}))
    generator = np.random.default_rng(0)
    with h5py.File(made, "w") as file:
        file["joint_action/vector"] = generator.normal(size=(4, 14))
        file["endpose/left_endpose"] = generator.normal(size=(4, 7))
        file["endpose/right_endpose"] = generator.normal(size=(4, 7))
        file["pointcloud"] = np.zeros((4, 0))
        for name in ("head_camera", "left_camera", "right_camera", "front_camera"):
            jpegs = [encode_frame(picture((200, 20 * index, 0))) for index in range(4)]
            file[f"observation/{name}/rgb"] = np.array(jpegs, dtype=f"S{max(map(len, jpegs))}")
            file[f"observation/{name}/intrinsic_cv"] = np.zeros((4, 3, 3))
    return made


# Colours


def test_a_red_frame_is_blue_to_a_plain_jpeg_decoder():
    plain = np.asarray(Image.open(io.BytesIO(encode_frame(picture())))).reshape(-1, 3)
    np.testing.assert_allclose(plain.mean(axis=0), RED[::-1], atol=3)


def test_what_opencv_wrote_for_robotwin_is_read_as_red():
    np.testing.assert_allclose(decode_frame(base64.b64decode(OPENCV_RED), (8, 8))[4, 4], RED, atol=3)


def test_opencv_reads_our_frames_as_robotwins_users_do():
    cv2 = pytest.importorskip("cv2")
    seen = cv2.imdecode(np.frombuffer(encode_frame(picture()), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(seen[8, 8], RED, atol=3)  # RGB, although OpenCV calls it BGR


@settings(max_examples=30, deadline=None)
@given(color=st.tuples(*[st.integers(0, 255)] * 3), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_plain_frame_survives_its_encoding(color, size):
    decoded = decode_frame(encode_frame(picture(color, size)), size)
    np.testing.assert_allclose(decoded.astype(int), picture(color, size), atol=4)


def test_thin_coloured_details_survive_their_encoding():
    frame = picture((180, 170, 160), (64, 64))
    frame[20:24, 30:34] = RED
    decoded = decode_frame(encode_frame(frame)).astype(int)
    assert np.abs(decoded[21:23, 31:33] - frame[21:23, 31:33]).max() < 20


# Round trips


def test_an_episode_comes_back_as_it_was_written(path):
    episode = make_episode()
    write_episode(path, episode)
    assert_equal_episodes(read_episode(path), episode)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 12), data=st.data())
def test_any_choice_of_frames_comes_back_at_its_steps(tmp_path_factory, steps, data):
    kept = sorted(data.draw(st.sets(st.integers(0, steps))))
    frames = np.stack([picture((index * 15, 0, 0), (8, 8)) for index in kept]) if kept else np.zeros((0, 8, 8, 3))
    episode = make_episode(steps, images={"head": frames.astype(np.uint8)}, frame_steps=np.array(kept, dtype=np.int32))
    path = tmp_path_factory.mktemp("episodes") / "episode_0000001.hdf5"
    write_episode(path, episode)
    assert_equal_episodes(read_episode(path), episode)


def test_an_episode_with_nothing_optional_comes_back(path):
    joints = np.zeros((3, 14), dtype=np.float32)
    episode = Episode(states=joints, actions=joints, instructions=("wait",), frequency=15)
    write_episode(path, episode)
    back = read_episode(path)
    assert_equal_episodes(replace(back, ee_poses=None), episode)
    assert (back.ee_poses, back.task, back.seed, back.success) == (None, None, None, None)


def test_a_file_with_every_frame_has_robotwins_datasets(path):
    episode = make_episode()
    write_episode(path, episode)
    with h5py.File(path) as file:
        assert file.attrs["source_format"] == "RoboTwin"
        assert file["data_format_version"][()] == b"v1.0"
        assert json.loads(file["instructions"][()]) == ["press the bell", "ring it"]
        assert file["additional_info/frequency"].dtype == np.int32
        assert "frame_steps" not in file["additional_info"]
        for group, rows in (("state", episode.states), ("action", episode.actions)):
            joined = [
                file[f"{group}/{side}_{part}_joint_states"][()] for side in ("left", "right") for part in ("arm", "ee")
            ]
            assert [part.shape for part in joined] == [(5, 6), (5, 1), (5, 6), (5, 1)]
            assert {part.dtype for part in joined} == {np.dtype(np.float32)}
            np.testing.assert_array_equal(np.concatenate(joined, axis=1), rows)
            assert file[f"{group}/left_ee_poses"].shape == (5, 7)
        np.testing.assert_array_equal(file["action/right_ee_poses"][()], episode.ee_poses[1:, 1])
        assert sorted(file["vision"]) == ["cam_head", "cam_left_wrist", "cam_right_wrist"]
        assert file["vision/cam_head/colors"].dtype.kind == "S"
        assert file["vision/cam_head/shape"][()].tolist() == [16, 24, 3]


def test_only_the_frames_asked_for_are_decoded(path):
    episode = make_episode(steps=6)
    write_episode(path, episode)
    with h5py.File(path, "r+") as file:
        file["vision/cam_head/colors"][3] = b"\xff\xd8 not a picture \xff\xd9"
    with EpisodeFile(path) as file:
        assert file.cameras == ("head", "left_wrist", "right_wrist")
        assert file.header.images == {}
        assert file.header.steps == 6
        np.testing.assert_array_equal(file.frame_steps, np.arange(6))
        some = file.frames("head", [5, 0, 5])
        np.testing.assert_allclose(some.astype(int), episode.images["head"][[5, 0, 5]], atol=6)
        assert file.frames("head", []).shape == (0, 16, 24, 3)
        with pytest.raises(EpisodeFormatError, match="frame 3"):
            file.frames("head")
    assert set(read_episode(path, cameras=["left_wrist"]).images) == {"left_wrist"}


def test_cameras_and_frames_that_do_not_exist_are_refused(path):
    write_episode(path, make_episode())
    with EpisodeFile(path) as file:
        with pytest.raises(EpisodeError, match="no camera `rear`"):
            file.frames("rear")
        with pytest.raises(EpisodeError, match=r"no frames \[5, -1\]"):
            file.frames("head", [0, 5, -1])


# The older layout


def test_the_older_layouts_action_is_its_next_row(raw_path):
    episode = read_episode(raw_path)
    with h5py.File(raw_path) as file:
        joints = file["joint_action/vector"][()].astype(np.float32)
        left = file["endpose/left_endpose"][()].astype(np.float32)
    np.testing.assert_array_equal(episode.states, joints[:-1])
    np.testing.assert_array_equal(episode.actions, joints[1:])
    np.testing.assert_array_equal(episode.ee_poses[:, 0], left)
    assert episode.instructions == ("stack them",)
    assert episode.frequency is None
    assert set(episode.images) == {"head", "left_wrist", "right_wrist", "front"}
    np.testing.assert_array_equal(episode.image_steps, np.arange(4))
    np.testing.assert_allclose(episode.images["left_wrist"][3, 0, 0], (200, 60, 0), atol=4)


def test_the_older_layout_converts_to_the_current_one_once_its_rate_is_known(raw_path, path):
    episode = read_episode(raw_path)
    with pytest.raises(EpisodeError, match="frequency"):
        write_episode(path, episode)
    assert not path.exists()
    timed = replace(episode, frequency=15)
    write_episode(path, timed)
    assert_equal_episodes(read_episode(path), timed)


def test_the_older_layout_without_its_instructions_is_refused(raw_path):
    instructions = raw_path.parent.parent / "instructions" / "episode3.json"
    instructions.write_text('{"unseen": []}')
    with pytest.raises(EpisodeFormatError, match="seen"):
        read_episode(raw_path)
    instructions.unlink()
    with pytest.raises(EpisodeFormatError, match="instructions"):
        read_episode(raw_path)


def test_an_older_file_of_another_robot_or_of_one_row_is_refused(raw_path):
    for shape in ((4, 16), (1, 14)):
        with h5py.File(raw_path, "r+") as file:
            del file["joint_action/vector"]
            file["joint_action/vector"] = np.zeros(shape)
        with pytest.raises(EpisodeFormatError, match="vector"):
            read_episode(raw_path)


# Writing


def test_a_failed_write_leaves_the_older_file_and_no_draft(path, monkeypatch):
    episode = make_episode()
    write_episode(path, episode)

    def full(_image):
        raise OSError("no space left on device")

    monkeypatch.setattr(layouts, "encode_frame", full)
    with pytest.raises(OSError, match="no space"):
        write_episode(path, make_episode(steps=9))
    monkeypatch.undo()
    assert_equal_episodes(read_episode(path), episode)
    assert list(path.parent.iterdir()) == [path]


def test_writing_replaces_an_older_file(path):
    write_episode(path, make_episode(steps=3))
    write_episode(path, make_episode(steps=4))
    assert read_episode(path).steps == 4


def test_listing_follows_folders_and_numbers_and_refuses_nothing(tmp_path):
    with pytest.raises(EpisodeError, match="no episodes"):
        episode_files(tmp_path)
    names = ["b/episode2.hdf5", "b/episode10.hdf5", "a/episode_0000003.hdf5", "a/episode_0000011.hdf5"]
    for name in [*names, "a/.episode_0000001.hdf5.ab12.draft", "a/episodes.txt", "b/episode_x.hdf5"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert episode_files(tmp_path) == [tmp_path / name for name in [*names[2:], *names[:2]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": np.zeros((5, 13), np.float32)}, "states"),
        ({"states": np.zeros((5, 14))}, "float32"),
        ({"actions": np.zeros((4, 14), np.float32)}, "actions"),
        ({"actions": np.full((5, 14), np.nan, np.float32)}, "not finite"),
        ({"instructions": ()}, "instructions"),
        ({"instructions": ("",)}, "instructions"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": float("nan")}, "frequency"),
        ({"frequency": 16.7}, "frequency"),
        ({"ee_poses": np.zeros((5, 2, 7), np.float32)}, "ee_poses"),
        ({"frame_steps": np.array([0, 2, 1, 3, 4], np.int32)}, "ascend"),
        ({"frame_steps": np.array([1, 2, 3, 4, 6], np.int32)}, "ascend"),
        ({"frame_steps": np.array([0, 1], np.int32)}, "images"),
        ({"images": {"head": np.zeros((5, 8, 8, 4), np.uint8)}}, "images"),
        ({"images": {"../head": np.zeros((5, 8, 8, 3), np.uint8)}}, "name"),
        ({"extra": {"objects": np.array(["a"])}}, "numbers"),
    ],
)
def test_parts_that_do_not_fit_make_no_episode(change, message):
    with pytest.raises(EpisodeError, match=message):
        make_episode(**change)


def test_an_episode_without_steps_is_refused():
    with pytest.raises(EpisodeError, match="no steps"):
        Episode(states=np.zeros((0, 14), np.float32), actions=np.zeros((0, 14), np.float32), instructions=("x",))


def test_format_errors_are_caught_as_the_packages_and_as_value_errors():
    assert issubclass(EpisodeFormatError, RobotwinEnvError)
    assert issubclass(EpisodeFormatError, ValueError)


def test_an_episode_for_which_there_is_no_room_leaves_nothing_and_names_its_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))  # as full as a disk can be
    try:
        with pytest.raises(OSError, match=r"episode_0000000\.hdf5"):
            write_episode(tmp_path / "episode_0000000.hdf5", make_episode())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())

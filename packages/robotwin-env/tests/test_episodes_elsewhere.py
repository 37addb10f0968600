"""Episodes as other tools and other machines leave them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from robotwin_env.episodes import (
    CameraMatrices,
    Episode,
    EpisodeFile,
    EpisodeIndex,
    encode_frame,
    episode_files,
    episode_path,
    read_episode,
    write_episode,
)
from robotwin_env.errors import EpisodeError, EpisodeFormatError

RED = np.zeros((48, 64, 3), np.uint8) + np.array([220, 30, 0], np.uint8)
CAMERAS = ("head_camera", "left_camera", "right_camera", "front_camera")


def jpeg(picture, kind="JPEG", **options):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def raw_episode(root, number=0, *, rows=6, seen=("lift it",), frames=None):
    """An episode in RoboTwin's older layout, with its instructions beside it."""
    for folder in ("data", "instructions"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(number)
    path = root / "data" / f"episode{number}.hdf5"
    with h5py.File(path, "w") as file:
        file["joint_action/vector"] = generator.normal(size=(rows, 14))
        for camera in CAMERAS:
            data = frames or [encode_frame(RED)] * rows
            file.create_dataset(f"observation/{camera}/rgb", data=np.array(data, dtype=f"S{max(map(len, data))}"))
            file[f"observation/{camera}/intrinsic_cv"] = np.tile(INTRINSICS, (rows, 1, 1))
            file[f"observation/{camera}/extrinsic_cv"] = np.tile(EXTRINSICS, (rows, 1, 1))
    (root / "instructions" / f"episode{number}.json").write_text(json.dumps({"seen": list(seen), "unseen": []}))
    return path


INTRINSICS = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]], np.float32)
EXTRINSICS = np.array([[0, -1.0, 0, 0.25], [0, 0, -1, 1.5], [1, 0, 0, -2]], np.float32)
"""Of a camera at (2, 0.25, 1.5) that looks along the world's x, as OpenCV has it."""
IN_WORLD = np.array([[0, 0, -1.0, 2], [-1, 0, 0, 0.25], [0, 1, 0, 1.5], [0, 0, 0, 1]], np.float32)
"""The same camera as RoboTwin stores it: its x, y (up) and -z (ahead) in the world, and where it is."""


def small_episode(**changes):
    joints = np.linspace(0, 1, 5 * 14, dtype=np.float32).reshape(5, 14)
    given = {"states": joints[:-1], "actions": joints[1:], "instructions": ("go",), "frequency": 25, **changes}
    return Episode(**given)


# Pictures


@pytest.mark.parametrize("marked", [True, False])
def test_pictures_that_are_marked_as_conforming_are_not_exchanged(tmp_path, marked):
    stored = jpeg(RED, quality=95, comment=b"XPL-RGB1") if marked else encode_frame(RED)
    path = raw_episode(tmp_path / "task", frames=[stored] * 6)
    pictures = (
        read_episode(path).images["head"],
        EpisodeIndex.open(tmp_path).frames(0, "head", [0, 3]),
    )
    for picture in pictures:
        np.testing.assert_allclose(picture.mean(axis=(0, 1, 2)), [220, 30, 0], atol=3)


def odd_pictures():
    plain, inks = jpeg(RED), io.BytesIO()
    Image.new("CMYK", (64, 48)).save(inks, "JPEG")
    return {
        "grey": jpeg(RED[..., 0]),
        "inks": inks.getvalue(),
        "png": jpeg(RED, "PNG"),
        "cut": plain[:250],
        "small": jpeg(RED[:24, :32]),
        "empty": b"",
        "text": b"version https://git-lfs",
    }


@pytest.mark.parametrize("kind", odd_pictures())
def test_an_odd_picture_is_refused_by_file_camera_and_frame(tmp_path, kind):
    frames = [jpeg(RED)] * 6
    frames[2] = odd_pictures()[kind]
    path = raw_episode(tmp_path / "task", frames=frames)
    with pytest.raises(EpisodeFormatError, match=r"episode0\.hdf5: camera `\w+`, frame 2:"):
        read_episode(path)


def test_opening_a_file_decodes_nothing(tmp_path):
    path = episode_path(tmp_path, 0)
    write_episode(path, small_episode(images={name: np.stack([RED] * 4) for name in ("head", "left_wrist")}))
    with h5py.File(path, "r+") as file:
        file["vision/cam_left_wrist/colors"][0] = b"no picture"
    with EpisodeFile(path) as file:
        assert file.header.steps == 4
        assert file.frames("head", [1]).shape == (1, 48, 64, 3)
        with pytest.raises(EpisodeFormatError, match="`left_wrist`, frame 0"):
            file.frames("left_wrist", [3])
    with pytest.raises(EpisodeFormatError, match="`left_wrist`, frame 0"):
        EpisodeIndex.open(tmp_path)  # an index looks once


# Cameras


@pytest.mark.parametrize("layout", ["current", "older"])
def test_a_camera_keeps_its_name_and_its_matrices(tmp_path, layout):
    if layout == "older":
        path, frames = raw_episode(tmp_path / "task"), 6
    else:
        path, frames = episode_path(tmp_path, 0), 4
        poses = CameraMatrices(intrinsics=np.stack([INTRINSICS] * 4), extrinsics=np.stack([EXTRINSICS] * 4))
        names = ("head", "left_wrist", "right_wrist", "front")
        pictures = {name: np.stack([RED] * 4) for name in names}
        write_episode(path, small_episode(images=pictures, camera_matrices=dict.fromkeys(names, poses)))
        with h5py.File(path) as file:
            assert sorted(file["vision"]) == ["cam_head", "cam_left_wrist", "cam_right_wrist", "cam_third_view"]
            np.testing.assert_allclose(file["vision/cam_third_view/extrinsics_matrix"][2], IN_WORLD, atol=1e-6)
            np.testing.assert_array_equal(file["vision/cam_head/intrinsic_matrix"][0], INTRINSICS)
    episode = read_episode(path, cameras=("front", "head"))
    assert set(episode.images) == set(episode.camera_matrices) == {"front", "head"}
    for poses in episode.camera_matrices.values():
        np.testing.assert_allclose(poses.extrinsics, np.stack([EXTRINSICS] * frames), atol=1e-6)
        np.testing.assert_array_equal(poses.intrinsics, np.stack([INTRINSICS] * frames))
    ahead = np.array([5.0, 0.25, 1.5, 1.0])
    seen = INTRINSICS @ episode.camera_matrices["head"].extrinsics[0] @ ahead
    np.testing.assert_allclose(seen / seen[2], [32, 24, 1], atol=1e-4)  # the middle of the picture


def test_matrices_of_the_converter_are_read_and_odd_ones_refused(tmp_path):
    path = episode_path(tmp_path, 0)
    write_episode(path, small_episode(images={"head": np.stack([RED] * 4)}))
    with h5py.File(path, "r+") as file:
        file["vision/cam_head/intrinsic_matrix"] = np.stack([INTRINSICS] * 4)
        file["vision/cam_head/extrinsic_matrix"] = np.stack([IN_WORLD] * 4)
    np.testing.assert_allclose(read_episode(path).camera_matrices["head"].extrinsics[1], EXTRINSICS, atol=1e-6)
    with h5py.File(path, "r+") as file:
        file["vision/cam_head/extrinsic_matrix"][1] = 0.0
    with pytest.raises(EpisodeFormatError, match="`vision/cam_head/extrinsic_matrix` holds matrices that are no poses"):
        read_episode(path)


def test_a_file_says_how_many_steps_lie_between_frames(tmp_path):
    pictures = {"head": np.stack([RED] * 3)}
    write_episode(episode_path(tmp_path, 0), small_episode(images=pictures, frame_steps=np.array([0, 2, 4], np.int32)))
    with h5py.File(episode_path(tmp_path, 0)) as file:
        assert file["vision"].attrs["frame_stride"] == 2
    write_episode(episode_path(tmp_path, 1), small_episode(images={"head": np.stack([RED] * 4)}))
    with h5py.File(episode_path(tmp_path, 1)) as file:
        assert file["vision"].attrs["frame_stride"] == 1
        assert "frame_steps" not in file["additional_info"]  # RoboTwin's meaning
    uneven = small_episode(images=pictures, frame_steps=np.array([0, 1, 4], np.int32))
    write_episode(episode_path(tmp_path, 2), uneven)
    with h5py.File(episode_path(tmp_path, 2)) as file:
        assert file["vision"].attrs["frame_stride"] == 0


# Folders


def test_words_and_seeds_that_change_beside_the_data_are_read_again(tmp_path):
    raw_episode(tmp_path / "task", seen=("small block first",))
    (tmp_path / "task" / "seed.txt").write_text("7")
    first = EpisodeIndex.open(tmp_path)
    assert (first.instructions(0), first.entries[0].seed) == (("small block first",), 7)
    (tmp_path / "task" / "instructions" / "episode0.json").write_text(json.dumps({"seen": ["large block first"]}))
    again = EpisodeIndex.open(tmp_path)
    assert again.instructions(0) == ("large block first",)
    assert again.fingerprint != first.fingerprint
    (tmp_path / "task" / "seed.txt").write_text("12")
    assert EpisodeIndex.open(tmp_path).entries[0].seed == 12
    assert read_episode(tmp_path / "task" / "data" / "episode0.hdf5").seed == 12


def test_folders_that_are_links_are_followed_but_not_in_a_circle(tmp_path):
    root = tmp_path / "data"
    for place, task in ((root, "lift_pot"), (tmp_path / "disk2", "click_bell")):
        for number in range(2):
            raw_episode(place / task, number)
    (root / "click_bell").symlink_to(tmp_path / "disk2" / "click_bell")
    (root / "lift_pot" / "again").symlink_to(root)
    assert len(EpisodeIndex.open(root)) == 4
    (root / "lift_pot" / "data" / "episode7.hdf5").symlink_to(tmp_path / "gone.hdf5")
    with pytest.raises(EpisodeError, match=r"episode7\.hdf5 is a link to .*gone\.hdf5, which is gone"):
        episode_files(root)


def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path):
    raw_episode(tmp_path / os.fsdecode(b"t\xe2che"))
    with pytest.raises(EpisodeError, match=r"t\\udce2che' has a name that is not UTF-8"):
        EpisodeIndex.open(tmp_path)


WRITER = "import h5py, sys, time; f = h5py.File(sys.argv[1], 'r+'); print(1, flush=True); time.sleep(60)"


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    path = raw_episode(tmp_path / "task")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.read(1)
    try:
        with pytest.raises(EpisodeFormatError, match="another process has it open for writing; wait") as caught:
            read_episode(path)
    finally:
        writer.kill()
        writer.communicate()
    assert "record" not in str(caught.value)
    assert read_episode(path).steps == 5


@pytest.fixture
def shared():
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work):
    """Call `work` in a child process whom permissions bind, as they do not bind root; the text it returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            told = work()
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("home", ["writable", "missing"])
def test_a_folder_that_cannot_be_written_is_indexed_in_the_users_cache(shared, monkeypatch, home):
    data, cache = shared / "data", shared / "cache"
    raw_episode(data / "task")
    cache.mkdir()
    cache.chmod(0o777)
    data.chmod(0o555)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache if home == "writable" else "/nonexistent"))
    monkeypatch.setattr(tempfile, "tempdir", str(cache))

    def work():
        index = EpisodeIndex.open(data)
        assert index.statistics.action.count == 5
        return f"{len(index)} {index.frames(0, 'head', [2]).shape}"

    assert as_nobody(work) == as_nobody(work) == "1 (1, 48, 64, 3)"
    assert [path.name for path in data.iterdir()] == ["task"]
    (kept,) = (cache / "robotwin-env").iterdir()
    before = (kept / "episodes.json").stat().st_mtime_ns
    assert as_nobody(work) == "1 (1, 48, 64, 3)"
    assert (kept / "episodes.json").stat().st_mtime_ns == before


def test_an_index_that_lies_beside_read_only_data_is_used(shared, monkeypatch):
    data = shared / "data"
    raw_episode(data / "task")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    time.sleep(0.01)
    EpisodeIndex.open(data)
    for folder in (data / ".index", data):
        folder.chmod(0o555)
    assert as_nobody(lambda: str(EpisodeIndex.open(data).statistics.action.count)) == "5"
    raw_episode(data / "task", 1)  # now it is out of date, and no other place is left
    assert "name a folder for its index with `cache`" in as_nobody(lambda: str(len(EpisodeIndex.open(data))))


def test_a_user_without_a_home_or_a_temporary_folder_is_told_to_name_a_cache(shared, monkeypatch):
    data = shared / "data"
    raw_episode(data / "task")
    (data / ".index").write_text("a file where the index should be")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(data / ".index"))

    def nobody_has_no_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(nobody_has_no_home))
    with pytest.raises(EpisodeError, match="name a folder for its index with `cache`"):
        EpisodeIndex.open(data)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    assert len(EpisodeIndex.open(data)) == 1
    assert (shared / "robotwin-env").is_dir()


@pytest.mark.parametrize("noted", [b"\xff\xfe", "²".encode(), b"9" * 5000, b"-1", b""])
def test_a_note_of_seeds_that_says_nothing_is_no_seed(tmp_path, noted):
    raw_episode(tmp_path / "task")
    (tmp_path / "task" / "seed.txt").write_bytes(noted)
    assert EpisodeIndex.open(tmp_path).entries[0].seed is None


def test_an_episode_that_has_gone_is_named(tmp_path):
    path = raw_episode(tmp_path / "task")
    index = EpisodeIndex.open(tmp_path)
    path.unlink()
    with pytest.raises(EpisodeFormatError, match=f"{path.name} has gone since it was indexed"):
        index.frames(0, "head", [0])


def test_instructions_may_begin_with_a_byte_order_mark(tmp_path):
    path = raw_episode(tmp_path / "task")
    beside = path.parent.parent / "instructions" / f"{path.stem}.json"
    beside.write_bytes(b"\xef\xbb\xbf" + beside.read_bytes())
    assert EpisodeIndex.open(tmp_path).instructions(0)


def test_episodes_that_are_there_twice_are_told(tmp_path, caplog):
    raw_episode(tmp_path / "task", 0, frames=[jpeg(RED)] * 6)
    raw_episode(tmp_path / "task", 1)
    EpisodeIndex.open(tmp_path)
    assert not caplog.records
    shutil.copytree(tmp_path / "task", tmp_path / "task copy")
    EpisodeIndex.open(tmp_path)
    (record,) = caplog.records
    assert "2 of 4 episodes are there twice" in record.getMessage()
    assert "task/data/episode0.hdf5 and" in record.getMessage()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instructions": "press it"}, "at least one phrasing"),
        ({"instructions": ("press\0it",)}, "without a NUL"),
        ({"task": 3}, "`task` holds 3"),
        ({"task": "click\0bell"}, "without a NUL"),
        ({"seed": 2**64}, "`seed` is 18446744073709551616"),
        ({"frequency": 16.7}, "`frequency` is 16.7; it must be a whole number"),
        ({"images": {"head": np.zeros((4, 0, 0, 3), np.uint8)}}, "a pixel at least"),
        ({"extra": {"names": ["bell"]}}, "not an array of numbers"),
    ],
)
def test_what_no_file_can_hold_is_refused_before_it_is_written(changes, message):
    with pytest.raises(EpisodeError, match=message):
        small_episode(**changes)


def test_numbers_of_other_types_are_written_as_they_are_read(tmp_path):
    given = {"steps_per_second": 25, "seed": np.int64(3), "success": np.bool_(True)}
    write_episode(tmp_path / "episode.hdf5", small_episode(**given))
    with h5py.File(tmp_path / "episode.hdf5", "r+") as file:
        assert type(file.attrs["steps_per_second"]) is np.float64
        file.attrs["steps_per_second"] = 25  # as another writer may have it
    found = read_episode(tmp_path / "episode.hdf5")
    assert (found.steps_per_second, found.seed, found.success) == (25.0, 3, True)

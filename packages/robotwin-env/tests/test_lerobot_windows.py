"""LeRobot v3 data sets: written, read as windows, and loaded by LeRobot itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from robotwin_env import TabletopConfig, TabletopEnv
from robotwin_env.__main__ import main
from robotwin_env.episodes import (
    Episode,
    EpisodeIndex,
    EpisodeWindows,
    LeRobotIndex,
    LeRobotWindows,
    WindowLayout,
    episode_path,
    open_episodes,
    write_episode,
    write_lerobot,
)
from robotwin_env.episodes.lerobot import CAMERA_KEYS
from robotwin_env.errors import EpisodeError, EpisodeFormatError, MissingPackageError, WindowIndexError
from robotwin_env.tabletop.recording import record

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("av")

LAYOUT = WindowLayout(cameras=("head", "left_wrist"), future_frames=2, frame_stride=2, action_steps=4)
INSTALLED = importlib.util.find_spec("lerobot") is not None
needs_lerobot = pytest.mark.skipif(not INSTALLED, reason="needs the package `lerobot`")


def episode(number, steps, **changes):
    """States are `100 * number + step`, shades of red tell the step, the left wrist is green."""
    joints = np.full((steps + 1, 14), 100.0 * number, np.float32) + np.arange(steps + 1, dtype=np.float32)[:, None]
    head = np.zeros((steps, 24, 32, 3), np.uint8)
    head[..., 0] = 10 * np.arange(steps, dtype=np.uint8)[:, None, None]
    head[..., 2] = 200
    wrist = np.zeros((steps, 16, 16, 3), np.uint8)
    wrist[..., 1] = 100 + 10 * np.arange(steps, dtype=np.uint8)[:, None, None]
    made = Episode(
        states=joints[:-1],
        actions=joints[1:],
        instructions=(f"do {number % 2}", f"please do {number % 2}"),
        frequency=15,
        steps_per_second=250 / 15,
        images={"head": head, "left_wrist": wrist, "right_wrist": wrist},
        task="click_bell",
        seed=7 + number,
    )
    return replace(made, **changes)


@pytest.fixture(params=["video", "png"])
def data(request, tmp_path):
    """Three episodes of 6, 3 and 9 steps, and how far a colour may be off."""
    episodes = [episode(number, steps) for number, steps in enumerate((6, 3, 9))]
    root = write_lerobot(tmp_path / "set", episodes, pictures=request.param)
    return root, 6 if request.param == "video" else 0


def test_windows_are_those_of_robotwins_files(data, tmp_path):
    """The whole contract of `EpisodeWindows`, against the same episodes in RoboTwin's layout."""
    root, off = data
    for number, steps in enumerate((6, 3, 9)):
        write_episode(episode_path(tmp_path / "files", number), episode(number, steps))
    ours = EpisodeWindows(EpisodeIndex.open(tmp_path / "files"), LAYOUT)
    theirs = LeRobotWindows(root, LAYOUT)
    assert len(theirs) == len(ours) == 18
    every = np.arange(18)
    for name in ("states", "actions", "action_padding", "frame_padding", "frame_indices"):
        np.testing.assert_array_equal(getattr(theirs, name)(every), getattr(ours, name)(every))
    assert [part.tolist() for part in theirs.locate(every)] == [part.tolist() for part in ours.locate(every)]
    assert theirs.index.statistics == ours.index.statistics
    assert theirs.index.phrases == ours.index.phrases
    for number in (0, 5, 8, 17):
        left, right = theirs.read(number, phrasing=1), ours.read(number, phrasing=1)
        for field in ("instruction", "task", "episode", "step"):
            assert getattr(left, field) == getattr(right, field)
        for camera in LAYOUT.cameras:
            assert left.frames[camera].dtype == np.uint8
            np.testing.assert_allclose(left.frames[camera].astype(int), right.frames[camera].astype(int), atol=off + 6)
            np.testing.assert_array_equal(theirs.frames(number, camera), left.frames[camera])
    entries = theirs.index.entries
    assert [(entry.seed, entry.steps, entry.frame_every) for entry in entries] == [(7, 6, 1), (8, 3, 1), (9, 9, 1)]
    assert {entry.steps_per_second for entry in entries} == {250 / 15}
    with pytest.raises(WindowIndexError):
        theirs[18]


def test_a_frame_is_the_one_of_its_step(data):
    root, off = data
    index = LeRobotIndex.open(root)
    frames = index.frames(2, "head", [8, 0, 3, 3])
    assert frames.shape == (4, 24, 32, 3)
    reds = frames[:, 12, 16, 0].astype(int)
    np.testing.assert_allclose(reds, [80, 0, 30, 30], atol=off)
    for indices, told in (([9], "no frames"), ([-1], "no frames")):
        with pytest.raises(EpisodeError, match=told):
            index.frames(2, "head", indices)
    with pytest.raises(EpisodeError, match="no camera `front`"):
        index.frames(0, "front", [0])


def test_some_episodes_are_as_good_as_all(data):
    root, _ = data
    some = LeRobotIndex.open(root, episodes=[2, 0])
    assert [entry.seed for entry in some.entries] == [9, 7]
    assert some.states[[0, 9], 0].tolist() == [200.0, 0.0]
    assert some.fingerprint != LeRobotIndex.open(root).fingerprint
    np.testing.assert_array_equal(some.frames(1, "head", [4]), LeRobotIndex.open(root).frames(0, "head", [4]))
    with pytest.raises(EpisodeError, match=r"no episodes \[3\]; it has 3"):
        LeRobotIndex.open(root, episodes=[0, 3])
    copy = pickle.loads(pickle.dumps(some))
    np.testing.assert_array_equal(copy.frames(0, "head", [1]), some.frames(0, "head", [1]))


def test_the_nominal_rate_can_be_put_right(data):
    root, _ = data
    (root / "meta" / "robotwin_env.json").unlink()  # as of a data set that others wrote
    entry = LeRobotIndex.open(root).entries[0]
    assert (entry.steps_per_second, entry.seed) == (17.0, None)
    assert LeRobotIndex.open(root, steps_per_second=250 / 15).entries[0].steps_per_second == 250 / 15


def test_cameras_may_have_other_names(data):
    root, _ = data
    keys = {"front": "observation.images.cam_high"}
    assert set(LeRobotIndex.open(root, camera_keys=keys).entries[0].cameras) == {
        "front",
        "cam_left_wrist",
        "cam_right_wrist",
    }
    with pytest.raises(EpisodeError, match=r"no features \['observation.images.top'\]"):
        LeRobotIndex.open(root, camera_keys={"head": "observation.images.top"})
    with pytest.raises(EpisodeError, match="no camera `front`"):
        LeRobotWindows(root, replace(LAYOUT, cameras=("front",)))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "meta" / "info.json").unlink(), "no `meta/info.json`"),
        (lambda root: (root / "meta" / "info.json").write_text("{"), "no description"),
        (lambda root: edit(root, lambda info: info.update(codebase_version="v2.1")), "convert_dataset_v21_to_v30"),
        (
            lambda root: edit(root, lambda info: info["features"]["action"].update(shape=[7])),
            r"`action` has shape \(7,\); \(14,\) is needed",
        ),
        (lambda root: next(root.glob("meta/episodes/*/*.parquet")).unlink(), "was never finished"),
        (lambda root: next(root.glob("data/*/*.parquet")).write_bytes(b"PAR1"), r"file-000\.parquet cannot be read"),
    ],
)
def test_what_is_no_whole_data_set_is_refused_by_name(data, spoil, told):
    root, _ = data
    spoil(root)
    with pytest.raises((EpisodeError, EpisodeFormatError), match=told):
        LeRobotIndex.open(root)


def edit(root, change):
    info = json.loads((root / "meta" / "info.json").read_text())
    change(info)
    (root / "meta" / "info.json").write_text(json.dumps(info))


def column(place, name, values):
    def change(root):
        file = next(root.glob(place))
        table = parquet.read_table(file)
        others = table.remove_column(table.column_names.index(name))
        parquet.write_table(others if values is None else others.append_column(name, values(table[name])), file)

    return change


def each(change):
    return lambda found: pyarrow.array([change(value) for value in found.to_pylist()])


def info(**changes):
    def change(root):
        path = root / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


ROWS, LISTED = "data/*/*.parquet", "meta/episodes/*/*.parquet"
RAGGED = lambda found: pyarrow.array([[0.0] * 13, [0.0] * 15, *found.to_pylist()[2:]])  # noqa: E731


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (column(ROWS, "action", RAGGED), "`action` does not hold 14 finite numbers"),
        (column(ROWS, "action", each(lambda row: [1e30] * 14)), "`action` does not hold 14 finite numbers"),
        (column(ROWS, "action", each(lambda row: ["one"] * 14)), "`action` does not hold 14 finite numbers"),
        (column(ROWS, "action", each(lambda row: 1.0)), "`action` does not hold 14 finite numbers"),
        (column(LISTED, "length", None), "`meta` does not describe a whole LeRobot data set.*length"),
        (column(LISTED, "data/chunk_index", each(lambda _: None)), "`meta` does not describe"),
        (column(LISTED, "episode_index", each(lambda _: 0)), "lists episode 0 a second time"),
        (info(data_path="data/{shard}"), "`meta` does not describe.*shard"),
        (info(features={"observation.state": 3, "action": 3}), "`meta` does not describe"),
        (lambda root: (root / "meta/robotwin_env.json").write_text("[]"), "`meta` does not describe"),
        (
            lambda root: (root / "meta/robotwin_env.json").write_text('{"steps_per_second": NaN}'),
            "nan steps per second",
        ),
        (
            lambda root: (root / "meta/robotwin_env.json").write_text(
                '{"episodes": {"0": {"instructions": ["half \\ud83d"]}}}'
            ),
            "no UTF-8 text",
        ),
    ],
)
def test_a_damaged_data_set_is_refused_by_name(tmp_path, change, told):
    root = write_lerobot(tmp_path / "set", [episode(0, 3), episode(1, 3)], pictures="png")
    change(root)
    with pytest.raises(EpisodeError, match=told) as caught:
        LeRobotIndex.open(root)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("kind", [pyarrow.float64(), pyarrow.float16(), pyarrow.int64()])
def test_numbers_may_be_of_any_type(tmp_path, kind):
    root = write_lerobot(tmp_path / "set", [episode(0, 3)], pictures="png")
    expected = LeRobotIndex.open(root).actions
    column(ROWS, "action", lambda found: found.cast(pyarrow.list_(kind)))(root)
    assert np.array_equal(LeRobotIndex.open(root).actions, expected)


@pytest.mark.parametrize(
    ("cell", "told"), [(lambda cell: None, "does not decode"), (lambda cell: {"path": "a.png"}, "does not decode")]
)
def test_a_picture_that_is_not_there_is_refused_by_name(tmp_path, cell, told):
    root = write_lerobot(tmp_path / "set", [episode(0, 3)], pictures="png")
    stored = column(ROWS, CAMERA_KEYS["head"], each(lambda cell: cell["bytes"]))
    stored(root)
    assert LeRobotIndex.open(root).frames(0, "head", [1]).shape == (1, 24, 32, 3)
    column(ROWS, CAMERA_KEYS["head"], each(cell))(root)
    with pytest.raises(EpisodeFormatError, match=f"row 1 {told}"):
        LeRobotIndex.open(root).frames(0, "head", [1])


def test_a_video_that_is_cut_off_is_refused_by_name(tmp_path):
    root = write_lerobot(tmp_path / "set", [episode(0, 6)])
    path = next(root.glob("videos/observation.images.cam_high/*/*.mp4"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EpisodeFormatError, match=r"cam_high.*file-000\.mp4"):
        LeRobotIndex.open(root).frames(0, "head", [2])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"frame_steps": np.array([0, 2, 4], np.int32), "images": {}}, "collect with `--frame-stride 1`, or"),
        ({"frame_steps": np.array([0, 2, 3], np.int32), "images": {}}, r"steps \[0, 2, 3\].* of 6; .* evenly"),
        ({"frame_steps": np.array([0, 1, 2], np.int32), "images": {}}, "from the first step to the last"),
        ({"steps_per_second": 25.0}, "25 steps per second, the first has 16.67"),
        ({"images": {"head": np.zeros((6, 8, 8, 3), np.uint8)}}, "the first"),
    ],
)
def test_episodes_that_make_no_data_set_are_refused_and_nothing_is_left(tmp_path, other, told):
    with pytest.raises(EpisodeError, match=told):
        write_lerobot(tmp_path / "set", [episode(0, 6), episode(1, 6, **other)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(EpisodeError, match="no episodes"):
        write_lerobot(tmp_path / "set", [])
    (tmp_path / "set").mkdir()
    with pytest.raises(EpisodeError, match="exists"):
        write_lerobot(tmp_path / "set", [episode(0, 6)])


@pytest.mark.parametrize("steps", [5, 6])
def test_a_row_of_every_frame_has_the_command_in_force_at_the_next_one(tmp_path, steps):
    shown = np.arange(0, steps + 1, 2, dtype=np.int32)  # of six steps, the last frame shows the end
    greys = np.tile((10 * shown).astype(np.uint8)[:, None, None, None], (1, 16, 16, 3))
    sparse = episode(1, steps, frame_steps=shown, images={"head": greys})
    root = write_lerobot(tmp_path / "set", [sparse], pictures="png", rows="frames")
    index = LeRobotIndex.open(root)
    assert index.states[:, 0].tolist() == [100, 102, 104]
    assert index.actions[:, 0].tolist() == [102, 104, min(106, 100 + steps)]
    assert index.frames(0, "head", [0, 1, 2])[:, 0, 0, 0].tolist() == [0, 20, 40]
    assert (index.entries[0].steps_per_second, index.entries[0].seed) == (pytest.approx(250 / 30), 8)


@pytest.mark.sim
def test_what_the_collector_records_at_every_step_makes_a_data_set(tmp_path):
    env = TabletopEnv(TabletopConfig(task="click_bell", cameras=("head",), image_size=16))
    recorded = record(env, 0, noise=0.0, frame_stride=1)
    assert len(recorded.images["head"]) == recorded.steps + 1
    index = LeRobotIndex.open(write_lerobot(tmp_path / "set", [recorded], pictures="png"))
    np.testing.assert_array_equal(index.states, recorded.states)
    np.testing.assert_array_equal(index.actions, recorded.actions)
    last = recorded.steps - 1
    np.testing.assert_array_equal(index.frames(0, "head", [last])[0], recorded.images["head"][last])
    assert index.entries[0].steps_per_second == 25.0


def test_bytes_are_not_scaled_once_more(tmp_path):
    """A grey of 200 is 200, whatever LeRobot's own classes would make of it."""
    grey = {"head": np.full((3, 16, 16, 3), 200, np.uint8)}
    root = write_lerobot(tmp_path / "set", [episode(0, 3, images=grey)], pictures="png")
    window = LeRobotWindows(root, WindowLayout(cameras=("head",), future_frames=0, action_steps=2))[1]
    assert set(np.unique(window.frames["head"])) == {200}


def test_a_folder_of_either_kind_is_opened_by_what_is_in_it(data, tmp_path):
    root, _ = data
    write_episode(episode_path(tmp_path / "files", 0), episode(0, 6))
    for folder, kind, count in ((root, LeRobotIndex, 3), (tmp_path / "files", EpisodeIndex, 1)):
        opened = open_episodes(folder, cache=tmp_path / "cache")
        assert type(opened) is kind
        assert len(opened.entries) == count
        assert len(EpisodeWindows(opened, LAYOUT)) == len(opened.states)
    assert not (tmp_path / "files" / ".index").exists()


def test_an_open_data_set_gives_its_folder(data):
    root, _ = data

    class Dataset:
        pass

    opened = Dataset()
    with pytest.raises(EpisodeError, match="a Dataset has no `root`"):
        LeRobotWindows(opened, LAYOUT)
    opened.root = root
    assert len(LeRobotWindows(opened, LAYOUT)) == 18


def test_without_the_extra_the_error_says_what_to_install(data, monkeypatch):
    root, _ = data
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'robotwin-env\[lerobot\]'"):
        LeRobotIndex.open(root)


@needs_lerobot
def test_lerobot_loads_what_is_written_and_sees_the_same(data):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root, off = data
    loaded = LeRobotDataset("test/boxes", root=root)
    assert (loaded.num_episodes, loaded.num_frames, loaded.fps) == (3, 18, 17)
    index = LeRobotIndex.open(root)
    for row in (0, 7, 17):
        item = loaded[row]
        np.testing.assert_array_equal(np.asarray(item["observation.state"]), index.states[row])
        np.testing.assert_array_equal(np.asarray(item["action"]), index.actions[row])
        number, frame = int(item["episode_index"]), int(item["frame_index"])
        assert item["task"] == index.instructions(number)[0]
        seen = np.asarray(item["observation.images.cam_high"]).transpose(1, 2, 0) * 255
        np.testing.assert_allclose(seen, index.frames(number, "head", [frame])[0].astype(float), atol=1 + off)
    stats = loaded.meta.stats
    np.testing.assert_allclose(stats["action"]["mean"], index.statistics.action.mean, rtol=1e-6)
    assert stats["observation.images.cam_high"]["mean"].shape == (3, 1, 1)


@needs_lerobot
@pytest.mark.parametrize("videos", [True, False])
def test_what_lerobot_writes_is_read(tmp_path, videos):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (14,), "names": None}
    picture = {"dtype": "video" if videos else "image", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, "observation.images.cam_high": picture}
    dataset = LeRobotDataset.create("test/boxes", 15, features, root=tmp_path / "set", use_videos=videos)
    for number, length in enumerate((6, 3)):
        for step in range(length):
            state = np.full(14, 100 * number + step, np.float32)
            image = np.full((64, 96, 3), (20 * step, 0, 200), np.uint8)
            task = f"do {number}"
            dataset.add_frame(
                {"observation.state": state, "action": state + 1, "observation.images.cam_high": image, "task": task}
            )
        dataset.save_episode()
    dataset.finalize()
    windows = LeRobotWindows(tmp_path / "set", WindowLayout(cameras=("head",), future_frames=1, frame_stride=2))
    assert len(windows) == 9
    window = windows[7]
    assert (window.episode, window.step, window.instruction) == (1, 1, "do 1")
    assert window.state[0] == 101
    reds = [int(windows[number].frames["head"][0, 32, 48, 0]) for number in range(9)]
    np.testing.assert_allclose(reds, [0, 20, 40, 60, 80, 100, 0, 20, 40], atol=8)


def test_the_command_exports_a_folder_of_demonstrations(tmp_path, capsys):
    for number, steps in enumerate((6, 3)):
        write_episode(episode_path(tmp_path / "files", number), episode(number, steps))
    assert main(["export-lerobot", str(tmp_path / "files"), str(tmp_path / "set"), "--pictures", "png"]) == 0
    assert "2 episodes" in capsys.readouterr().out
    assert len(open_episodes(tmp_path / "set")) == 2
    sparse = {"frame_steps": np.array([0, 3], np.int32), "images": {"head": np.zeros((2, 16, 16, 3), np.uint8)}}
    write_episode(episode_path(tmp_path / "sparse", 0), episode(0, 6, **sparse))
    assert main(["export-lerobot", str(tmp_path / "sparse"), str(tmp_path / "frames")]) == 1
    assert "`export-lerobot --rows frames`" in capsys.readouterr().err
    assert main(["export-lerobot", str(tmp_path / "sparse"), str(tmp_path / "frames"), "--rows", "frames"]) == 0
    assert main(["export-lerobot", str(tmp_path / "nothing"), str(tmp_path / "other")]) == 1
    assert "no episodes below" in capsys.readouterr().err

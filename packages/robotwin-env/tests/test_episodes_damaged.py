"""Files that were cut off, come from elsewhere or were tampered with: each is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import resource
from contextlib import suppress

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robotwin_env.episodes import (
    Episode,
    EpisodeIndex,
    EpisodeWindows,
    WindowLayout,
    encode_frame,
    read_episode,
    write_episode,
)
from robotwin_env.errors import EpisodeError, EpisodeFormatError


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "episode_0000000.hdf5"
    joints = np.linspace(0, 1, 5 * 14, dtype=np.float32).reshape(5, 14)
    frame = np.broadcast_to(np.array((220, 30, 10), np.uint8), (12, 16, 3))
    write_episode(
        made,
        Episode(
            states=joints[:-1],
            actions=joints[1:],
            instructions=("press the bell",),
            frequency=25,
            images={"head": np.stack([frame] * 4)},
            task="click_bell",
            seed=1,
            success=True,
            extra={"object_bell": np.zeros((5, 7))},
        ),
    )
    return made


def store(place, value):
    def change(file):
        if place in file:
            del file[place]
        file[place] = value

    return change


def drop(place):
    def change(file):
        del file[place]

    return change


def attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def jpegs(frames):
    return np.array(frames, dtype=f"S{max(map(len, frames))}")


def frame(color=(220, 30, 10), size=(12, 16)):
    return np.broadcast_to(np.array(color, np.uint8), (*size, 3))


def plain_jpeg(image, mode="RGB"):
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def link_outside(file):
    del file["extra/object_bell"]
    file["extra/object_bell"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file):
    del file["state/left_arm_joint_states"]
    file["state/left_arm_joint_states"] = h5py.SoftLink("/state/right_arm_joint_states")


def data_outside(file):
    del file["extra/object_bell"]
    file["extra"].create_dataset("object_bell", (7,), "f4", external=[("/etc/hostname", 0, 28)])


def virtual(file):
    del file["extra/object_bell"]
    layout = h5py.VirtualLayout((7,), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "data", (7,))
    file["extra"].create_virtual_dataset("object_bell", layout)


def huge(file):
    del file["state/left_arm_joint_states"]
    file["state"].create_dataset("left_arm_joint_states", (10**12, 6), "f4", chunks=(64, 6))


def empty_tables(file):
    for group in ("state", "action"):
        for name in list(file[group]):
            width = file[f"{group}/{name}"].shape[1]
            store(f"{group}/{name}", np.zeros((0, width), "f4"))(file)
    drop("vision")(file)


def group_for_table(file):
    del file["state/left_arm_joint_states"]
    file.create_group("state/left_arm_joint_states")


def exchange_states_and_actions(file):
    file.move("state", "held")
    file.move("action", "state")
    file.move("held", "action")


def actions_of_their_own_rows(file):
    for name in list(file["action"]):
        store(f"action/{name}", file[f"state/{name}"][()])(file)


DAMAGES = {
    "states and actions exchanged": (exchange_states_and_actions, "are exchanged"),
    "actions that are their own rows' states": (actions_of_their_own_rows, "--same_index_action"),
    "an empty phrasing, as RoboTwin writes without instructions": (store("instructions", '[""]'), "at least one"),
    "a phrasing of blanks": (store("instructions", '["press it", "  "]'), "at least one"),
    "a joint that is no number": (store("action/right_ee_joint_states", np.full((4, 1), np.nan, "f4")), "not finite"),
    "a joint beyond any robot's": (store("state/left_arm_joint_states", np.full((4, 6), 1e30, "f4")), "1e\\+30"),
    "a joint beyond float32": (store("state/left_arm_joint_states", np.full((4, 6), 1e300)), "too large for float32"),
    "half of an emoji": (store("instructions", '["press \\ud83d"]'), "no UTF-8 text"),
    "JSON without end": (store("instructions", "[" * 100_000), "not JSON"),
    "a task's name of another system": (attribute("task", b"t\xe2che"), "`task` holds"),
    "a rate of nothing": (attribute("steps_per_second", 0.0), "steps_per_second"),
    "a rate in letters": (attribute("steps_per_second", "fast"), "steps_per_second"),
    "no steps": (empty_tables, "no steps"),
    "a group for a table": (group_for_table, "is a group"),
    "a newer version": (store("data_format_version", "v9.9"), "v9.9"),
    "a version that is a number": (store("data_format_version", 1), "data_format_version"),
    "a missing table": (drop("action/right_arm_joint_states"), "action/right_arm_joint_states"),
    "a missing group": (drop("state"), "state/left_arm_joint_states"),
    "seven joints": (store("state/left_arm_joint_states", np.zeros((4, 7), "f4")), "must be \\(steps, 6\\)"),
    "a flat table": (store("action/left_ee_joint_states", np.zeros(4, "f4")), "dimensions"),
    "whole numbers for joints": (store("state/left_arm_joint_states", np.zeros((4, 6), "i4")), "type int32"),
    "a short table": (store("state/left_arm_joint_states", np.zeros((3, 6), "f4")), "rows"),
    "an infinite joint": (store("state/left_arm_joint_states", np.full((4, 6), np.inf, "f4")), "not finite"),
    "no instructions": (drop("instructions"), "instructions"),
    "instructions that are not JSON": (store("instructions", "press the bell"), "not JSON"),
    "instructions that are not a list": (store("instructions", '{"seen": 1}'), "JSON list"),
    "an empty list of instructions": (store("instructions", "[]"), "JSON list"),
    "a frequency of nothing": (store("additional_info/frequency", np.int32(0)), "1 Hz"),
    "a frequency in letters": (store("additional_info/frequency", "fast"), "frequency"),
    "frames out of order": (store("additional_info/frame_steps", np.array([0, 2, 1, 3], "i4")), "ascend"),
    "frames past the end": (store("additional_info/frame_steps", np.array([0, 1, 2, 5], "i4")), "ascend"),
    "a frame too many": (store("vision/cam_head/colors", jpegs([encode_frame(frame())] * 5)), "5 frames; 4"),
    "a camera without a shape": (drop("vision/cam_head/shape"), "vision/cam_head/shape"),
    "a shape of two numbers": (store("vision/cam_head/shape", np.array([12, 16], "i4")), "height, width, 3"),
    "raw pixels for JPEGs": (store("vision/cam_head/colors", np.zeros((4, 12, 16, 3), "u1")), "vision/cam_head/colors"),
    "frames of another size": (
        store("vision/cam_head/colors", jpegs([encode_frame(frame(size=(8, 8)))] * 4)),
        "8x8",
    ),
    "a shape that lies": (store("vision/cam_head/shape", np.array([16, 12, 3], "i4")), "12x16"),
    "a frame cut off": (store("vision/cam_head/colors", jpegs([encode_frame(frame())[:-200]] * 4)), "do not decode"),
    "a PNG": (store("vision/cam_head/colors", jpegs([b"\x89PNG\r\n\x1a\n" + b"x" * 50] * 4)), "do not decode"),
    "a grey frame": (store("vision/cam_head/colors", jpegs([plain_jpeg(frame(), "L")] * 4)), "mode L"),
    "colours exchanged": (store("vision/cam_head/colors", jpegs([plain_jpeg(frame())] * 4)), "exchanged"),
    "another picture": (
        store("vision/cam_head/colors", jpegs([encode_frame(frame((5, 200, 90)))] * 4)),
        "mean colour",
    ),
    "a pickle among the extras": (store("extra/objects", np.void(pickle.dumps([1]))), "extra/objects"),
    "a seed in letters": (attribute("seed", "one"), "seed"),
    "a success of 2": (attribute("success", 2), "success"),
    "a link to another file": (link_outside, "link"),
    "a soft link": (soft_link, "link"),
    "data in another file": (data_outside, "another file"),
    "a virtual dataset": (virtual, "another file"),
    "a size that would fill the memory": (huge, "claims"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_its_name_and_place(path, damage):
    change, message = DAMAGES[damage]
    read_episode(path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(EpisodeFormatError, match=message) as caught:
        read_episode(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def raw_path(tmp_path):
    """A file of the older layout with four rows."""
    made = tmp_path / "task" / "demo" / "data" / "episode3.hdf5"
    for folder in (made.parent, made.parent.parent / "instructions"):
        folder.mkdir(parents=True)
    (made.parent.parent / "instructions" / "episode3.json").write_text('{"seen": ["stack them"]}')
    with h5py.File(made, "w") as file:
        file["joint_action/vector"] = np.linspace(0, 1, 4 * 14).reshape(4, 14)
        file["endpose/left_endpose"] = np.zeros((4, 7))
        file["endpose/right_endpose"] = np.zeros((4, 7))
        file["observation/head_camera/rgb"] = jpegs([encode_frame(frame())] * 4)
    return made


RAW_DAMAGES = {
    "no joints": (drop("joint_action/vector"), "`joint_action/vector` is missing"),
    "another robot": (store("joint_action/vector", np.zeros((4, 16))), r"must be \(steps, 14\)"),
    "a joint that is no number": (store("joint_action/vector", np.full((4, 14), np.nan)), "not finite"),
    "one row": (store("joint_action/vector", np.zeros((1, 14))), "needs the next row"),
    "a pose of six numbers": (store("endpose/right_endpose", np.zeros((4, 6))), r"must be \(steps, 7\)"),
    "a short table of poses": (store("endpose/left_endpose", np.zeros((3, 7))), "rows"),
    "a frame missing": (store("observation/head_camera/rgb", jpegs([encode_frame(frame())] * 3)), "3 frames; 4"),
    "raw pixels for JPEGs": (store("observation/head_camera/rgb", np.zeros((4, 12, 16, 3), "u1")), "head_camera/rgb"),
    "a frame cut off": (
        store("observation/head_camera/rgb", jpegs([encode_frame(frame())[:-200]] * 4)),
        "do not decode",
    ),
    "frames of two sizes": (
        store("observation/head_camera/rgb", jpegs([encode_frame(frame(size=size)) for size in [(8, 8), (8, 4)] * 2])),
        "8x4",
    ),
    "a table of letters": (store("joint_action/vector", np.full((4, 14), b"x")), "must hold floating-point"),
}


@pytest.mark.parametrize("damage", RAW_DAMAGES)
def test_a_damaged_file_of_the_older_layout_is_refused_by_its_name_and_place(raw_path, damage):
    change, message = RAW_DAMAGES[damage]
    read_episode(raw_path)
    with h5py.File(raw_path, "r+") as file:
        change(file)
    with pytest.raises(EpisodeFormatError, match=message) as caught:
        read_episode(raw_path)
    assert str(raw_path) in str(caught.value)


@pytest.mark.parametrize("damage", [*DAMAGES, *(f"raw: {name}" for name in RAW_DAMAGES)])
def test_a_damaged_file_makes_no_window(path, raw_path, damage):
    raw = damage.startswith("raw: ")
    damaged = raw_path if raw else path
    change, message = RAW_DAMAGES[damage.removeprefix("raw: ")] if raw else DAMAGES[damage]
    (path if raw else raw_path).unlink()
    with h5py.File(damaged, "r+") as file:
        change(file)
    layout = WindowLayout(cameras=("head",), future_frames=1, frame_stride=1, action_steps=2)
    with pytest.raises(EpisodeError, match=message) as caught:  # noqa: PT012  (which of the three notices, depends)
        windows = EpisodeWindows(EpisodeIndex.open(damaged.parent), layout)
        for window in windows:
            assert window.state.shape == (14,)
    assert damaged.name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", pickle.dumps({"states": [1]}), b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_no_hdf5_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(EpisodeFormatError, match="not a readable HDF5 file"):
        read_episode(path)


def test_an_hdf5_file_of_something_else_is_refused_with_what_it_holds(path):
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(EpisodeFormatError, match=r"\['weights'\]"):
        read_episode(path)


def test_a_pipe_is_not_waited_for(path):
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(EpisodeFormatError, match="no file, but a folder, pipe"):
        read_episode(path)


def test_a_refusal_of_the_system_is_not_the_files_fault(path):
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(least, 256), most))
    try:
        with suppress(OSError):
            while True:
                held.append(path.open("rb"))
        with pytest.raises(EpisodeFormatError, match=r"Too many open files.*`ulimit -n`"):
            read_episode(path)
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
    assert read_episode(path).steps == 4


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_episode(tmp_path / "episode_0000009.hdf5")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0.0, 0.999))
def test_a_file_cut_off_anywhere_is_refused(path, tmp_path, kept):
    whole = path.read_bytes()
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(EpisodeFormatError, match=r"cut\.hdf5"):
        read_episode(cut)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0.0, 0.999), junk=st.binary(min_size=1, max_size=64))
def test_damaged_bytes_give_an_episode_or_a_format_error_and_nothing_else(path, tmp_path, place, junk):
    data = bytearray(path.read_bytes())
    start = int(place * len(data))
    data[start : start + len(junk)] = junk
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(data)
    try:
        episode = read_episode(damaged)
    except EpisodeFormatError:
        return
    assert episode.states.shape == episode.actions.shape == (4, 14)

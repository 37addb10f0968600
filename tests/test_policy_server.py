"""A policy server with a stand-in for the policy: the wire, its two dialects, who may enter, and how it lives on."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from noisegate_apps.runs.errors import RunError
from noisegate_apps.serving.acting import Acted
from noisegate_apps.serving.client import ChunkBroker, PolicyClient, PolicyServerError
from noisegate_apps.serving.config import ServeConfig
from noisegate_apps.serving.observation import Needs
from noisegate_apps.serving.server import doors_of
from noisegate_apps.serving.wire import DTYPES, RequestError, pack, unpack
from robotwin_env.episodes import encode_frame

APPS = Path(__file__).parents[1] / "apps"


def openpi(data, dtype, shape):
    return msgpack.packb({"x": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}})


def numpy_marker(data, dtype, shape, kind=b""):
    return msgpack.packb({"x": {b"nd": True, b"type": dtype, b"kind": kind, b"shape": shape, b"data": data}})


def nested(levels):
    message = {"x": 1}
    for _ in range(levels):
        message = {"x": message}
    return msgpack.packb(message)


FRAMES = {
    "object array": openpi(struct.pack("<Q", 0x4141414141414141) * 4, "|O", [4]),
    "object array, openpi, lower": openpi(b"\0" * 8, "O", [1]),
    "void array": openpi(b"\0" * 8, "|V8", [1]),
    "structured array": openpi(b"\0" * 8, "i4,i4", [1]),
    "complex array": openpi(b"\0" * 16, "<c16", [1]),
    "dates": openpi(b"\0" * 8, "<M8[s]", [1]),
    "text array": openpi(b"\0" * 8, "<U2", [1]),
    "big endian": openpi(b"\0" * 8, ">f8", [1]),
    "a type that is a list": openpi(b"\0" * 8, [["a", "O"]], [1]),
    "pickle": numpy_marker(pickle.dumps([1]), "O", [1], kind=b"O"),
    "structured, msgpack-numpy": numpy_marker(b"\0" * 8, "<i4", [2], kind=b"V"),
    "scalar of objects": msgpack.packb({"x": {b"__npgeneric__": True, b"data": 1, b"dtype": "O"}}),
    "scalar of text": msgpack.packb({"x": {b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}}),
    "scalar too large": msgpack.packb({"x": {b"__npgeneric__": True, b"data": 2**40, b"dtype": "|u1"}}),
    "too little data": openpi(b"\0" * 7, "<f4", [2]),
    "too much data": openpi(b"\0" * 9, "<f4", [2]),
    "negative size": openpi(b"\0" * 8, "<f4", [-1, -2]),
    "sizes that overflow": openpi(b"", "|u1", [2**62, 4, 2**62]),
    "sizes that are flags": openpi(b"\0", "|u1", [True]),
    "sizes that are fractions": openpi(b"\0", "|u1", [1.0]),
    "shape of five": openpi(b"\0", "|u1", [1] * 5),
    "no shape": msgpack.packb({"x": {b"__ndarray__": True, b"data": b"", b"dtype": "|u1"}}),
    "data that is text": openpi("aaaa", "|u1", [4]),
    "nested 9 deep": nested(8),
    "nested 400 deep": nested(400),
    "nested 3000 deep": b"\x91" * 3000 + b"\xc0",
    "a list of too many": b"\xdd\x00\x0f\xff\xff" + b"\xc0" * 0xFFFFF,
    "a list that claims billions": b"\xdd\xff\xff\xff\xff",
    "a map that claims billions": b"\xdf\xff\xff\xff\xff",
    "bytes that claim gigabytes": b"\xc6\xff\xff\xff\xff",
    "text too long": msgpack.packb({"x": "a" * 70_000}),
    "bytes too long": msgpack.packb({"x": bytes(33 << 20)}),
    "extension": msgpack.packb({"x": msgpack.ExtType(4, b"abc")}),
    "time stamp": msgpack.packb({"x": msgpack.Timestamp(1)}),
    "keys that are numbers": msgpack.packb({1: 2}),
    "keys that are bytes": msgpack.packb({b"nothing": 2}),
    "text that is no UTF-8": b"\x81\xa1x\xa2\xff\xfe",
    "cut off": msgpack.packb({"x": [1, 2, 3]})[:-1],
    "two messages": msgpack.packb({}) * 2,
    "nothing": b"",
    "reserved byte": b"\xc1",
}
"""Name to a frame that is no message."""


numbers = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
# A double is a plain number on the wire, in openpi's client too; of a NaN, the bits beside are not kept.
scalars = numbers.filter(lambda array: array.size > 0 and array.dtype != np.float64 and not (array != array).any()).map(
    lambda array: array.reshape(-1)[0]
)
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
messages = st.recursive(
    leaves | numbers | scalars,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


def same(first, second):
    if isinstance(first, np.ndarray | np.generic):
        return (
            type(first) is type(second)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and (first == second or (first != first and second != second))


def depth(message):
    inside = message.values() if isinstance(message, dict) else message if isinstance(message, list) else ()
    return (isinstance(message, dict | list)) + max(map(depth, inside), default=0)


@settings(max_examples=50)
@given(messages.filter(lambda message: depth(message) <= 8), st.sampled_from(["openpi", "msgpack-numpy"]))
def test_what_is_sent_comes_back_bit_for_bit(message, marker):
    assert same(message, unpack(pack(message, marker)))


def refused_or_read(data):
    """Whether bytes are refused; anything but a refusal or a message fails the test that asks."""
    try:
        unpack(data)
    except RequestError as error:
        return "\n" not in str(error)
    return True


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    assert refused_or_read(data)


@settings(max_examples=50)
@given(messages, st.data())
def test_a_message_with_a_byte_changed_is_a_message_or_refused(message, data):
    raw = bytearray(pack(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert refused_or_read(bytes(raw))


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_hostile_frame_is_refused_in_one_line(frame):
    with pytest.raises(RequestError) as refused:
        unpack(frame)
    assert str(refused.value).startswith("bad_frame: ")
    assert "\n" not in str(refused.value)


def test_a_peers_array_is_ones_own_to_change():
    found = unpack(pack({"a": np.zeros(3, np.float32)}))["a"]
    found += 1
    assert found.tolist() == [1, 1, 1]


def test_any_byte_of_a_flag_but_0_is_true():
    flags = {b"__ndarray__": True, b"data": b"\x00\x01\x02\xff", b"dtype": "|b1", b"shape": [4]}
    found = unpack(msgpack.packb(flags))
    assert found.tolist() == [False, True, True, True]
    assert found.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_big_endian_arrays_are_sent_in_the_order_that_peers_read():
    assert unpack(pack(np.array([1, 2], ">f4"))).tolist() == [1, 2]


@pytest.mark.parametrize("value", [np.array([None]), np.zeros(2, complex), np.array(["a"]), {1, 2}, object()])
def test_what_no_peer_could_read_is_not_sent(value):
    with pytest.raises(TypeError):
        pack({"x": value})


def test_the_client_needs_numpy_msgpack_and_websockets_alone():
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(APPS)!r})\n"
        "import noisegate_apps.serving.client\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "allowed = set(sys.stdlib_module_names) | {'numpy', 'msgpack', 'websockets', 'noisegate_apps'}\n"
        "import importlib.metadata as m\n"
        "print(sorted(top for top in tops - allowed if top in set(m.packages_distributions()) - {'_distutils_hack'}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


H, D = 6, 14
NEEDS = Needs(cameras=("head", "left_wrist", "right_wrist"), state_dim=D, picture=(64, 64))
PICTURE = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
OBSERVATION = {
    "head": PICTURE,
    "left_wrist": PICTURE,
    "right_wrist": PICTURE,
    "state": np.arange(D, dtype=np.float32),
    "prompt": "ring the bell",
}


class Standin:
    """Acts at once, or after a while, and says in its actions what it was given."""

    def __init__(self, seconds=0.0, fails=False):
        self.needs = NEEDS
        self.metadata = {"server": "noisegate", "action_horizon": H, "image_resolution": [64, 64]}
        self.seconds = seconds
        self.fails = fails
        self.running = 0
        self.seen = []

    def act(self, asked, *, seed, chunk, options):
        self.running += 1
        assert self.running == 1, "two inferences at once"
        time.sleep(self.seconds)
        self.running -= 1
        if self.fails:
            raise ZeroDivisionError("a secret /path")
        self.seen.append(asked)
        actions = np.tile(asked.observation["state"], (H, 1)).astype(np.float32)
        actions[:, 0], actions[:, 1], actions[:, 2] = seed, chunk, np.arange(H)
        extras = {"schedule": [[1.0, 1.0], [0.5, 1.0]]} if options.schedule else {}
        return Acted(actions=actions[: options.action_horizon], timing={"infer_ms": 1.0}, extras=extras)


def raw(url, **options):
    """A connection of which nothing is ours but the protocol: openpi's frames, written by hand."""
    return connect(url, compression=None, max_size=None, proxy=None, **options)


def test_a_client_written_from_the_wire_format_alone_is_answered(policy_server):
    server = policy_server(Standin())
    with raw(server.url) as socket:
        assert msgpack.unpackb(socket.recv())["action_horizon"] == H  # the server speaks first
        state = {b"__ndarray__": True, b"data": bytes(4 * D), b"dtype": "<f4", b"shape": [D]}
        picture = {b"__ndarray__": True, b"data": bytes(3 * 64 * 64), b"dtype": "|u1", b"shape": [3, 64, 64]}
        cameras = dict.fromkeys(("cam_high", "cam_left_wrist", "cam_right_wrist"), picture)
        socket.send(msgpack.packb({"state": state, "images": cameras, "prompt": "x"}))
        reply = msgpack.unpackb(socket.recv())
        assert reply["actions"][b"shape"] == [H, D]
        assert reply["actions"][b"dtype"] == "<f4"
        assert {"infer_ms", "queue_ms"} <= set(reply["server_timing"])
        socket.send("text")
        assert socket.recv().startswith("bad_frame: ")
        socket.send(msgpack.packb({"endpoint": "reset"}))
        assert msgpack.unpackb(socket.recv()) == {"status": "reset successful"}


def test_arrays_of_a_reply_all_have_the_horizon_first_so_that_openpis_broker_can_slice_them(policy_server):
    client = PolicyClient(policy_server(Standin()).url)
    reply = client.infer(OBSERVATION, options={"return": ["schedule"], "action_horizon": 4})
    assert {name for name, value in reply.items() if isinstance(value, np.ndarray)} == {"actions"}
    assert len(reply["actions"]) == 4
    assert reply["schedule"] == [[1.0, 1.0], [0.5, 1.0]]
    client.close()


@pytest.mark.parametrize(
    "names",
    [
        {"head": "observation.images.head", "left_wrist": "observation.images.left_wrist",
         "right_wrist": "observation.images.right_wrist", "state": "observation.state", "prompt": "task"},
        {"head": "observation/exterior_image_0_left", "left_wrist": "observation/wrist_image_left",
         "right_wrist": "observation/wrist_image_right", "state": "observation/state"},
    ],
    ids=["lerobot", "flat"],
)  # fmt: skip
def test_other_conventions_names_reach_the_same_policy(policy_server, names):
    acting = Standin()
    client = PolicyClient(policy_server(acting).url)
    client.infer(OBSERVATION)
    client.infer({names.get(name, name): value for name, value in OBSERVATION.items()})
    client.infer({**OBSERVATION, "observation/exterior_image_1_right": PICTURE})  # a camera that is not looked at
    first, *others = acting.seen
    for other in others:
        assert other.prompt == first.prompt
        assert all(np.array_equal(other.observation[name], first.observation[name]) for name in first.observation)
    client.close()


def test_joints_and_gripper_make_a_state_and_pictures_are_brought_to_the_policys_size(policy_server):
    acting = Standin()
    client = PolicyClient(policy_server(acting).url)
    parts = {"observation/joint_position": np.arange(13.0), "observation/gripper_position": np.array([13.0])}
    cameras = {name: np.full((240, 320, 3), 7, np.uint8) for name in NEEDS.cameras}
    client.infer({**cameras, **parts, "prompt": "x"})
    (seen,) = acting.seen
    assert seen.observation["state"].tolist() == list(range(14))
    assert seen.observation["head"].shape == (64, 64, 3)
    assert (seen.observation["head"] == 7).all()
    client.close()


BAD = {
    "a camera is missing": {"head": None},
    "a picture of floats": {"head": np.zeros((64, 64, 3))},
    "a picture too large": {"head": np.zeros((2049, 16, 3), np.uint8)},
    "a picture too small": {"head": np.zeros((15, 64, 3), np.uint8)},
    "a picture twice": {"cam_high": PICTURE},
    "a state of another width": {"state": np.zeros(7)},
    "a state of NaN": {"state": np.full(14, np.nan)},
    "a state that overflows": {"state": np.full(14, 1e300)},
    "no state": {"state": None},
    "no prompt": {"prompt": None},
    "an empty prompt": {"prompt": " "},
    "a long prompt": {"prompt": "a" * 2001},
    "an unknown key": {"reward": 1.0},
    "an unknown camera": {"images": {"cam_tail": PICTURE}},
    "an unknown option": {"options": {"speed": 3}},
    "an option of text": {"options": {"num_steps": "3"}},
    "an unknown endpoint": {"endpoint": "kill"},
    "a seed of text": {"seed": "1"},
    "a negative seed": {"seed": -1},
    "a session of bytes": {"session_id": b"x"},
    "a long session": {"session_id": "x" * 129},
}


def test_every_bad_request_is_refused_in_one_line_and_the_connection_stands(policy_server):
    client = PolicyClient(policy_server(Standin()).url)
    for what, change in BAD.items():
        request = {name: value for name, value in {**OBSERVATION, **change}.items() if value is not None}
        with pytest.raises(PolicyServerError, match=r"^bad_(frame|observation): ") as refused:
            client.infer(request)
        assert "\n" not in str(refused.value), what
        assert len(str(refused.value)) < 500, what
    assert client.infer(OBSERVATION)["actions"].shape == (H, D)
    client.close()


def test_the_server_survives_every_hostile_frame_on_both_ports(policy_server):
    server = policy_server(Standin())
    with raw(server.url) as socket:
        socket.recv()
        for name, frame in FRAMES.items():
            socket.send(frame)
            assert socket.recv().startswith("bad_frame: "), name
        socket.send(pack(OBSERVATION))
        assert isinstance(socket.recv(), bytes)
    for frame in FRAMES.values():
        with raw(f"ws://127.0.0.1:{server.ports.xpolicylab}") as socket:
            socket.send(frame)
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)
            assert socket.close_code == 1003
    with raw(server.url) as socket:
        socket.recv()
        with suppress(ConnectionClosed):
            socket.send(bytes(65 << 20))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
        assert socket.close_code == 1009
    client = PolicyClient(server.url)
    assert client.infer(OBSERVATION)["actions"].shape == (H, D)
    client.close()


def test_two_sessions_have_histories_of_their_own(policy_server):
    server = policy_server(Standin())
    left, right = PolicyClient(server.url, session_id="left"), PolicyClient(server.url, session_id="left")

    def told(reply):
        assert reply["actions"][0, :2].tolist() == [reply["seed"], reply["chunk"]]
        return reply["seed"], reply["chunk"]

    first = [told(left.infer(OBSERVATION)) for _ in range(3)]
    other = [told(right.infer(OBSERVATION)) for _ in range(2)]
    assert [chunk for _, chunk in first] == [0, 1, 2]
    assert [chunk for _, chunk in other] == [0, 1]  # the same name on another connection is another session
    assert {seed for seed, _ in first} != {seed for seed, _ in other}
    assert told(left.infer({**OBSERVATION, "session_id": "new"}))[1] == 3  # the client's own name stands
    left.reset()
    assert told(left.infer(OBSERVATION))[1] == 0
    assert told(right.infer(OBSERVATION, seed=99)) == (99, 2)
    with raw(server.url) as socket:
        socket.recv()
        asked = ("a", "b", "a", "c", "b")
        for name in asked:
            socket.send(pack({**OBSERVATION, "session_id": name}))
        assert [unpack(socket.recv())["chunk"] for _ in asked] == [0, 0, 1, 0, 1]
    left.close()
    right.close()


def test_a_session_too_many_makes_the_oldest_be_forgotten(policy_server):
    server = policy_server(Standin(), sessions=2)
    with raw(server.url) as socket:
        socket.recv()
        for name in ("a", "b", "a", "c", "a", "b"):
            socket.send(pack({**OBSERVATION, "session_id": name}))
        assert [unpack(socket.recv())["chunk"] for _ in range(6)] == [0, 0, 1, 0, 2, 0]


def test_inference_slower_than_the_pings_keeps_the_connection(policy_server):
    server = policy_server(Standin(seconds=1.5), ping_interval=0.2)
    with raw(server.url, ping_interval=0.3, ping_timeout=0.3) as socket:  # a client less patient than openpi's
        socket.recv()
        socket.send(pack(OBSERVATION))
        assert unpack(socket.recv())["actions"].shape == (H, D)


def test_eight_clients_lose_nothing_and_a_ninth_is_told_to_wait(policy_server):
    server = policy_server(Standin(seconds=0.002))
    replies = {}

    def drive(number):
        client = PolicyClient(server.url, timeout_s=30)
        found = []
        for step in range(20):
            state = np.full(D, number, np.float32)
            found.append((client.infer({**OBSERVATION, "state": state}, seed=step)["actions"][0, [0, 1, 5]]).tolist())
        replies[number] = found
        gate.wait(timeout=30)
        client.close()

    gate = threading.Barrier(9)
    threads = [threading.Thread(target=drive, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(replies) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(PolicyServerError, match="503 busy"):
        PolicyClient(server.url)
    gate.wait(timeout=30)
    for thread in threads:
        thread.join(timeout=30)
    assert replies == {number: [[step, step, number] for step in range(20)] for number in range(8)}
    PolicyClient(server.url).close()  # there is a place again


def test_a_fault_of_the_policy_is_told_without_its_inside_and_logged_with_it(policy_server, caplog):
    server = policy_server(Standin(fails=True))
    client = PolicyClient(server.url)
    with pytest.raises(PolicyServerError, match=r"^internal: ") as refused:
        client.infer(OBSERVATION)
    assert "secret" not in str(refused.value)
    number = str(refused.value).split()[-1].rstrip(".")
    assert number in caplog.text
    assert "a secret /path" in caplog.text
    with pytest.raises(PolicyServerError, match="1011"):
        client.infer(OBSERVATION)
    PolicyClient(server.url).close()


def test_who_may_enter(policy_server):
    server = policy_server(Standin(), api_key="k" * 32, origins=("http://good",))
    with pytest.raises(PolicyServerError, match="401"):
        PolicyClient(server.url)
    with pytest.raises(PolicyServerError, match="401"):
        PolicyClient(server.url, api_key="k" * 31 + "l")
    PolicyClient(server.url, api_key="k" * 32).close()
    with closing(HTTPConnection(server.url.removeprefix("ws://"))) as foreign:
        foreign.request("GET", "/", headers={"Authorization": b"Api-Key \xff\xfe"})
        assert foreign.getresponse().status == 401
    key = {"Authorization": "Api-Key " + "k" * 32}
    with raw(server.url + "/v1/realtime/robot/openpi", additional_headers=key) as socket:
        assert isinstance(socket.recv(), bytes)
    with raw(server.url, additional_headers=key, origin="http://good") as socket:
        assert isinstance(socket.recv(), bytes)
    for path, options in {"/elsewhere": {}, "": {"origin": "http://evil"}}.items():
        with pytest.raises(InvalidStatus) as refused, raw(server.url + path, additional_headers=key, **options):
            pass
        assert refused.value.response.status_code in (403, 404)
    with urlopen(server.url.replace("ws:", "http:") + "/healthz") as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


def test_a_stop_answers_what_runs_and_tells_the_others(policy_server):
    server = policy_server(Standin(seconds=0.5))
    busy, idle = PolicyClient(server.url), PolicyClient(server.url)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(busy.infer(OBSERVATION)))
    thread.start()
    time.sleep(0.2)
    server.stop()
    thread.join(timeout=30)
    assert answers[0]["actions"].shape == (H, D)
    with pytest.raises(PolicyServerError, match="1001"):
        idle.infer(OBSERVATION)


def test_whoever_asks_nothing_for_long_is_sent_away(policy_server):
    client = PolicyClient(policy_server(Standin(), idle_timeout=0.3).url)
    assert client.infer(OBSERVATION)["chunk"] == 0
    time.sleep(1.0)
    with pytest.raises(PolicyServerError, match="no request came"):
        client.infer(OBSERVATION)


def test_a_broker_plays_chunks_row_by_row_and_asks_again_when_they_are_played(policy_server):
    acting = Standin()
    client = PolicyClient(policy_server(acting).url)
    broker = ChunkBroker(client, replan_steps=4)
    rows = [broker.infer(OBSERVATION)["actions"] for _ in range(9)]
    assert [(row[1], row[2]) for row in rows] == [(0, 0), (0, 1), (0, 2), (0, 3)] + [(1, n) for n in range(4)] + [
        (2, 0)
    ]
    assert len(acting.seen) == 3
    broker.reset()
    assert broker.infer(OBSERVATION)["actions"][1:3].tolist() == [0, 0]
    with pytest.raises(ValueError, match="`replan_steps` is 7"):
        ChunkBroker(client, replan_steps=H + 1).infer(OBSERVATION)
    client.close()


def test_a_late_reply_is_never_taken_for_the_next_answer(policy_server):
    client = PolicyClient(policy_server(Standin(seconds=0.5)).url, timeout_s=0.1)
    with pytest.raises(PolicyServerError, match="no reply came within"):
        client.infer(OBSERVATION)
    with pytest.raises(PolicyServerError, match="closed"):
        client.infer(OBSERVATION)


def envelope(kind, payload=None, **fields):
    return pack(
        {
            "message_type": kind,
            "message_id": "m1",
            "evaluation_id": "e1",
            "step": 3,
            "payload": payload or {},
            **fields,
        },
        "msgpack-numpy",
    )


def xpolicylab_observation(number=0, color=PICTURE):
    state = np.arange(D, dtype=np.float32)
    return {
        "vision": {name: {"color": color} for name in ("cam_head", "cam_left_wrist", "cam_right_wrist")},
        "state": {
            "left_arm_joint_state": state[:6],
            "left_ee_joint_state": state[6:7],
            "right_arm_joint_state": state[7:13],
            "right_ee_joint_state": state[13:],
            "left_ee_pose": np.zeros(7),
        },
        "instruction": "ring the bell",
        "env_idx": number,
        "data_format_version": "v1.0",
    }


def test_an_episode_in_xpolicylabs_dialect(policy_server):
    acting = Standin()
    server = policy_server(acting)
    with raw(f"ws://127.0.0.1:{server.ports.xpolicylab}") as socket:

        def ask(kind, payload=None, **fields):
            socket.send(envelope(kind, payload, **fields))
            return unpack(socket.recv(timeout=10))

        hello = ask("hello", trial_id="t1")
        assert hello["message_type"] == "hello_ack"
        assert [hello[name] for name in ("message_id", "evaluation_id", "trial_id", "step")] == ["m1", "e1", "t1", 3]
        assert hello["payload"]["ok"] is True
        assert hello["payload"]["metadata"]["action_horizon"] == H
        assert ask("prepare_case", {"action_case_id": "a"})["message_type"] == "prepare_case_ack"
        assert ask("reset", {"trial_id": "t1", "seed": 77, "action_type": "joint"})["payload"]["ok"] is True
        told = {}
        for number in (0, 1, 0, 1, 0):
            reply = ask("infer", {"observation": xpolicylab_observation(number)})
            assert reply["message_type"] == "infer_result"
            assert reply["payload"]["actions"].shape == (H, D)
            told.setdefault(number, []).append(reply["payload"]["actions"][0, :2].tolist())
        assert told == {0: [[77, 0], [77, 1], [77, 2]], 1: [[77, 0], [77, 1]]}
        assert acting.seen[0].observation["state"].tolist() == list(range(D))
        assert ask("reset", {"seed": 78})["message_type"] == "reset_result"
        assert ask("infer", {"observation": xpolicylab_observation()})["payload"]["actions"][0, 1] == 0
        assert ask("reset", {"action_type": "ee"})["payload"]["code"] == "reset_failed"
        assert ask("heartbeat")["message_type"] == "heartbeat_ack"
        assert ask("dance")["payload"]["code"] == "unknown_message_type"
        broken = xpolicylab_observation()
        del broken["vision"]["cam_head"]
        failed = ask("infer", {"observation": broken})
        assert failed["message_type"] == "error"
        assert failed["payload"]["code"] == "infer_failed"
        assert failed["message_id"] == "m1"
        assert ask("trial_end", {"success": True})["payload"] == {"ok": True}
        socket.send(envelope("close", {"reason": "done"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_pictures_of_xpolicylab_may_be_jpegs_of_either_kind(policy_server):
    acting = Standin()
    server = policy_server(acting)
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 250
    exchanged, stream = encode_frame(red), io.BytesIO()
    Image.fromarray(red).save(stream, "JPEG", quality=95, comment=b"XPL-RGB1")
    with raw(f"ws://127.0.0.1:{server.ports.xpolicylab}") as socket:
        for color in (exchanged, np.frombuffer(exchanged, np.uint8), stream.getvalue()):
            socket.send(envelope("infer", {"observation": xpolicylab_observation(color=color)}))
            assert unpack(socket.recv(timeout=10))["message_type"] == "infer_result"
        socket.send(envelope("infer", {"observation": xpolicylab_observation(color=exchanged[:50])}))
        assert "is no JPEG" in unpack(socket.recv(timeout=10))["payload"]["message"]
    for seen in acting.seen:
        assert seen.observation["head"][32, 32, 0] > 240
        assert seen.observation["head"][32, 32, 2] < 10


def test_addresses_that_others_reach_need_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("NOISEGATE_API_KEY", raising=False)
    monkeypatch.chdir(APPS.parent)
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    for refused in ({"host": "0.0.0.0"}, {"host": "robot.local"}, {"host": "::"}):
        with pytest.raises(RunError, match="can be reached by others"):
            ServeConfig(**refused).check()
    for fine in ({}, {"host": "::1"}, {"host": "localhost"}, {"host": "0.0.0.0", "no_auth": True}):
        ServeConfig(**fine).check()
    ServeConfig(host="0.0.0.0", api_key_file=key).check()
    with pytest.raises(ValueError, match="ports go up to 65535"):
        ServeConfig(port=65536)
    for content in ("", "short", "two keys-of-16-characters"):
        key.write_text(content)
        with pytest.raises(RunError, match="must hold one key"):
            ServeConfig(host="0.0.0.0", api_key_file=key).check()
    monkeypatch.setenv("NOISEGATE_API_KEY", "from the environment")
    config = ServeConfig(host="0.0.0.0", xpolicylab_port=1)
    config.check()
    assert doors_of(config).api_key == "from the environment"
    assert doors_of(config).xpolicylab_host == "127.0.0.1"


OPENPI_SCRIPT = """
import sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

assert np.__version__ < "2", np.__version__
client = WebsocketClientPolicy(host="127.0.0.1", port=int(sys.argv[1]))
assert client.get_server_metadata()["action_horizon"] == 6
cameras = {name: np.zeros((3, 64, 64), np.uint8) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")}
observation = {"state": np.arange(14.0), "images": cameras, "prompt": "ring the bell"}
assert client.infer(observation)["actions"].shape == (6, 14)
try:
    client.infer({**observation, "state": np.zeros(3)})
except RuntimeError as error:
    assert "bad_observation" in str(error)
else:
    raise AssertionError("no error came")
broker = ActionChunkBroker(client, action_horizon=6)
rows = [broker.infer(observation)["actions"] for _ in range(8)]
assert [int(row[2]) for row in rows] == [0, 1, 2, 3, 4, 5, 0, 1]
print("served")
"""

XPOLICYLAB_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from client_server.ws.model_client import WsModelClient

arms = {"left_arm_joint_state": 6, "left_ee_joint_state": 1, "right_arm_joint_state": 6, "right_ee_joint_state": 1}
cameras = ("cam_head", "cam_left_wrist", "cam_right_wrist")
observation = {
    "vision": {name: {"color": np.zeros((240, 320, 3), np.uint8)} for name in cameras},
    "state": {name: np.zeros(size) for name, size in arms.items()},
    "instruction": "ring the bell",
}
url = "ws://127.0.0.1:" + sys.argv[1]
with WsModelClient(url=url, evaluation_id="e", trial_id="t", action_case_id="c") as client:
    client.call("prepare_case", {"task_name": "click_bell"})
    client.call("reset", {"task_name": "click_bell", "seed": 100000, "action_type": "joint"})
    client.call("update_obs", observation)
    actions = client.call("get_action")
    assert actions.shape == (6, 14), actions.shape
    client.call("update_obs_batch", [{**observation, "env_idx": number} for number in (0, 1)])
    assert [actions[0, 1] for actions in client.call("get_action_batch")] == [1, 0]
    client.call("trial_end", {"success": True})
print("served")
"""


def run_elsewhere(script, packages, *arguments):
    """Run a script in an environment of its own, or skip where it cannot be made: without a network, for example."""
    needed = [part for package in packages for part in ("--with", package)]
    line = ["uv", "run", "--isolated", "--no-project", *needed, "python"]
    made = subprocess.run([*line, "-c", "print(1)"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no environment with {', '.join(packages)}: {made.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([*line, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "served" in done.stdout


@pytest.mark.slow
def test_openpis_own_client_and_broker_under_their_own_numpy(policy_server):
    server = policy_server(Standin())
    run_elsewhere(OPENPI_SCRIPT, ["openpi-client==0.1.2", "typing-extensions"], server.ports.openpi)


@pytest.mark.slow
def test_xpolicylabs_own_client(policy_server):
    root = os.environ.get("XPOLICYLAB_ROOT")
    if root is None:
        pytest.skip("needs a checkout of XPolicyLab at XPOLICYLAB_ROOT; it is in no package registry")
    server = policy_server(Standin())
    packages = ["msgpack-numpy", "numpy", "pydantic", "websockets"]
    run_elsewhere(XPOLICYLAB_SCRIPT, packages, server.ports.xpolicylab, root)

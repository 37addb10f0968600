"""What can go wrong in a simulator's process, done to a real process around a fake simulator."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robotwin_env.errors import (
    CheckFailureError,
    CheckoutError,
    ExpertRaisedError,
    PlanFailureError,
    RobotwinEnvError,
    SetupRaisedError,
    SimulatorError,
    SimulatorExceptionError,
    SimulatorExitError,
    SimulatorHangError,
    SimulatorMemoryError,
    SimulatorSignalError,
    UnstableSceneError,
)
from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv
from robotwin_env.robotwin.process import client
from robotwin_env.robotwin.process.client import resident_memory

MakeFake = Callable[..., RoboTwinEnv]


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(pid)


def members(group: int) -> list[int]:
    """Running processes of a group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = []
    for pid in filter(running, pids):
        with suppress(ProcessLookupError):
            found += [pid] if os.getpgid(pid) == group else []
    return found


def act(env: RoboTwinEnv) -> None:
    env.step(np.zeros(14))


@pytest.mark.parametrize(
    ("behaviour", "error", "told"),
    [
        ("exception", SimulatorExceptionError, r"ZeroDivisionError(.|\n)*fake_simulator.py(.|\n)*about to divide"),
        ("exit", SimulatorExitError, "SystemExit: missing objects_description"),
        ("leave", SimulatorExitError, "exit status 3"),
        ("segfault", SimulatorSignalError, r"SIGSEGV(.|\n)*Segmentation fault(.|\n)*_segfault"),
        ("killed", SimulatorSignalError, "SIGKILL; the system may have run out of memory"),
        ("hang", SimulatorHangError, r"not answered within 2 s(.|\n)*in _hang"),
        ("hang_in_c", SimulatorHangError, r"not answered within 2 s(.|\n)*in _hang_in_c"),
        ("stop", SimulatorHangError, "not answered within 2 s"),
        ("child_that_hangs", SimulatorHangError, "not answered within 2 s"),
    ],
)
def test_a_failure_in_an_episode_is_told_by_name_and_survived(make_fake, behaviour, error, told):
    env = make_fake({"when": {"action 3 5": behaviour}}, step_timeout=1.9, action_timeout=0.1)
    env.reset(seed=5)
    act(env)
    act(env)
    lost = env.simulation.pid
    with pytest.raises(error, match=told) as caught:
        act(env)
    assert gone(lost)
    assert caught.value.status == error.status
    assert env.simulation.failures == {error.status: 1}
    with pytest.raises(RobotwinEnvError, match=rf"no episode is running|lost \({error.status}\)"):
        act(env)
    observation, info = env.reset(seed=6)
    assert info["starts"] == 2
    act(env)
    assert observation["state"].shape == (14,)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("unstable", UnstableSceneError),
        ("setup_error", SetupRaisedError),
        ("plan_failure", PlanFailureError),
        ("check_failure", CheckFailureError),
        ("expert_error", ExpertRaisedError),
    ],
)
def test_a_seed_without_a_scene_is_refused_and_the_process_kept(make_fake, behaviour, error):
    env = make_fake({"when": {"reset 13": behaviour}})
    env.reset(seed=12)
    process = env.simulation.pid
    with pytest.raises(error) as caught:
        env.reset(seed=13)
    assert caught.value.status == behaviour
    with pytest.raises(RobotwinEnvError, match="call `reset`"):
        act(env)
    _, info = env.reset(seed=14)
    assert info["seed"] == 14
    assert env.simulation.pid == process


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("exception", SimulatorExceptionError),
        ("leave", SimulatorExitError),
        ("segfault", SimulatorSignalError),
        ("hang", SimulatorHangError),
    ],
)
def test_a_process_that_does_not_start_is_told_apart_too(make_fake, behaviour, error):
    env = make_fake({"when": {"start": behaviour}}, setup_timeout=1.5 if behaviour == "hang" else 60.0)
    for starts in (1, 2):
        with pytest.raises(error, match="`open`"):
            env.reset(seed=0)
        assert env.simulation.starts == starts


def test_growing_memory_ends_the_process_before_it_ends_the_machine(make_fake):
    env = make_fake({"when": {"action 1": "grow"}}, memory_limit_gib=0.25)
    env.reset(seed=0)
    with pytest.raises(SimulatorMemoryError, match=r"over its limit of 0.25 GiB(.|\n)*memory_limit_gib"):
        act(env)
    env.reset(seed=0)


def test_memory_that_grows_over_short_calls_is_noticed_too(make_fake):
    env = make_fake({"reset_seconds": 0.05, "when": {"reset": "hoard"}}, memory_limit_gib=0.25)

    def play():
        for seed in range(300):
            env.reset(seed=seed)

    with pytest.raises(SimulatorMemoryError, match="over its limit"):
        play()


def test_short_calls_are_not_made_longer_by_looking_at_the_memory(make_fake, monkeypatch):
    looks = []
    env = make_fake({"step_limit": 10_000})
    env.reset(seed=0)
    monkeypatch.setattr(client, "resident_memory", lambda session: looks.append(session) or 0)
    began = time.monotonic()
    for _ in range(200):
        act(env)
    assert len(looks) <= 1 + (time.monotonic() - began) / client.WATCH_SECONDS


def test_an_answer_that_cannot_be_sent_is_the_simulators_failure(make_fake):
    env = make_fake({"when": {"reset 1": "odd_answer"}})
    with pytest.raises(SimulatorExceptionError, match="cannot be written as JSON"):
        env.reset(seed=1)
    env.reset(seed=2)


def test_a_process_stopped_from_outside_is_given_up_in_mid_episode(make_fake):
    env = make_fake({}, step_timeout=1.4, action_timeout=0.1)
    env.reset(seed=0)
    act(env)
    os.kill(env.simulation.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(SimulatorHangError):
        act(env)
    assert time.monotonic() - started < 10.0
    env.reset(seed=0)
    act(env)


def test_a_process_killed_between_calls_is_replaced_at_the_next_reset(make_fake):
    env = make_fake({})
    env.reset(seed=0)
    os.kill(env.simulation.pid, signal.SIGKILL)
    with pytest.raises(SimulatorSignalError, match="SIGKILL"):
        act(env)
    env.reset(seed=0)
    os.kill(env.simulation.pid, signal.SIGKILL)
    os.waitid(os.P_PID, env.simulation.pid, os.WEXITED | os.WNOWAIT)  # all its threads, not the first one alone
    _, info = env.reset(seed=1)
    assert info["starts"] == 3


def test_what_a_hanging_process_has_started_ends_with_it(make_fake):
    env = make_fake({"when": {"action 1": "child_that_hangs"}}, step_timeout=1.4, action_timeout=0.1)
    env.reset(seed=0)
    group = env.simulation.pid
    assert members(group) == [group]
    with pytest.raises(SimulatorHangError):
        act(env)
    deadline = time.monotonic() + 10.0
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert members(group) == []


def test_closing_ends_a_process_that_does_not_want_to(make_fake, monkeypatch):
    monkeypatch.setattr("robotwin_env.robotwin.process.client.STOP_SECONDS", 0.3)
    env = make_fake({"when": {"close": "hang"}})
    env.reset(seed=0)
    process = env.simulation.pid
    env.close()
    assert gone(process)


def test_an_interrupted_call_leaves_nothing_behind(make_fake, interrupt):
    env = make_fake({"when": {"action 1": "hang"}})
    env.reset(seed=0)
    process = env.simulation.pid
    interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        act(env)
    assert gone(process)
    with pytest.raises(RobotwinEnvError, match=r"lost \(KeyboardInterrupt\)"):
        act(env)
    env.reset(seed=0)


def test_old_processes_are_exchanged_for_fresh_ones(make_fake):
    env = make_fake({}, recycle_after_resets=3)
    served = [env.reset(seed=seed)[1] for seed in range(7)]
    assert [info["episode_info"]["resets"] for info in served] == [1, 2, 3, 1, 2, 3, 1]
    assert [info["starts"] for info in served] == [1, 1, 1, 2, 2, 2, 3]


def test_large_processes_are_exchanged_for_fresh_ones(make_fake):
    env = make_fake({})
    env.reset(seed=0)
    small = resident_memory(env.simulation.pid)
    assert small > 0
    env.close()
    env = make_fake({}, recycle_above_gib=small / 2**31)
    assert [env.reset(seed=seed)[1]["starts"] for seed in range(3)] == [1, 2, 3]


PARENT = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv
fake, script, how = sys.argv[1:]
config = RoboTwinConfig(root=Path(fake).parent, simulator=Path(fake), variables={"FAKE_SIMULATOR": script})
env = RoboTwinEnv(replace(config, step_timeout=0.9, action_timeout=0.1))
env.reset(seed=0)
print(env.simulation.pid, flush=True)
if how == "die":
    os.kill(os.getpid(), 9)
env.step(np.zeros(14))
"""


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ({}, "die"),
        ({"when": {"action 1": "hang"}}, "wait"),
        pytest.param({"when": {"action 1": "hang_in_c"}}, "wait", marks=pytest.mark.slow),
    ],
)
def test_a_process_ends_with_the_one_that_started_it(fake_simulator, script, how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fake_simulator), json.dumps(script), how], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    process = int(parent.stdout.readline())
    if how == "wait":
        time.sleep(0.3)  # the hanging call is under way, and its deadline not yet over
        parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(process, seconds=20.0)


def test_output_is_kept_where_a_folder_is_named(make_fake, tmp_path):
    env = make_fake({"when": {"reset 1": "exception"}}, log_folder=tmp_path / "logs")
    with pytest.raises(SimulatorError):
        env.reset(seed=1)
    (log,) = (tmp_path / "logs").iterdir()
    assert "about to divide" in log.read_text()


def test_an_interpreter_that_is_not_there_is_refused(make_fake):
    env = make_fake({}, python=Path("/nowhere/python"))
    with pytest.raises(CheckoutError, match="`/nowhere/python` is no program"):
        env.reset(seed=0)


def test_a_folder_that_is_no_checkout_is_refused_before_anything_starts(tmp_path):
    env = RoboTwinEnv(RoboTwinConfig(root=tmp_path / "nowhere"))
    with pytest.raises(CheckoutError, match="is no folder"):
        env.reset(seed=0)
    assert env.simulation.starts == 0


def test_a_simulator_sees_nothing_of_this_interpreters_import_path(make_fake, monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the import path leaked')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make_fake({}).reset(seed=0)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_start_that_fails_leaves_no_descriptor(fake_simulator, tmp_path):
    plain = RoboTwinConfig(root=tmp_path, simulator=fake_simulator)
    wrong = tmp_path / "python"
    wrong.write_text("no program")
    wrong.chmod(0o755)
    before = descriptors()
    for config in (replace(plain, python=Path("/nowhere/python")), replace(plain, python=wrong)):
        for _ in range(5):
            with pytest.raises((CheckoutError, OSError)):
                RoboTwinEnv(config).reset(seed=0)
    assert descriptors() == before


def test_an_environment_that_is_dropped_takes_its_process_along(fake_simulator):
    before = descriptors()
    for _ in range(2):
        env = RoboTwinEnv(RoboTwinConfig(root=fake_simulator.parent, simulator=fake_simulator))
        env.reset(seed=0)
        lost = env.simulation.pid
        assert lost is not None
        del env
        gc.collect()
        assert not Path(f"/proc/{lost}").exists(), "not even a zombie"
    assert descriptors() == before


def test_an_environment_that_is_closed_leaves_no_descriptor(make_fake):
    before = descriptors()
    for _ in range(2):
        env = make_fake({})
        env.reset(seed=0)
        env.close()
    assert descriptors() == before


def test_a_killed_process_that_does_not_die_is_left_behind_in_time(make_fake, monkeypatch, caplog):
    env = make_fake({})
    env.reset(seed=0)
    stuck = env.simulation.pid
    monkeypatch.setattr(client, "KILL_SECONDS", 0.3)
    monkeypatch.setattr(client.os, "killpg", lambda *_: None)  # as one that hangs in a driver takes it
    started = time.monotonic()
    env.simulation._process.kill()
    assert time.monotonic() - started < 5.0
    assert f"process {stuck} did not end within 0.3 s" in caplog.text
    monkeypatch.undo()
    os.kill(stuck, signal.SIGKILL)
    env.reset(seed=1)


def test_a_call_can_be_ended_from_another_thread_and_none_follows(make_fake):
    env = make_fake({"when": {"reset 7": "hang"}})
    env.reset(seed=0)
    lost = env.simulation.pid
    threading.Timer(0.5, env.abort).start()
    started = time.monotonic()
    with pytest.raises(SimulatorSignalError):
        env.reset(seed=7)
    assert time.monotonic() - started < 10.0
    assert gone(lost)
    with pytest.raises(RobotwinEnvError, match="aborted"):
        env.reset(seed=1)
    env.close()
    assert env.reset(seed=1)[1]["starts"] == 2


def test_a_process_that_is_given_up_while_it_is_aborted_is_no_error(make_fake, monkeypatch):
    env = make_fake({})
    env.reset(seed=0)
    process = env.simulation._process
    looks = iter([process])
    given_up = property(lambda simulation: next(looks, None), lambda simulation, value: None)
    monkeypatch.setattr(type(env.simulation), "_process", given_up, raising=False)
    env.abort()
    monkeypatch.undo()
    assert gone(process.pid)


EVALUATION = """
import json, sys
from pathlib import Path
import numpy as np
from robotwin_env.robotwin import OfficialProtocol, RoboTwinConfig, RoboTwinEnv, evaluate_task
fake, folder = map(Path, sys.argv[1:])
script = json.dumps({"when": {"reset 100006": "hang", "expert 100007": "hang_in_c"}, "step_limit": 2})
config = RoboTwinConfig(root=fake.parent, simulator=fake, split="eval", variables={"FAKE_SIMULATOR": script})
envs = [RoboTwinEnv(config) for _ in range(2)]
for env in envs:
    env.reset(seed=100_000)
print(*(env.simulation.pid for env in envs), flush=True)
evaluate_task(envs, lambda request: np.full((2, 14), 0.9), OfficialProtocol(episodes=20), record=folder / "record.json",
              identity={}, on_seed=lambda seed: print(seed.seed, flush=True))
"""


def test_ctrl_c_ends_an_evaluation_of_real_processes_within_seconds(fake_simulator, tmp_path):
    command = [sys.executable, "-c", EVALUATION, str(fake_simulator), str(tmp_path)]
    parent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore Ctrl-C
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    finished = [int(parent.stdout.readline()) for _ in range(6)]  # the next two hang, one of them in C code
    time.sleep(1.0)
    parent.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, complaint = parent.communicate(timeout=60)
    assert time.monotonic() - started < 15.0
    assert "KeyboardInterrupt" in complaint
    assert all(gone(pid) for pid in pids)
    kept = json.loads((tmp_path / "record.json").read_text())["seeds"]
    assert [seed["seed"] for seed in kept] == sorted(finished)


def test_memory_of_what_a_process_has_started_counts_too(make_fake):
    env = make_fake({"when": {"action 1": "child_that_grows"}}, memory_limit_gib=0.25)
    env.reset(seed=0)
    group = env.simulation.pid
    with pytest.raises(SimulatorMemoryError, match="with all it has started"):
        act(env)
    assert all(gone(pid) for pid in members(group))


def test_children_end_with_a_simulator_whose_parent_was_killed(fake_simulator):
    script = {"when": {"action 1": "child_that_hangs"}}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fake_simulator), json.dumps(script), "wait"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    deadline = time.monotonic() + 10.0
    while len(members(group)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(members(group)) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10.0
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(group)


def test_a_simulators_own_programs_come_first_on_its_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    told = client.foreign_environment({}, "/opt/robotwin/bin/python")
    assert told["PATH"] == f"/opt/robotwin/bin{os.pathsep}/usr/bin"
    assert client.foreign_environment({"PATH": "/own"}, "/opt/robotwin/bin/python")["PATH"] == "/own"


def test_one_environment_keeps_one_file_of_output_however_often_it_starts(make_fake, tmp_path):
    env = make_fake({"when": {"reset 1": "exception", "reset 2": "exit"}}, log_folder=tmp_path / "logs")
    for seed in (1, 2, 1):
        with pytest.raises(SimulatorError):
            env.reset(seed=seed)
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text().count("about to divide") == 2

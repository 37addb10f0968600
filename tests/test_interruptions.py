"""Runs that are interrupted, and processes that die: nothing stays behind, and the next command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noisegate_apps.evaluation.tabletop import HeldOutScenes, Variant, evaluate, shared
from noisegate_apps.play.episodes import play
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.files import read_json
from robotwin_env.vector import PoolError

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.sim


@pytest.fixture
def start(begin):
    """Start an app."""

    def started(name, *arguments):
        line = (sys.executable, ROOT / "apps" / f"{name}.py", *arguments)
        return begin(*line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return started


def family(pid):
    """All living processes that a process started, and that these did."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.1)


def gone(pids, seconds=15):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, pids))


COLLECT = ("--episodes", 60, "--tasks", "click_bell", "--workers", 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_collecting_ends_with_all_its_processes_and_goes_on(app, start, tmp_path, number):
    run = start("collect", *COLLECT, "--out", tmp_path)
    until(lambda: list(tmp_path.rglob("*.hdf5")), run)
    processes = family(run.pid)
    assert len(processes) >= 2
    began = time.monotonic()
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert gone(processes), "workers outlived the app"
    if number != signal.SIGKILL:
        assert run.returncode == 128 + number
        assert time.monotonic() - began < 15
        assert (
            errors.strip().splitlines()[-1]
            == f"ended by {number.name}; the same command goes on where this run stopped."
        )
        assert "Traceback" not in errors
    kept = len(list(tmp_path.rglob("*.hdf5")))
    again = app("collect", "--episodes", kept + 1, *COLLECT[2:4], "--workers", 1, "--out", tmp_path)
    assert f"report: {tmp_path / 'report.html'}" in again.output
    assert len(list(tmp_path.rglob("*.hdf5"))) >= kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "executor", "fewest"),
    [
        (signal.SIGTERM, ("in-process",), 2),  # two simulators
        (signal.SIGINT, ("processes", "--members-per-call", 1), 3),  # two workers, and what plays ahead
        (signal.SIGKILL, ("processes", "--members-per-call", 1), 3),
    ],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_stage_2_ends_with_all_its_processes_in_one_line(start, tmp_path, number, executor, fewest):
    run = start(
        "stage2", "--tasks", "click_bell", "--epochs", 400, "--group-size", 2, "--episodes-per-epoch", 2,
        "--orient", 0, "--denoising-steps", 2, "--workers", 2, "--executor", *executor, "--out", tmp_path / "run",
    )  # fmt: skip
    until(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), run)
    processes = family(run.pid)
    assert len(processes) >= fewest
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert gone(processes)
    if number != signal.SIGKILL:
        assert run.returncode == 128 + number
        assert errors.strip().splitlines()[-1].startswith(f"ended by {number.name};")
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_evaluation_in_processes_ends_with_all_of_them(start, tmp_path, number):
    run = start("eval", *LONG, "--out", tmp_path / "run")
    until(lambda: len(family(run.pid)) >= 3, run)  # two that play, and what watches over their semaphores
    processes = family(run.pid)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert gone(processes)
    if number != signal.SIGKILL:
        assert run.returncode == 128 + number
        assert errors.strip().splitlines()[-1].startswith(f"ended by {number.name};")
    assert "Traceback" not in errors


LONG = (
    "--schedules", "shared", "blind", "--tasks", "click_bell", "--scene", "clean", "--episodes", 100, "--workers", 2
)  # fmt: skip
FIRST = {
    "eval": LONG,
    "stage2": ("--tasks", "click_bell", "--orient", 0, "--epochs", 4, "--workers", 2, "--executor", "processes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_ctrl_c_while_workers_still_import_is_one_line(start, tmp_path, name):
    run = start(name, *FIRST[name], "--out", tmp_path / "run")
    until(lambda: len(family(run.pid)) >= 3, run)
    processes = family(run.pid)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, errors = run.communicate(timeout=60)
    assert gone(processes)
    assert run.returncode == 128 + signal.SIGINT
    assert errors.strip() == "ended by SIGINT; the same command goes on where this run stopped."


TESTS_THAT_START_AND_WAIT = """
import sys, time
from conftest import programs
with programs() as begin:
    print(begin(sys.executable, "-c", "import time; time.sleep(600)").pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_what_a_test_starts_does_not_outlive_a_killed_test_process(begin):
    line = (sys.executable, "-c", TESTS_THAT_START_AND_WAIT)
    tests = begin(*line, cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    left = int(tests.stdout.readline())
    assert alive(left)
    tests.kill()
    tests.wait()
    assert gone([left])


# Workers that die


@pytest.fixture(scope="module")
def policy():
    return load_policy(ROOT / "checkpoints" / "tabletop-independent", steps=2, device="cpu")


def test_a_dead_simulator_process_of_an_evaluation_is_replaced_and_nothing_changes(policy):
    jobs = HeldOutScenes(tasks=("click_bell",), episodes=6).jobs("click_bell")
    with pool_of("tabletop", slots=4, workers=2) as pool:
        killed = []

        def kill(*_):
            if len(killed) < 2:
                killed.append(pool.worker_pids[0])
                os.kill(killed[-1], signal.SIGKILL)

        found = dict(play(policy, pool, jobs, shared, on_chunk=kill, replacements=2))
        expected = dict(play(policy, pool, jobs, shared))
    assert sorted(found) == sorted(expected) == list(range(6))
    for place, episode in expected.items():
        assert (found[place].success, found[place].steps) == (episode.success, episode.steps)


def test_chunks_that_were_planned_again_for_a_replaced_process_are_recorded_once(policy, tmp_path):
    scenes = HeldOutScenes(tasks=("click_bell",), episodes=3)
    with pool_of("tabletop", slots=3, workers=2) as pool:
        killed = []

        def killing(rows):
            if not killed:
                killed.append(pool.worker_pids[0])
                os.kill(killed[0], signal.SIGKILL)
            return shared(rows)

        for name, choose in (("killed", killing), ("whole", shared)):
            evaluate([Variant(name="shared", policy=policy, choose=choose)], scenes, pool, tmp_path / name)
    assert killed
    found, whole = (read_json(tmp_path / name / "shared" / "click_bell.json") for name in ("killed", "whole"))
    assert found == whole


def test_not_more_processes_are_replaced_than_may_die(policy):
    jobs = HeldOutScenes(tasks=("click_bell",), episodes=2).jobs("click_bell")

    def kill(*_):
        os.kill(pool.worker_pids[0], signal.SIGKILL)

    with pool_of("tabletop", slots=2, workers=1) as pool, pytest.raises(PoolError):
        list(play(policy, pool, jobs, shared, on_chunk=kill, replacements=1))

"""Scanning and importing seeds from the command line, on fake simulators."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from robotwin_env.robotwin.seeds import command as scan_command
from robotwin_env.robotwin.seeds.command import add_import_arguments, add_scan_arguments, run_import, run_scan

SIMULATOR = Path(__file__).with_name("fake_simulator.py")


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "FAKE_SIMULATOR",
        json.dumps({"when": {"reset 100001": "unstable", "expert 100002": "check_failure", "expert 100004": "exit"}}),
    )

    def call(add, run, *arguments):
        parser = argparse.ArgumentParser()
        add(parser)
        common = [
            "--split",
            "eval",
            "--root",
            str(tmp_path),
            "--simulator",
            str(SIMULATOR),
            "--pools",
            str(tmp_path / "pools"),
        ]
        return run(parser.parse_args([*common, *map(str, arguments)]))

    return call


def pools(tmp_path):
    return {record["key"]["task"]: record for record in map(_read, sorted((tmp_path / "pools").glob("*.json")))}


def _read(path):
    return json.loads(path.read_text())


def test_a_scan_finds_the_seeds_of_every_task_on_several_simulators(command, tmp_path, capsys):
    arguments = ("--task", "click_bell", "lift_pot", "--count", 3, "--simulators", 2)
    assert command(add_scan_arguments, run_scan, *arguments) == 0
    found = pools(tmp_path)
    assert list(found) == ["click_bell", "lift_pot"]
    for record in found.values():
        first_five = {str(seed): record["seeds"][str(seed)] for seed in range(100_000, 100_006)}
        assert list(first_five.values()) == ["ok", "unstable", "check_failure", "ok", "exit", "ok"]
        assert record["key"]["task_config"] == "demo_randomized"
        assert (record["key"]["commit"], record["key"]["split"]) == ("fake", "eval")
    printed = capsys.readouterr().out
    assert "click_bell 100001 unstable" in printed
    assert "lift_pot: 3 seeds up to 100005" in printed
    assert command(add_scan_arguments, run_scan, *arguments) == 0
    again = capsys.readouterr().out
    assert "100001" not in again  # what is known is not tried again
    assert "100004 exit" in again  # but a lost process says nothing of a scene
    assert command(add_scan_arguments, run_scan, *arguments, "--split", "train") == 0
    assert "lift_pot 1000000 ok" in capsys.readouterr().out  # training has scenes and pools of its own
    assert len(list((tmp_path / "pools").glob("*.json"))) == 4
    assert command(add_scan_arguments, run_scan, *arguments, "--split", "train", "--first", 100_000) == 1
    assert "seed 100000 does not belong to the split `train`" in capsys.readouterr().err


def test_a_list_is_imported_and_then_tried(command, tmp_path, capsys):
    listed = tmp_path / "train.json"
    listed.write_text(json.dumps({"click_bell": {"success_seeds": [100_000, 100_007, 7]}}))
    assert command(add_import_arguments, run_import, listed, "--task", "click_bell") == 0
    printed = capsys.readouterr().out
    assert "2 of 3 seeds are new" in printed
    assert "1 are not `eval`'s and were left out" in printed
    assert command(add_import_arguments, run_import, listed, "--task", "click_bell") == 0
    assert "0 of 3 seeds are new" in capsys.readouterr().out
    assert command(add_scan_arguments, run_scan, "--task", "click_bell", "--count", 1) == 0
    assert pools(tmp_path)["click_bell"]["seeds"] == {"100000": "ok", "100007": "listed"}
    assert pools(tmp_path)["click_bell"]["sources"][0] == "train.json: 2 of 3 seeds"


def test_what_cannot_be_done_is_said_in_a_line(command, tmp_path, capsys):
    assert command(add_import_arguments, run_import, tmp_path / "none.json", "--task", "click_bell") == 1
    assert "none.json" in capsys.readouterr().err
    assert command(add_scan_arguments, run_scan, "--task", "no such task") == 1
    assert capsys.readouterr().err.startswith("error: `task` is `no such task`")


def test_ctrl_c_ends_a_scan_with_a_sentence_and_keeps_what_was_found(command, tmp_path, capsys, monkeypatch, interrupt):
    monkeypatch.setenv("FAKE_SIMULATOR", json.dumps({"when": {"expert 100002": "hang"}}))
    show = scan_command._say_seed

    def interrupt_after_two(task, seed, status):
        show(task, seed, status)
        if seed == 100_001:
            interrupt(0.5)

    monkeypatch.setattr(scan_command, "_say_seed", interrupt_after_two)
    assert command(add_scan_arguments, run_scan, "--task", "click_bell", "--count", 3) == 130
    complaint = capsys.readouterr().err
    assert complaint == "interrupted; what was found is kept, and the same command goes on from there.\n"
    assert pools(tmp_path)["click_bell"]["seeds"] == {"100000": "ok", "100001": "ok"}


def test_a_task_without_enough_seeds_is_named_and_the_others_are_scanned(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_SIMULATOR", json.dumps({"when": {"reset": "unstable"}}))
    assert command(add_scan_arguments, run_scan, "--task", "click_bell", "lift_pot", "--count", 1) == 1
    complaint = capsys.readouterr().err
    assert "click_bell: of 50 seeds from 100000 the expert of `click_bell` solved 0" in complaint
    assert "'unstable': 50" in complaint
    assert set(pools(tmp_path)) == {"click_bell", "lift_pot"}

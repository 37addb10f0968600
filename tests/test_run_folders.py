"""Run folders: one owner, one configuration, nothing left behind by a start that failed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest

from noisegate_apps.report.page import facts_of
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import read_json
from noisegate_apps.runs.folder import FolderOptions, RunFolder, claimed, refuse
from noisegate_apps.runs.owner import LOCK
from noisegate_apps.runs.provenance import provenance

HOLD = """
import sys, time
from pathlib import Path
from noisegate_apps.runs.owner import owned
with owned(Path(sys.argv[1]), "stage2"):
    print("held", flush=True)
    time.sleep(600)
"""


def begin(folder, identity=None, *, app="stage2", **options):
    """A run that keeps one file."""
    with claimed(folder, app, {"seed": 0}, identity or {"seed": 0}, FolderOptions(**options)) as run:
        (run.path / "kept").write_text("kept")


def fail(folder, identity):
    with claimed(folder, "stage2", {}, identity):
        raise RunError("no such scene")


def test_a_folder_goes_on_with_its_own_identity_and_says_how_another_differs(tmp_path):
    begin(tmp_path)
    begin(tmp_path)
    begin(tmp_path / "gated", {"gate": {"width": 8}, "seed": 0})
    with pytest.raises(RunError, match=r"\(`gate\.width` = 8 there, 9 here; `seed` = 0 there, 1 here\)"):
        begin(tmp_path / "gated", {"gate": {"width": 9}, "seed": 1})


def test_a_record_names_the_app_and_what_made_it(tmp_path):
    begin(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["app"] == "stage2"
    assert record["config"] == record["identity"] == {"seed": 0}
    assert isinstance(record["dirty"], bool)
    assert len(record["commit"]) == 40
    assert {"processor", "gpus", "threads", "torch"} <= set(record["machine"])


def test_a_record_names_what_went_on_with_it_where_that_is_something_else(tmp_path, monkeypatch):
    begin(tmp_path)
    os.utime(tmp_path / "config.json", (0, 0))
    began = RunFolder(tmp_path).hours
    begin(tmp_path)
    assert "continued" not in read_json(tmp_path / "config.json")
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        made = provenance() | {"commit": commit}
        monkeypatch.setattr("noisegate_apps.runs.folder.provenance", lambda made=made: made)
        begin(tmp_path)
    record = read_json(tmp_path / "config.json")
    assert [one["commit"] for one in record["continued"]] == ["a" * 40, "b" * 40]
    assert record["commit"] == provenance()["commit"]
    assert RunFolder(tmp_path).hours >= began, "what went on with a run makes it no younger"
    facts = dict(facts_of(record))
    assert facts["continued (2), commit"].startswith("b" * 40)
    assert "continued (2), machine" not in facts


def test_a_start_that_fails_leaves_nothing_that_blocks_the_next(tmp_path):
    folder = tmp_path / "runs" / "stage2"
    with pytest.raises(RunError, match="no such scene"):
        fail(folder, {"task": "nope"})
    assert not list(tmp_path.iterdir())
    begin(folder, {"task": "lift_pot"})
    with pytest.raises(RunError, match="no such scene"):
        fail(folder, {"task": "lift_pot"})
    assert (folder / "kept").exists(), "what an earlier run has kept is not the failed one's to remove"


def test_a_run_that_has_kept_something_keeps_its_folder_when_it_fails(tmp_path):
    def half():
        with claimed(tmp_path, "stage2", {}, {"seed": 0}) as run:
            run.log(1, {"loss": 1.0})
            raise RunError("lost")

    with pytest.raises(RunError, match="lost"):
        half()
    assert [line["step"] for line in RunFolder(tmp_path).history()] == [1]
    begin(tmp_path)


def test_a_folder_in_use_names_its_owner_until_that_dies(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    try:
        with pytest.raises(RunError, match=rf"in use by process {owner.pid} on .* \(stage2, since"):
            begin(tmp_path)
        with pytest.raises(RunError, match=f"process {owner.pid}"):
            refuse(tmp_path, "stage2", FolderOptions())
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    assert (tmp_path / LOCK).exists(), "a killed owner cannot remove its lock"
    begin(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_what_is_no_run_of_this_app_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunError, match="is a file; give a folder"):
        begin(file)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "beach.jpg").write_text("")
    with pytest.raises(RunError, match=r"holds what no run left there \(beach\.jpg\)"):
        begin(foreign)
    assert [path.name for path in foreign.iterdir()] == ["beach.jpg"]
    begin(tmp_path / "eval", app="eval")
    with pytest.raises(RunError, match="holds a run of `eval`, not of `stage2`"):
        begin(tmp_path / "eval", overwrite=True)


def test_an_empty_folder_and_one_with_hidden_files_are_taken(tmp_path):
    (tmp_path / ".gitkeep").write_text("")
    begin(tmp_path)


def test_overwriting_starts_anew_and_not_resuming_refuses(tmp_path):
    begin(tmp_path)
    with pytest.raises(RunError, match="holds a run; give another"):
        begin(tmp_path, resume=False)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "old").write_text("")
    begin(tmp_path, {"seed": 1}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "kept"]
    assert json.loads((tmp_path / "config.json").read_text())["identity"] == {"seed": 1}


@pytest.mark.sim
def test_demonstrations_of_other_settings_are_refused_with_advice_that_can_be_followed(app, tmp_path):
    begin(tmp_path, {"noise": 0.5}, app="collect")
    command = ("collect", "--tasks", "click_bell", "--episodes", 1, "--workers", 1, "--out", tmp_path)
    assert "start anew with `--overwrite`" in app(*command, status=1).errors
    app(*command, "--overwrite")
    assert not (tmp_path / "kept").exists()
    assert len(list((tmp_path / "click_bell").iterdir())) == 1


def test_metrics_after_the_resumed_step_are_forgotten_half_lines_too(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log(step, {"loss": 1.0 / step})
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    run.forget_after(2)
    assert [line["step"] for line in run.history()] == [1, 2]


def test_a_folder_without_git_says_that_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    begin(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["commit"], record["dirty"]) == (None, None)


@pytest.mark.parametrize(
    "last", [b'{"step": 2, "los', b"\0" * 40, b"\xff\xfe", b"3\n", b'{"loss": 1}\n', b'{"step": null}\n']
)
def test_what_a_crash_left_in_the_metrics_ends_them(tmp_path, last):
    run = RunFolder(tmp_path)
    run.log(1, {"loss": 1.0})
    with run.metrics.open("ab") as file:
        file.write(last)
    run.forget_after(2)
    run.log(2, {"loss": 0.5})
    assert [line["step"] for line in run.history()] == [1, 2]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"app": "stage2"}', '{"app": "stage2", "config": 3}'])
def test_a_damaged_record_is_named_and_not_taken_for_another_run(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json`.* damaged"):
        begin(tmp_path)


def test_a_clock_that_was_set_back_counts_no_hours(tmp_path):
    begin(tmp_path)
    os.utime(tmp_path / "config.json", (4e9, 4e9))
    assert RunFolder(tmp_path).hours == 0


def test_a_folder_that_links_to_nothing_is_refused(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "unmounted")
    with pytest.raises(RunError, match="unmounted`, which is gone"):
        begin(tmp_path / "run")


def test_what_a_record_lacks_is_named_wherever_it_is_asked_for(tmp_path):
    (tmp_path / "lattice.json").write_text('{"ceiling": {"best": {}}}')
    record = pickle.loads(pickle.dumps(read_json(tmp_path / "lattice.json")))
    assert record == {"ceiling": {"best": {}}}
    with pytest.raises(RunError, match=r"lattice\.json` has no `best_by_task`"):
        record["ceiling"]["best_by_task"]

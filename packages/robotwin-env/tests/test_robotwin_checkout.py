from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from robotwin_env.errors import CheckoutError
from robotwin_env.robotwin import Checkout
from robotwin_env.robotwin.doctor.experts import calls_unknown


@pytest.fixture(params=["current", "former"])
def checkout(request, make_checkout):
    """Root of a folder laid out like RoboTwin, and its layout's name."""
    return make_checkout(request.param), request.param


def git(root, *arguments):
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, env={**os.environ, **who}
    )
    return done.stdout.strip()


def test_both_layouts_are_recognised_by_their_content(checkout):
    root, layout = checkout
    found = Checkout.probe(root)
    assert found.layout == layout
    assert found.configs.is_dir()
    assert found.scripts.is_dir()
    assert found.tasks() == ("click_bell", "lift_pot")
    assert found.step_limits() == {"lift_pot": 400, "click_bell": 400}
    assert found.task_config("demo_clean")["embodiment"] == ["aloha-agilex"]
    assert found.embodiments()["piper"] == "./assets/embodiments/piper/"


def test_what_is_no_checkout_is_refused(checkout, tmp_path):
    with pytest.raises(CheckoutError, match="is no folder"):
        Checkout.probe(tmp_path / "nowhere")
    with pytest.raises(CheckoutError, match=r"no `envs/_base_task.py`"):
        Checkout.probe(tmp_path)
    root, _ = checkout
    (Checkout.probe(root).configs / "_embodiment_config.yml").unlink()
    with pytest.raises(CheckoutError, match="neither"):
        Checkout.probe(root)


@pytest.mark.parametrize(
    ("content", "told"),
    [("embodiment: [x]\n", "lacks"), ("- a list\n", "a list; a mapping"), ("{", "cannot be read"), ("", "NoneType")],
)
def test_a_damaged_task_configuration_is_refused_by_name(checkout, content, told):
    found = Checkout.probe(checkout[0])
    (found.configs / "demo_broken.yml").write_text(content)
    with pytest.raises(CheckoutError, match=rf"demo_broken.yml`.*{told}"):
        found.task_config("demo_broken")


def commit(root):
    return Checkout.probe(root).commit()


def test_the_commit_is_that_of_the_code_even_behind_links(checkout, tmp_path):
    root, _ = checkout
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    head = git(root, "rev-parse", "HEAD")
    assert commit(root) == head
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    for entry in root.iterdir():
        (overlay / entry.name).symlink_to(entry)
    assert commit(overlay) == head
    edits = set()
    for text in ("edited\n", "edited otherwise\n"):
        (root / "envs" / "lift_pot.py").write_text(text)
        edits.add(commit(overlay))
    assert len(edits) == 2
    assert all(edit.startswith(f"{head}+") for edit in edits)


def test_a_task_of_ones_own_that_git_does_not_know_yet_is_an_edit(checkout):
    root, _ = checkout
    git(root, "init", "-q")
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    head = git(root, "rev-parse", "HEAD")
    for name in ("envs/__pycache__/lift_pot.py", "envs/curobo/src/curobo/geom.py", "envs/notes.txt", "own.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("of no task\n")
    assert commit(root) == head
    added = set()
    for name in ("envs/own_task.py", "description/task_instruction/own_task.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")
        added.add(commit(root))
    assert len(added) == 2
    assert all(name.startswith(f"{head}+") for name in added)


def test_a_copy_inside_another_repository_is_known_by_its_files_and_never_by_that_repository(checkout, tmp_path):
    root, _ = checkout
    alone = commit(root)
    assert re.fullmatch("files-[0-9a-f]{12}", alone)
    git(tmp_path, "init", "-q")
    for message in ("outer", "another"):
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", message)
        assert commit(root) == alone
    (root / "envs" / "lift_pot.py").write_text("edited\n")
    assert commit(root) != alone


def test_a_git_hook_around_this_process_lends_its_commit_to_no_checkout(checkout, tmp_path, monkeypatch):
    root, _ = checkout
    alone = commit(root)
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "commit", "-q", "--allow-empty", "-m", "outer")
    clone = tmp_path / "clone"
    git(tmp_path, "init", "-q", "clone")
    shutil.copytree(root, clone, dirs_exist_ok=True)
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "all")
    head = git(clone, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(outer / ".git" / "index"))
    for tree in (root, clone):
        monkeypatch.setenv("GIT_WORK_TREE", str(tree))
        assert commit(tree) == (head if tree == clone else alone)


EXPERT = """
from ._base_task import Base_Task

class lift_pot(Base_Task):
    def play_once(self):
        self.move(self.grasp_actor(1))
        self.helper()
        return {}

    def helper(self):
        self.scene.step()
        self.put_down(1)
        self.robot.get_left_tcp_pose()
        self.not_of_the_base()

    def unused(self):
        self.throw(1)
"""


def test_what_an_expert_calls_that_the_dry_run_does_not_know_is_found_in_its_code(checkout):
    root, _ = checkout
    found = Checkout.probe(root)
    assert calls_unknown(found) == {}
    base = "class Base_Task:\n" + "".join(
        f"    def {name}(self, *_): ...\n" for name in ("move", "grasp_actor", "put_down", "throw")
    )
    (root / "envs" / "_base_task.py").write_text(base)
    (root / "envs" / "lift_pot.py").write_text(EXPERT)
    assert calls_unknown(found) == {"lift_pot": ("put_down", "scene.step")}


ROOTS = [Path(root) for root in os.environ.get("ROBOTWIN_ROOT", "").split(os.pathsep) if root]


@pytest.fixture(params=ROOTS or [None], ids=lambda root: getattr(root, "name", "none"))
def public(request):
    assert request.node.get_closest_marker("robotwin"), "the job that has checkouts runs what is marked alone"
    if request.param is None:
        pytest.skip("`ROBOTWIN_ROOT` names no checkout")
    return Checkout.probe(request.param)


@pytest.mark.robotwin
def test_every_expert_of_the_public_checkout_can_be_asked_without_its_motions(public):
    assert calls_unknown(public) == {}


@pytest.mark.robotwin
def test_the_public_checkout_has_its_fifty_tasks(public):
    assert len(public.tasks()) == 50
    assert set(public.step_limits()) == set(public.tasks())

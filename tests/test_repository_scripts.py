"""The scripts that continuous integration and releases rely on."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as scripts import one another
    spec.loader.exec_module(module)
    return module


affected = script("affected_packages").affected
changed_between = script("affected_packages").changed_between
release = script("check_release_tag")
release_notes = script("release_notes")
check_api = script("check_api")
check_locked = script("check_locked")
check_wheels = script("check_wheels")
smoke = script("smoke_distributions")
PACKAGES = ["grpo-core", "noisegate-gpn", "robotwin-env", "wam-backbone"]
EVERY = sorted([*PACKAGES, "noisegate-apps"])


def test_a_change_inside_one_package_affects_that_package_and_what_composes_it():
    assert affected(["packages/grpo-core/src/grpo_core/learner.py"], PACKAGES) == ["grpo-core", "noisegate-apps"]


def test_a_change_of_shared_configuration_affects_every_package():
    assert affected(["pyproject.toml", "packages/grpo-core/README.md"], PACKAGES) == sorted(
        [*PACKAGES, "noisegate-apps"]
    )


@pytest.mark.parametrize("path", ["apps/stage2.py", "tests/test_apps.py", "checkpoints/tabletop-gate/config.json"])
def test_a_change_of_the_composition_affects_it_alone(path):
    assert affected([path], PACKAGES) == ["noisegate-apps"]


def git(repository, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    done = subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_moved_file_changes_both_places_and_names_may_have_blanks(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "packages" / "grpo-core").mkdir(parents=True)
    (tmp_path / "packages" / "grpo-core" / "a b.py").write_text("x = 1\n" * 50)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    base = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "packages" / "wam-backbone").mkdir()
    git(tmp_path, "mv", "packages/grpo-core/a b.py", "packages/wam-backbone/a b.py")
    git(tmp_path, "commit", "-qm", "two")
    changed = changed_between(base, "HEAD", tmp_path)
    assert affected(changed, PACKAGES) == ["grpo-core", "noisegate-apps", "wam-backbone"]
    for unknown in ("", "0" * 40, "f" * 40):
        assert affected(changed_between(unknown, "HEAD", tmp_path), PACKAGES) == EVERY


def test_documentation_outside_of_packages_affects_none():
    assert affected(["README.md", "docs/architecture.md"], PACKAGES) == []


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "packages" / "grpo-core"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "grpo-core"\nversion = "0.2.0"\nurls = { Source = "elsewhere" }\n'
    )
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- Ray.\n")
    return tmp_path


def test_a_tag_that_agrees_with_version_and_changelog_is_released(repository):
    assert release.released_package("grpo-core-v0.2.0", repository) == "grpo-core"


@pytest.mark.parametrize("tag", ["grpo-core-v0.3.0", "grpo-core-0.2.0", "grpo-v0.2.0", "v0.2.0"])
def test_a_tag_that_disagrees_is_refused(repository, tag):
    with pytest.raises(release.ReleaseError):
        release.released_package(tag, repository)


def test_an_undated_changelog_is_refused(repository):
    (repository / "packages/grpo-core/CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0 (unreleased)\n")
    with pytest.raises(release.ReleaseError, match="date it"):
        release.released_package("grpo-core-v0.2.0", repository)


def test_a_package_that_does_not_say_where_its_sources_are_is_refused(repository):
    held = repository / "packages/grpo-core/pyproject.toml"
    held.write_text(held.read_text().replace("Source", "Paper"))
    with pytest.raises(release.ReleaseError, match="no `Source`"):
        release.released_package("grpo-core-v0.2.0", repository)


def test_the_notes_of_a_release_are_its_section_of_the_changelog(repository):
    changelog = repository / "packages/grpo-core/CHANGELOG.md"
    changelog.write_text(
        "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- Ray.\n- Gym.\n\n## 0.1.0 (2026-11-01)\n\n- First.\n"
    )
    assert release_notes.notes("grpo-core-v0.2.0", repository) == "- Ray.\n- Gym."
    changelog.write_text("# Changelog\n\n## 0.2.0 (2026-12-01)\n\n## 0.1.0 (2026-11-01)\n\n- First.\n")
    with pytest.raises(release.ReleaseError, match="says nothing"):
        release_notes.notes("grpo-core-v0.2.0", repository)
    changelog.write_text("# Changelog\n\n## 0.2.0 (unreleased)\n\n- Ray.\n")
    with pytest.raises(release.ReleaseError, match="date it"):
        release_notes.notes("grpo-core-v0.2.0", repository)


@pytest.mark.parametrize(
    ("before", "now", "may"),
    [
        ("0.1.0", "0.2.0", True),
        ("0.1.0", "0.1.1", False),
        ("1.4.0", "1.5.0", False),
        ("1.4.0", "2.0.0", True),
        ("0.0.1", "0.0.2", True),
        ("0.2.0", "0.2.0", False),
        ("0.9.0", "1.0.0rc1", True),
    ],
)
def test_a_version_says_whether_it_breaks_something(before, now, may):
    assert check_api.may_break(before, now) is may


def test_a_package_is_compared_with_its_own_last_release(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "one", "--allow-empty")
    for tag in ("grpo-core-v0.2.0", "grpo-core-v0.10.0", "grpo-core-vnext", "wam-backbone-v3.0.0"):
        git(tmp_path, "tag", tag)
    git(tmp_path, "commit", "-qm", "two", "--allow-empty")
    git(tmp_path, "tag", "grpo-core-v0.11.0")
    assert check_api.last_tag("grpo-core", tmp_path) == "grpo-core-v0.10.0"
    assert check_api.last_tag("noisegate-gpn", tmp_path) is None


def test_the_lock_names_no_host_and_hashes_everything():
    text = (ROOT / "locked.txt").read_text(encoding="utf-8")
    check_locked.check(text)
    assert text.count("==") > 100
    for line in ("https" + "://host.example/a-1.0-py3-none-any.whl", "a @ git+ssh://host.example/a", "-e ./packages/a"):
        with pytest.raises(check_locked.LockError):
            check_locked.check(f"{text}{line} \\\n    --hash=sha256:00\n")
    with pytest.raises(check_locked.LockError, match="without a hash"):
        check_locked.check(f"{text}unhashed==1.0\n")


def test_one_wheel_and_one_sdist_are_what_is_tried(tmp_path):
    for name in ("grpo_core-0.1.0-py3-none-any.whl", "grpo_core-0.1.0.tar.gz", "noisegate_gpn-0.1.0.tar.gz"):
        (tmp_path / name).write_text("")
    assert [path.suffix for path in smoke.distributions("grpo-core", tmp_path)] == [".whl", ".gz"]
    with pytest.raises(smoke.SmokeError, match="one wheel and one sdist"):
        smoke.distributions("noisegate-gpn", tmp_path)


def test_a_wheel_without_a_file_of_its_sources_is_refused(tmp_path, capsys):
    folder = tmp_path / "apps" / "noisegate_apps"
    wheel = tmp_path / "noisegate_apps-0.1.0-py3-none-any.whl"
    with pytest.raises(FileNotFoundError):
        check_wheels.left_out("noisegate-apps", wheel, tmp_path)  # nothing to compare is no agreement
    (folder / "report").mkdir(parents=True)
    files = [folder / "__init__.py", folder / "report" / "template.html"]
    with ZipFile(wheel, "w") as held:
        for file in files:
            file.write_text("")
            held.write(file, file.relative_to(tmp_path / "apps"))
    assert check_wheels.left_out("noisegate-apps", wheel, tmp_path) == []
    (folder / "report" / "style.css").write_text("")
    assert check_wheels.left_out("noisegate-apps", wheel, tmp_path) == ["noisegate_apps/report/style.css"]
    assert check_wheels.main([str(tmp_path), "noisegate-apps"]) == 1
    assert "`noisegate_apps-0.1.0-py3-none-any.whl` lacks" in capsys.readouterr().err


def test_every_installed_command_is_a_function():
    project = tomllib.loads((ROOT / "apps" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["scripts"]) >= 7
    for place in project["scripts"].values():
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_what_the_apps_need_of_ours_is_bounded_by_versions_that_are_there():
    needed = tomllib.loads((ROOT / "apps" / "pyproject.toml").read_text())["project"]["dependencies"]
    for package in PACKAGES:
        (line,) = [one for one in needed if re.match(rf"{package}(\[|>|$)", one)]
        low, high = re.search(r">=([\d.]+),<([\d.]+)$", line).groups()
        held = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]["version"]
        numbers = [[int(part) for part in one.split(".")] for one in (low, held, high)]
        assert numbers[0] <= numbers[1] < numbers[2], line


# Workflows


def test_every_workflow_and_the_check_install_the_same_uv_and_pin_every_action():
    files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".ci" / "run"]
    assert len(files) >= 4
    texts = [file.read_text() for file in files]
    assert {found for text in texts for found in re.findall(r"install .*?\buv(\S*)", text)} == {"==0.13.9"}
    actions = [found for text in texts for found in re.findall(r"uses: (\S+)@(\S+)", text)]
    assert len(actions) >= 10
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for _, commit in actions)


def test_continuous_integration_leaves_no_test_out_for_want_of_a_tool(needs, monkeypatch):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())["jobs"]
    (tested,) = [one for one in jobs["workspace"]["steps"] if " test " in one.get("run", "")]
    (name,) = tested["env"]
    monkeypatch.delenv(name, raising=False)
    needs(True, "nothing")
    with pytest.raises(pytest.skip.Exception, match="needs a browser"):
        needs(None, "a browser")
    monkeypatch.setenv(name, str(tested["env"][name]))
    with pytest.raises(pytest.fail.Exception, match="needs a browser"):
        needs(None, "a browser")


def test_only_the_upload_may_speak_for_the_project():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    speaking = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert speaking == {"attest", "publish"}
    for name in speaking | {"announce"}:  # they run nothing of the repository
        assert not any("checkout" in one.get("uses", "") for one in jobs[name]["steps"])
        assert not any("make" in one.get("run", "") for one in jobs[name]["steps"])


def step(workflow, number):
    """The shell lines of a job's step that has an `id`."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text())["jobs"]
    found = [one for job in jobs.values() for one in job.get("steps", ()) if one.get("id") == number]
    assert len(found) == 1
    return found[0]["run"]


def shell(lines, tmp_path, **variables):
    """Run lines as GitHub does; their status, and what they hand on."""
    output = tmp_path / "output"
    output.write_text("")
    environment = os.environ | {"GITHUB_OUTPUT": str(output), **variables}
    done = subprocess.run(["bash", "-e", "-c", lines], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, output.read_text()


def test_data_sets_are_exchanged_with_lerobot_where_it_is_installed():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "lerobot.yml").read_text())["jobs"]["evaluation"]["steps"]
    lines = [line for one in steps for line in one.get("run", "").splitlines()]
    assert "lerobot/bin/python -m pytest packages/robotwin-env/tests/test_lerobot_windows.py" in lines


def test_the_oldest_versions_are_those_of_all_extras_that_robotwin_env_is_tested_with():
    makefile = (ROOT / "Makefile").read_text()
    (tested,) = re.findall(r"^EXTRAS_robotwin-env := (.*)$", makefile, re.MULTILINE)
    (oldest,) = re.findall(r"^LOWEST_robotwin-env := \[(.*)\]$", makefile, re.MULTILINE)
    assert set(oldest.split(",")) == set(re.findall(r"--extra (\S+)", tested))


def test_the_weekly_job_runs_its_contract_on_every_robotwin_that_it_fetches():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "robotwin.yml").read_text())["jobs"]["contract"]["steps"]
    fetched = [one["with"]["path"] for one in steps if one.get("with", {}).get("repository")]
    (roots,) = [one["env"]["ROBOTWIN_ROOT"] for one in steps if "env" in one]
    assert len(fetched) == 2
    assert [Path(root).name for root in roots.split(":")] == fetched


def test_a_wrong_tag_stops_a_release(tmp_path):
    status, handed = shell(step("release", "tag"), tmp_path, GITHUB_REF_NAME="grpo-core-v99.0.0")
    assert status != 0
    assert handed == ""


def test_a_branchs_first_push_checks_every_package(tmp_path):
    status, handed = shell(step("check", "diff"), tmp_path, BASE="0" * 40, GITHUB_SHA="HEAD")
    assert status == 0
    assert json.loads(handed.removeprefix("packages=")) == EVERY


def test_a_script_that_fails_stops_the_check(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    status, handed = shell(step("check", "diff"), tmp_path, BASE="HEAD", GITHUB_SHA="HEAD", PATH=path)
    assert status != 0
    assert handed == ""


def test_the_guides_make_the_robotwin_that_the_weekly_job_runs():
    workflow = ROOT / ".github" / "workflows" / "robotwin.yml"
    guides = [ROOT / "docs" / "robotwin.md", ROOT / "packages" / "robotwin-env" / "README.md"]
    installed = [
        re.findall(r"uv pip install --python rt (.*)", file.read_text().replace("\\\n", " "))
        for file in (workflow, *guides)
    ]
    assert [[line.split() for line in lines] for lines in installed] == [[installed[0][0].split()]] * 3
    ref = re.search(r"ref: (\w+)\n +path: RoboTwin\n", workflow.read_text()).group(1)
    for guide in guides:
        assert re.findall(r"git -C RoboTwin checkout (\w+)", guide.read_text()) == [ref]


def test_the_weekly_job_runs_what_the_guide_says(tmp_path):
    (tmp_path / "uv").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    (tmp_path / "uv").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    status, _ = shell(step("robotwin", "documented"), tmp_path, RUNNER_TEMP=str(tmp_path), PATH=path)
    assert status == 0
    made, *played = (tmp_path / "called").read_text().splitlines()
    assert made == "run --all-packages python -m robotwin_env.robotwin.toy_robot RoboTwin RoboTwin-boxes"
    apps = ["apps/collect.py", "apps/stage1.py", "apps/eval.py", "apps/stage2.py"]
    assert [command.split()[1] for command in played] == apps
    assert all("--robotwin.root RoboTwin-boxes --robotwin.python rt/bin/python" in command for command in played)


def test_the_model_cards_are_those_of_the_weights(tmp_path, monkeypatch):
    cards = script("write_model_cards")
    assert cards.main(["--check"]) == 0
    folder = tmp_path / "tabletop-gate"
    folder.mkdir()
    monkeypatch.setattr(cards, "CHECKPOINTS", tmp_path)
    assert cards.main(["--check"]) == 1  # nothing to compare is no agreement
    record = json.loads((ROOT / "checkpoints" / "tabletop-gate" / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(record | {"commit": "0" * 40}))
    assert cards.main([]) == 0
    assert "0" * 40 in (folder / "README.md").read_text()
    assert cards.main(["--check"]) == 0
    success = {"learned": {"all": {"success": 0.5, "interval95": [0.4, 0.6], "episodes": 80}}}
    (folder / "results.json").write_text(json.dumps({"success": success}))
    assert cards.main(["--check"]) == 1
    assert cards.main([]) == 0
    assert "| learned | 50.0 [40.0, 60.0] | 80 |" in (folder / "README.md").read_text()


def test_an_interpreter_that_a_test_starts_keeps_what_it_compiles():
    """Each of a hundred would otherwise compile torch again."""
    line = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"]
    told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    assert told.split() == ["False", str(sys.pycache_prefix)]
    assert not sys.dont_write_bytecode


@pytest.mark.parametrize(
    ("chosen", "arguments", "runs"),
    [
        ({}, [], ["quick"]),
        ({}, ["tests"], ["quick"]),
        ({"slow": True}, [], ["long", "quick"]),
        ({"markexpr": "sim"}, [], ["long", "quick"]),
        ({"keyword": "long"}, [], ["long", "quick"]),
        ({}, [f"{__file__}::test_name"], ["long", "quick"]),
    ],
)
def test_slow_tests_run_where_anything_asks_for_them(chosen, arguments, runs):
    rules = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("rules", ROOT / "conftest.py")
    )
    spec.loader.exec_module(rules)
    items = [
        Mock(path=name, **{"get_closest_marker.return_value": name == "long" or None}) for name in ("quick", "long")
    ]
    config = Mock(option=Mock(**{"slow": False, "markexpr": "", "keyword": "", **chosen}))
    config.invocation_params.args = arguments
    rules.pytest_collection_modifyitems(config, items)
    assert [item.path for item in items] == runs
    assert config.hook.pytest_deselected.called == (len(runs) < 2)
    assert (rules.pytest_report_header(config) is None) == (len(runs) == 2)

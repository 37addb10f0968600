"""The scripts that continuous integration and releases rely on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


affected = script("affected_packages").affected
release = script("check_release_tag")
PACKAGES = ["grpo-core", "noisegate-gpn", "robotwin-env", "wam-backbone"]


def test_a_change_inside_one_package_affects_that_package_alone():
    assert affected(["packages/grpo-core/src/grpo_core/learner.py"], PACKAGES) == ["grpo-core"]


def test_a_change_of_shared_configuration_affects_every_package():
    assert affected(["pyproject.toml", "packages/grpo-core/README.md"], PACKAGES) == PACKAGES


def test_documentation_outside_of_packages_affects_none():
    assert affected(["README.md", "docs/architecture.md"], PACKAGES) == []


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "packages" / "grpo-core"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "grpo-core"\nversion = "0.2.0"\n')
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

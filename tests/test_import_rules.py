"""Who may import whom: packages never import one another, and only the apps compose them."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {path.name: path for path in sorted((ROOT / "packages").iterdir()) if (path / "pyproject.toml").exists()}
PATH_EDIT = re.compile(r"sys\.path(\[[^]]*\])?\s*(\+?=[^=]|\.(append|insert|extend|remove|pop|clear)\b)")
PATH_EDIT = re.compile(r"sys\.path(\[[^]]*\])?\s*(\+?=[^=]|\.(append|insert|extend|remove|pop|clear)\b)")
MODULES = {name.replace("-", "_") for name in PACKAGES}


def imported_modules(source: Path) -> set[str]:
    """Top-level names of every absolute import in a file, wherever in the file it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def sources(package: str) -> list[Path]:
    files = sorted((PACKAGES[package] / "src").rglob("*.py"))
    assert files, f"{package} has no source files"
    return files


def test_the_workspace_has_its_four_packages():
    assert set(PACKAGES) == {"grpo-core", "noisegate-gpn", "robotwin-env", "wam-backbone"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_another_one(package):
    own = package.replace("-", "_")
    for source in [*sources(package), *sorted((PACKAGES[package] / "tests").rglob("*.py"))]:
        assert not imported_modules(source) & (MODULES - {own}), source


def test_the_simulator_package_never_imports_torch():
    for source in sources("robotwin-env"):
        assert not imported_modules(source) & {"torch", "einops", "diffusers"}, source


@pytest.mark.parametrize("package", PACKAGES)
def test_no_source_edits_the_import_path(package):
    for source in sources(package):
        assert not PATH_EDIT.search(source.read_text(encoding="utf-8")), source


@pytest.mark.parametrize("edit", ["sys.path = []", "sys.path[:] = []", "sys.path += [x]", "sys.path.insert(0, x)"])
def test_the_search_for_edits_finds_them(edit):
    assert PATH_EDIT.search(edit)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_carries_what_a_release_needs(package):
    project = tomllib.loads((PACKAGES[package] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == package
    assert project["license"] == "Apache-2.0"
    changelog = (PACKAGES[package] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {project['version']}" in changelog
    for name in ("README.md", "LICENSE", f"src/{package.replace('-', '_')}/py.typed"):
        assert (PACKAGES[package] / name).exists(), name

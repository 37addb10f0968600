"""Who may import whom: packages never one another, `noisegate_apps` alone composes them, scripts import it alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {path.name: path for path in sorted((ROOT / "packages").iterdir()) if (path / "pyproject.toml").exists()}
MEMBERS = PACKAGES | {"noisegate-apps": ROOT / "apps"}
BESIDE = [ROOT / name for name in ("benchmarks", "integrations", "scripts")]
MODULES = {name.replace("-", "_") for name in PACKAGES}
LIBRARY = ROOT / "apps" / "noisegate_apps"
SCRIPTS = sorted((ROOT / "apps").glob("*.py"))
PATH_EDIT = re.compile(r"sys\.path(\[[^]]*\])?\s*(\+?=[^=]|\.(append|insert|extend|remove|pop|clear)\b)")


def imports(source: Path) -> set[str]:
    """Every module that a file imports absolutely, wherever in the file it stands."""
    return imports_of(ast.parse(source.read_text(encoding="utf-8")))


def imports_of(tree: ast.Module) -> set[str]:
    """Modules, and names that are taken from one: those may be modules themselves."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(source: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(source)}


def files(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*.py")) if ".venv" not in path.parts]
    assert found, f"{folder} has no Python files"
    return found


def test_the_workspace_has_its_four_packages():
    assert set(PACKAGES) == {"grpo-core", "noisegate-gpn", "robotwin-env", "wam-backbone"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_another_one_or_the_apps(package):
    others = MODULES | {"noisegate_apps"}
    for source in files(PACKAGES[package]):  # sources, tests, benchmarks and examples
        assert not tops(source) & (others - {package.replace("-", "_")}), source


def test_the_simulator_package_never_imports_torch():
    for source in files(PACKAGES["robotwin-env"] / "src"):
        assert not tops(source) & {"torch", "einops", "diffusers"}, source


def test_scripts_are_thin_and_import_the_library_alone():
    assert {script.name for script in SCRIPTS} >= {"collect.py", "train_codec.py", "stage1.py", "stage2.py", "eval.py"}
    for script in SCRIPTS:
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 40, script
        assert tops(script) <= {"__future__", "noisegate_apps"}, script


def test_no_file_of_the_library_is_over_400_lines():
    for source in files(LIBRARY):
        assert len(source.read_text(encoding="utf-8").splitlines()) <= 400, source


def test_the_library_imports_no_private_module():
    for source in files(LIBRARY):
        for module in imports(source):
            private = any(part.startswith("_") for part in module.split("."))
            assert not private or module.startswith("__future__"), (source, module)


def test_the_library_has_no_import_circles():
    place = {
        ".".join(("noisegate_apps", *path.relative_to(LIBRARY).with_suffix("").parts)): path for path in files(LIBRARY)
    }
    graph = {
        name: {module for module in imports(path) if module in place}
        for name, path in place.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "line", ["import a.b", "from a import b", "from a.b import c", "def late():\n    from a import b as other"]
)
def test_the_search_for_imports_finds_them(line):
    assert "a.b" in imports_of(ast.parse(line))


def test_only_the_command_line_knows_its_parser():
    knowing = {source.relative_to(LIBRARY).as_posix() for source in files(LIBRARY) if "tyro" in tops(source)}
    assert knowing == {"runs/command_line.py"}


@pytest.mark.parametrize("folder", [*MEMBERS.values(), *BESIDE], ids=lambda folder: folder.name)
def test_no_source_edits_the_import_path(folder):
    for source in files(folder):
        if source.name in ("test_fastwam_parity.py", "make_fastwam.py"):  # they import a checkout
            continue
        assert not PATH_EDIT.search(source.read_text(encoding="utf-8")), source


@pytest.mark.parametrize("member", MEMBERS)
def test_every_distribution_that_is_imported_is_declared(member):
    """Also what is imported within a function; but for RoboTwin's side of the process boundary, which has its own."""
    folder = LIBRARY if member == "noisegate-apps" else MEMBERS[member] / "src"
    project = tomllib.loads((MEMBERS[member] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {canonical(re.split(r"[\s<>=!~;\[]", line)[0]) for line in lines}
    sources = [source for source in files(folder) if "simulator" not in source.relative_to(folder).parts]
    imported = {top for source in sources for top in at_run_time(source)} - set(sys.stdlib_module_names)
    homes = packages_distributions() | {name.replace("-", "_"): [name] for name in MEMBERS}
    missing = {top for top in imported if not {canonical(name) for name in homes.get(top, ())} & (declared | {member})}
    assert not missing


def at_run_time(source: Path) -> set[str]:
    """Top modules that a file imports, but for those that only type checkers see."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    return {module.split(".")[0] for module in imports_of(tree)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("edit", ["sys.path = []", "sys.path[:] = []", "sys.path += [x]", "sys.path.insert(0, x)"])
def test_the_search_for_edits_finds_them(edit):
    assert PATH_EDIT.search(edit)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_carries_what_a_release_needs(member):
    folder = MEMBERS[member]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == member
    assert project["license"] == "Apache-2.0"
    changelog = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {project['version']}" in changelog
    typed = "noisegate_apps/py.typed" if member == "noisegate-apps" else f"src/{member.replace('-', '_')}/py.typed"
    for name in ("README.md", "LICENSE", typed):
        assert (folder / name).exists(), name

"""Refuse a release whose tag, package version and changelog do not agree, or that does not say where its sources are.

Run as `python scripts/check_release_tag.py grpo-core-v0.2.0`; prints the package's name.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = re.compile(r"(?P<package>[a-z0-9-]+)-v(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")


class ReleaseError(ValueError):
    """A tag does not name a release that is ready."""


def folder_of(package: str, root: Path = ROOT) -> Path:
    """Return where a member of the workspace lies."""
    return root / ("apps" if package == "noisegate-apps" else f"packages/{package}")


def released_package(tag: str, root: Path = ROOT) -> str:
    """Return the package that `tag` releases.

    Raises:
        ReleaseError: If the tag is malformed, the package unknown, its version another one, its changelog has no dated
            section for it, or its metadata no address of the sources.
    """
    match = TAG.fullmatch(tag)
    if match is None:
        raise ReleaseError(f"`{tag}` is not a release tag; write PACKAGE-vX.Y.Z.")
    package, version = match["package"], match["version"]
    folder = folder_of(package, root)
    if not (folder / "pyproject.toml").exists():
        known = ["noisegate-apps", *sorted(path.parent.name for path in (root / "packages").glob("*/pyproject.toml"))]
        raise ReleaseError(f"`{tag}` names the unknown package `{package}`; there are {known}.")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    held = project["version"]
    if held != version:
        raise ReleaseError(f"`{tag}` does not match version {held}; run `uv version --package {package} {version}`.")
    changelog = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d{{2}}-\d{{2}}\)$", changelog, re.MULTILINE):
        raise ReleaseError(f"{package}'s CHANGELOG.md has no section `## {version} (YYYY-MM-DD)`; date it.")
    if "Source" not in project.get("urls", {}):  # the README's links lead there, and an index shows it alone
        raise ReleaseError(
            f"{package}'s pyproject.toml has no `Source` in `[project.urls]`; give the repository's address."
        )
    return package


def main(arguments: list[str]) -> int:
    """Check the one tag on the command line."""
    if len(arguments) != 1:
        print("usage: check_release_tag.py TAG", file=sys.stderr)
        return 2
    try:
        print(released_package(arguments[0]))
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

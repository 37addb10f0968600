"""Turn a change into the list of packages whose checks it needs, as a JSON array for a build matrix.

Run as `python scripts/affected_packages.py BASE HEAD`. A change outside of the packages (root configuration, apps,
cross-package tests, scripts) affects all of them; a change in documentation alone affects none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTATION = {".md", ".png", ".txt"}


def affected(changed: Iterable[str], packages: Iterable[str]) -> list[str]:
    """Return the packages that `changed` paths (relative to the root) affect, sorted."""
    every, found = set(packages), set()
    for path in map(PurePosixPath, changed):
        if path.parts[0] == "packages" and len(path.parts) > 2 and path.parts[1] in every:
            found.add(path.parts[1])
        elif path.suffix not in DOCUMENTATION:
            return sorted(every)
    return sorted(found)


def main(arguments: list[str]) -> int:
    """Print the affected packages between two commits."""
    if len(arguments) != 2:
        print("usage: affected_packages.py BASE HEAD", file=sys.stderr)
        return 2
    command = ["git", "diff", "--name-only", f"{arguments[0]}...{arguments[1]}"]
    changed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    packages = [path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml")]
    print(json.dumps(affected(changed, packages)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

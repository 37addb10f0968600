"""Install each built wheel into an environment of its own and import it there.

Run as `python scripts/check_wheels.py dist grpo-core robotwin-env ...` after `uv build`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def wheel_of(package: str, folder: Path) -> Path:
    """Return the one wheel of `package` in `folder`.

    Raises:
        FileNotFoundError: If there is none, or more than one.
    """
    module = package.replace("-", "_")
    found = sorted(folder.glob(f"{module}-*.whl"))
    if len(found) != 1:
        names = [wheel.name for wheel in found]
        raise FileNotFoundError(
            f"expected one wheel of `{package}` in `{folder}`, found {names}; run `uv build` first."
        )
    return found[0]


def import_alone(package: str, wheel: Path) -> None:
    """Import `package` where nothing but its wheel and its declared dependencies is installed."""
    module = package.replace("-", "_")
    probe = f"import {module}; assert {module}.__all__, 'nothing is exported'; print('{module}', len({module}.__all__))"
    command = ["uv", "run", "--isolated", "--no-project", "--with", str(wheel), "python", "-c", probe]
    subprocess.run(command, check=True)


def main(arguments: list[str]) -> int:
    """Check every package named on the command line."""
    if len(arguments) < 2:
        print("usage: check_wheels.py DIST PACKAGE [PACKAGE ...]", file=sys.stderr)
        return 2
    folder, packages = Path(arguments[0]), arguments[1:]
    for package in packages:
        import_alone(package, wheel_of(package, folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

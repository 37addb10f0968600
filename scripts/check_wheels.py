"""Install each built wheel into an environment of its own: every file is in it, and every command starts.

Run as `python scripts/check_wheels.py dist grpo-core robotwin-env ...` after `uv build`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from check_release_tag import ROOT, folder_of

PROBE = """
import contextlib, io, sys
from importlib.metadata import distribution
import {module} as found
assert found.__all__, "nothing is exported"
for command in distribution("{package}").entry_points.select(group="console_scripts"):
    sys.argv = [command.name, "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            command.load()()
    except SystemExit as end:
        assert not end.code, end.code
print("{module}", len(found.__all__))
"""


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


def left_out(package: str, wheel: Path, root: Path = ROOT) -> list[str]:
    """Return what lies among the sources of `package` and not in its wheel, such as a template.

    Raises:
        FileNotFoundError: If there are no sources.
    """
    module = package.replace("-", "_")
    sources = folder_of(package, root) / ("" if package == "noisegate-apps" else "src")
    files = (path for path in (sources / module).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    there = {path.relative_to(sources).as_posix() for path in files}
    if not there:
        raise FileNotFoundError(f"`{sources / module}` has no files to compare `{wheel.name}` with.")
    with ZipFile(wheel) as held:
        return sorted(there.difference(held.namelist()))


def use_alone(package: str, wheel: Path, others: list[Path]) -> None:
    """Import `package` and ask its commands for help where only its wheel and what it declares is installed.

    Args:
        package: Its name.
        wheel: Its wheel.
        others: Wheels of ours that it may depend on.
    """
    probe = PROBE.format(package=package, module=package.replace("-", "_"))
    needed = [option for other in others for option in ("--with", str(other))]
    command = ["uv", "run", "--isolated", "--no-project", "--with", str(wheel), *needed, "python", "-c", probe]
    subprocess.run(command, check=True)


def main(arguments: list[str]) -> int:
    """Check every package named on the command line."""
    if len(arguments) < 2:
        print("usage: check_wheels.py DIST PACKAGE [PACKAGE ...]", file=sys.stderr)
        return 2
    folder, packages = Path(arguments[0]), arguments[1:]
    wheels = {package: wheel_of(package, folder) for package in packages}
    for package, wheel in wheels.items():
        if missing := left_out(package, wheel):
            print(f"error: `{wheel.name}` lacks {missing}; see the build settings of `{package}`.", file=sys.stderr)
            return 1
        composed = package == "noisegate-apps"
        use_alone(package, wheel, [other for other in wheels.values() if composed and other != wheel])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

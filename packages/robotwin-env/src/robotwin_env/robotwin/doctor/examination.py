"""Checks whether RoboTwin can run from a checkout with an interpreter, and says what to do where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckoutError, RobotwinEnvError
from ...splits import FIRST_SEEDS
from ..checkout import Checkout
from ..config import RoboTwinConfig
from ..env import RoboTwinEnv
from ..process.client import Launch, foreign_environment
from .files import Finding, Level, check_assets, check_code, check_experts

PROBE_SECONDS = 180.0
_PROBE = Path(__file__).parents[1] / "simulator" / "probe.py"
_NEEDED = ("numpy", "sapien", "mplib", "toppra", "gymnasium", "transforms3d", "trimesh", "scipy", "h5py", "PyYAML")
_TESTED = {"sapien": ("3.0.0b1", "3.0.3"), "mplib": ("0.2.1",)}
_ICD_FOLDERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")


def examine(config: RoboTwinConfig, *, start: bool) -> Iterator[Finding]:
    """Check the checkout, the interpreter and the machine, in this order.

    Args:
        config: Names the checkout, the interpreter, variables of its environment, and the task to start.
        start: Also start the task's simulator and reset it once.

    Yields:
        Findings as they are made.
    """
    try:
        checkout = Checkout.probe(config.root)
    except CheckoutError as error:
        yield Finding(level="fail", subject="layout", found=str(error), remedy="name the checkout with `--root`")
        return
    yield from check_code(checkout)
    yield from check_experts(checkout)
    yield from check_assets(checkout)
    yield from _vulkan(config.variables)
    try:
        python = _launch(config).interpreter()
    except CheckoutError as error:
        yield Finding(level="fail", subject="interpreter", found=str(error), remedy="name it with `--python`")
        return
    yield from _interpreter(python, config)
    if start:
        yield start_task(config)


def _vulkan(variables: Mapping[str, str]) -> Iterator[Finding]:
    environment = {**os.environ, **variables}
    named = environment.get("VK_DRIVER_FILES") or environment.get("VK_ICD_FILENAMES")
    files = (
        [Path(name) for name in named.split(os.pathsep)]
        if named
        else [file for folder in _ICD_FOLDERS for file in sorted(Path(folder).glob("*.json"))]
    )
    there = [str(file) for file in files if file.is_file()]
    if there:
        yield Finding(level="ok", subject="Vulkan driver", found=", ".join(there))
    else:
        yield Finding(
            level="note",
            subject="Vulkan driver",
            found=f"none in {named or ', '.join(_ICD_FOLDERS)}",
            remedy="install the GPU's driver (NVIDIA in a container: `NVIDIA_DRIVER_CAPABILITIES=all` and an "
            "nvidia_icd.json) or a software one, and name it with `VK_ICD_FILENAMES`",
        )
    capabilities = environment.get("NVIDIA_DRIVER_CAPABILITIES")
    if capabilities is not None and not {"all", "graphics"} & set(capabilities.split(",")):
        found = f"NVIDIA_DRIVER_CAPABILITIES is `{capabilities}`, which leaves graphics out"
        yield Finding(level="note", subject="container", found=found, remedy="start it with `all`")


def _interpreter(python: str, config: RoboTwinConfig) -> Iterator[Finding]:
    told = _ask(python, config, "versions")
    if "error" in told:
        yield Finding(level="fail", subject="interpreter", found=f"`{python}`: {told['error']}", remedy="repair it")
        return
    version = tuple(int(part) for part in told["python"].split(".")[:2])
    new_enough = version >= (3, 10)
    yield Finding(
        level="ok" if new_enough else "fail",
        subject="interpreter",
        found=f"{told['executable']}, Python {told['python']}",
        remedy="" if new_enough else "Python 3.10 or later is needed; RoboTwin documents 3.10",
    )
    yield from _packages(told["packages"])
    yield from _patches(_ask(python, config, "patches"))
    for module in ("sapien", "mplib"):
        answer = _ask(python, config, "import", module)
        if "error" in answer and told["packages"][module] is not None:
            remedy = "reinstall it; mplib needs numpy < 2, sapien needs setuptools with pkg_resources"
            yield Finding(level="fail", subject=f"import {module}", found=answer["error"], remedy=remedy)
    yield from _optional(python, config, told["packages"])
    yield from _rendering(python, config)
    yield _software(python, config, told["packages"]["panda3d"])


def _packages(packages: Mapping[str, str | None]) -> Iterator[Finding]:
    missing = [name for name in _NEEDED if packages[name] is None]
    if packages["opencv-python"] is None and packages["opencv-python-headless"] is None:
        missing.append("opencv-python-headless")
    if missing:
        remedy = "`pip install` them in that interpreter, as RoboTwin's requirements.txt pins them"
        yield Finding(level="fail", subject="packages", found=f"no {', '.join(missing)}", remedy=remedy)
    numpy = packages["numpy"]
    if numpy is not None and int(numpy.split(".")[0]) >= 2:
        yield Finding(level="fail", subject="numpy", found=numpy, remedy="mplib needs `pip install 'numpy<2'`")
    elif numpy is not None:
        yield Finding(level="ok", subject="numpy", found=numpy)
    for name, tested in _TESTED.items():
        version = packages[name]
        if version is not None:
            known = version in tested
            remedy = "" if known else f"tested are {' and '.join(tested)}"
            yield Finding(level="ok" if known else "note", subject=name, found=version, remedy=remedy)


def _patches(told: Mapping[str, Any]) -> Iterator[Finding]:
    remedies = {
        "sapien": 'edit `sapien/wrapper/urdf_loader.py` as `_install.sh` does: `open(..., "r", encoding="utf-8")`',
        "mplib": "edit `mplib/planner.py` as `_install.sh` does: drop `or collide` in `plan_screw`",
    }
    for package, remedy in remedies.items():
        if told.get(package) is not None:
            found = "edited as RoboTwin does" if told[package] else "as published, not edited as RoboTwin does"
            level: Level = "ok" if told[package] else "note"
            yield Finding(
                level=level, subject=f"{package}'s patch", found=found, remedy="" if told[package] else remedy
            )


def _optional(python: str, config: RoboTwinConfig, packages: Mapping[str, str | None]) -> Iterator[Finding]:
    if packages["torch"] is None:
        remedy = "install torch and cuRobo 0.7.8 for the `curobo` planner"
        yield Finding(
            level="note", subject="GPU", found="no torch; joint targets and mplib work without", remedy=remedy
        )
        return
    told = _ask(python, config, "gpu")
    if told.get("devices"):
        yield Finding(level="ok", subject="GPU", found=f"{', '.join(told['devices'])} (CUDA {told['cuda']})")
    else:
        found = told.get("error", f"torch {packages['torch']} sees none")
        yield Finding(level="note", subject="GPU", found=found, remedy="cuRobo and ray tracing need one")
    curobo = _ask(python, config, "import", "curobo")
    if "error" in curobo:
        remedy = "install cuRobo 0.7.8 (not 0.8) for the `curobo` planner, or set `planner` to `mplib`"
        yield Finding(level="note", subject="cuRobo", found=curobo["error"], remedy=remedy)
    else:
        yield Finding(level="ok", subject="cuRobo", found=packages["nvidia_curobo"] or str(curobo["file"]))


def _rendering(python: str, config: RoboTwinConfig) -> Iterator[Finding]:
    drawn = {shader: _ask(python, config, "render", shader) for shader in ("default", "rt")}
    for shader, use in (("default", '`render="none"` needs no driver'), ("rt", 'use `render="default"`')):
        answer = drawn[shader]
        if "error" in answer:
            remedy = f"see the driver above, or {use}" if shader == "default" else f"needs an NVIDIA GPU; or {use}"
            yield Finding(level="note", subject=f"renderer `{shader}`", found=answer["error"], remedy=remedy)
        else:
            yield Finding(level="ok", subject=f"renderer `{shader}`", found="draws")


def _software(python: str, config: RoboTwinConfig, version: str | None) -> Finding:
    answer = {"error": "not installed"} if version is None else _ask(python, config, "import", "panda3d.core")
    if "error" in answer:
        remedy = 'tasks of boxes are drawn without a driver by `render="panda3d"`; `pip install panda3d` there for it'
        return Finding(level="note", subject="renderer `panda3d`", found=answer["error"], remedy=remedy)
    return Finding(level="ok", subject="renderer `panda3d`", found=str(version))


def start_task(config: RoboTwinConfig) -> Finding:
    """Start the task's simulator and reset it once."""
    env = RoboTwinEnv(config)
    began = time.monotonic()
    try:
        told = env.describe()
        started = time.monotonic()
        env.reset(seed=FIRST_SEEDS[config.split])
    except RobotwinEnvError as error:
        return Finding(level="fail", subject=f"task {config.task}", found=str(error), remedy="see what it printed")
    else:
        took = f"started in {started - began:.1f} s, reset in {time.monotonic() - started:.1f} s"
        found = f"{took}, planner {told['planner']}, renderer {told['renderer']}"
        return Finding(level="ok", subject=f"task {config.task}", found=found)
    finally:
        env.close()


def _launch(config: RoboTwinConfig) -> Launch:
    return Launch(
        python=config.python,
        simulator=config.simulator,
        folder=config.root,
        variables=config.variables,
        log=None,
        memory_limit=None,
    )


def _ask(python: str, config: RoboTwinConfig, *question: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [python, str(_PROBE), *question],
            env=foreign_environment(config.variables, python),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
        )
        answer: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS:g} s"}
    except OSError as error:
        return {"error": str(error)}
    except ValueError:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        return {"error": f"ended with status {done.returncode}: {last or 'it printed nothing'}"}
    return answer

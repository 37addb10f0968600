"""`python -m robotwin_env`: checks a RoboTwin installation, finds seeds, and exports demonstrations to LeRobot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from .errors import RobotwinEnvError
from .robotwin.config import Render, RoboTwinConfig
from .robotwin.doctor import examine
from .robotwin.seeds.command import add_import_arguments, add_scan_arguments, run_import, run_scan


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m robotwin_env", description="Tools for RoboTwin checkouts.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands)
    text = "Run RoboTwin's experts on seeds, in parallel, and keep which they solve; goes on where it was stopped."
    scan = commands.add_parser("scan-seeds", help="find the seeds that experts solve", description=text)
    add_scan_arguments(scan)
    scan.set_defaults(run=run_scan)
    text = "Take over lists of seeds that others found, as RLinf and SimpleVLA-RL publish them."
    take_over = commands.add_parser("import-seeds", help="take over lists of seeds", description=text)
    add_import_arguments(take_over)
    take_over.set_defaults(run=run_import)
    _add_export(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except RobotwinEnvError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return status


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Say of everything that RoboTwin needs whether it is there, and what to do where it is not."
    doctor = commands.add_parser("doctor", help="check an installation", description=text)
    doctor.add_argument("--root", type=Path, required=True, help="the RoboTwin checkout")
    doctor.add_argument("--python", type=Path, help="the interpreter RoboTwin is installed in; this one unless told")
    doctor.add_argument("--task", help="also start this task and reset it once")
    doctor.add_argument("--task-config", default="demo_clean", help="with which configuration")
    doctor.add_argument("--embodiment", nargs="+", default=[], help="and which robot, or left and right one")
    doctor.add_argument("--render", choices=get_args(Render), default="default", help="and which renderer")
    doctor.set_defaults(run=_doctor)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Write demonstrations, in RoboTwin's HDF5 layouts, as a LeRobot v3 data set."
    export = commands.add_parser("export-lerobot", help="demonstrations for LeRobot", description=text)
    export.add_argument("data", type=Path, help="folder of demonstrations")
    export.add_argument("out", type=Path, help="the new folder")
    export.add_argument("--pictures", choices=("video", "png"), default="video", help="H.264, or every pixel as it is")
    export.add_argument(
        "--rows", choices=("steps", "frames"), default="steps", help="of every step, or of every frame alone"
    )
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from .episodes import episode_files, read_episode, write_lerobot

    files = episode_files(options.data)
    write_lerobot(options.out, map(read_episode, files), pictures=options.pictures, rows=options.rows)
    print(f"{len(files)} episodes in {options.out}")  # noqa: T201
    return 0


def _doctor(options: argparse.Namespace) -> int:
    config = RoboTwinConfig(
        root=options.root,
        python=options.python,
        task=options.task or "stack_blocks_two",
        task_config=options.task_config,
        embodiment=tuple(options.embodiment),
        render=options.render,
        cameras=() if options.render == "none" else ("head", "left_wrist", "right_wrist"),
    )
    failed = 0
    for finding in examine(config, start=options.task is not None):
        print(finding, flush=True)  # noqa: T201
        failed += finding.level == "fail"
    print(f"{failed} failed" if failed else "ready")  # noqa: T201
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

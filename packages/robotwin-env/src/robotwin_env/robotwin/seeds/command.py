"""Commands: `scan-seeds`, which seeds RoboTwin's expert solves, and `import-seeds`, other people's lists."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from ...aborting import abort_each
from ...errors import RobotwinEnvError, SeedPoolError
from ...robotwin50 import STEP_LIMITS
from ...splits import FIRST_SEEDS, Split, split_of
from ..config import RoboTwinConfig
from ..env import RoboTwinEnv
from .pool import PoolKey, SeedPool, read_success_seeds
from .scan import TryExpert, scan


def pool_key(config: RoboTwinConfig, described: Mapping[str, object]) -> PoolKey:
    """The key of the scenes that an environment plays.

    Args:
        config: The environment's.
        described: What `RoboTwinEnv.describe` returned for it.

    Raises:
        SeedPoolError: it does not say all that the meaning of a seed depends on.
    """
    robots = described.get("embodiment")
    names = robots if isinstance(robots, list) else [robots]
    return PoolKey(
        task=config.task,
        task_config=Path(config.task_config).stem,
        config_hash=str(described.get("config_hash")),
        embodiment="+".join(map(str, names)),
        commit=str(described.get("commit")),
        planner=str(described.get("planner")),
        split=config.split,
    )


def scan_task(
    config: RoboTwinConfig,
    folder: Path,
    *,
    simulators: int,
    first: int,
    count: int,
    on_seed: Callable[[int, str], None] | None = None,
) -> SeedPool:
    """Scan the seeds of one task, on simulators that draw nothing.

    Args:
        config: Which task of which checkout.
        folder: Of the pools.
        simulators: Processes.
        first: Where the search starts, in the configuration's split.
        count: Seeds wanted.
        on_seed: Called with every seed and its status.

    Raises:
        SeedPoolError: too few seeds were found.
    """
    blind = replace(config, cameras=(), render="none")
    with ExitStack() as closing:
        envs = [RoboTwinEnv(blind) for _ in range(simulators)]
        for env in envs:
            closing.callback(env.close)
        pool = SeedPool.open(folder, pool_key(blind, envs[0].describe()))
        scan(pool, [_expert_of(env) for env in envs], first=first, count=count, abort=abort_all(envs), on_seed=on_seed)
        return pool


def abort_all(envs: Sequence[RoboTwinEnv]) -> Callable[[], None]:
    """Return what ends all that environments do; one that cannot be ended spares no other."""
    return lambda: abort_each(env.abort for env in envs)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say_seed(task: str, seed: int, status: str) -> None:
    _say(f"{task} {seed} {status}")


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _expert_of(env: RoboTwinEnv) -> TryExpert:
    return lambda seed: env.run_expert(seed).status


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `scan-seeds` takes."""
    _add_scene_arguments(parser)
    parser.add_argument("--count", type=int, default=100, help="seeds wanted per task")
    parser.add_argument(
        "--first", type=int, help="where the search starts; unless told, a million to train, 100000 to evaluate"
    )
    parser.add_argument("--simulators", type=int, default=1, help="processes; the result does not depend on it")


def run_scan(arguments: argparse.Namespace) -> int:
    """Scan every named task; 0 if enough seeds were found for all, 130 where Ctrl-C ended it."""
    try:
        missing = [config.task for config in _configs(arguments) if not _scan_one(config, arguments)]
    except RobotwinEnvError as error:
        _complain(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted; what was found is kept, and the same command goes on from there.")
        return 130  # as a shell says of SIGINT
    return 1 if missing else 0


def _scan_one(config: RoboTwinConfig, arguments: argparse.Namespace) -> bool:
    first = FIRST_SEEDS[config.split] if arguments.first is None else arguments.first
    try:
        pool = scan_task(
            config,
            arguments.pools,
            simulators=arguments.simulators,
            first=first,
            count=arguments.count,
            on_seed=partial(_say_seed, config.task),
        )
    except SeedPoolError as error:
        _complain(f"{config.task}: {error}")
        return False
    found, _ = pool.accepted(first=first, count=arguments.count)
    _say(f"{config.task}: {len(found)} seeds up to {found[-1]}, {pool.counts()}, in {pool.path}")
    return True


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `import-seeds` takes."""
    _add_scene_arguments(parser)
    parser.add_argument("list", type=Path, help='JSON file: {task: {"success_seeds": [...]}}')


def run_import(arguments: argparse.Namespace) -> int:
    """Add a list's seeds to the pools of the named tasks; 0 if all could be."""
    try:
        for config in _configs(arguments):
            seeds = read_success_seeds(arguments.list, config.task)
            blind = replace(config, cameras=(), render="none")
            env = RoboTwinEnv(blind)
            try:
                pool = SeedPool.open(arguments.pools, pool_key(blind, env.describe()))
            finally:
                env.close()
            others = sum(split_of(seed) != config.split for seed in seeds)
            new = pool.add_listed(seeds, source=arguments.list.name)
            pool.save()
            left_out = f"; {others} are not `{config.split}`'s and were left out" if others else ""
            _say(f"{config.task}: {new} of {len(seeds)} seeds are new, in {pool.path}{left_out}")
    except (RobotwinEnvError, OSError) as error:
        _complain(f"error: {error}")
        return 1
    return 0


def _add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the RoboTwin checkout")
    parser.add_argument("--python", type=Path, help="the interpreter that RoboTwin is installed in")
    parser.add_argument("--simulator", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", nargs="+", required=True, help="RoboTwin's names, or `all`")
    parser.add_argument("--split", required=True, choices=get_args(Split), help="scenes to train on, or to evaluate on")
    parser.add_argument("--task-config", default="demo_randomized", help="name of a task configuration, or a .yml file")
    parser.add_argument("--embodiment", nargs="+", default=[], help="a robot, or a left and a right one")
    parser.add_argument("--embodiment-distance", type=float, default=0.6, help="between two robots (m)")
    parser.add_argument("--planner", default="auto", choices=["auto", "curobo", "mplib"], help="of the expert")
    parser.add_argument("--pools", type=Path, default=Path("seeds"), help="folder of the pools")


def _configs(arguments: argparse.Namespace) -> list[RoboTwinConfig]:
    tasks = sorted(STEP_LIMITS) if arguments.task == ["all"] else arguments.task
    return [
        RoboTwinConfig(
            root=arguments.root,
            python=arguments.python,
            simulator=arguments.simulator,
            task=task,
            split=arguments.split,
            task_config=arguments.task_config,
            embodiment=tuple(arguments.embodiment),
            embodiment_distance=arguments.embodiment_distance,
            planner=arguments.planner,
        )
        for task in tasks
    ]

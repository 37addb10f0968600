"""The worlds that the apps play in: the embedded tabletop, or the user's RoboTwin checkout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Float

from noisegate_apps.runs.files import JsonValue, read_json
from robotwin_env import TASKS, TabletopConfig, TabletopEnv
from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv
from robotwin_env.robotwin50 import STEP_LIMITS
from robotwin_env.tabletop import ChunkOutcome
from robotwin_env.vector import EnvironmentPool

EnvName = Literal["tabletop", "robotwin"]
SceneName = Literal["clean", "random"]
EnvConfig = TabletopConfig | RoboTwinConfig
Pool = EnvironmentPool[Any, ChunkOutcome]

TASK_NAMES = tuple(task.name for task in TASKS)
"""The tabletop's tasks."""

IDENTIFYING = (
    "commit",
    "layout",
    "split",
    "config_hash",
    "embodiment",
    "planner",
    "renderer",
    "instructions",
    "versions",
)
"""What of a simulator's description its results depend on."""

PICTURE_SIZE = (64, 64)
"""Height and width (pixels) of the cameras that the tabletop's policies were trained on."""


def tasks_in(env: EnvName, tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that are meant: on RoboTwin, all of the tabletop's are those of them that it has too."""
    if env == "robotwin" and tuple(tasks) == TASK_NAMES:
        return tuple(task for task in TASK_NAMES if task in STEP_LIMITS)
    return tuple(tasks)


def tasks_of(env: EnvName, tasks: Sequence[str], policy: Path) -> tuple[str, ...]:
    """Return the tasks that were named, or else those that a policy has learned.

    Args:
        env: Where they are played.
        tasks: Named by the user; perhaps none.
        policy: Folder of the policy.
    """
    if tasks:
        return tuple(tasks)
    learned = tuple(read_json(policy / "policy.json").get("tasks", ()))
    return tasks_in(env, learned or TASK_NAMES)


def scene_of(scene: SceneName | None, policy: Path) -> SceneName:
    """Return the scenes that were named, or else those on which a policy has learned."""
    learned: SceneName = read_json(policy / "policy.json").get("scene", "random")
    return scene or learned


def known_tasks(env: EnvName, tasks: Sequence[str]) -> None:
    """Refuse names of tasks that an environment does not have.

    Raises:
        ValueError: If there are such.
    """
    names = TASK_NAMES if env == "tabletop" else tuple(STEP_LIMITS)
    unknown = sorted(set(tasks_in(env, tasks)) - set(names))
    if unknown:
        raise ValueError(f"there are no tasks {unknown} on the {env}; choose among {list(names)}.")


def episode_config(task: str, scene: SceneName, robotwin: RoboTwinConfig | None) -> EnvConfig:
    """Return the configuration of one task's episodes.

    Args:
        task: RoboTwin's name.
        scene: Which scenes of the tabletop; RoboTwin's are those of its task configuration.
        robotwin: RoboTwin's settings, everything but the task; `None` for the tabletop.
    """
    return TabletopConfig(task=task, scene=scene) if robotwin is None else replace(robotwin, task=task)


def task_name(config: EnvConfig) -> str:
    """Return the name of an environment's task."""
    return config.task if isinstance(config.task, str) else config.task.name


def at_policy_size(options: RoboTwinConfig, policy: Path) -> RoboTwinConfig:
    """Return RoboTwin's settings with pictures of the size that a policy was trained on.

    One under Wan's codec scales pictures itself, from RoboTwin's own size.

    Args:
        options: From the command line; a size given there stays.
        policy: Folder of the policy.
    """
    if options.image_size is not None or "wan" in read_json(policy / "policy.json"):
        return options
    return replace(options, image_size=PICTURE_SIZE)


def executed_actions(policy: Path) -> int | None:
    """Return how many actions of a chunk a policy's training configuration executes before it plans again; None: all.

    Args:
        policy: Folder of the policy.
    """
    executed: int | None = read_json(policy / "policy.json").get("timing", {}).get("executed_actions")
    return executed


def head_start_of(policy: Path) -> float:
    """Return the part of the network calls that belong to a policy's imagination, before its actions start.

    Args:
        policy: Folder of the policy.
    """
    return float(read_json(policy / "policy.json").get("head_start", 0.0))


def simulator_of(config: RoboTwinConfig) -> JsonValue:
    """Return what results on a simulator depend on, its checkout's commit among it, as one says that is started for it.

    Raises:
        robotwin_env.errors.RobotwinEnvError: If none starts.
    """
    env = RoboTwinEnv(config)
    try:
        return identifying(env.describe())
    finally:
        env.close()


def identifying(described: Mapping[str, object]) -> JsonValue:
    """Return of a simulator's description what results depend on."""
    return {name: described.get(name) for name in IDENTIFYING}


def pool_of(env: EnvName, *, slots: int, workers: int) -> Pool:
    """Start a pool of environments; each episode names its own task.

    Args:
        env: Which world.
        slots: Environments played at once; of RoboTwin, each has a process of its own.
        workers: Processes that share the tabletop's environments.
    """
    if env == "tabletop":
        return EnvironmentPool(TabletopEnv, num_envs=slots, workers=workers)
    return EnvironmentPool(RoboTwinEnv, num_envs=slots, threads=True)


Limits = tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]
"""Least and greatest action that an environment accepts."""


def limits_in(pool: Pool, slots: dict[int, EnvConfig]) -> dict[int, Limits]:
    """Return the limits of the environments that play in some slots of a pool."""
    robotwin = {slot: None for slot, config in slots.items() if isinstance(config, RoboTwinConfig)}
    limits = pool.call(_robotwin_limits, robotwin) if robotwin else {}
    return {slot: limits.get(slot) or _tabletop_limits() for slot in slots}


@cache
def _tabletop_limits() -> Limits:
    space = TabletopEnv(TabletopConfig(cameras=())).action_space
    assert isinstance(space, Box)
    return space.low, space.high


def _robotwin_limits(env: RoboTwinEnv, _: None) -> Limits:
    return env.limits.low, env.limits.high

"""What a task's scenes are set up with: RoboTwin's `setup_demo` arguments, collected from the checkout's files.

RoboTwin leaves this to its callers: a task's configuration names an embodiment and camera types, which other files
spell out. Nothing of RoboTwin is imported for it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckoutError
from ..checkout import Checkout, read_yaml
from ..config import Phrasing, RoboTwinConfig
from ..simulator.adapter import CAMERAS

_IRRELEVANT = (
    "save_path",
    "episode_num",
    "use_seed",
    "language_num",
    "eval_video_log",
    "collect_data",
    "render_freq",
    "eval_instruction",
    "clear_cache_freq",
    "save_freq",
    "data_type",
    "task_name",
)
_UNKNOWN_LIMIT = 1000
"""RoboTwin's own step limit for a task that its list lacks."""
_WHOLE_TURN = 6.2832


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneArguments:
    """What every set-up of a task is called with, and what can be said about it beforehand."""

    values: dict[str, Any]
    """Keyword arguments of `setup_demo`, all but the seed's."""
    embodiment: list[Any]
    """`[robot]` or `[left, right, distance (m)]`."""
    cameras: dict[str, tuple[int, int]]
    """Wanted camera (our name) to height and width."""
    action_low: list[float]
    """Of a qpos action: per arm its joints' lower limits (rad) and 0 for the gripper."""
    action_high: list[float]
    step_limit: int
    config_hash: str
    """Of everything that decides which scene a seed gives, the split's textures among it, and what its cameras see."""
    instructions: Phrasing


def collect_arguments(checkout: Checkout, config: RoboTwinConfig) -> SceneArguments:
    """Resolve task, task configuration, embodiment and cameras.

    Raises:
        CheckoutError: something is not there; the message says what is.
    """
    if not (checkout.root / "envs" / f"{config.task}.py").is_file():
        raise CheckoutError(f"`{checkout.root}` has no task `{config.task}`; it has {', '.join(checkout.tasks())}.")
    values = copy.deepcopy(checkout.task_config(config.task_config))
    embodiment = _embodiment_names(config, values["embodiment"])
    values.update(_embodiment(embodiment, checkout), embodiment=embodiment)
    values["data_type"] = {
        "rgb": bool(config.cameras),
        "depth": "depth" in config.modalities,
        "endpose": True,
        "qpos": True,
    }
    values.update(task_name=config.task, render_freq=0, eval_mode=config.split == "eval", save_data=False)
    arms = [_arm_limits(values, side, checkout.root) for side in ("left", "right")]
    types = read_yaml(checkout.configs / "_camera_config.yml")
    return SceneArguments(
        values=values,
        embodiment=embodiment,
        cameras={name: _camera_size(values, types, CAMERAS[name]) for name in config.cameras},
        action_low=[limit for arm in arms for limit in (*(low for low, _ in arm), 0.0)],
        action_high=[limit for arm in arms for limit in (*(high for _, high in arm), 1.0)],
        step_limit=config.max_steps or checkout.step_limits().get(config.task, _UNKNOWN_LIMIT),
        config_hash=_config_hash(values, types),
        instructions=_instructions(config, values),
    )


def _instructions(config: RoboTwinConfig, values: Mapping[str, Any]) -> Phrasing:
    if config.split == "train":
        return "seen"
    chosen = config.instructions or values.get("eval_instruction") or "unseen"
    if chosen not in ("seen", "unseen"):
        raise CheckoutError(f"`eval_instruction` of `{config.task_config}` is `{chosen}`; it is `seen` or `unseen`.")
    return "seen" if chosen == "seen" else "unseen"


def _embodiment_names(config: RoboTwinConfig, given: object) -> list[Any]:
    names: list[Any] = list(config.embodiment) or (list(given) if isinstance(given, list) else [given])
    if config.embodiment and len(names) == 2:
        names.append(config.embodiment_distance)
    if len(names) not in (1, 3):
        raise CheckoutError(f"`embodiment` is {names}; it is [one robot] or [left, right, distance in metres].")
    return names


def _embodiment(names: list[Any], checkout: Checkout) -> dict[str, Any]:
    """Resolve one two-arm robot, or a left robot, a right robot and their distance (m)."""
    folders = [_robot_folder(str(name), checkout) for name in (names if len(names) == 1 else names[:2])]
    robots = [read_yaml(checkout.root / folder / "config.yml") for folder in folders]
    values: dict[str, Any] = {
        "left_robot_file": folders[0],
        "right_robot_file": folders[-1],
        "left_embodiment_config": robots[0],
        "right_embodiment_config": copy.deepcopy(robots[-1]),
        "dual_arm_embodied": len(names) == 1,
        "embodiment_name": "+".join(str(name) for name in names[:2]),
    }
    return values if len(names) == 1 else {**values, "embodiment_dis": float(names[2])}


def _robot_folder(name: str, checkout: Checkout) -> str:
    """The robot's folder as RoboTwin is told it, relative to the checkout; a folder of one's own is absolute."""
    known = checkout.embodiments()
    if name in known:
        folder = known[name]
    elif (checkout.root / name / "config.yml").is_file():
        return str((checkout.root / name).resolve())
    else:
        raise CheckoutError(
            f"there is no robot `{name}`; `{checkout.configs}` lists {', '.join(known)}. Or name a folder with a "
            "`config.yml` of its own."
        )
    if not (checkout.root / folder / "config.yml").is_file():
        raise CheckoutError(
            f"`{checkout.root / folder}` has no `config.yml`; download RoboTwin's assets "
            f"(`bash {checkout.scripts.name}/_download_assets.sh` in `{checkout.root}`), or use the robot that "
            "`python -m robotwin_env.robotwin.toy_robot` writes."
        )
    return folder


def _camera_size(values: Mapping[str, Any], types: Mapping[str, Any], camera: str) -> tuple[int, int]:
    section = values["camera"]
    wrist = camera in ("left_camera", "right_camera")
    collected = section.get("collect_wrist_camera" if wrist else "collect_head_camera", True)
    static = {entry["name"]: entry for entry in values["left_embodiment_config"]["static_camera_list"]}
    if (not wrist and camera not in static) or (camera != "front_camera" and not collected):
        raise CheckoutError(f"this configuration has no camera `{camera}`; leave it out of `cameras`.")
    kind = section["wrist_camera_type"] if wrist else section["head_camera_type"]
    if camera == "front_camera":
        kind = static[camera]["type"]
    if kind not in types:
        raise CheckoutError(f"`{camera}` is of type `{kind}`, which `_camera_config.yml` does not list.")
    return int(types[kind]["h"]), int(types[kind]["w"])


def _arm_limits(values: Mapping[str, Any], side: str, root: Path) -> list[tuple[float, float]]:
    """Read the limits (rad) of one arm's joints from its URDF; a continuous joint has a whole turn either way."""
    robot = values[f"{side}_embodiment_config"]
    path = root / values[f"{side}_robot_file"] / robot["urdf_path"]
    if not path.is_file():
        raise CheckoutError(f"the robot description `{path}` is missing; download RoboTwin's assets.")
    joints = {joint.get("name"): joint.find("limit") for joint in ElementTree.parse(path).getroot().iter("joint")}
    limits = []
    for name in robot["arm_joints_name"][0 if side == "left" else 1]:
        limit = joints.get(name)
        ends = (0.0, 0.0) if limit is None else (float(limit.get("lower", 0)), float(limit.get("upper", 0)))
        limits.append(ends if ends[1] > ends[0] else (-_WHOLE_TURN, _WHOLE_TURN))
    return limits


def _config_hash(values: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """Hash what decides scenes and their cameras: all but bookkeeping, what is shown, and where the files lie."""
    decisive = {
        key: value for key, value in values.items() if key not in _IRRELEVANT and not key.endswith("_robot_file")
    }
    static = [camera.get("type") for camera in values["left_embodiment_config"].get("static_camera_list", [])]
    used = {values["camera"].get("head_camera_type"), values["camera"].get("wrist_camera_type"), *static}
    decisive["camera_types"] = {str(kind): types.get(kind) for kind in used}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]

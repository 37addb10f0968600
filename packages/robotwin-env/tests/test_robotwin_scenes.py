"""What a task's scenes are set up with, read from a checkout's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robotwin_env.errors import CheckoutError
from robotwin_env.robotwin import Checkout, RoboTwinConfig, RoboTwinEnv
from robotwin_env.robotwin.process.scenes import SceneArguments, collect_arguments
from robotwin_env.robotwin.process.simulation import tell
from robotwin_env.robotwin.toy_robot import ROBOT, arms

Collect = Callable[..., SceneArguments]


@pytest.fixture(params=["current", "former"])
def checkout(request: pytest.FixtureRequest, make_checkout: Callable[[str], Path]) -> Checkout:
    """A checkout whose robot is the one of boxes, and `piper` whose files are missing."""
    found = Checkout.probe(make_checkout(request.param))
    folder = found.root / "assets" / ROBOT
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.safe_dump(arms.embodiment()))
    (folder / f"{ROBOT}.urdf").write_text(arms.urdf())
    files: dict[str, Any] = {
        "demo_clean": {
            "embodiment": [ROBOT],
            "domain_randomization": {"random_light": False},
            "camera": {"head_camera_type": "D435", "wrist_camera_type": "L515"},
            "data_type": {"rgb": True, "depth": True},
            "save_path": "./data",
            "render_freq": 10,
            "eval_instruction": "seen",
        },
        "_embodiment_config": {ROBOT: {"file_path": f"./assets/{ROBOT}"}, "piper": {"file_path": "./assets/piper"}},
        "_camera_config": {"D435": {"w": 320, "h": 240, "fovy": 37}, "L515": {"w": 320, "h": 180, "fovy": 45}},
        "_eval_step_limit": {"lift_pot": 800},
    }
    for name, content in files.items():
        (found.configs / f"{name}.yml").write_text(yaml.safe_dump(content))
    return found


@pytest.fixture
def config(checkout: Checkout) -> RoboTwinConfig:
    return RoboTwinConfig(root=checkout.root, task="lift_pot", task_config="demo_clean")


@pytest.fixture
def collect(checkout: Checkout, config: RoboTwinConfig) -> Collect:
    """Arguments of the configuration with changes: to it, or to its task configuration."""

    def collect(values: dict[str, Any] | None = None, **changes: Any) -> SceneArguments:
        if values is not None:
            own = checkout.root / "own.yml"
            own.write_text(yaml.safe_dump({**checkout.task_config("demo_clean"), **values}))
            changes["task_config"] = str(own)
        return collect_arguments(checkout, replace(config, **changes))

    return collect


def test_arguments_name_cameras_limits_and_steps_and_never_open_a_window(collect: Collect) -> None:
    arguments = collect(cameras=("head", "left_wrist", "front"))
    assert arguments.cameras == {"head": (240, 320), "left_wrist": (180, 320), "front": (240, 320)}
    assert len(arguments.action_low) == len(arguments.action_high) == 14
    assert arguments.action_low[6:8] == [0.0, -2.4]
    assert arguments.action_high[13] == 1.0
    assert arguments.step_limit == 800
    assert collect(max_steps=5).step_limit == 5
    assert collect(task="click_bell").step_limit == 1000
    assert arguments.values["render_freq"] == 0
    assert arguments.values["data_type"] == {"rgb": True, "depth": False, "endpose": True, "qpos": True}
    assert collect(modalities=("depth",)).values["data_type"]["depth"] is True
    assert arguments.values["left_robot_file"] == f"./assets/{ROBOT}"


def test_a_split_decides_backgrounds_words_and_the_hash_together(collect: Collect) -> None:
    train, evaluation = collect(), collect(split="eval")
    assert (train.values["eval_mode"], evaluation.values["eval_mode"]) == (False, True)
    assert train.config_hash != evaluation.config_hash
    assert [collect({"eval_instruction": kind}).instructions for kind in ("seen", "unseen")] == ["seen", "seen"]
    assert [collect({"eval_instruction": kind}, split="eval").instructions for kind in ("seen", "unseen")] == [
        "seen",
        "unseen",
    ]
    assert collect({"eval_instruction": None}, split="eval").instructions == "unseen"
    assert collect(split="eval", instructions="unseen").instructions == "unseen"
    assert collect({"eval_mode": True}).values["eval_mode"] is False, "no configuration brings the textures back"


def test_two_robots_stand_apart_and_one_does_not(collect: Collect) -> None:
    one, two = collect(), collect(embodiment=(ROBOT, ROBOT), embodiment_distance=0.7)
    assert one.values["dual_arm_embodied"]
    assert "embodiment_dis" not in one.values
    assert not two.values["dual_arm_embodied"]
    assert two.values["embodiment_dis"] == 0.7
    assert two.embodiment == [ROBOT, ROBOT, 0.7]
    with pytest.raises(CheckoutError, match="one robot"):
        collect({"embodiment": [ROBOT, ROBOT]})


def test_the_hash_tells_scenes_apart_and_nothing_else(collect: Collect) -> None:
    same = collect().config_hash
    assert collect({"save_path": "elsewhere", "eval_instruction": "unseen", "data_type": {}}).config_hash == same
    assert collect(modalities=("depth", "segmentation")).config_hash == same
    assert collect(task="click_bell", cameras=(), render="none").config_hash == same
    assert collect({"domain_randomization": {"random_light": True}}).config_hash != same
    assert collect({"camera": {"head_camera_type": "L515", "wrist_camera_type": "L515"}}).config_hash != same


@pytest.mark.parametrize(("camera", "told"), [("D435", True), ("L515", True), ("Large_D435", False)])
def test_the_hash_tells_what_cameras_see_apart(checkout: Checkout, collect: Collect, camera: str, told: bool) -> None:
    same = collect().config_hash
    file = checkout.configs / "_camera_config.yml"
    types = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**types, camera: {"w": 320, "h": 240, "fovy": 60}}))
    assert (collect().config_hash != same) == told
    assert collect().config_hash == collect(cameras=(), render="none").config_hash


def test_what_is_missing_is_refused_by_name(checkout: Checkout, collect: Collect) -> None:
    camera = {"head_camera_type": "D435", "wrist_camera_type": "D435", "collect_head_camera": False}
    for told, changes in {
        "no task `fold_towel`; it has click_bell, lift_pot": {"task": "fold_towel"},
        r"no task configuration `demo_wild`.*\['demo_clean'\]": {"task_config": "demo_wild"},
        "no task configuration": {"task_config": "/nowhere/own.yml"},
        f"no robot `hand`; .* lists {ROBOT}, piper": {"embodiment": ("hand",)},
        "no `config.yml`; download RoboTwin's assets": {"embodiment": ("piper", "piper")},
        "no camera `head_camera`": {"values": {"camera": camera}},
    }.items():
        with pytest.raises(CheckoutError, match=told):
            collect(**changes)
    (checkout.root / "assets" / ROBOT / f"{ROBOT}.urdf").unlink()
    with pytest.raises(CheckoutError, match="robot description"):
        collect()


def test_the_simulator_is_told_all_of_it_as_json(config: RoboTwinConfig) -> None:
    told = tell(config)
    assert json.loads(json.dumps(told.settings)) == told.settings
    assert told.settings["setup"]["task_name"] == "lift_pot"
    assert told.settings["max_steps"] == 800
    assert told.identity["commit"].startswith("files-")
    assert told.identity["embodiment"] == [ROBOT]


def test_the_spaces_are_read_from_the_files_and_nothing_is_started(config: RoboTwinConfig) -> None:
    env = RoboTwinEnv(replace(config, cameras=("left_wrist",)))
    assert env.action_space.shape == (14,)
    assert env.action_space.low[1] == np.float32(-1.4)
    assert env.observation_space["left_wrist"].shape == (180, 320, 3)  # type: ignore[index]
    assert env.simulation.starts == 0

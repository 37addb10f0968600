"""What is said of the things in RoboTwin's scenes, on a scene of SAPIEN's without RoboTwin."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to find system libvulkan")
    import sapien
    from sapien import physx

from robotwin_env.robotwin.simulator.observation import objects, segments

pytestmark = pytest.mark.sim


def jointed(scene: Any, name: str, links: tuple[str, str]) -> Any:
    """Two links on a hinge: the first one at x = 1 m, the second one 0.2 m above it."""
    builder = scene.create_articulation_builder()
    builder.set_initial_pose(sapien.Pose([1, 0, 0]))
    root = builder.create_link_builder()
    lid = builder.create_link_builder(root)
    lid.set_joint_properties("revolute", [[-1, 1]], sapien.Pose([0, 0, 0.2]), sapien.Pose())
    for link, called in zip((root, lid), links, strict=True):
        link.set_name(called)
        link.add_box_collision(half_size=[0.1, 0.1, 0.01])
    built = builder.build(fix_root_link=True)
    built.set_name(name)
    built.qpos = np.zeros(1, np.float32)
    return built


@pytest.fixture
def task() -> Iterator[Any]:
    """A task with a block, a laptop and a robot, of which there is one articulation for both arms."""
    scene = sapien.Scene([physx.PhysxCpuSystem()])
    block = scene.create_actor_builder()
    block.add_box_collision(half_size=[0.02] * 3)
    block.set_initial_pose(sapien.Pose([0.1, 0.2, 0.75]))
    block.build("block")
    jointed(scene, "laptop", ("base", "link_1"))
    robot = jointed(scene, "arms", ("trunk", "hand"))
    yield SimpleNamespace(scene=scene, robot=SimpleNamespace(left_entity=robot, right_entity=robot))
    scene.clear()


def test_every_link_of_what_has_joints_is_an_object_and_no_link_of_the_robot(task: Any) -> None:
    listed = {name: place for name, *place in objects(task)}
    assert set(listed) == {"block", "laptop/base", "laptop/link_1"}
    assert listed["block"] == pytest.approx([0.1, 0.2, 0.75, 1, 0, 0, 0])
    assert listed["laptop/base"][:3] == pytest.approx([1, 0, 0])
    assert listed["laptop/link_1"][:3] == pytest.approx([1, 0, 0.2])


def test_a_segmentation_names_links_as_objects_are_named(task: Any) -> None:
    named = dict(segments(task))
    assert len(named) == len(task.scene.entities)
    assert {"block", "laptop/base", "laptop/link_1", "arms/hand"} <= set(named.values())

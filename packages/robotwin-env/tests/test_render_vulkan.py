from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from robotwin_env import TabletopConfig, TabletopEnv
from robotwin_env.errors import RendererUnavailableError, SceneError
from robotwin_env.render import Panda3DRenderer, SapienRenderer
from robotwin_env.visual import Camera, Lighting, Pose, Shape, VisualBody

AT_ORIGIN = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


class Grey:
    """Draws nothing."""

    def load(self, bodies, cameras, lighting):
        self.cameras = cameras

    def render(self, poses):
        return {one.name: np.full((one.height, one.width, 3), 128, np.uint8) for one in self.cameras}

    def close(self):
        pass


DOWN = (math.cos(0.4), 0.0, math.sin(0.4), 0.0)


@pytest.fixture
def renderer():
    try:
        made = SapienRenderer(supersample=2)
    except RendererUnavailableError as error:
        pytest.skip(f"no Vulkan device here: {error}")
    yield made
    made.close()


def scene():
    """Every kind of shape, turned and displaced within its body, seen by a fixed and a mounted camera."""
    bodies = [VisualBody(name="table", shapes=(Shape(kind="box", size=(0.6, 0.4, 0.02), color=(0.7, 0.6, 0.5)),))]
    poses = {"table": AT_ORIGIN}
    for index, kind in enumerate(("box", "cylinder", "sphere")):
        inner = Pose(position=(0.0, 0.0, 0.03), quaternion=(0.9, 0.1 * index, 0.2, 0.1))
        shape = Shape(
            kind=kind, size=(0.06, 0.06, 0.06 if kind == "sphere" else 0.1), color=(0.9, 0.3 * index, 0.2), pose=inner
        )
        bodies.append(VisualBody(name=kind, shapes=(shape,)))
        poses[kind] = np.array([0.0, 0.2 * index - 0.2, 0.1, 0.9, 0.1, 0.2 * index, 0.3])
    cameras = [
        Camera(name="head", width=64, height=48, fovy=1.0, pose=Pose(position=(-0.7, 0.0, 0.7), quaternion=DOWN)),
        Camera(name="hand", width=32, height=32, fovy=1.2, pose=Pose(position=(-0.3, 0.05, 0.1)), body="box"),
    ]
    return bodies, cameras, poses


def test_sapien_draws_what_the_software_renderer_draws(renderer):
    bodies, cameras, poses = scene()
    software = Panda3DRenderer(supersample=2)
    for made in (renderer, software):
        made.load(bodies, cameras, Lighting())
    for shift in (0.0, 0.05):
        poses["box"] = poses["box"] + np.array([shift, 0, 0, 0, 0, 0, 0])
        ours, theirs = renderer.render(poses), software.render(poses)
        for camera in cameras:
            assert ours[camera.name].shape == (camera.height, camera.width, 3)
            difference = np.abs(ours[camera.name].astype(int) - theirs[camera.name]).max(axis=-1)
            assert theirs[camera.name].std() > 20
            assert np.median(difference) <= 2
            assert (difference > 40).mean() < 0.06  # edges
    software.close()


def test_sapien_refuses_the_scenes_that_the_software_renderer_refuses(renderer):
    bodies, cameras, poses = scene()
    with pytest.raises(SceneError, match="no scene is loaded"):
        renderer.render(poses)
    with pytest.raises(SceneError, match="more than once"):
        renderer.load([*bodies, bodies[0]], cameras, Lighting())
    renderer.load(bodies, cameras, Lighting())
    with pytest.raises(SceneError, match="no pose was given"):
        renderer.render({})
    renderer.close()
    with pytest.raises(SceneError, match="closed"):
        renderer.render(poses)
    with pytest.raises(SceneError, match="supersample"):
        SapienRenderer(supersample=0)


@pytest.mark.parametrize("arguments", ["", "device='pci:0'"])
def test_a_machine_without_vulkan_is_told_what_to_do_and_exits_cleanly(arguments):
    script = (
        "from robotwin_env.errors import RendererUnavailableError\n"
        "from robotwin_env.render import SapienRenderer\n"
        f"try: SapienRenderer({arguments})\n"
        "except RendererUnavailableError as error: print(error)\n"
    )
    hidden = {"VK_ICD_FILENAMES": "/nonexistent.json", "VK_DRIVER_FILES": "/nonexistent.json"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **hidden},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "VK_ICD_FILENAMES" in run.stdout
    assert "Panda3DRenderer" in run.stdout


def test_the_tabletop_is_drawn_by_the_renderer_that_its_configuration_names(renderer):
    """Where Vulkan works: SAPIEN by name, with options of one's own, and in software, one picture after another."""
    pictures = {}
    for name, chosen in {
        "software": "panda3d",
        "sapien": "sapien",
        "smooth": partial(SapienRenderer, supersample=2),
    }.items():
        env = TabletopEnv(TabletopConfig(task="lift_pot", scene="clean", cameras=("head",), renderer=chosen))
        observation, _ = env.reset(seed=3)
        pictures[name] = observation["head"].astype(int)
        env.close()
    assert all(picture.std() > 20 for picture in pictures.values())
    difference = np.abs(pictures["smooth"] - pictures["software"]).max(axis=-1)
    assert np.median(difference) <= 4
    assert (difference > 40).mean() < 0.25  # shadows and textures, which SAPIEN leaves out, and edges
    assert not np.array_equal(pictures["sapien"], pictures["smooth"])


def test_the_tabletop_is_drawn_by_a_renderer_of_ones_own():
    env = TabletopEnv(TabletopConfig(cameras=("head",), image_size=8, renderer=Grey))
    assert set(env.reset(seed=0)[0]["head"].flatten().tolist()) == {128}
    env.close()

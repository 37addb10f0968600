"""Looks at the interpreter that it runs under: `PYTHON probe.py WHAT`, started by `robotwin_env.robotwin.doctor` only.

Every question is a process of its own, because importing a renderer or a planner may crash or hang. The answer is the
last line, a JSON object. Standard library only, until a question imports what it asks about.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

DISTRIBUTIONS = (
    "numpy",
    "sapien",
    "mplib",
    "toppra",
    "gymnasium",
    "transforms3d",
    "trimesh",
    "scipy",
    "h5py",
    "imageio",
    "PyYAML",
    "opencv-python",
    "opencv-python-headless",
    "torch",
    "open3d",
    "panda3d",
    "nvidia_curobo",
    "warp-lang",
    "setuptools",
)
UNENCODED = re.compile(r'open\([^)\n]*"r"\)')
COLLISION_STOP = re.compile(r"delta_twist\) < 1e-4\s+or collide\b")


def versions() -> dict[str, object]:
    """Versions of what RoboTwin needs; `None` for what is not installed."""
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return {"python": platform.python_version(), "executable": sys.executable, "packages": found}


def patches() -> dict[str, object]:
    """Whether the two files that RoboTwin's installer edits are edited; `None` where the package is missing."""
    loader = _source("sapien", "wrapper/urdf_loader.py")
    planner = _source("mplib", "planner.py")
    return {
        "sapien": None if loader is None else not UNENCODED.search(loader),
        "mplib": None if planner is None else not COLLISION_STOP.search(planner),
    }


def importable(name: str) -> dict[str, object]:
    """Import a module."""
    module = importlib.import_module(name)
    return {"file": getattr(module, "__file__", None)}


def gpu() -> dict[str, object]:
    """What torch sees of CUDA."""
    torch = importlib.import_module("torch")  # the simulator's, which this package does without
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"devices": [torch.cuda.get_device_name(place) for place in range(count)], "cuda": torch.version.cuda}


def render(shader: str) -> dict[str, object]:
    """Draw a red box and say how red the picture is in its middle, 0 to 1."""
    import numpy as np
    import sapien

    sapien.render.set_camera_shader_dir(shader)
    if shader == "rt":
        sapien.render.set_ray_tracing_samples_per_pixel(4)
        sapien.render.set_ray_tracing_path_depth(2)
        sapien.render.set_ray_tracing_denoiser("oidn")
    scene = sapien.Scene()
    scene.set_ambient_light([0.6, 0.6, 0.6])
    box = scene.create_actor_builder()
    box.add_box_visual(half_size=[0.2, 0.2, 0.2], material=[1.0, 0.0, 0.0])
    box.build_static(name="box")
    camera = scene.add_camera(name="camera", width=32, height=24, fovy=1.0, near=0.1, far=10.0)
    camera.set_entity_pose(sapien.Pose([-1.0, 0.0, 0.0]))
    scene.update_render()
    camera.take_picture()
    red, green = (float(np.asarray(camera.get_picture("Color"))[12, 16, channel]) for channel in (0, 1))
    if not red > green + 0.1:
        raise RuntimeError(f"the middle of the picture is {red:.2f} red and {green:.2f} green; a red box is there.")
    return {"red": red}


def _source(package: str, file: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / file
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: list[str]) -> int:
    """Answer one question."""
    questions: dict[str, Callable[..., dict[str, object]]] = {
        "versions": versions,
        "patches": patches,
        "import": importable,
        "gpu": gpu,
        "render": render,
    }
    try:
        answer = questions[arguments[0]](*arguments[1:])
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("\n" + json.dumps(answer), flush=True)  # noqa: T201 (the answer to who started this)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

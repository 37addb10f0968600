"""What a renderer is told about a scene: the bodies, and a camera over the table and on each hand."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
from jaxtyping import Float

from ..visual import Camera, Pose, Quaternion, Vector3, VisualBody
from .kinematics import Side
from .scene import Scene
from .urdf import arm_links

CameraName = Literal["head", "left_wrist", "right_wrist"]
CAMERAS: tuple[CameraName, ...] = ("head", "left_wrist", "right_wrist")

HEAD_AT: Vector3 = (0.0, 0.18, 0.87)
HEAD_TO: Vector3 = (0.0, 0.02, 0.0)
HEAD_FOVY = math.radians(43)
WRIST_AT = (0.085, 0.0)
WRIST_TO = (0.025, 0.115)
"""Outward from the fingers' axis and along it (m), in the hand's frame: where the camera is and what it looks at."""
WRIST_FOVY = math.radians(85)


def cameras(names: tuple[CameraName, ...], size: int) -> tuple[Camera, ...]:
    """Make square cameras of `size` pixels."""
    return tuple(_camera(name, size) for name in names)


def visual_bodies(scene: Scene) -> tuple[VisualBody, ...]:
    """List everything visible, under the names that the physics uses."""
    arms = tuple(
        VisualBody(name=f"{side.name.lower()}_{link.name}", shapes=link.visuals)
        for side in Side
        for link in arm_links()
        if link.visuals
    )
    things = tuple(
        VisualBody(name=item.name, shapes=item.shapes) for item in (scene.table, *scene.objects, *scene.distractors)
    )
    return arms + things


def _camera(name: CameraName, size: int) -> Camera:
    if name == "head":
        return Camera(name=name, width=size, height=size, fovy=HEAD_FOVY, pose=look_at(HEAD_AT, HEAD_TO, (0, 1, 0)))
    side = Side.LEFT if name == "left_wrist" else Side.RIGHT
    at, to = ((0.0, -side.outward * aside, along) for aside, along in (WRIST_AT, WRIST_TO))
    pose = look_at(at, to, (-1, 0, 0))
    return Camera(name=name, width=size, height=size, fovy=WRIST_FOVY, pose=pose, body=f"{side.name.lower()}_hand")


def look_at(at: Vector3, to: Vector3, up: Vector3) -> Pose:
    """Place a camera at `at` (m) that looks at `to`, the picture's upper edge towards `up`."""
    forward = _unit(np.subtract(to, at))
    left = _unit(np.cross(up, forward))
    rotation = np.stack([forward, left, np.cross(forward, left)], axis=1)
    return Pose(position=at, quaternion=_quaternion(rotation))


def _unit(vector: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    return vector / float(np.linalg.norm(vector))


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> Quaternion:
    """Convert a rotation matrix; exact for every rotation (Bar-Itzhack 2000, as an eigenvector)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    key = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, zx + xz],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, zx + xz, zy + yz, zz - xx - yy],
        ]
    )
    _, vectors = np.linalg.eigh(key)
    return cast("Quaternion", tuple(float(value) for value in vectors[:, -1]))

"""Panda3D's software renderer: pictures without a GPU, a driver or a display.

Pixels depend on the input alone, not on the process or on what was drawn before. Two of Panda3D's habits stand
against that and are switched off: its transform cache replaces a transform by a nearly equal one seen earlier,
and its state-sorted bin draws in the order of memory addresses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robotwin_env.errors import SceneError
from robotwin_env.render.canvas import Canvas, shared_engine
from robotwin_env.render.checks import check_scene, pose_table
from robotwin_env.render.meshes import Mesh, body_mesh, rotation_matrices
from robotwin_env.render.pixels import box_filter
from robotwin_env.visual import Camera, Lighting, Pose, VisualBody

NEAR, FAR = 0.01, 20.0
"""Clip planes (m)."""

_RIGHT_OF_FORWARD = (math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5))
"""Turns Panda3D's camera (looking along +y) into ours (looking along +x)."""


def _geometry(name: str, mesh: Mesh) -> Any:
    from panda3d.core import Geom, GeomEnums, GeomNode, GeomTriangles, GeomVertexData, GeomVertexFormat

    table = np.zeros(len(mesh.positions), dtype=[("position", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 4)])
    rgb = np.round(np.clip(mesh.colors, 0.0, 1.0) * 255.0).astype(np.uint8)
    table["position"], table["normal"] = mesh.positions, mesh.normals
    table["color"][:, :3], table["color"][:, 3] = rgb, 255

    data = GeomVertexData(name, GeomVertexFormat.get_v3n3c4(), GeomEnums.UH_static)
    data.unclean_set_num_rows(len(table))
    memoryview(data.modify_array(0)).cast("B")[:] = table.tobytes()
    triangles = GeomTriangles(GeomEnums.UH_static)
    triangles.set_index_type(GeomEnums.NT_uint32)
    indices = triangles.modify_vertices()
    indices.unclean_set_num_rows(mesh.triangles.size)
    memoryview(indices).cast("B")[:] = mesh.triangles.tobytes()
    geometry = Geom(data)
    geometry.add_primitive(triangles)
    node = GeomNode(name)
    node.add_geom(geometry)
    return node


def _transforms(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, 7)` poses to `(n, 16)` matrices in Panda3D's order: row vectors, translation in the last row."""
    matrices = np.zeros((len(poses), 4, 4))
    matrices[:, :3, :3] = rotation_matrices(poses[:, 3:]).transpose(0, 2, 1)
    matrices[:, 3, :3] = poses[:, :3]
    matrices[:, 3, 3] = 1.0
    return matrices.reshape(len(poses), 16)


def _pose_array(pose: Pose) -> NDArray[np.float64]:
    return np.array([*pose.position, *pose.quaternion], dtype=np.float64)


class Panda3DRenderer:
    """Draws with Panda3D's software renderer on the calling thread.

    Faces are lit per vertex by one directional and one ambient light; there are no shadows. Renderers of one
    process share one graphics engine and must be used from one thread. Pictures lie a quarter of a sample up and left
    of an ideal pinhole camera's (measured: 0.24 pixels, 0.12 with `supersample=2`).

    Args:
        supersample: Each pixel is the mean of `supersample` x `supersample` samples. 1 is fastest; 2 smooths
            edges, which lets a picture tell positions finer than its pixels.

    Raises:
        RendererUnavailableError: Panda3D or its software renderer is missing.
        SceneError: `supersample` is not positive.
    """

    def __init__(self, *, supersample: int = 1) -> None:
        if supersample < 1:
            raise SceneError(f"`supersample` is {supersample}; it must be 1 or more.")
        self._supersample = supersample
        shared_engine()
        self._cameras: tuple[Camera, ...] = ()
        self._bodies: dict[str, Any] = {}
        self._root: Any = None
        self._canvas: Canvas | None = None
        self._closed = False

    def load(self, bodies: Sequence[VisualBody], cameras: Sequence[Camera], lighting: Lighting) -> None:
        """Replace the scene.

        Raises:
            SceneError: the renderer is closed, a name occurs twice, a camera is attached to an unknown body or
                has no pixels, or a shape cannot be drawn.
        """
        from panda3d.core import NodePath

        self._check_open()
        check_scene(bodies, cameras)
        meshes = [body_mesh(body.shapes) for body in bodies]
        root = NodePath("scene")
        root.set_bin("unsorted", 0)
        root.set_two_sided(False)
        nodes = {}
        for body, mesh in zip(bodies, meshes, strict=True):
            nodes[body.name] = root.attach_new_node(_geometry(body.name, mesh))
        _attach_lights(root, lighting)
        self._free_scene()
        self._root, self._bodies, self._cameras = root, nodes, tuple(cameras)
        self._place_cameras(lighting)

    def render(self, poses: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.uint8]]:
        """Draw every camera.

        Args:
            poses: body name to `(7,)`: position (m) and quaternion `(w, x, y, z)` in the world; every loaded body.

        Returns:
            Camera name to `(height, width, 3)` RGB.

        Raises:
            SceneError: nothing is loaded, or a body's pose is missing, misshapen or not finite.
        """
        from panda3d.core import LMatrix4, TransformState

        self._check_open()
        if self._root is None:
            raise SceneError("no scene is loaded; call `load` before `render`.")
        if self._bodies:
            table = pose_table(self._bodies, poses)
            for node, matrix in zip(self._bodies.values(), _transforms(table).tolist(), strict=True):
                node.set_transform(TransformState.make_mat(LMatrix4(*matrix)))
        return {} if self._canvas is None else self._pictures(self._canvas.draw())

    def close(self) -> None:
        """Free the scene; the renderer cannot be used afterwards. Closing twice is harmless."""
        self._free_scene()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise SceneError("the renderer is closed; make a new one.")

    def _place_cameras(self, lighting: Lighting) -> None:
        """Lay the pictures out side by side in one buffer: one frame and one read-back serve every camera."""
        from panda3d.core import Camera as PandaCamera
        from panda3d.core import LMatrix4, LVecBase4, PerspectiveLens, TransformState

        widths = [camera.width * self._supersample for camera in self._cameras]
        heights = [camera.height * self._supersample for camera in self._cameras]
        if not self._cameras:
            return
        self._canvas = Canvas.acquire(sum(widths), max(heights))
        turn = np.array([[0.0, 0.0, 0.0, *_RIGHT_OF_FORWARD]])
        panda_to_ours = LMatrix4(*_transforms(turn)[0].tolist())
        left = 0
        for camera, width, height in zip(self._cameras, widths, heights, strict=True):
            lens = PerspectiveLens()
            aspect = camera.width / camera.height
            horizontal = 2.0 * math.atan(math.tan(camera.fovy / 2.0) * aspect)
            lens.set_fov(math.degrees(horizontal), math.degrees(camera.fovy))
            lens.set_near_far(NEAR, FAR)
            parent = self._root if camera.body is None else self._bodies[camera.body]
            node = parent.attach_new_node(PandaCamera(camera.name, lens))
            pose = LMatrix4(*_transforms(_pose_array(camera.pose)[None])[0].tolist())
            node.set_transform(TransformState.make_mat(panda_to_ours * pose))
            region = self._canvas.add_region(left, width, height)
            region.set_camera(node)
            region.set_clear_color_active(True)
            region.set_clear_color(LVecBase4(*lighting.background, 1.0))
            region.set_clear_depth_active(True)
            left += width

    def _free_scene(self) -> None:
        if self._canvas is not None:
            self._canvas.release()
            self._canvas = None
        if self._root is not None:
            self._root.clear_light()  # the root's state holds its lights, which hold the root
            self._root.remove_node()
        self._root, self._bodies, self._cameras = None, {}, ()

    def _pictures(self, atlas: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        pictures: dict[str, NDArray[np.uint8]] = {}
        left = 0
        factor = self._supersample
        for camera in self._cameras:
            picture = atlas[: camera.height * factor, left : left + camera.width * factor]
            left += camera.width * factor
            pictures[camera.name] = box_filter(picture, factor) if factor > 1 else np.ascontiguousarray(picture)
        return pictures


def _attach_lights(root: Any, lighting: Lighting) -> None:
    from panda3d.core import AmbientLight, DirectionalLight, LVecBase4, LVector3, Material

    white = Material("white")  # without a material Panda3D multiplies by the vertex colour twice
    white.set_ambient(LVecBase4(1.0, 1.0, 1.0, 1.0))
    white.set_diffuse(LVecBase4(1.0, 1.0, 1.0, 1.0))
    root.set_material(white)
    ambient = AmbientLight("ambient")
    ambient.set_color(LVecBase4(*lighting.ambient, 1.0))
    sun = DirectionalLight("sun")
    sun.set_color(LVecBase4(*lighting.directional, 1.0))
    sun.set_direction(LVector3(*lighting.direction).normalized())
    for light in (ambient, sun):
        root.set_light(root.attach_new_node(light))

"""The one module that talks to SAPIEN, which is untyped: CPU physics only, no render device needed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to find system libvulkan")  # physics needs none
    import sapien
    from sapien import physx

from ..visual import Quaternion, Shape, Vector3
from .kinematics import ARM_JOINTS, Side
from .objects import MovingPart, SceneObject, upright
from .urdf import Joint, Link, arm_links

PHYSICS_HZ = 250
FINGER_FRICTION = 2.0
ARM_STIFFNESS, ARM_DAMPING = 2500.0, 100.0
"""Of the acceleration drive: critically damped at 50 rad/s, so that the arm trails its target by 40 ms."""
FINGER_STIFFNESS, FINGER_DAMPING = 1200.0, 60.0
"""N/m and N s/m: 30 N on each side of a 5 cm object."""

_FACING_Y: Quaternion = (math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    articulation: physx.PhysxArticulation
    joints: list[physx.PhysxArticulationJoint]
    fingers: list[physx.PhysxArticulationJoint]
    finger_travel: float
    order: list[int]
    """Of the six joints and the two fingers in SAPIEN's active joints."""


class Physics:
    """Two arms, a table and objects in one SAPIEN scene, built anew for every episode.

    A fresh scene is what makes an episode bitwise reproducible: PhysX keeps contact and broad-phase state that no
    reset of poses clears.
    """

    def __init__(self, objects: Sequence[SceneObject], table: SceneObject, table_height: float) -> None:
        physx.set_scene_config(gravity=np.array([0.0, 0.0, -9.81]), enable_tgs=True, cpu_workers=0)
        physx.set_body_config(solver_position_iterations=8, solver_velocity_iterations=1, sleep_threshold=0.005)
        physx.set_shape_config(contact_offset=0.01, rest_offset=0.0)
        physx.set_default_material(0.8, 0.8, 0.0)
        self._system = physx.PhysxCpuSystem()
        self._scene = sapien.Scene([self._system])
        self._scene.timestep = 1 / PHYSICS_HZ
        self._bodies: dict[str, sapien.Entity] = {}
        self._rigid: dict[str, physx.PhysxRigidBodyComponent] = {}
        self._joints: dict[str, tuple[physx.PhysxArticulation, int]] = {}
        """A moving part's articulation and its place in `qpos`."""
        self._arms = {side: self._build_arm(side) for side in Side}
        self._add(table, table_height)
        for item in objects:
            self._add(item, table_height)

    @property
    def names(self) -> tuple[str, ...]:
        """Every body, in the order in which it was built."""
        return tuple(self._bodies)

    def pose(self, name: str) -> Float[np.ndarray, " 7"]:
        """Return a body's position (m) and quaternion `(w, x, y, z)` in the world."""
        pose = self._bodies[name].pose
        return np.concatenate([pose.p, pose.q]).astype(np.float64)

    def velocity(self, name: str) -> Float[np.ndarray, " 3"]:
        """Return the linear velocity of a free object or a moving part (m/s)."""
        return np.asarray(self._rigid[name].linear_velocity, dtype=np.float64)

    def joint(self, part: str) -> float:
        """Return where a moving part is on its joint (rad or m)."""
        articulation, index = self._joints[part]
        return float(articulation.qpos[index])

    def start_moving(self, objects: Sequence[SceneObject]) -> None:
        """Give objects the velocities with which they start."""
        for item in objects:
            if any(item.velocity) or any(item.spin):
                body = self._rigid[item.name]
                body.set_linear_velocity(item.velocity)
                body.set_angular_velocity(item.spin)

    def measured(self) -> Float[np.ndarray, " 14"]:
        """Return where the joints are, in the action's order: rad, and grippers from 0 (closed) to 1 (open)."""
        state = np.empty(14)
        for side, arm in self._arms.items():
            positions = arm.articulation.qpos[arm.order]
            state[side.joints] = positions[:ARM_JOINTS]
            state[side.gripper] = positions[ARM_JOINTS:].mean() / arm.finger_travel
        return state

    def place(self, state: Float[np.ndarray, " 14"]) -> None:
        """Put the robot there at once, at rest, and hold it; for the start of an episode only."""
        for side, arm in self._arms.items():
            positions = np.empty(len(arm.order), dtype=np.float32)
            positions[arm.order] = [*state[side.joints], *[state[side.gripper] * arm.finger_travel] * 2]
            arm.articulation.qpos = positions
            arm.articulation.qvel = np.zeros_like(positions)
        self.command(state)

    def command(self, state: Float[np.ndarray, " 14"]) -> None:
        """Set the drive targets: rad, and grippers from 0 (closed) to 1 (open)."""
        values = state.tolist()
        for side, arm in self._arms.items():
            *joints, gripper = values[side.numbers]
            for joint, target in zip(arm.joints, joints, strict=True):
                joint.set_drive_target(target)
            opening = gripper * arm.finger_travel
            for finger in arm.fingers:
                finger.set_drive_target(opening)

    def advance(self, steps: int) -> None:
        """Run the physics for `steps` of 1/250 s."""
        step = self._system.step
        for _ in range(steps):
            step()

    def close(self) -> None:
        """Free the scene."""
        self._bodies.clear()
        self._rigid.clear()
        self._joints.clear()
        self._arms.clear()
        self._scene.clear()

    def _build_arm(self, side: Side) -> _Arm:
        builder = self._scene.create_articulation_builder()
        builder.set_initial_pose(sapien.Pose(side.base, _FACING_Y))
        pads = physx.PhysxMaterial(FINGER_FRICTION, FINGER_FRICTION, 0.0)
        links = arm_links()
        parts: dict[str, sapien.wrapper.articulation_builder.LinkBuilder] = {}
        for link in links:
            part = parts[link.name] = builder.create_link_builder(parts[link.parent] if link.parent else None)
            _describe(part, link, pads)
        articulation = builder.build(fix_root_link=True)
        group = 1 << side.value
        for component in articulation.links:
            component.disable_gravity = True
            self._bodies[f"{side.name.lower()}_{component.name}"] = component.entity
            for shape in component.collision_shapes:
                shape.set_collision_groups([1, 1, group, 0])
        active = [joint.name for joint in articulation.active_joints]
        joints = [link.joint for link in links if link.joint is not None and link.joint.kind != "fixed"]
        found = [articulation.find_joint_by_name(joint.name) for joint in joints]
        for joint, drive in zip(joints, found, strict=True):
            if joint.kind == "revolute":
                drive.set_drive_properties(ARM_STIFFNESS, ARM_DAMPING, joint.effort, "acceleration")
            else:
                drive.set_drive_properties(FINGER_STIFFNESS, FINGER_DAMPING, joint.effort, "force")
        return _Arm(
            articulation=articulation,
            joints=found[:ARM_JOINTS],
            fingers=found[ARM_JOINTS:],
            finger_travel=joints[-1].upper,
            order=[active.index(joint.name) for joint in joints],
        )

    def _add(self, item: SceneObject, table_height: float) -> None:
        pose = sapien.Pose((*item.position, table_height + item.height), upright(item.yaw))
        material = physx.PhysxMaterial(item.friction, item.friction, 0.0)
        if item.parts:
            self._add_articulation(item, pose, material)
            return
        builder = self._scene.create_actor_builder()
        builder.set_initial_pose(pose)
        for shape, density in zip(item.shapes, item.densities(), strict=True):
            _collide(builder, shape, material, density)
        entity = builder.build(item.name) if item.motion == "free" else builder.build_static(item.name)
        self._bodies[item.name] = entity
        if item.motion == "free":
            body = self._rigid[item.name] = entity.find_component_by_type(physx.PhysxRigidDynamicComponent)
            if item.rolling_drag:
                body.set_angular_damping(item.rolling_drag)

    def _add_articulation(self, item: SceneObject, pose: sapien.Pose, material: physx.PhysxMaterial) -> None:
        builder = self._scene.create_articulation_builder()
        builder.set_initial_pose(pose)
        root = builder.create_link_builder()
        root.set_name(item.name)
        root.set_joint_properties("fixed", [], sapien.Pose(), sapien.Pose())
        for shape, density in zip(item.shapes, item.densities(), strict=True):
            _collide(root, shape, material, density)
        for part in item.parts:
            _attach(builder.create_link_builder(root), part, material)
        articulation = builder.build(fix_root_link=item.motion == "fixed")
        for link in articulation.links:
            self._bodies[link.name] = link.entity
            self._rigid[link.name] = link
        joints = articulation.active_joints
        order = [joint.name for joint in joints]
        for part in item.parts:
            index = order.index(part.name)
            joints[index].set_drive_properties(part.stiffness, part.damping)
            joints[index].set_drive_target(part.rest)
            joints[index].set_friction(part.friction)
            self._joints[part.name] = (articulation, index)
        start = {part.name: part.start for part in item.parts}
        articulation.qpos = np.array([start[name] for name in order], dtype=np.float32)


def _attach(
    link: sapien.wrapper.articulation_builder.LinkBuilder, part: MovingPart, material: physx.PhysxMaterial
) -> None:
    turn = _turn_x_to(part.axis)
    link.set_name(part.name)
    link.set_joint_name(part.name)
    frames = sapien.Pose(part.origin, turn), sapien.Pose(q=turn)
    link.set_joint_properties(part.kind, [[part.lower, part.upper]], *frames)
    for shape in part.shapes:
        _collide(link, shape, material, part.density)


def _turn_x_to(axis: Vector3) -> Quaternion:
    """Return the shortest rotation that takes x to a direction."""
    x, y, z = np.asarray(axis) / math.hypot(*axis)
    if x < -1 + 1e-9:
        return (0.0, 0.0, 0.0, 1.0)
    w, j, k = 1.0 + x, -z, y  # x cross axis is (0, -z, y)
    length = math.hypot(w, j, k)
    return (float(w / length), 0.0, float(j / length), float(k / length))


def _describe(part: sapien.wrapper.articulation_builder.LinkBuilder, link: Link, pads: physx.PhysxMaterial) -> None:
    part.set_name(link.name)
    part.set_mass_and_inertia(link.mass, sapien.Pose(link.center), np.array(link.inertia))
    for shape in link.collisions:
        _collide(part, shape, pads, 1000.0)
    if link.joint is None:
        part.set_joint_properties("fixed", [], sapien.Pose(), sapien.Pose())
    else:
        _join(part, link.joint)


def _join(part: sapien.wrapper.articulation_builder.LinkBuilder, joint: Joint) -> None:
    turn = _turn_x_to(joint.axis)
    limits = [] if joint.kind == "fixed" else [[joint.lower, joint.upper]]
    part.set_joint_name(joint.name)
    part.set_joint_properties(joint.kind, limits, sapien.Pose(joint.origin, turn), sapien.Pose(q=turn))


def _collide(
    builder: sapien.wrapper.actor_builder.ActorBuilder, shape: Shape, material: physx.PhysxMaterial, density: float
) -> None:
    pose = sapien.Pose(shape.pose.position, shape.pose.quaternion)
    if shape.kind == "box":
        builder.add_box_collision(pose, shape.size, material, density)
    elif shape.kind == "cylinder":
        upright_pose = pose * sapien.Pose(q=_turn_x_to((0.0, 0.0, 1.0)))
        builder.add_cylinder_collision(upright_pose, shape.size[0], shape.size[2], material, density)
    else:
        builder.add_sphere_collision(pose, shape.size[0], material, density)

"""A scene in motion: what tasks and experts read, all of it privileged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ..optional import missing
from .kinematics import Side, ToolPose, speed_limits, tool_pose
from .motion import CONTROL_HZ, Action

if TYPE_CHECKING:
    from .scene import Scene  # which is drawn by tasks, and these read the world

SUBSTEPS = 10
"""Physics steps of 1/250 s in one control step."""
SETTLE_STEPS = 25
"""Physics steps before an episode starts, for objects to come to rest."""


class World:
    """The physics of one episode and the command in force."""

    def __init__(self, scene: Scene, start: Action) -> None:
        """Build the scene with the robot at rest at `start`."""
        try:
            from ._sapien import Physics  # SAPIEN loads Vulkan on import: not before somebody simulates.
        except ImportError as error:
            raise missing("sapien", extra="tabletop", error=error) from error

        self.scene = scene
        self._physics = Physics((*scene.objects, *scene.distractors), scene.table, scene.table_height)
        self._command = start.astype(np.float64)
        self._target = self._command
        self._physics.place(self._command)
        self._physics.advance(SETTLE_STEPS)
        self._physics.start_moving(scene.objects)

    @property
    def table_height(self) -> float:
        """Height of the table's top (m)."""
        return self.scene.table_height

    @property
    def command(self) -> Action:
        """The last action, where the drives' targets are or are going."""
        return self._command.copy()

    def act(self, action: Action) -> None:
        """Play one checked action for 40 ms: the drives' targets go there no faster than the joints' speed limits."""
        self._command = action.astype(np.float64)
        reach = speed_limits() / (CONTROL_HZ * SUBSTEPS)
        for step in range(SUBSTEPS):
            if (self._target == self._command).all():
                self._physics.advance(SUBSTEPS - step)
                return
            self._target = self._command.clip(self._target - reach, self._target + reach)
            self._physics.command(self._target)
            self._physics.advance(1)

    def pose(self, name: str) -> Float[np.ndarray, " 7"]:
        """Return a body's position (m) and quaternion `(w, x, y, z)`."""
        return self._physics.pose(name)

    def speed(self, name: str) -> float:
        """Return how fast a free object or a moving part is (m/s)."""
        return math.hypot(*self._physics.velocity(name))

    def joint(self, part: str) -> float:
        """Return where a moving part is on its joint (rad or m)."""
        return self._physics.joint(part)

    def tool(self, side: Side) -> ToolPose:
        """Return where a tool is: measured."""
        return tool_pose(side, self.measured()[side.joints])

    def gripper(self, side: Side) -> float:
        """Return how far a gripper is open: measured, 0 to 1."""
        return float(self.measured()[side.gripper])

    def measured(self) -> Action:
        """Return where the joints are, in the action's order."""
        return self._physics.measured()

    def poses(self) -> dict[str, Float[np.ndarray, " 7"]]:
        """Return every body's pose, as a renderer wants them."""
        return {name: self._physics.pose(name) for name in self._physics.names}

    def close(self) -> None:
        """Free the physics."""
        self._physics.close()

"""What serves a simulator asks of it, and the failures it reports by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Info = dict[str, Any]
Settings = Mapping[str, Any]

CAMERAS = {
    "head": "head_camera",
    "left_wrist": "left_camera",
    "right_wrist": "right_camera",
    "front": "front_camera",
}
"""Our camera names and RoboTwin's."""
STORED_CAMERAS = {
    "head": "cam_head",
    "left_wrist": "cam_left_wrist",
    "right_wrist": "cam_right_wrist",
    "front": "cam_third_view",
}
"""Our camera names and those in the files of its current layout."""


class SceneFailure(Exception):
    """A scene that this seed does not give: the process is sound and the next seed may be tried."""

    status = "exception"


class UnstableScene(SceneFailure):
    """An object moved while the scene settled; RoboTwin's `UnStableError`."""

    status = "unstable"


class SetupError(SceneFailure):
    """The code that builds the scene raised, which RoboTwin counts as a seed without a scene."""

    status = "setup_error"


class PlanFailure(SceneFailure):
    """The planner found no motion where one is needed to go on."""

    status = "plan_failure"


class CheckFailure(SceneFailure):
    """The expert finished and the task is not solved."""

    status = "check_failure"


class ExpertError(SceneFailure):
    """The expert's own code raised, which RoboTwin counts as a seed without a solution."""

    status = "expert_error"


class Simulator(Protocol):
    """One task in one process.

    Arrays of an observation: a camera's name (`head`, `left_wrist`, `right_wrist`) to `(H, W, 3)` uint8 RGB; `state`,
    the last command, and `measured_state`, both `(action size,)` in the order of a qpos action (rad; grippers 0 closed
    .. 1 open); `endpose`, `(16,)`: per arm position (m), quaternion (w, x, y, z) and gripper; `intrinsics/<camera>`
    `(3, 3)` and `extrinsics/<camera>` `(3, 4)`, from the world to a camera that looks along z with y down; and where
    the settings' `modalities` ask for them, `depth/<camera>` `(H, W)` float32 (m along the optical axis, 0 where
    nothing is seen) and `segmentation/<camera>` `(H, W)` uint16.

    Any other exception than `SceneFailure`, `SystemExit` included, ends the process after it was reported, and decides
    nothing of the seed.
    """

    def hello(self) -> Info:
        """Describe the simulator, once, before the first `reset`.

        Returns:
            `action_low`, `action_high`: limits of a qpos action, lists of its size; `cameras`: name to `[H, W]`;
            `step_limit`: the task's official number of actions; `task`; `planner` and `renderer` in use; `commit`,
            `config_hash`, `versions` (name to version) and whatever else identifies results. Of RoboTwin, the process
            that starts the simulator says all that its files tell.
        """

    def reset(self, seed: int, *, instruction: str | None, expert: bool) -> tuple[Arrays, Info]:
        """Start the episode of exactly this seed.

        Args:
            seed: The scene's.
            instruction: Replaces the one drawn with this seed.
            expert: Run the expert on this seed first and refuse the seed where it fails.

        Returns:
            Arrays of the observation; info with `instruction`, `step_limit`, `episode_info`, `objects`, a list of name,
            position (m) and quaternion (w, x, y, z), which `step_chunk` tells too, and `segments`, a list of the
            numbers and names of a segmentation.

        Raises:
            SceneFailure: the seed gives no scene.
        """

    def step_chunk(
        self, actions: NDArray[Any], kind: str, control: str, *, record_every: int | None
    ) -> tuple[Arrays, Info]:
        """Play actions until they end, the task succeeds or the step limit comes.

        Args:
            actions: `(time, action size)`.
            kind: `qpos` or `ee`.
            control: `step`, RoboTwin's own loop of single actions; `chunk`, one time-optimal trajectory through all.
            record_every: Also return the observation after every k-th executed action.

        Returns:
            Arrays of the last observation, and of recorded ones as `frames/<name>` with one more leading axis; info
            with `success`, `steps` (actions of the episode so far), `step_limit`, and of this call `executed`
            (actions), `physics_steps` and `plan_failures`.
        """

    def expert(self, seed: int, *, record: str | None) -> Info:
        """Solve the scene of this seed with RoboTwin's own expert; the episode that was running is lost.

        Args:
            seed: The scene's.
            record: Path of the demonstration to write (HDF5), if the expert succeeds.

        Returns:
            `status`: `ok`, `unstable`, `setup_error`, `plan_failure`, `check_failure` or `expert_error`;
            `instruction`, `episode_info`, `steps`, and `path` of the demonstration.
        """

    def close(self) -> None:
        """Free the scene."""

"""RoboTwin as a Gymnasium environment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray

from ..conventions import (
    CameraMatrices,
    CameraName,
    ChunkOutcome,
    Info,
    Observation,
    camera_spaces,
    checked_instruction,
)
from ..errors import (
    ActionError,
    RobotwinEnvError,
    SimulatorError,
    SplitError,
    UnknownNameError,
    UnstableSceneError,
)
from ..optional import required
from ..splits import Split, check_seeds, draw_seed
from .config import RoboTwinConfig
from .process.actions import ActionLimits
from .process.simulation import Simulation
from .simulator.wire import Arrays, Fields

ExpertStatus = Literal["ok", "unstable", "setup_error", "plan_failure", "check_failure", "expert_error"]
_STATES = ("measured_state", "endpose")
FRAMES_PER_SECOND = {"step": 4, "chunk": 18}
"""So that a film of one frame per action runs about as fast as the simulated time: actions of 0.02 rad take 70 physics
steps of 4 ms from rest to rest, and 14 within one trajectory (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRun:
    """What came of RoboTwin's own expert on one seed."""

    seed: int
    status: ExpertStatus
    """`ok` where it solved the task: only such seeds are evaluated on."""
    reason: str
    """Why it did not; empty where it did."""
    info: Info
    """`instruction`, `episode_info`, `steps`, and whatever else the simulator tells."""
    path: Path | None
    """The demonstration, where one was recorded."""


class RoboTwinEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """One task of the user's RoboTwin checkout, in a process of its own.

    An action is `[left joints (rad), left gripper (0 closed .. 1 open), right joints, right gripper]`, absolute
    targets, or gripper poses (`RoboTwinConfig.action_mode`). Observations are as the tabletop's: cameras, and `state`,
    the last command; where the joints really are is `info["measured_state"]`.

    A seed is taken as it is: one whose scene does not come to rest raises `UnstableSceneError`. Where `reset` draws the
    seed itself, as in a vector environment that resets on its own, `RoboTwinConfig.redraw_unstable` has it draw others.
    What goes wrong in the simulator raises a `SimulatorError` with its own status, and the next `reset` starts another
    process.

    `reset(options={"instruction": "..."})` replaces the episode's instruction; `{"expert": True}` first has RoboTwin's
    expert solve the scene, as the official evaluation does, and raises where it fails.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, config: RoboTwinConfig, *, render_mode: str | None = None) -> None:
        """Start nothing yet: the process starts with `reset`; the spaces are read from the checkout's files."""
        if render_mode not in (None, "rgb_array"):
            raise UnknownNameError(f"there is no render mode `{render_mode}`; choose `rgb_array` or None.")
        self.config = config
        self.metadata = {**type(self).metadata, "render_fps": FRAMES_PER_SECOND[config.control]}
        self.render_mode = render_mode
        self.simulation = Simulation(config)
        self._limits: ActionLimits | None = None
        self._observation: Observation | None = None
        self._command: NDArray[Any] = np.zeros(0)
        self._arrays: Arrays = {}
        self._objects: list[list[Any]] = []
        self._segments: list[tuple[int, str]] = []
        self._episode: Info = {}
        self._over = False

    @property
    def limits(self) -> ActionLimits:
        """What an action may be."""
        if self._limits is None:
            if self.config.action_mode == "ee":
                self._limits = ActionLimits.of_poses()
            else:
                low, high = self._joint_limits()
                self._limits = ActionLimits.of_joints(low, high, max_delta=self.config.max_delta)
        return self._limits

    @cached_property
    def action_space(self) -> spaces.Box:  # type: ignore[override]  # made when somebody asks
        """Actions within their limits; whatever it holds is taken, except where `max_delta` is given."""
        limits = self.limits
        return spaces.Box(limits.low.astype(np.float32), limits.high.astype(np.float32), dtype=np.float32)

    @cached_property
    def observation_space(self) -> spaces.Space[Observation]:  # type: ignore[override]  # as above
        """Cameras and `state`."""
        low, high = (limit.astype(np.float32) for limit in self._joint_limits())
        sizes = self.simulation.scene["cameras"]
        shown = {name: self.config.find_image_size() or tuple(sizes[name]) for name in self.config.cameras}
        seen = camera_spaces(shown, self.config.modalities)
        everything = spaces.Dict({**seen, "state": spaces.Box(low, high, dtype=np.float32)})
        return cast("spaces.Space[Observation]", everything)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start the episode of exactly `seed`; without one, of one of the split's seeds, drawn by `np_random`.

        Raises:
            SplitError: the seed belongs to the other split.
            UnstableSceneError: the seed's scene does not come to rest.
            SetupRaisedError: RoboTwin's code raised while it built the scene.
            PlanFailureError, CheckFailureError, ExpertRaisedError: the expert was asked for and failed.
            SimulatorError: the process failed, and is gone.
        """
        super().reset(seed=seed)
        instruction, expert = _options(options)
        config = self.config
        chosen = draw_seed(config.split, self.np_random) if seed is None else _checked_seed(seed, config.split)
        self._observation = None
        fields: Fields = {"seed": chosen, "instruction": instruction, "expert": expert}
        timeout = config.reset_timeout + (config.expert_timeout if expert else 0.0)
        unstable: list[int] = []
        while True:
            try:
                info, arrays = self.simulation.begin("reset", fields, timeout=timeout)
                break
            except UnstableSceneError:
                if seed is not None or len(unstable) == config.redraw_unstable:
                    raise
                unstable.append(chosen)
                chosen = draw_seed(config.split, self.np_random)
                fields["seed"] = chosen
        self._episode = {
            "task": config.task,
            "split": config.split,
            "seed": chosen,
            "unstable_seeds": unstable,
            "instruction": info["instruction"],
            "control": config.control,
            "action_mode": config.action_mode,
            "status": "ok",
        }
        self._over = False
        self._segments = [(int(number), str(name)) for number, name in info.pop("segments", [])]
        return self._observe(arrays), self._info({"success": False, "steps": 0, **info}, arrays)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, Info]:
        """Play one action, for as long as it takes.

        Raises:
            ActionError: the action is malformed or outside its limits; nothing was moved.
            SimulatorError: the process failed; the episode is lost, which says nothing of the policy.
        """
        if np.ndim(action) != 1:
            raise ActionError(f"an action of shape {np.shape(action)} was given; it must be a vector.")
        outcome = self.step_chunk(np.asarray(action)[None])
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    def step_chunk(self, actions: Float[np.ndarray, "time action"], *, record_every: int | None = None) -> ChunkOutcome:
        """Play actions until they end, the task succeeds or the step limit comes.

        Only the last observation is drawn, unless `record_every` asks for every k-th.

        Raises:
            ActionError: one of the actions is malformed or outside its limits; none was played.
            SimulatorError: the process failed; the episode is lost, which says nothing of the policy.
        """
        if self._observation is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        if self._over:
            raise RobotwinEnvError("the episode is over; call `reset` before the next action.")
        if record_every is not None and record_every < 1:
            raise ActionError(f"`record_every` is {record_every}; it must be at least 1.")
        within = self.limits.checked(actions, command=self._command)
        fields: Fields = {
            "kind": self.config.action_mode,
            "control": self.config.control,
            "record_every": record_every,
        }
        timeout = self.config.step_timeout + self.config.action_timeout * len(within)
        info, arrays = self.simulation.call("step_chunk", fields, {"actions": within}, timeout=timeout)
        success = bool(info["success"])
        truncated = not success and info["steps"] >= info["step_limit"]
        self._over = success or truncated
        frames = self._frames(arrays)
        return ChunkOutcome(
            observation=self._observe(arrays),
            reward=float(success),
            terminated=success,
            truncated=truncated,
            info=self._info(info, arrays),
            executed=int(info["executed"]),
            frames=frames,
        )

    def run_expert(self, seed: int, *, record: Path | None = None) -> ExpertRun:
        """Have RoboTwin's own expert solve the scene of a seed; the episode that was running is lost.

        Args:
            seed: The scene's.
            record: Where to write the demonstration (HDF5), if the expert succeeds; of training's scenes alone.

        Raises:
            SplitError: the seed belongs to the other split, or an evaluation's scene was to be recorded.
            SimulatorError: the process failed, and is gone. A scene that failed is no error here but a status.
        """
        if record is not None and self.config.split == "eval":
            raise SplitError("`record` is given and `split` is `eval`; demonstrations are of training's scenes.")
        checked = _checked_seed(seed, self.config.split)
        self._observation = None
        fields: Fields = {"seed": checked, "record": None if record is None else str(record.absolute())}
        timeout = self.config.reset_timeout + self.config.expert_timeout
        try:
            info, _ = self.simulation.begin("expert", fields, timeout=timeout)
        except SimulatorError as error:
            if error.lost:
                raise
            return ExpertRun(
                seed=seed, status=cast("ExpertStatus", error.status), reason=str(error), info={}, path=None
            )
        path = info.get("path")
        return ExpertRun(
            seed=seed,
            status=info["status"],
            reason=info.get("reason", ""),
            info=info,
            path=None if path is None else Path(path),
        )

    def object_poses(self) -> dict[str, Float[np.ndarray, " 7"]]:
        """Return positions (m) and quaternions `(w, x, y, z)` of what can move on the table: privileged.

        Of what has joints every link is listed, as `laptop/link_1`; a second body of a name is called `name#2`.
        """
        poses: dict[str, Float[np.ndarray, " 7"]] = {}
        for name, *pose in self._truth()[0]:
            same = sum(known.partition("#")[0] == name for known in poses)
            poses[f"{name}#{same + 1}" if same else name] = np.array(pose, np.float64)
        return poses

    def endpose(self) -> Float[np.ndarray, " 16"]:
        """Return where the grippers really are: for each arm `[x, y, z (m), qw, qx, qy, qz, gripper]`."""
        return self._truth()[1]["endpose"].astype(np.float64)

    def camera_matrices(self) -> dict[CameraName, CameraMatrices]:
        """Return each observed camera's intrinsics and extrinsics now; those on the wrists move with the arms."""
        _, arrays = self._truth()
        found: dict[CameraName, CameraMatrices] = {}
        for name in self.config.cameras:
            found[name] = CameraMatrices(
                intrinsics=self._scaled_intrinsics(name, arrays[f"intrinsics/{name}"]),
                extrinsics=arrays[f"extrinsics/{name}"],
            )
        return found

    def segment_names(self) -> dict[int, str]:
        """Return what the numbers of `segmentation/<camera>` stand for, of this episode's scene; 0 is nothing.

        A second body of a name is called `name#2`.
        """
        self._truth()
        named: Counter[str] = Counter()
        found: dict[int, str] = {}
        for number, name in self._segments:
            named[name] += 1
            found[number] = name if named[name] == 1 else f"{name}#{named[name]}"
        return found

    def describe(self) -> Info:
        """Return what identifies results: RoboTwin's commit and layout, planner, renderer, versions."""
        return dict(self.simulation.hello)

    def render(self) -> NDArray[np.uint8]:
        """Return the head camera's last picture, whatever `render_mode` is.

        Raises:
            RobotwinEnvError: there is none.
        """
        if self._observation is None or "head" not in self._observation:
            raise RobotwinEnvError("there is no picture; call `reset`, and have `head` among the `cameras`.")
        return self._observation["head"]

    def abort(self) -> None:
        """End the simulator's process from another thread, whatever it does; nothing starts again before `close`."""
        self.simulation.abort()

    def close(self) -> None:
        """End the simulator's process."""
        self.simulation.close()
        self._observation = None

    def _joint_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scene = self.simulation.scene
        return np.array(scene["action_low"], np.float64), np.array(scene["action_high"], np.float64)

    def _truth(self) -> tuple[list[list[Any]], Arrays]:
        if self._observation is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        return self._objects, self._arrays

    def _observe(self, arrays: Arrays) -> Observation:
        self._command, self._arrays = arrays["state"], arrays
        state = arrays["state"].astype(np.float32)
        self._observation = {**self._seen(arrays), "state": state}
        return self._observation

    def _frames(self, arrays: Arrays) -> tuple[Observation, ...]:
        states = arrays.get("frames/state")
        if states is None:
            return ()
        recorded = [name.removeprefix("frames/") for name in arrays if name.startswith("frames/")]
        return tuple(
            {
                **self._seen({name: arrays[f"frames/{name}"][place] for name in recorded}),
                "state": states[place].astype(np.float32),
            }
            for place in range(len(states))
        )

    def _seen(self, arrays: Arrays) -> Observation:
        """What the cameras saw, scaled."""
        config = self.config
        found: Observation = {name: self._scaled(arrays[name]) for name in config.cameras}
        for modality in config.modalities:
            for name in config.cameras:
                value = arrays[f"{modality}/{name}"]
                if modality == "intrinsics":
                    found[f"{modality}/{name}"] = self._scaled_intrinsics(name, value).astype(np.float32)
                elif modality == "extrinsics":
                    found[f"{modality}/{name}"] = value.astype(np.float32)
                else:
                    found[f"{modality}/{name}"] = self._sampled(value)
        return found

    def _scaled_intrinsics(self, camera: CameraName, intrinsics: NDArray[np.float64]) -> NDArray[np.float64]:
        height, width = self.simulation.scene["cameras"][camera]
        to_height, to_width = self.config.find_image_size() or (height, width)
        scaled: NDArray[np.float64] = np.diag([to_width / width, to_height / height, 1.0]) @ intrinsics
        return scaled

    def _sampled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Take the value at the middle of every pixel shown: depths and numbers have no mean."""
        size = self.config.find_image_size() or values.shape
        rows, columns = (
            ((np.arange(to) + 0.5) * have / to).astype(int) for have, to in zip(values.shape, size, strict=True)
        )
        return values[np.ix_(rows, columns)]

    def _scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = self.config.find_image_size()
        if size is None or image.shape[:2] == size:
            return image
        pictures = required("PIL.Image", extra="robotwin")
        return np.asarray(pictures.fromarray(image).resize((size[1], size[0]), pictures.Resampling.BOX))

    def _info(self, info: Fields, arrays: Arrays) -> Info:
        self._objects = info.get("objects", self._objects)
        measured = {name: arrays[name].astype(np.float32) for name in _STATES if name in arrays}
        return {**info, **self._episode, **measured, "starts": self.simulation.starts}


def _checked_seed(seed: int, split: Split) -> int:
    check_seeds([seed], split)
    if not 0 <= seed < 2**32:
        raise RobotwinEnvError(f"the seed is {seed}; RoboTwin takes 0 to 2**32 - 1.")
    return int(seed)


def _options(options: dict[str, Any] | None) -> tuple[str | None, bool]:
    unknown = set(options or {}) - {"instruction", "expert"}
    if unknown:
        raise RobotwinEnvError(f"`options` has {sorted(unknown)}; the options are `instruction` and `expert`.")
    given = options or {}
    return checked_instruction(given.get("instruction")), bool(given.get("expert", False))

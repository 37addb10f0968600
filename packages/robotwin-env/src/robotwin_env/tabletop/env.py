"""The tabletop as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

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
from ..errors import ActionError, RobotwinEnvError, UnknownNameError
from ..splits import check_seeds, draw_seed
from ..visual import Renderer
from .actions import action_limits, checked_action, home
from .config import TabletopConfig
from .end_effector import endpose
from .modalities import Modalities
from .motion import Action, Motion
from .scene import sample_scene, streams
from .views import CAMERAS, camera_matrices, cameras, visual_bodies
from .world import World


class TabletopEnv(gymnasium.Env[Observation, Action]):
    """Two arms at a table: one RoboTwin task, 25 actions a second.

    An action is 14 numbers, `[left 6 joints (rad), left gripper (0 closed .. 1 open), right 6 joints, right gripper]`,
    absolute targets. The observation's `state` is the last command, as in RoboTwin: after `step(a)` it is `a`. Where
    the joints really are is `info["measured_state"]`.

    `reset(options={"start_spread": 0.03})` displaces the tools' starting points by up to 3 cm along each axis;
    `{"instruction": "..."}` replaces the episode's instruction.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, config: TabletopConfig, *, render_mode: str | None = None) -> None:
        """Prepare the spaces; the physics starts with `reset`, the renderer with the first picture."""
        self.config = config
        if render_mode not in (None, "rgb_array"):
            raise UnknownNameError(f"there is no render mode `{render_mode}`; choose `rgb_array` or None.")
        self.render_mode = render_mode
        self.task = config.find_task()
        self.max_steps = self.task.max_steps if config.max_steps is None else config.max_steps
        size = config.image_size
        low, high = action_limits()
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        sizes = {name: (size, size) for name in CAMERAS if name in config.cameras}
        seen = camera_spaces(sizes, config.modalities)
        everything = spaces.Dict({**seen, "state": spaces.Box(low, high, dtype=np.float32)})
        self.observation_space = cast("spaces.Space[Observation]", everything)
        self._renderer: Renderer | None = None
        self._loaded: World | None = None
        self._beside: tuple[World, Modalities] | None = None
        self._world: World | None = None
        self._seed = 0
        self._steps = 0
        self._done = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start the episode of `seed`, the same in every process; without one, of a seed drawn by `np_random`.

        Raises:
            SplitError: the seed is not one of the configuration's split; the running episode goes on.
        """
        split = self.config.split
        if seed is not None:
            check_seeds([seed], split)
        super().reset(seed=seed)
        spread, instruction = _options(options)
        self._seed = draw_seed(split, self.np_random) if seed is None else seed
        scene = sample_scene(
            self.task, self._seed, self.config.find_randomization(), split, first_phrases=self.config.phrases
        )
        if instruction is not None:
            scene = replace(scene, instruction=instruction)
        if self._world is not None:
            self._world.close()
        start = home(np.random.default_rng(streams(self.task.name, self._seed)[3]), spread)
        self._world = World(scene, start)
        self._steps = 0
        self._done = False
        return self.observe(), self._info(success=False)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Play one action for 40 ms.

        Raises:
            ActionError: the action is malformed or outside `action_space`; nothing was moved.
        """
        success = self._play(checked_action(action, self.world.command, self.config.max_delta))
        truncated = not success and self._steps >= self.max_steps
        return self.observe(), float(success), success, truncated, self._info(success)

    def step_chunk(self, actions: Float[np.ndarray, "time 14"], *, record_every: int | None = None) -> ChunkOutcome:
        """Play actions until they end, the task succeeds or the step limit comes.

        Only the last observation is drawn, unless `record_every` asks for every k-th.

        Raises:
            ActionError: one of the actions is malformed; none was played.
        """
        if np.ndim(actions) != 2 or len(actions) == 0:
            raise ActionError(f"a chunk of shape {np.shape(actions)} was given; it must be (time, 14) with time > 0.")
        if record_every is not None and record_every < 1:
            raise ActionError(f"`record_every` is {record_every}; it must be at least 1.")
        frames: list[Observation] = []
        success, executed = False, 0
        checked: list[Action] = []
        for action in actions:
            before = checked[-1] if checked else self.world.command
            checked.append(checked_action(action, before, self.config.max_delta))
        for action in checked:
            success = self._play(action)
            executed += 1
            if record_every is not None and executed % record_every == 0:
                frames.append(self.observe())
            if success or self._steps >= self.max_steps:
                break
        current = record_every is not None and executed % record_every == 0
        return ChunkOutcome(
            observation=frames[-1] if current else self.observe(),
            reward=float(success),
            terminated=success,
            truncated=not success and self._steps >= self.max_steps,
            info=self._info(success),
            executed=executed,
            frames=tuple(frames),
        )

    def observe(self) -> Observation:
        """Draw the current observation."""
        state = self.world.command.astype(np.float32)
        if not self.config.cameras:
            return {"state": state}
        pictures = self._pictures()
        beside = self._modalities().observe(self.world.poses()) if self.config.modalities else {}
        return {**{name: pictures[name] for name in self.config.cameras}, **beside, "state": state}

    def object_poses(self) -> dict[str, Float[np.ndarray, " 7"]]:
        """Return positions (m) and quaternions `(w, x, y, z)` of the task's objects and their parts: privileged."""
        return {name: self.world.pose(name) for item in self.world.scene.objects for name in item.bodies()}

    def endpose(self) -> Float[np.ndarray, " 16"]:
        """Return where the grippers really are: for each arm `[x, y, z (m), qw, qx, qy, qz, gripper]`, as RoboTwin."""
        return endpose(self.world.measured())

    def camera_matrices(self) -> dict[CameraName, CameraMatrices]:
        """Return each observed camera's intrinsics and extrinsics now; those on the wrists move with the arms."""
        poses = self.world.poses()
        made = cameras(self.world.scene, self.config.cameras, self.config.image_size)
        return {name: camera_matrices(camera, poses) for name, camera in zip(self.config.cameras, made, strict=True)}

    def segment_names(self) -> dict[int, str]:
        """Return what the numbers of `segmentation/<camera>` stand for; 0 is nothing."""
        return self._modalities().names()

    def expert(self, *, noise: float = 0.0, noise_seed: int = 0) -> Iterator[Action]:
        """Solve the task from privileged state: yields actions to pass to `step`, one by one.

        Args:
            noise: how far (m) hovering and carrying points may be off, which the following line corrects.
            noise_seed: another draw of the noise for the same scene.
        """
        stream = np.random.default_rng([*streams(self.task.name, self._seed)[3].generate_state(4), noise_seed])
        return self.task.expert(self.world, Motion(self.world.command, noise=noise, rng=stream))

    def render(self) -> NDArray[np.uint8]:
        """Return the head camera's picture, whatever `render_mode` is."""
        return self._pictures()["head"]

    def close(self) -> None:
        """Free physics and renderer."""
        if self._world is not None:
            self._world.close()
        if self._renderer is not None:
            self._renderer.close()
        self._world = self._renderer = self._loaded = None

    @property
    def world(self) -> World:
        """The physics of the running episode.

        Raises:
            RobotwinEnvError: `reset` has not been called.
        """
        if self._world is None:
            raise RobotwinEnvError("no episode is running; call `reset` first.")
        return self._world

    def _play(self, action: Action) -> bool:
        if self._done:
            raise RobotwinEnvError("the episode is over; call `reset` before the next action.")
        self.world.act(action)
        self._steps += 1
        success = self.task.success(self.world)
        self._done = success or self._steps >= self.max_steps
        return success

    def _info(self, success: bool) -> Info:
        return {
            "instruction": self.world.scene.instruction,
            "task": self.task.name,
            "split": self.config.split,
            "seed": self._seed,
            "success": success,
            "steps": self._steps,
            "measured_state": self.world.measured().astype(np.float32),
        }

    def _modalities(self) -> Modalities:
        if self._beside is None or self._beside[0] is not self.world:
            config = self.config
            made = Modalities(self.world.scene, config.cameras, config.image_size, config.modalities)
            self._beside = self.world, made
        return self._beside[1]

    def _pictures(self) -> dict[str, NDArray[np.uint8]]:
        if self._renderer is None:
            self._renderer = _make_renderer(self.config)
        if self._loaded is not self.world:
            names = self.config.cameras if "head" in self.config.cameras else ("head", *self.config.cameras)
            scene = self.world.scene
            self._renderer.load(visual_bodies(scene), cameras(scene, names, self.config.image_size), scene.lighting)
            self._loaded = self.world
        return self._renderer.render(self.world.poses())


def _make_renderer(config: TabletopConfig) -> Renderer:
    if callable(config.renderer):
        return config.renderer()
    if config.renderer == "sapien":
        from ..render import SapienRenderer

        return SapienRenderer()
    from ..render import Panda3DRenderer

    return Panda3DRenderer(supersample=2)  # smooth edges show positions finer than a pixel


def _options(options: dict[str, Any] | None) -> tuple[float, str | None]:
    given = options or {}
    unknown = set(given) - {"start_spread", "instruction"}
    if unknown:
        raise RobotwinEnvError(
            f"`options` has {sorted(unknown)}; the options are `start_spread` (m) and `instruction`."
        )
    spread = float(given.get("start_spread", 0.0))
    if not 0 <= spread <= 0.1:
        raise RobotwinEnvError(f"`start_spread` is {spread} m; it must lie between 0 and 0.1 m.")
    return spread, checked_instruction(given.get("instruction"))

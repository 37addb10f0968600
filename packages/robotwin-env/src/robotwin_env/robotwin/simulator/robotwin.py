"""One of RoboTwin's tasks as a `Simulator`, its code as it is.

What RoboTwin's own evaluation does around a task is done here: arguments, the expert's check of a seed, the second
set-up, instructions, the loop of actions; and what goes wrong when tasks share a process is kept from happening:
arguments and defaults that set-ups change, the generators they leave unseeded, attributes that only an expert sets.
"""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .adapter import (
    CAMERAS,
    Arrays,
    CheckFailure,
    ExpertError,
    Info,
    PlanFailure,
    SceneFailure,
    SetupError,
    UnstableScene,
)
from .control_loop import Counters, play_chunk
from .demonstrations import Recorder
from .episode_info import describe, dry_run
from .observation import objects, observe, segments, show_only
from .planner_choice import PlannerChoice
from .rendering import choose_rendering
from .stand_ins import install_stand_ins

_VERSIONS = ("sapien", "mplib", "toppra", "numpy", "torch", "nvidia-curobo", "open3d")
"""Packages that decide how a scene behaves."""
_SCENE_PARTS = ("scene", "cameras", "renderer", "engine", "viewer", "point_light_lst", "direction_light_lst", "now_obs")
_RAISED_BY_CODE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
    np.linalg.LinAlgError,
)
"""What Python code raises on a scene's own values (`raise "Actor create limit!"`, as two tasks have it, is a
`TypeError`); devices, drivers, memory and missing files raise other things, on any scene."""
_OF_THE_DEVICE = re.compile(r"CUDA|out of memory|DeviceLost|vk::")
"""In the messages of torch, warp and SAPIEN where a GPU gives out; RoboTwin's own never hold it."""


def make_simulator(settings: Mapping[str, Any]) -> RoboTwinSimulator:
    """Import RoboTwin from the working directory, its root, and make its task ready; no scene is built yet."""
    stand_ins = install_stand_ins()
    choose_rendering(settings["render"])
    return RoboTwinSimulator(settings, stand_ins)


class RoboTwinSimulator:
    """A task of the checkout in the working directory; see `adapter.Simulator`.

    Args:
        settings: The environment's.
        stand_ins: Modules that are not installed.
    """

    def __init__(self, settings: Mapping[str, Any], stand_ins: list[str]) -> None:
        base = importlib.import_module("envs._base_task")
        robot = importlib.import_module("envs.robot.robot")
        self._unstable: type[Exception] = sys.modules["envs.utils.create_actor"].UnStableError
        self._base_task = base.Base_Task
        self._clutter_defaults = self._base_task.get_cluttered_table.__defaults__
        self._settings = settings
        self._task: str = settings["task"]
        self._cameras: list[str] = settings["cameras"]
        self._modalities: list[str] = settings["modalities"]
        self._planner = PlannerChoice(
            settings["planner"],
            needed=settings.get("action_mode") == "ee",
            robot_module=robot,
            stand_ins=stand_ins,
        )
        self._counters = Counters()
        self._counters.install(
            sys.modules["sapien.wrapper.scene"].Scene, sys.modules["envs.robot.planner"].MplibPlanner, robot.Robot
        )
        self._stand_ins = stand_ins
        self._task_type = getattr(importlib.import_module(f"envs.{self._task}"), self._task)
        self._env: Any = None
        self._setups = 0

    def hello(self) -> Info:
        """Describe the simulator."""
        return {
            "planner": self._planner.name,
            "renderer": self._settings["render"],
            "stand_ins": self._stand_ins,
            "versions": _versions(),
        }

    def reset(self, seed: int, *, instruction: str | None, expert: bool) -> tuple[Arrays, Info]:
        """Start the episode of exactly this seed, after its expert where asked."""
        episode = self._solve(seed) if expert else None
        env = self._set_up(seed)
        unasked = None
        if episode is None:
            episode, unasked = dry_run(env)
        env.step_lim = self._settings["max_steps"]
        sentences, problem = ([self._task], unasked) if unasked else self._describe(episode, seed)
        env.set_instruction(instruction=instruction or sentences[0])
        info = {
            "instruction": env.get_instruction(),
            "step_limit": env.step_lim,
            "episode_info": episode,
            "expert_checked": expert,
            "objects": objects(env),
            "segments": segments(env) if "segmentation" in self._modalities else [],
            "textures": [env.wall_texture, env.table_texture],
        }
        if problem is not None and instruction is None:
            info["instruction_problem"] = problem
        return observe(env, self._cameras, self._modalities), info

    def step_chunk(
        self, actions: np.ndarray, kind: str, control: str, *, record_every: int | None
    ) -> tuple[Arrays, Info]:
        """Play several actions until they end, the task succeeds or the step limit comes."""
        env = self._env
        if env is None:
            raise RuntimeError("there is no episode; call `reset` first.")
        before = Counters(**vars(self._counters))
        frames: list[Arrays] = []

        def record(executed: int) -> None:
            if record_every and executed % record_every == 0:
                frames.append(observe(env, self._cameras, self._modalities))

        started = int(env.take_action_cnt)
        actions = np.asarray(actions, float)[: max(0, env.step_lim - started)]
        if control == "chunk" and len(actions) and not env.eval_success:
            if kind != "qpos":
                raise ValueError(f"`chunk` control plays qpos actions; these are `{kind}`.")
            env.take_action_cnt += play_chunk(env, actions, record)
        elif control == "step":
            for action in actions:
                if env.eval_success:
                    break
                env.take_action(action, action_type=kind)
                record(int(env.take_action_cnt) - started)
        elif control != "chunk":
            raise ValueError(f"`control` is {control!r}; choose 'step' or 'chunk'.")
        arrays = observe(env, self._cameras, self._modalities)
        for name in frames[0] if frames else ():
            arrays[f"frames/{name}"] = np.stack([frame[name] for frame in frames])
        topp = self._counters.topp_failures - before.topp_failures
        plans = self._counters.plan_failures - before.plan_failures
        return arrays, {
            "success": bool(env.eval_success),
            "steps": int(env.take_action_cnt),
            "executed": int(env.take_action_cnt) - started,
            "step_limit": int(env.step_lim),
            "physics_steps": self._counters.physics_steps - before.physics_steps,
            "plan_failures": plans + topp,
            "topp_failures": topp,
            "objects": objects(env),
        }

    def expert(self, seed: int, *, record: str | None) -> Info:
        """Solve the scene of this seed; with `record` again, from the planned joint paths, for the cameras."""
        try:
            episode = self._solve(seed)
            recorded = {} if record is None else self._record(seed, Path(record), episode)
        except SceneFailure as failure:
            return {"status": failure.status, "reason": str(failure)}
        sentences, problem = self._describe(episode, seed)
        info: Info = {"status": "ok", "episode_info": episode, "instruction": sentences[0], **recorded}
        if problem is not None:
            info["instruction_problem"] = problem
        return info

    def close(self) -> None:
        """Free the scene and the robot with its planners."""
        self._drop()

    def _describe(self, episode: Mapping[str, Any], seed: int) -> tuple[list[str], str | None]:
        held_out = self._settings["split"] == "train"
        return describe(self._task, episode, self._settings["instructions"], seed, without_held_out=held_out)

    def _solve(self, seed: int) -> dict[str, Any]:
        """Set the scene up and let the task's own expert solve it; gives the episode's placeholders."""
        if self._planner.prepare():
            self._drop()
        env = self._set_up(seed)
        try:
            result = env.play_once()
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError) or _OF_THE_DEVICE.search(str(error)):
                raise
            raise ExpertError(f"the expert of seed {seed} raised {type(error).__name__}: {error}") from error
        if not env.plan_success:
            raise PlanFailure(f"the planner found no path for the expert of seed {seed}.")
        if not env.check_success():
            raise CheckFailure(f"the expert of seed {seed} finished without solving the task.")
        return dict(result["info"])

    def _record(self, seed: int, path: Path, episode: dict[str, Any]) -> Info:
        """Replay the expert's joint paths with the cameras on, as RoboTwin collects data."""
        paths = {f"{side}_joint_path": getattr(self._env, f"{side}_joint_path") for side in ("left", "right")}
        env = self._set_up(seed, need_plan=False, **paths)
        recorder = Recorder(self._cameras)
        recorder.attach(env)
        try:
            env.play_once()
        finally:
            recorder.detach(env)
        if not env.check_success():
            raise CheckFailure(f"seed {seed}: replaying the expert's paths did not solve the task again.")
        sentences, _ = self._describe(episode, seed)
        save_every = int(self._settings["setup"].get("save_freq") or 15)
        recorder.write(path, task=self._task, seed=seed, instructions=sentences, save_every=save_every)
        return {"path": str(path), "steps": len(recorder) - 1}

    def _set_up(self, seed: int, **changes: Any) -> Any:
        """Build the scene of a seed, whatever this process did before."""
        import random

        self._release_scene()
        self._setups += 1
        if self._setups % self._settings.get("clear_cache_every", 8) == 0:
            sys.modules["sapien.render"].clear_cache()
        # RoboTwin adds the table's offset to these lists at every set-up.
        self._base_task.get_cluttered_table.__defaults__ = tuple(
            list(value) if isinstance(value, list) else value for value in self._clutter_defaults
        )
        random.seed(seed)
        if self._env is None:
            self._env = self._task_type()
        try:
            self._env.setup_demo(**self._setup_arguments(seed, changes))
        except self._unstable as error:
            raise UnstableScene(str(error)) from error
        except BaseException as error:
            self._drop()  # a robot without its planner would be taken for a whole one
            if isinstance(error, _RAISED_BY_CODE):
                raise SetupError(f"the scene of seed {seed} raised {type(error).__name__}: {error}") from error
            raise
        show_only(self._env, [CAMERAS[name] for name in self._cameras])
        return self._env

    def _setup_arguments(self, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the arguments; RoboTwin changes what it is given."""
        return {**copy.deepcopy(self._settings["setup"]), "seed": seed, "now_ep_num": 0, "is_test": True, **changes}

    def _release_scene(self) -> None:
        """Let go of the last scene before the next one is built, so that two never lie in memory."""
        if self._env is None:
            return
        for name in _SCENE_PARTS:
            self._env.__dict__.pop(name, None)
        gc.collect()

    def _drop(self) -> None:
        self._release_scene()
        self._env = None
        gc.collect()


def _versions() -> dict[str, str]:
    """Versions by name; packages that are not installed are left out."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

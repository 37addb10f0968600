"""What a scene is to blame for, where RoboTwin's code raises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robotwin_env.robotwin.simulator.robotwin import RoboTwinSimulator


class UnStableError(Exception):
    """As RoboTwin's."""


class Task:
    """Raises what it is told to, by stage; else a task that its expert solves."""

    raises: dict[str, BaseException] = {}  # noqa: RUF012 (replaced by every test)
    plan_success = True

    def get_cluttered_table(self, cluttered: tuple[int, ...] = ()) -> None: ...

    def setup_demo(self, **_: Any) -> None:
        self.robot = object()
        if "setup" in self.raises:
            raise self.raises["setup"]
        self.cameras = SimpleNamespace(static_camera_list=[], static_camera_name=[], static_camera_config=[])

    def play_once(self) -> dict[str, Any]:
        if "expert" in self.raises:
            raise self.raises["expert"]
        return {"info": {}}

    def check_success(self) -> bool:
        return True


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RoboTwinSimulator]:
    """RoboTwin's side around `Task`: `simulator(setup=error)`, `simulator(expert=error)`."""
    scene, planner, robot = (type(name, (), {}) for name in ("Scene", "MplibPlanner", "Robot"))
    scene.step = planner.__init__ = robot.set_planner = lambda *_: None  # type: ignore[attr-defined]
    robot.left_plan_path = robot.right_plan_path = lambda *_: {}  # type: ignore[attr-defined]
    words = SimpleNamespace(
        load_task_instructions=lambda _: {}, generate_episode_descriptions=lambda *_: [{"seen": ["ring"]}]
    )
    for name, content in {
        "envs._base_task": {"Base_Task": Task},
        "envs.click_bell": {"click_bell": Task},
        "envs.robot.robot": {"Robot": robot, "MplibPlanner": planner},
        "envs.robot.planner": {"MplibPlanner": planner},
        "envs.utils.create_actor": {"UnStableError": UnStableError},
        "sapien.wrapper.scene": {"Scene": scene},
        "description.utils.generate_episode_instructions": vars(words),
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)

    def make(**raises: BaseException) -> RoboTwinSimulator:
        monkeypatch.setattr(Task, "raises", raises)
        settings = {"task": "click_bell", "cameras": [], "modalities": [], "planner": "none", "setup": {}}
        return RoboTwinSimulator({**settings, "split": "train", "instructions": "seen"}, [])

    return make


Make = Callable[..., RoboTwinSimulator]
OF_THE_CODE = [TypeError("exceptions must derive from BaseException"), KeyError("021_cup"), np.linalg.LinAlgError()]


@pytest.mark.parametrize("error", OF_THE_CODE, ids=repr)
def test_a_scene_whose_code_raises_is_a_seed_without_a_scene(simulator: Make, error: Exception) -> None:
    told = simulator(setup=error).expert(3, record=None)
    assert told["status"] == "setup_error"
    assert type(error).__name__ in told["reason"]


OF_THE_MACHINE = [RuntimeError("vk::Queue::submit: ErrorDeviceLost"), MemoryError(), FileNotFoundError("a.urdf")]


@pytest.mark.parametrize("error", [*OF_THE_MACHINE, SystemExit()], ids=repr)
def test_what_a_machine_raises_is_no_fact_about_the_scene(simulator: Make, error: BaseException) -> None:
    with pytest.raises(type(error)):
        simulator(setup=error).expert(3, record=None)


@pytest.mark.parametrize("error", [*OF_THE_CODE, RuntimeError("no path"), SystemExit()], ids=repr)
def test_an_expert_that_raises_is_one_that_fails_as_in_robotwins_script(simulator: Make, error: BaseException) -> None:
    assert simulator(expert=error).expert(3, record=None)["status"] == "expert_error"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: unspecified"),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_gpu_that_gives_out_amid_an_experts_plan_is_no_experts_failure(simulator: Make, error: Exception) -> None:
    with pytest.raises(type(error)):
        simulator(expert=error).expert(3, record=None)


def test_a_task_whose_set_up_raised_is_made_anew(simulator: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = simulator(setup=ValueError())
    assert made.expert(3, record=None)["status"] == "setup_error"
    assert made._env is None, "a robot may be without its planner"
    monkeypatch.setattr(Task, "raises", {})
    assert made.expert(4, record=None)["status"] == "ok"
    monkeypatch.setattr(Task, "raises", {"setup": UnStableError("the cup tilted")})
    assert made.expert(5, record=None)["status"] == "unstable"

"""A simulator that takes no time and fails on command; the process boundary around it is the real one.

The task is to bring the left arm's first joint to a goal, which the head camera's red channel shows: `goal_of` reads
it. What goes wrong when is told by the environment variable `FAKE_SIMULATOR`, a JSON object:

    {"step_limit": 20, "image": [24, 32], "reset_seconds": 0.0, "action_seconds": 0.0, "unevenness": 0.0,
     "timed": false, "when": {"start": "exception", "reset": "hang", "reset 13": "unstable", "action 3": "segfault"}}

`action 3 13` is the third action of seed 13's episode. An entry with a seed precedes one without. Behaviours are
the functions of `MISBEHAVIOURS`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from robotwin_simulator.adapter import Arrays, CheckFailure, ExpertError, Info, PlanFailure, SetupError, UnstableScene

LOW, HIGH = [*[-3.0] * 6, 0.0] * 2, [*[3.0] * 6, 1.0] * 2
TOLERANCE = 0.02


def _unstable() -> None:
    raise UnstableScene("bottle tilted by 12 degrees")


def _setup_error() -> None:
    raise SetupError("TypeError: exceptions must derive from BaseException")


def _plan_failure() -> None:
    raise PlanFailure("no path for the left arm")


def _check_failure() -> None:
    raise CheckFailure("the task was not solved")


def _expert_error() -> None:
    raise ExpertError("AttributeError: arm_tag")


def _exception() -> None:
    print("about to divide")
    print(1 // 0)


def _exit() -> None:
    sys.exit("missing objects_description/021_cup")


def _leave() -> None:
    os._exit(3)


def _segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    while True:
        time.sleep(60)


def _hang_in_c() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # matches for years and never releases the interpreter's lock


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _grow() -> None:
    hoard = []
    while True:
        hoard.append(np.ones(1 << 20))
        time.sleep(0.01)


_HOARD: list[np.ndarray] = []


def _hoard() -> None:
    _HOARD.append(np.ones(1 << 21))


def _odd_answer() -> None:
    raise _OddAnswer


def _child_that_hangs() -> None:
    if os.fork() == 0:
        time.sleep(600)
    _hang()


def _child_that_grows() -> None:
    if os.fork() == 0:
        _grow()
    _hang()


class _OddAnswer(Exception):
    pass


MISBEHAVIOURS = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.startswith("_") and callable(function) and name not in ("_OddAnswer",) and not name.startswith("__")
}


class FakeSimulator:
    """The task, and what is to go wrong with it."""

    def __init__(self, settings: Mapping[str, Any], script: Mapping[str, Any]) -> None:
        self.settings = settings
        self.script = script
        self.misbehave("start")
        self.limit = settings["max_steps"] or script.get("step_limit", 20)
        self.resets = 0
        self.pace = np.random.default_rng(os.getpid())
        self.unevenness = script.get("unevenness", 0.0)
        self.begin(0)

    def begin(self, seed: int) -> None:
        self.seed, self.steps = seed, 0
        code = int(np.random.default_rng(seed).integers(256))
        self.goal = code / 255 - 0.5
        self.command = np.zeros(14)
        self.measured = np.zeros(14)

    def misbehave(self, event: str, seed: int | None = None) -> bool:
        """Do what the script says of an event; whether it says `odd_answer`."""
        when = self.script.get("when", {})
        behaviour = when.get(f"{event} {seed}", when.get(event)) if seed is not None else when.get(event)
        try:
            if behaviour is not None:
                MISBEHAVIOURS[behaviour]()
        except _OddAnswer:
            return True
        return False

    def hello(self) -> Info:
        height, width = self.script.get("image", [24, 32])
        return {
            "action_low": LOW,
            "action_high": HIGH,
            "cameras": {name: [height, width] for name in self.settings["cameras"]},
            "step_limit": self.limit,
            "task": self.settings["task"],
            "planner": self.settings["planner"],
            "renderer": self.settings["render"],
            "commit": "fake",
            "config_hash": self.settings["split"],
            "embodiment": ["arms"],
            "layout": "current",
            "versions": {"fake": "1"},
        }

    def reset(self, seed: int, *, instruction: str | None, expert: bool) -> tuple[Arrays, Info]:
        time.sleep(self.script.get("reset_seconds", 0.0))
        self.resets += 1
        odd = self.misbehave("reset", seed)
        if expert:
            self.misbehave("expert", seed)
        self.begin(seed)
        info = {
            "instruction": instruction or f"Bring the joint to {self.goal:.3f} ({self.settings['split']}).",
            "step_limit": self.limit,
            "objects": [["goal", self.goal, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0], ["goal", 0.0, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0]],
            "segments": [[7, "goal"], [8, "goal"]] if "segmentation" in self.settings["modalities"] else [],
            "episode_info": {"resets": self.resets, "odd": object() if odd else None},
        }
        return self.observation(), info

    def step_chunk(
        self, actions: np.ndarray, kind: str, control: str, *, record_every: int | None
    ) -> tuple[Arrays, Info]:
        began = time.perf_counter()
        executed, success = 0, False
        frames: list[Arrays] = []
        for action in actions:
            time.sleep(
                self.script.get("action_seconds", 0.0) * self.pace.uniform(1 - self.unevenness, 1 + self.unevenness)
            )
            self.steps += 1
            executed += 1
            self.misbehave(f"action {self.steps}", self.seed)
            if kind == "qpos":
                self.measured = 0.5 * self.measured + 0.5 * action
                self.command = action
            success = abs(self.command[0] - self.goal) < TOLERANCE
            if record_every and executed % record_every == 0:
                frames.append(self.observation())
            if success or self.steps >= self.limit:
                break
        stacked = {
            f"frames/{name}": np.stack([frame[name] for frame in frames]) for name in (frames[0] if frames else ())
        }
        info = {
            "success": success,
            "steps": self.steps,
            "step_limit": self.limit,
            "executed": executed,
            "physics_steps": 70 * executed if control == "step" else 20 * executed,
            "plan_failures": 0,
        }
        arrays = {**self.observation(), **stacked}
        if self.script.get("timed"):
            info["inside_seconds"] = time.perf_counter() - began
        return arrays, info

    def expert(self, seed: int, *, record: str | None) -> Info:
        self.misbehave("reset", seed)
        self.misbehave("expert", seed)
        self.begin(seed)
        return {
            "status": "ok",
            "instruction": "Bring the joint to its goal.",
            "episode_info": {},
            "steps": 5,
            "path": record,
        }

    def close(self) -> None:
        self.misbehave("close")

    def observation(self) -> Arrays:
        height, width = self.script.get("image", [24, 32])
        images = {}
        for place, name in enumerate(self.settings["cameras"]):
            image = np.empty((height, width, 3), np.uint8)
            image[..., 0] = round((self.goal + 0.5) * 255)
            image[..., 1] = np.uint8(abs(self.command[0]) * 80)
            image[..., 2] = (self.seed + place) % 256
            images[name] = image
        endpose = np.tile([0.3, 0.0, 0.9, 1.0, 0.0, 0.0, 0.0, 1.0], 2)
        for name in self.settings["cameras"]:
            images[f"intrinsics/{name}"] = np.array([[30.0, 0, width / 2], [0, 30.0, height / 2], [0, 0, 1]])
            images[f"extrinsics/{name}"] = np.eye(3, 4)
            if "depth" in self.settings["modalities"]:
                images[f"depth/{name}"] = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
            if "segmentation" in self.settings["modalities"]:
                images[f"segmentation/{name}"] = np.full((height, width), 7, np.uint16)
        return {**images, "state": self.command, "measured_state": self.measured, "endpose": endpose}


def make_simulator(settings: Mapping[str, Any]) -> FakeSimulator:
    return FakeSimulator(settings, json.loads(os.environ.get("FAKE_SIMULATOR", "{}")))

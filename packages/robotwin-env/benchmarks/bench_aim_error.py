"""How much aiming error each task forgives: what a learned policy may miss by and still succeed."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np

from robotwin_env import TASKS, TabletopConfig, TabletopEnv, UnreachableError
from robotwin_env.tabletop.kinematics import Side, ToolPose, inverse, tool_pose
from robotwin_env.visual import Vector3

ERRORS = (0.005, 0.010, 0.015, 0.020, 0.025)
RAMP = 8
"""Control steps over which the error grows, so that nothing jumps."""


def displaced(action: np.ndarray, offsets: dict[Side, Vector3], share: float) -> np.ndarray:
    """Shift both tools by a share of their offsets, where that can be reached."""
    shifted = action.copy()
    for side, offset in offsets.items():
        pose = tool_pose(side, action[side.joints])
        x, y, z = (value + share * error for value, error in zip(pose.position, offset, strict=True))
        with suppress(UnreachableError):
            shifted[side.joints] = inverse(side, ToolPose((x, y, z), pose.yaw))
    return shifted


def success_rate(config: TabletopConfig, error: float, scenes: int) -> float:
    """Play experts whose tools are off by `error` (m) in a random horizontal direction, and by half of it in height."""
    env = TabletopEnv(config)
    successes = 0
    for seed in range(scenes):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        offsets: dict[Side, Vector3] = {}
        for side in Side:
            angle = rng.uniform(-math.pi, math.pi)
            offsets[side] = (error * math.cos(angle), error * math.sin(angle), 0.5 * error * rng.uniform(-1, 1))
        for step, action in enumerate(env.expert(), start=1):
            _, _, terminated, truncated, _ = env.step(displaced(action, offsets, min(1.0, step / RAMP)))
            if terminated or truncated:
                successes += terminated
                break
    env.close()
    return successes / scenes


def main() -> None:
    """Print one line per task and a summary."""
    rates: dict[str, dict[str, float]] = {}
    for task in TASKS:
        config = replace(TabletopConfig(cameras=()), task=task.name)
        rates[task.name] = {f"{error * 100:.1f} cm": success_rate(config, error, 30) for error in ERRORS}
        print(
            f"{task.name:18}", ", ".join(f"{error} {rate:.0%}" for error, rate in rates[task.name].items()), flush=True
        )
    print(json.dumps(rates))


if __name__ == "__main__":
    main()

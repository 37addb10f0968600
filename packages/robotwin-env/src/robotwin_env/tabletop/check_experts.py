"""Measure how often the experts succeed: `python -m robotwin_env.tabletop.check_experts --scenes 200`."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

from .config import TabletopConfig
from .env import TabletopEnv
from .tasks import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRecord:
    """How an expert did over scenes."""

    successes: int
    scenes: int
    failed_seeds: tuple[int, ...]
    mean_steps: float
    """Control steps of successful episodes."""
    longest: int


def check_expert(
    config: TabletopConfig, seeds: range, *, noise: float = 0.0, start_spread: float = 0.0
) -> ExpertRecord:
    """Run the expert once per seed."""
    env = TabletopEnv(config)
    steps: list[int] = []
    failed: list[int] = []
    for seed in seeds:
        env.reset(seed=seed, options={"start_spread": start_spread})
        info = {"success": False, "steps": 0}
        for action in env.expert(noise=noise):
            _, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
        if info["success"]:
            steps.append(int(info["steps"]))
        else:
            failed.append(seed)
    env.close()
    return ExpertRecord(
        successes=len(steps),
        scenes=len(seeds),
        failed_seeds=tuple(failed),
        mean_steps=sum(steps) / len(steps) if steps else math.nan,
        longest=max(steps, default=0),
    )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927)."""
    share = successes / trials
    center = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (center - half) / (1 + z * z / trials), (center + half) / (1 + z * z / trials)


def main() -> None:
    """Print one line per task and kind of demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--scene", choices=("clean", "random"), default="random")
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--noise", type=float, default=0.025, help="of the noisy demonstrations (m)")
    options = parser.parse_args()
    for task in options.tasks:
        config = TabletopConfig(task=task, scene=options.scene, cameras=())
        for noise in (0.0, options.noise):
            record = check_expert(config, range(options.scenes), noise=noise, start_spread=noise)
            low, high = wilson(record.successes, record.scenes)
            sys.stdout.write(
                f"{task:18} noise {noise:.3f} m: {record.successes}/{record.scenes} = "
                f"{record.successes / record.scenes:6.1%} [{low:.1%}, {high:.1%}], {record.mean_steps:.1f} steps "
                f"(longest {record.longest}), failed seeds {list(record.failed_seeds)}\n"
            )


if __name__ == "__main__":
    main()

"""What the process boundary costs: a fake simulator behind the real boundary."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import numpy as np

from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv

FAKE = Path(__file__).parents[1] / "tests" / "fake_simulator.py"


def fake(script: dict[str, object]) -> RoboTwinEnv:
    """Make an environment around the fake simulator."""
    variables = {"FAKE_SIMULATOR": json.dumps({"step_limit": 10_000, **script})}
    return RoboTwinEnv(RoboTwinConfig(root=FAKE.parent, simulator=FAKE, variables=variables))


def boundary(steps: int) -> dict[str, float]:
    """Step with three 240x320 images each; milliseconds outside the simulator's own work, and of this process's own."""
    env = fake({"image": [240, 320], "timed": True})
    env.reset(seed=0)
    still = np.full(14, 0.9)
    for _ in range(20):
        env.step(still)
    outside = []
    computing = time.process_time()
    for _ in range(steps):
        began = time.perf_counter()
        info = env.step(still)[4]
        outside.append((time.perf_counter() - began - info["inside_seconds"]) * 1000)
    own = (time.process_time() - computing) / steps * 1000
    env.close()
    return {**{f"{quantile:.0%}": float(np.quantile(outside, quantile)) for quantile in (0.1, 0.5, 0.95)}, "own": own}


def main() -> None:
    """Print one line per case and a summary."""
    cost = boundary(1000)
    own = cost.pop("own")
    shares = ", ".join(f"{share} of steps within {ms:.2f} ms" for share, ms in cost.items())
    print(f"boundary, 3 images 240x320: {shares}; this process computes for {own:.2f} ms of each")
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    print(json.dumps({"boundary_ms": cost, "own_ms": own, **versions}))


if __name__ == "__main__":
    main()

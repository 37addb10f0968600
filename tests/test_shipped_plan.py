"""The shipped policy and gate plan as `golden/shipped_plan.json` says; `python test_shipped_plan.py` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from noisegate_apps.evaluation.variants import scheduled
from noisegate_apps.policy.loading import load_policy
from wam_backbone.cameras import CAMERAS

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
GOLDEN = Path(__file__).parent / "golden" / "shipped_plan.json"
TOLERANCE = 1e-4
"""Targets of joints (rad), shares of a gripper's way, and times: far above what processors differ by."""


def observed():
    """Pictures that differ by camera, place and colour, a state and an instruction."""
    row, column, colour = np.ogrid[0:64, 0:64, 0:3]
    pictures = {
        name: ((row * (1 + place) + column * (3 - place) + 80 * colour) % 256).astype(np.uint8)
        for place, name in enumerate(CAMERAS)
    }
    return SimpleNamespace(observation={**pictures, "state": np.linspace(-0.5, 0.5, 14)}, instruction="lift the pot")


def planned():
    """Under each schedule, the actions of a chunk and the times of its latents."""
    loaded = load_policy(CHECKPOINTS / "tabletop-independent", device="cpu")
    row, plans = observed(), {}
    for name in ("shared", "learned"):
        policy, choose, _ = scheduled(name, loaded, gate=CHECKPOINTS / "tabletop-gate")
        plan = policy.plan([row.observation], [row.instruction], choose([row]), [(7,)])
        plans[name] = {"actions": plan.actions[0], "times": plan.chunk.times[0].numpy()}
    return plans


def test_the_shipped_policy_and_gate_plan_what_they_always_planned():
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert recorded.keys() == {"shared", "learned"}
    for name, plan in planned().items():
        assert plan["actions"].shape == (16, 14)
        for key, values in plan.items():
            assert values == pytest.approx(np.array(recorded[name][key]), abs=TOLERANCE), (name, key)


if __name__ == "__main__":
    lines = []
    for name, plan in planned().items():
        parts = (
            f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in values.astype(float).round(6).tolist()) + "\n]"
            for key, values in plan.items()
        )
        lines.append(f'"{name}": {{\n' + ",\n".join(parts) + "\n}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

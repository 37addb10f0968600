"""Writes `noisegate_objective.json`: NoiseGate §4.4 by scalar loops, with nothing but the standard library."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

ALPHA_MAX, CLIP, BETA, DECAY, STD_EPS = 2.0, 0.2, 0.01, 0.999, 1e-6
STEPS_BEFORE = 7
LENGTHS = [3, 2, 4, 1, 2, 3]
GROUPS = [0, 0, 0, 0, 1, 1]
REWARDS = [1.0, 0.0, 1.0, None, 1.0, 1.0]


def log_density(u: float, mean: float, log_std: float) -> float:
    """Log-density of alpha = ALPHA_MAX (1 + tanh u) / 2 where u is Gaussian (eq. (11))."""
    deviation = (u - mean) / math.exp(log_std)
    gaussian = -0.5 * deviation**2 - log_std - 0.5 * math.log(2 * math.pi)
    return gaussian - math.log(ALPHA_MAX / 2 * (1 - math.tanh(u) ** 2))


def entropy(mean: float, log_std: float) -> float:
    """Entropy of alpha by the trapezoid rule on -p log p, in the variable u."""
    std, count = math.exp(log_std), 2000
    total = 0.0
    for index in range(count + 1):
        u = mean + std * (-9 + 18 * index / count)
        gaussian = math.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        total += (0.5 if index in (0, count) else 1.0) * -gaussian * log_density(u, mean, log_std)
    return total * 18 * std / count


def advantages() -> list[float]:
    """Eq. (7), the failed rollout left out."""
    result = []
    for group, reward in zip(GROUPS, REWARDS, strict=True):
        members = [r for g, r in zip(GROUPS, REWARDS, strict=True) if g == group and r is not None]
        if reward is None or max(members) == min(members):
            result.append(0.0)
            continue
        average = sum(members) / len(members)
        std = math.sqrt(sum((r - average) ** 2 for r in members) / (len(members) - 1))
        result.append((reward - average) / (std + STD_EPS))
    return result


def loss(u: list[list[float]], old: list[list[float]], mean: list[list[float]], log_std: list[float]) -> float:
    """Minus eq. (9) over the decisions of mixed groups."""
    scores, row = advantages(), 0
    surrogate, components, bonus, decisions = 0.0, 0, 0.0, 0
    for member, length in enumerate(LENGTHS):
        for _ in range(length):
            if GROUPS[member] == 0 and REWARDS[member] is not None:
                for k in range(2):
                    ratio = math.exp(log_density(u[row][k], mean[row][k], log_std[k]) - old[row][k])
                    bounded = min(max(ratio, 1 - CLIP), 1 + CLIP)
                    surrogate += min(ratio * scores[member], bounded * scores[member])
                    components += 1
                    bonus += entropy(mean[row][k], log_std[k])
                decisions += 1
            row += 1
    return -(surrogate / components + BETA * DECAY**STEPS_BEFORE * bonus / decisions)


def main() -> None:
    """Writes the file beside this one."""
    draw = random.Random(0)
    rows = sum(LENGTHS)
    old_mean = [[draw.gauss(0, 0.6) for _ in range(2)] for _ in range(rows)]
    old_log_std = [-0.4, 0.1]
    u = [[draw.gauss(old_mean[i][k], math.exp(old_log_std[k])) for k in range(2)] for i in range(rows)]
    old = [[log_density(u[i][k], old_mean[i][k], old_log_std[k]) for k in range(2)] for i in range(rows)]
    mean = [[old_mean[i][k] + draw.gauss(0, 0.15) for k in range(2)] for i in range(rows)]
    log_std = [-0.5, 0.15]

    def slope(values: list[float], index: int) -> float:
        start, step = values[index], 1e-5
        values[index] = start + step
        high = loss(u, old, mean, log_std)
        values[index] = start - step
        low = loss(u, old, mean, log_std)
        values[index] = start
        return (high - low) / (2 * step)

    case = {
        "inputs": {"u": u, "old_log_prob": old, "mean": mean, "log_std": log_std, "rewards": REWARDS},
        "options": {
            "alpha_max": ALPHA_MAX,
            "clip": CLIP,
            "entropy_weight": BETA,
            "entropy_decay": DECAY,
            "optimizer_steps_before": STEPS_BEFORE,
            "std_eps": STD_EPS,
            "lengths": LENGTHS,
            "groups": GROUPS,
        },
        "expected": {
            "advantages": advantages(),
            "loss": loss(u, old, mean, log_std),
            "grad_mean": [[slope(mean[i], k) for k in range(2)] for i in range(rows)],
            "grad_log_std": [slope(log_std, k) for k in range(2)],
        },
        "tolerance": 1e-8,
    }
    Path(__file__).with_name("noisegate_objective.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()

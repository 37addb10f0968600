"""Times one decision and one learner pass of the gating policy on one CPU thread; the last line is one JSON object."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time of one call, after warming up."""
    for _ in range(5):
        call()
    laps = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        laps.append(1e3 * (time.perf_counter() - start))
    return statistics.median(laps)


def main() -> None:
    """Measures the tabletop and the large preset."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, float] = {}
    cases = [
        ("tabletop", GatingPolicyConfig(latent_channels=24, frames=2), (6, 4), 200),
        ("large", GatingPolicyConfig(latent_channels=48, frames=2, width=256), (24, 20), 10),
    ]
    for name, config, grid, repeats in cases:
        policy = GatingPolicyNetwork(config)
        for batch in (1, 8):
            latents = torch.randn(batch, config.latent_channels, config.frames, *grid)
            observation, times = latents[:, :, :1].clone(), torch.rand(batch, config.frames)
            with torch.no_grad():
                key = f"{name}_decision_batch{batch}_ms"
                results[key] = round(milliseconds(lambda: policy(latents, observation, times), repeats), 3)  # noqa: B023 - called at once
            print(f"{key:34} {results[key]:9.3f}")
        if name == "tabletop":
            states = {
                "latents": torch.randn(256, config.latent_channels, config.frames, *grid),
                "observation": torch.randn(256, config.latent_channels, 1, *grid),
                "times": torch.rand(256, config.frames),
            }
            actions = torch.randn(256, config.frames)

            def learn() -> None:
                evaluation = policy.evaluate(states, actions)  # noqa: B023 - called at once
                (evaluation.log_prob.mean() + evaluation.entropy.mean()).backward()  # type: ignore[no-untyped-call]

            results["tabletop_learn_256_ms"] = round(milliseconds(learn, 10), 1)
            print(f"{'tabletop_learn_256_ms':34} {results['tabletop_learn_256_ms']:9.1f}")
        parameters = sum(parameter.numel() for parameter in policy.parameters())
        results[f"{name}_parameters"] = parameters
    print(json.dumps(results))


if __name__ == "__main__":
    main()

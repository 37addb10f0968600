import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def last_line(script: str, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    results: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_the_gpu_benchmark_runs_at_a_tiny_size_on_the_cpu():
    results = last_line("bench_gpu.py", "--tiny", "--device", "cpu", "--rounds", "2", "--batch", "2")
    stages = ["joint_text", "joint_observation", "joint_steps", "joint_chunk_eager", "joint_chunk"]
    names = [*stages, "full_chunk", "fastwam_actions", "training_step"]
    quantiles = {f"{name}_p{part}_ms" for name in names for part in (50, 95)}
    assert results.keys() == {*quantiles, "training_samples_per_second"}
    assert all(results[f"{name}_p50_ms"] <= results[f"{name}_p95_ms"] for name in names)
    assert results["joint_observation_p50_ms"] < results["joint_chunk_p50_ms"]
    assert results["training_samples_per_second"] == pytest.approx(2000 / results["training_step_p50_ms"], rel=1e-3)


@pytest.mark.slow
def test_the_ratios_are_one_json_object_on_the_last_line():
    results = last_line("bench_joint_step.py", "--tiny", "--rounds", "1")
    assert results.keys() >= {
        "joint_forward_vs_diffusers",
        "train_step_vs_diffusers",
        "saved_bytes_vs_diffusers",
        "chunk_vs_ten_forwards",
        "heterogeneous_vs_shared",
        "ops_per_step_30_layers",
        "ops_per_chunk_30_layers",
    }
    assert results["saved_bytes_vs_diffusers"] < 0.95
    assert results["ops_per_step_30_layers"] <= 1179
    assert results["ops_per_joint_step_30_layers"] <= 1269
    assert results["ops_per_chunk_30_layers"] <= 13_432

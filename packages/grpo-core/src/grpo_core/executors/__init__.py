"""Who rolls the episodes out."""

from grpo_core.executors.ledger import InProcessExecutor
from grpo_core.executors.processes import ProcessExecutor
from grpo_core.executors.protocol import Executor, FaultTolerance, Rollout, RolloutWorker, Scene, WorkerFactory
from grpo_core.executors.ray_actors import RayExecutor

__all__ = [
    "Executor", "FaultTolerance", "InProcessExecutor", "ProcessExecutor", "RayExecutor", "Rollout", "RolloutWorker",
    "Scene", "WorkerFactory",
]  # fmt: skip

"""Where Stage 2's episodes are played: in this process, in worker processes, or in actors of a Ray cluster.

A worker holds its own frozen policy, its own copy of the gate and its own simulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from grpo_core import InProcessExecutor, ProcessExecutor, RayExecutor
from grpo_core.errors import ExecutorError
from grpo_core.executors import Executor, FaultTolerance
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.play.worlds import Pool, SceneName, executed_actions, pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.policy.world import WorldPolicy
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage2.config import Exploration
from noisegate_apps.stage2.rollout import GateRollout
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork
from robotwin_env.robotwin import RoboTwinConfig

ExecutorName = Literal["in-process", "processes", "ray"]
GateExecutor = Executor[Mapping[str, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWorkers:
    """Makes the rollout of one worker, in the worker."""

    policy: Path
    """Folder of the frozen policy; on a cluster, every machine needs it there."""
    denoising_steps: int | None
    """S; the policy's own where None."""
    head_start: float | None
    """Likewise."""
    gate: GatingPolicyConfig
    """Size of the gate, whose weights come with the jobs."""
    scene: SceneName
    robotwin: RoboTwinConfig | None = None
    """RoboTwin's settings, where its tasks are played instead of the tabletop's."""
    common_noise: bool
    exploration: Exploration
    imagination: ImaginationConfig
    """Whether imagination is made to lie."""
    step_price: float = 0.0
    """What is taken from the reward for each network call per chunk."""
    tasks: tuple[str, ...]
    """All tasks that are played."""
    episodes: int
    """Played at once, in as many environments."""
    device: DeviceName = "auto"
    """Where the policy plans; a worker of a Ray cluster sees the GPUs that it was given."""

    def __call__(self) -> GateRollout:
        """Load the policy and make the environments."""
        policy = load_policy(self.policy, steps=self.denoising_steps, head_start=self.head_start, device=self.device)
        return self.rollout(policy, GatingPolicyNetwork(self.gate).to(policy.device), self.pool(workers=0))

    def pool(self, *, workers: int) -> Pool:
        """Make the environments; `workers` processes share those of the tabletop."""
        return pool_of("tabletop" if self.robotwin is None else "robotwin", slots=self.episodes, workers=workers)

    def rollout(self, policy: WorldPolicy, gate: GatingPolicyNetwork, pool: Pool) -> GateRollout:
        """Make the rollout around them."""
        return GateRollout(
            policy,
            gate,
            pool,
            scene=self.scene,
            robotwin=self.robotwin,
            common_noise=self.common_noise,
            replan_after=executed_actions(self.policy),
            exploration=self.exploration,
            imagination=policy.unreliable(self.imagination, self.tasks),
            step_price=self.step_price,
        )


@contextmanager
def gate_executor(
    name: ExecutorName,
    make: GateWorkers,
    policy: WorldPolicy,
    gate: GatingPolicyNetwork,
    *,
    workers: int,
    members_per_call: int | None,
    deadline: float,
    ray_address: str | None,
    gpus: float | None = None,
) -> Iterator[GateExecutor]:
    """Open the executor of a run; what is played and learned does not depend on which.

    Args:
        name: In process, the policy and gate of this process plan, and only the simulators have processes of their own.
        make: Makes the rollouts of workers.
        policy: The frozen policy.
        gate: The gate that learns.
        workers: Rollout workers; in process, simulator processes.
        members_per_call: Members of a group that are planned in one batch; None for all. This decides the last bits.
        deadline: Seconds that one call may take before its worker is replaced; not in process.
        ray_address: Of the cluster to join; None for one of this machine's own.
        gpus: GPUs, or the share of one, of each Ray worker; one where None and the policy is on a GPU here.

    Raises:
        RunError: If there is no such cluster.
    """
    if name == "in-process":
        with make.pool(workers=workers) as pool:
            yield InProcessExecutor(make.rollout(policy, gate, pool), jobs_per_call=members_per_call)
        return
    tolerance = FaultTolerance(deadline=deadline)
    executor: ProcessExecutor[Mapping[str, Tensor], Tensor] | RayExecutor[Mapping[str, Tensor], Tensor]
    if name == "processes":
        executor = ProcessExecutor(make, workers=workers, jobs_per_call=members_per_call, tolerance=tolerance)
    else:
        try:
            executor = RayExecutor(
                make,
                workers=workers,
                address=ray_address,
                jobs_per_call=members_per_call,
                tolerance=tolerance,
                gpus=float(policy.device.type == "cuda") if gpus is None else gpus,
            )
        except ExecutorError as error:
            raise RunError(str(error)) from error
    with executor:
        yield executor


def counted(events: Mapping[str, int]) -> dict[str, float]:
    """Return what went wrong since the run was started, for the metrics; nothing where nothing did."""
    return {f"rollout/{name}": float(count) for name, count in events.items() if count}

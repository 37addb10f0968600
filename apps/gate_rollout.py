"""Stage-2 rollouts: a group of episodes whose schedules the gate samples, recorded for the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from checkpoints import generator_of
from grpo_core import Decisions, Job, RolloutError, Trajectory
from noisegate_gpn import GatingPolicyNetwork, LearnedSchedule, ScheduleDecisions, schedule_noise
from robotwin_env import TabletopConfig
from robotwin_env.tabletop import ChunkOutcome
from robotwin_env.vector import EnvironmentPool, PoolError
from rollout import ChooseSchedule, EpisodeJob, PlayedEpisode, play
from wam_backbone import Schedule
from world_policy import Plan, WorldPolicy

GateTrajectory = Trajectory[Mapping[str, Tensor], Tensor]


def learned(gate: GatingPolicyNetwork) -> ChooseSchedule:
    """Choose the gate's deterministic schedule: evaluation."""
    return lambda _: LearnedSchedule(gate, record=False)


class GateRollout:
    """Plays the jobs of a group, which share their scene, and returns their trajectories.

    Args:
        policy: The frozen world action model.
        gate: The gate that samples.
        pool: Environments.
        scene: Which scenes are played.
        common_noise: Members share the initial noise too and differ in the gate's own noise alone, so that the schedule
            is the only cause of different rewards; otherwise each draws its own.
    """

    def __init__(
        self,
        policy: WorldPolicy,
        gate: GatingPolicyNetwork,
        pool: EnvironmentPool[TabletopConfig, ChunkOutcome],
        *,
        scene: Literal["clean", "random"],
        common_noise: bool = True,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._pool = pool
        self._scene = scene
        self._common_noise = common_noise
        self._scales: list[torch.Tensor] = []
        self._residuals: list[torch.Tensor] = []

    def __call__(self, jobs: Sequence[Job]) -> list[GateTrajectory]:
        """Play one group.

        Raises:
            RolloutError: If a simulator was lost; the pool is whole again afterwards.
        """
        episodes = [
            EpisodeJob(
                config=TabletopConfig(task=job.spec.task, scene=self._scene),
                seed=job.spec.seed,
                noise_seed=job.spec.common_seed if self._common_noise else job.policy_seed,
                policy_seed=job.policy_seed,
            )
            for job in jobs
        ]
        recorded: dict[int, list[ScheduleDecisions]] = {job.policy_seed: [] for job in jobs}

        def on_chunk(rows: Sequence[PlayedEpisode], schedule: Schedule, plan: Plan) -> None:
            assert isinstance(schedule, LearnedSchedule)
            decisions = schedule.decisions()
            for index, row in enumerate(rows):
                recorded[row.job.policy_seed].append(decisions.of_row(index))
            self._scales.append(self._gate.config.alpha_max * torch.sigmoid(2 * decisions.u))
            self._residuals.append(plan.chunk.times[:, -1])

        trajectories: list[GateTrajectory | None] = [None] * len(jobs)
        try:
            for place, episode in play(self._policy, self._pool, episodes, self._sample, on_chunk=on_chunk):
                decisions = ScheduleDecisions.concatenate(recorded[jobs[place].policy_seed])
                trajectories[place] = Trajectory(
                    job=jobs[place],
                    decisions=Decisions(states=decisions.states, actions=decisions.u, log_prob=decisions.log_prob),
                    reward=float(episode.success),
                    info={"steps": float(episode.steps)},
                )
        except PoolError as error:
            self._pool.restart()
            raise RolloutError(str(error)) from error
        return [trajectory for trajectory in trajectories if trajectory is not None]

    def statistics(self) -> dict[str, float]:
        """Return mean relative scale and residual time of every latent since the last call."""
        scales, residuals = torch.cat(self._scales).mean(0), torch.cat(self._residuals).mean(0)
        self._scales, self._residuals = [], []
        frames = range(1, len(scales) + 1)
        return {
            **{f"scale_{frame}": float(value) for frame, value in zip(frames, scales, strict=True)},
            **{f"residual_time_{frame}": float(value) for frame, value in zip(frames, residuals, strict=True)},
        }

    def _sample(self, rows: Sequence[PlayedEpisode]) -> LearnedSchedule:
        noise = schedule_noise(
            [generator_of("gate", row.job.policy_seed, row.chunks) for row in rows],
            steps=self._policy.clock.num_steps,
            frames=self._policy.settings.future_latents,
        )
        return LearnedSchedule(self._gate, noise=noise)

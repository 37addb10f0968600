"""Rollouts in vector environments of Gymnasium: `pip install 'grpo-core[gym]'`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from grpo_core.errors import at_least_one
from grpo_core.groups import Job
from grpo_core.trajectory import Decisions, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float


class VectorRollout:
    """Plays the jobs of a group side by side, one environment each, and rewards the sum of an episode's rewards.

    Members start alike, by their scene seed; each draws by noise of its own, whichever jobs are played beside it.

    Args:
        act: Takes observations (episodes, ...) and noise (episodes, ...) to the actions that are recorded, as the
            policy's `evaluate` takes them, and their log-probabilities (episodes, components).
        draw: Draws the noise of one decision from a generator, symmetric about 0, since antithetic partners play its
            negative and a greedy member plays 0: `torch.randn` for a Gaussian, `torch.rand - 0.5` for a choice.
        horizon: Most decisions of an episode; at least 1.
        make_envs: Makes environments for a task and a number of episodes, which are kept for later calls; those of
            Gymnasium that have the task's name where None.
        to_env: Takes recorded actions to what the environments take.
    """

    def __init__(
        self,
        act: Callable[[Tensor, Tensor], tuple[Tensor, Float[Tensor, "episodes components"]]],
        draw: Callable[[torch.Generator], Tensor],
        *,
        horizon: int,
        make_envs: Callable[[str, int], VectorEnv[Any, Any, Any]] | None = None,
        to_env: Callable[[Tensor], Any] = Tensor.numpy,
    ) -> None:
        at_least_one(horizon=horizon)
        self._make_envs = make_envs or partial(gymnasium.make_vec, vectorization_mode="sync")
        self._act = act
        self._draw = draw
        self._horizon = horizon
        self._to_env = to_env
        self._envs: dict[tuple[str, int], VectorEnv[Any, Any, Any]] = {}

    @torch.no_grad()
    def __call__(self, jobs: Sequence[Job]) -> list[Trajectory[Tensor, Tensor]]:
        """Plays an episode for each job."""
        key = jobs[0].spec.task, len(jobs)
        if key not in self._envs:
            self._envs[key] = self._make_envs(*key)
        envs = self._envs[key]
        generators = [(job.noise_sign, torch.Generator().manual_seed(job.noise_seed)) for job in jobs]
        seeds: Any = [job.spec.seed for job in jobs]  # one each, which the base class does not say
        observation, _ = envs.reset(seed=seeds)
        playing, lengths = torch.ones(len(jobs), dtype=torch.bool), torch.zeros(len(jobs), dtype=torch.long)
        rewards = torch.zeros(len(jobs), dtype=torch.float64)
        records: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(records) < self._horizon and playing.any():
            states = torch.as_tensor(observation).clone()
            actions, log_prob = self._act(states, torch.stack([sign * self._draw(own) for sign, own in generators]))
            records.append((states, actions, log_prob))
            observation, reward, terminated, truncated, _ = envs.step(self._to_env(actions))
            rewards += torch.where(playing, torch.as_tensor(reward, dtype=torch.float64), 0)
            lengths += playing
            playing &= ~torch.as_tensor(terminated | truncated)
        columns = [torch.stack(parts, dim=1) for parts in zip(*records, strict=True)]
        trajectories = []
        for row, (job, length) in enumerate(zip(jobs, lengths.tolist(), strict=True)):
            states, actions, log_prob = (column[row, :length] for column in columns)
            decisions = Decisions(states=states, actions=actions, log_prob=log_prob)
            info = {"length": float(length)}
            trajectories.append(Trajectory(job=job, decisions=decisions, reward=float(rewards[row]), info=info))
        return trajectories

    def close(self) -> None:
        """Closes all environments."""
        for envs in self._envs.values():
            envs.close()
        self._envs.clear()

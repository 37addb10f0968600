"""Who rolls the episodes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol

from torch import Tensor

from grpo_core.errors import ExecutorError, RolloutError
from grpo_core.groups import Job
from grpo_core.policy import ActionsT, StatesT
from grpo_core.trajectory import Trajectory


class Rollout(Protocol[StatesT, ActionsT]):
    """Rolls out jobs of one group, which it may batch; any callable of this shape fits.

    An episode may be returned as failed (`Trajectory.failed`). Raising `RolloutError` fails all jobs of the call; any
    other exception is a bug and goes up to the caller.
    """

    def __call__(self, jobs: Sequence[Job], /) -> Sequence[Trajectory[StatesT, ActionsT]]:
        """Returns one trajectory per job, in any order."""


class Executor(Protocol[StatesT, ActionsT]):
    """Turns jobs into trajectories. What comes back does not depend on which executor it is, only when."""

    def set_weights(self, version: int, weights: Mapping[str, Tensor], /) -> None:
        """Gives the weights under which jobs submitted from now on are rolled out.

        Args:
            version: Their version, which the trajectories will carry.
            weights: Names to tensors.
        """

    def submit(self, jobs: Sequence[Job], /) -> None:
        """Queues jobs."""

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[StatesT, ActionsT]]:
        """Returns trajectories that are finished, failed ones included.

        Args:
            timeout: Seconds to wait for the first one; None for as long as it takes.

        Returns:
            Finished trajectories; empty if the time is over or nothing is queued.
        """

    def close(self) -> None:
        """Frees what the executor holds; it takes no more jobs."""


class InProcessExecutor(Generic[StatesT, ActionsT]):
    """Rolls out in the caller's process, one group per `poll`.

    Args:
        rollout: Rolls out the jobs of one group.
        load_weights: Puts new weights into the rollout's policy; None if it shares the learner's, as is usual in one
            process. The weights of queued jobs must not change: poll until nothing is left before an update.
    """

    def __init__(
        self,
        rollout: Rollout[StatesT, ActionsT],
        *,
        load_weights: Callable[[Mapping[str, Tensor]], None] | None = None,
    ) -> None:
        self._rollout = rollout
        self._load_weights = load_weights
        self._version = 0
        self._queue: deque[tuple[Job, ...]] = deque()
        self._closed = False

    def set_weights(self, version: int, weights: Mapping[str, Tensor], /) -> None:
        """Gives the weights under which jobs submitted from now on are rolled out.

        Args:
            version: Their version, which the trajectories will carry.
            weights: Names to tensors; not looked at without `load_weights`.

        Raises:
            ExecutorError: Jobs are still queued for the weights before.
        """
        self._check_open()
        if self._queue:
            raise ExecutorError(f"{len(self._queue)} groups wait for version {self._version}; poll them first.")
        self._version = version
        if self._load_weights is not None:
            self._load_weights(weights)

    def submit(self, jobs: Sequence[Job], /) -> None:
        """Queues jobs, those of one group to be rolled out together.

        Raises:
            ExecutorError: The executor is closed.
        """
        self._check_open()
        by_group: dict[int, list[Job]] = {}
        for job in jobs:
            by_group.setdefault(job.spec.group, []).append(job)
        self._queue.extend(map(tuple, by_group.values()))

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[StatesT, ActionsT]]:
        """Rolls out the next group, however long it takes.

        Args:
            timeout: Not used: an episode in this process cannot be interrupted.

        Returns:
            The group's trajectories in the order of its jobs; empty if nothing is queued.

        Raises:
            ExecutorError: The executor is closed, or the rollout did not answer each job once.
        """
        self._check_open()
        if not self._queue:
            return []
        jobs = self._queue.popleft()
        try:
            trajectories = self._rollout(jobs)
        except RolloutError as error:
            return [Trajectory.failed(job, error=str(error), version=self._version) for job in jobs]
        by_job = {trajectory.job: trajectory for trajectory in trajectories}
        if len(trajectories) != len(jobs) or set(by_job) != set(jobs):
            raise ExecutorError(
                f"The rollout answered {len(trajectories)} jobs, {len(set(by_job) & set(jobs))} of the {len(jobs)} "
                f"asked for, of which the first is {jobs[0]}; return one trajectory for each job."
            )
        return [replace(by_job[job], version=self._version) for job in jobs]

    def close(self) -> None:
        """Drops what is queued; the executor takes no more jobs."""
        self._queue.clear()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ExecutorError("The executor is closed; make a new one.")

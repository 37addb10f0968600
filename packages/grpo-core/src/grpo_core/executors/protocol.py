"""What rolls out, what hands the jobs to it, and what may go wrong in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from grpo_core.errors import ConfigError, at_least_one
from grpo_core.groups import Job
from grpo_core.trajectory import ActionsT, StatesT, Trajectory

Scene = tuple[str, int]
"""Task and scene seed."""


class Rollout(Protocol[StatesT, ActionsT]):
    """Rolls out jobs of one group, which it may batch; any callable of this shape fits.

    Raise `RolloutError` when a simulator was lost and the rollout is whole again: the call is made once more. Return
    `Trajectory.failed` for an episode that is to be given up at once. Any other exception is a bug.
    """

    def __call__(self, jobs: Sequence[Job], /) -> Sequence[Trajectory[StatesT, ActionsT]]:
        """Returns one trajectory per job, in any order."""


class RolloutWorker(Rollout[StatesT, ActionsT], Protocol[StatesT, ActionsT]):
    """A rollout with a policy of its own, as every worker process has one.

    A worker whose simulator is corrupted beyond an exception should end itself with `os._exit(1)`: it is replaced.
    """

    def load_weights(self, weights: Mapping[str, Tensor], /) -> None:
        """Puts weights that were given to `Executor.set_weights` into the policy."""


WorkerFactory = Callable[[], RolloutWorker[StatesT, ActionsT]]
"""Makes a worker's rollout, once per process: a picklable callable, such as a frozen dataclass with `__call__`."""


class Executor(Protocol[StatesT, ActionsT]):
    """Turns jobs into trajectories.

    What comes back does not depend on which executor it is, on the number of workers or on the order in which they
    finish, only when. One condition: if a rollout's answer to a job depends on the other jobs of the call (a batched
    network rounds differently), give all executors the same `jobs_per_call`. Misused, closed, or given a rollout that
    does not answer each of its jobs once, it raises `ExecutorError`.
    """

    @property
    def quarantined(self) -> frozenset[Scene]:
        """Scenes in which several jobs used up their tries: their jobs come back as failed, untried."""

    @property
    def events(self) -> Counter[str]:
        """What went wrong so far, counted.

        Of calls: `deaths` of their workers, `timeouts`, `rollout_errors`, and `exceptions` of any other kind. Of jobs:
        `resubmissions`, `given_up` after the last try, `skipped` since their scene is quarantined, `cancelled`. Scenes
        `quarantined`. Of workers: `failed_starts`, and `restarts` in place of lost ones.
        """

    def set_weights(self, version: int, weights: Mapping[str, Tensor], /) -> None:
        """Gives the weights, and their version, under which jobs submitted from now on are rolled out."""

    def submit(self, jobs: Sequence[Job], /) -> None:
        """Queues jobs, none of which is outstanding."""

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[StatesT, ActionsT]]:
        """Returns trajectories that are finished, failed ones included, in the order in which they finished.

        Waits up to `timeout` seconds for the first one, None for as long as it takes; none comes back if the time is
        over or nothing is outstanding. The job of one that was tried again says so in its `attempt`.
        """

    def cancel(self) -> None:
        """Drops all outstanding jobs, queued and running: they are neither finished nor failed."""

    def close(self) -> None:
        """Frees what the executor holds; it takes no more jobs. Closing twice is harmless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTolerance:
    """How much trouble is put up with, in process in the first two ways; `ConfigError` for what is not positive."""

    max_attempts: int = 3
    """How often a job is tried before it comes back as failed."""
    max_votes: int = 2
    """Jobs of a scene that use up their tries before it is quarantined: one may fail for what the policy did."""
    deadline: float = 600.0
    """Seconds that one call may take before its worker is ended. Several times the longest episode."""
    start_deadline: float = 300.0
    """Seconds that a worker may take until it is ready."""
    max_failed_starts: int = 3
    """Failed starts one after another, of any workers, after which the executor raises."""
    max_lost_scenes: int = 3
    """Scenes of which a job was given up, without any episode finished between them, after which the executor raises: a
    rollout that never succeeds is a bug and not a fault."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not name.endswith("deadline"):
                at_least_one(**{name: getattr(self, name)})
            elif not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; it must be a positive number of seconds.")

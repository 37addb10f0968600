"""Which jobs are outstanding, how often they were tried, and what becomes of them; and the executor of this process."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, Literal, NamedTuple, Self

from torch import Tensor

from grpo_core.errors import ExecutorError, RolloutError, at_least_one
from grpo_core.executors.protocol import FaultTolerance, Rollout, Scene
from grpo_core.groups import Job
from grpo_core.trajectory import ActionsT, StatesT, Trajectory

log = logging.getLogger("grpo_core.executors")


class Weights(NamedTuple):
    """Weights as they travel to workers, which compare numbers: a version may be given twice. None where they are."""

    number: int
    payload: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Jobs of one group that go to a rollout together, under weights of a version; a second try is another call."""

    number: int
    jobs: tuple[Job, ...]
    version: int
    weights: Weights | None

    @property
    def scene(self) -> Scene:
        """Task and seed, the same for all its jobs."""
        return self.jobs[0].spec.task, self.jobs[0].spec.seed


class JobLedger(Generic[StatesT, ActionsT]):
    """The bookkeeping that all executors share; for the arguments see `InProcessExecutor`.

    Calls are handed out in the order of submission, second tries last. What is said of a settled call is dropped.
    """

    def __init__(self, *, jobs_per_call: int | None, tolerance: FaultTolerance) -> None:
        at_least_one(jobs_per_call=jobs_per_call)
        self._jobs_per_call, self._tolerance = jobs_per_call, tolerance
        self._votes: dict[Scene, set[tuple[int, int]]] = {}
        self._queue: deque[Call] = deque()
        self._open: dict[int, Call] = {}
        self._finished: list[Trajectory[StatesT, ActionsT]] = []
        self._numbers = count()
        self.events: Counter[str] = Counter()
        self.quarantined: frozenset[Scene] = frozenset()

    @property
    def outstanding(self) -> tuple[Call, ...]:
        """Calls that are queued or running."""
        return tuple(self._open.values())

    def submit(self, jobs: Sequence[Job], *, version: int, weights: Weights | None = None) -> None:
        """Queues jobs in calls; raises `ExecutorError` for one that is outstanding already."""
        known = {job.key for call in self._open.values() for job in call.jobs}
        by_group: dict[int, list[Job]] = {}
        for job in jobs:
            if job.key in known:
                raise ExecutorError(f"{job} is outstanding already; submit it once.")
            known.add(job.key)
            by_group.setdefault(job.spec.group, []).append(job)
        for members in by_group.values():
            size = self._jobs_per_call or len(members)
            for start in range(0, len(members), size):
                self._queue_call(tuple(members[start : start + size]), version, weights)

    def next(self) -> Call | None:
        """The next call to make; None if no call waits."""
        while self._queue:
            call = self._queue.popleft()
            if call.number not in self._open:
                continue
            if call.scene not in self.quarantined:
                return call
            self._give_up(call, "skipped", "its scene is quarantined", "crash")
        return None

    def finish(self, call: Call, trajectories: Sequence[Trajectory[StatesT, ActionsT]]) -> None:
        """Takes a call's answer; raises `ExecutorError` if it does not answer each job once."""
        if call.number not in self._open:
            return
        by_job = {trajectory.job: trajectory for trajectory in trajectories}
        if len(trajectories) != len(call.jobs) or set(by_job) != set(call.jobs):
            raise ExecutorError(
                f"The rollout answered {len(trajectories)} jobs, {len(set(by_job) & set(call.jobs))} of the "
                f"{len(call.jobs)} asked for, of which the first is {call.jobs[0]}; return one trajectory for each job."
            )
        del self._open[call.number]
        self._finished.extend(replace(by_job[job], version=call.version) for job in call.jobs)

    def fail(self, call: Call, error: str, *, status: Literal["crash", "timeout"] = "crash") -> bool:
        """Queues a call once more; or gives its jobs up, which it returns, and after several such calls their scene."""
        if call.number not in self._open:
            return False
        tried, tries = call.jobs[0].attempt + 1, self._tolerance.max_attempts
        log.warning("%s failed in try %d of %d: %s", call.jobs[0], tried, tries, error)
        if tried < tries:
            del self._open[call.number]
            self.events["resubmissions"] += len(call.jobs)
            self._queue_call(tuple(replace(job, attempt=tried) for job in call.jobs), call.version, call.weights)
            return False
        votes = self._votes.setdefault(call.scene, set())
        votes.add(call.jobs[0].key)
        if len(votes) >= self._tolerance.max_votes and call.scene not in self.quarantined:
            log.error("task `%s`, seed %d is quarantined after %d jobs of it failed", *call.scene, len(votes))
            self.quarantined |= {call.scene}
            self.events["quarantined"] += 1
        self._give_up(call, "given_up", error, status)
        return True

    def put_back(self, call: Call) -> None:
        """Makes a call that came to nothing the next one again."""
        if call.number in self._open:
            self._queue.appendleft(call)

    def cancel(self) -> None:
        """Forgets all outstanding jobs."""
        self.events["cancelled"] += sum(len(call.jobs) for call in self._open.values())
        self._open.clear()
        self._queue.clear()

    def take(self) -> list[Trajectory[StatesT, ActionsT]]:
        """Hands over what is finished."""
        finished, self._finished = self._finished, []
        return finished

    def _queue_call(self, jobs: tuple[Job, ...], version: int, weights: Weights | None) -> None:
        call = Call(number=next(self._numbers), jobs=jobs, version=version, weights=weights)
        self._open[call.number] = call
        self._queue.append(call)

    def _give_up(self, call: Call, event: str, error: str, status: Literal["crash", "timeout"]) -> None:
        del self._open[call.number]
        self.events[event] += len(call.jobs)
        for job in call.jobs:
            self._finished.append(Trajectory.failed(job, error=error, status=status, version=call.version))


class LedgerExecutor(Generic[StatesT, ActionsT]):
    """What executors have in common: a ledger, and that they are open until they are closed or broken."""

    def __init__(self, *, jobs_per_call: int | None, tolerance: FaultTolerance | None) -> None:
        self._tolerance = tolerance or FaultTolerance()
        self._ledger: JobLedger[StatesT, ActionsT] = JobLedger(jobs_per_call=jobs_per_call, tolerance=self._tolerance)
        self._version = 0
        self._closed = False
        self._broken: BaseException | None = None

    @property
    def quarantined(self) -> frozenset[Scene]:
        """See `Executor.quarantined`."""
        return self._ledger.quarantined

    @property
    def events(self) -> Counter[str]:
        """See `Executor.events`."""
        return self._ledger.events.copy()

    def cancel(self) -> None:
        """See `Executor.cancel`."""
        self._ledger.cancel()

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ExecutorError("The executor is closed; make a new one.")
        if self._broken is not None:
            raise ExecutorError(f"The executor is broken; make a new one. It raised: {self._broken!r}")


class InProcessExecutor(LedgerExecutor[StatesT, ActionsT]):
    """Rolls out in the caller's process, one call per `poll`.

    Nothing here outlives a simulator that kills its process or hangs; a call that raises `RolloutError` is made again.
    Any other exception goes up to the caller, also Ctrl-C, and the call is the next one again: poll again, or cancel.

    Args:
        rollout: Rolls out the jobs of one group.
        load_weights: Puts new weights into the rollout's policy; None if it shares the learner's, as is usual in one
            process. The weights of queued jobs must not change: poll until nothing is left before an update.
        jobs_per_call: Most jobs of a group in one call of the rollout; None for all that were submitted together.
        tolerance: How much trouble is put up with.
    """

    def __init__(
        self,
        rollout: Rollout[StatesT, ActionsT],
        *,
        load_weights: Callable[[Mapping[str, Tensor]], None] | None = None,
        jobs_per_call: int | None = None,
        tolerance: FaultTolerance | None = None,
    ) -> None:
        super().__init__(jobs_per_call=jobs_per_call, tolerance=tolerance)
        self._rollout = rollout
        self._load_weights = load_weights

    def set_weights(self, version: int, weights: Mapping[str, Tensor], /) -> None:
        """See `Executor.set_weights`; raises `ExecutorError` while jobs are queued for the weights before."""
        self._check_open()
        if waiting := sum(len(call.jobs) for call in self._ledger.outstanding):
            raise ExecutorError(f"{waiting} jobs wait for version {self._version}; poll or cancel them first.")
        self._version = version
        if self._load_weights is not None:
            self._load_weights(weights)

    def submit(self, jobs: Sequence[Job], /) -> None:
        """See `Executor.submit`; those of one group are rolled out together."""
        self._check_open()
        self._ledger.submit(jobs, version=self._version)

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[StatesT, ActionsT]]:
        """Makes the next call, again if it has to; an episode in this process cannot be interrupted by `timeout`."""
        self._check_open()
        while (call := self._ledger.next()) is not None:
            try:
                self._ledger.finish(call, self._rollout(call.jobs))
            except RolloutError as error:
                self._ledger.events["rollout_errors"] += 1
                self._ledger.fail(call, str(error))
            except BaseException:
                self._ledger.put_back(call)
                raise
            if finished := self._ledger.take():
                return finished
        return self._ledger.take()

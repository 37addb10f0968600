"""What happens inside a worker, and who keeps workers busy and rolls out again what was lost with one of them."""

from __future__ import annotations

import math
import pickle
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import Tensor

from grpo_core.errors import ExecutorError, RolloutError
from grpo_core.executors.ledger import Call, LedgerExecutor, Weights, log
from grpo_core.executors.protocol import FaultTolerance, RolloutWorker, Scene, WorkerFactory
from grpo_core.groups import Job
from grpo_core.trajectory import ActionsT, StatesT, Trajectory


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says: that it is ready, that a call is done, or what went wrong, as `Executor.events` names it."""

    outcome: Literal["ready", "done", "rollout_errors", "exceptions", "deaths"]
    error: str = ""
    trajectories: Sequence[Trajectory[Any, Any]] = ()


class WorkerBody:
    """A worker's rollout, made by `factory`, perhaps pickled, and its weights, which `unpack` makes of a call's."""

    def __init__(self, factory: WorkerFactory[Any, Any] | bytes, unpack: Callable[[Any], Mapping[str, Tensor]]) -> None:
        self._factory = factory
        self._unpack = unpack
        self._rollout: RolloutWorker[Any, Any] | None = None
        self._weights = -1

    def start(self) -> Answer:
        """Makes the rollout."""
        try:
            self._rollout = (pickle.loads(self._factory) if isinstance(self._factory, bytes) else self._factory)()
        except Exception:
            return Answer("exceptions", traceback.format_exc())
        return Answer("ready")

    def answer(self, call: Call) -> Answer:
        """Makes a call."""
        assert self._rollout is not None, "a worker gets calls only once it is ready"
        try:
            if call.weights is not None and call.weights.number != self._weights:
                self._rollout.load_weights(self._unpack(call.weights.payload))
                self._weights = call.weights.number
            return Answer("done", trajectories=[_compact(trajectory) for trajectory in self._rollout(call.jobs)])
        except RolloutError as error:
            return Answer("rollout_errors", str(error))
        except Exception:
            return Answer("exceptions", traceback.format_exc())


def packed(weights: Mapping[str, Tensor]) -> bytes:
    """Weights as they travel: on the CPU and without gradient."""
    return pickle.dumps({name: tensor.detach().cpu() for name, tensor in weights.items()}, pickle.HIGHEST_PROTOCOL)


def unpacked(message: bytes) -> Answer:
    """What a worker said, which this process may not have the classes for."""
    try:
        return cast(Answer, pickle.loads(message))
    except Exception as error:
        return Answer("exceptions", f"its answer cannot be read here: {error!r}")


def _compact(trajectory: Trajectory[Any, Any]) -> Trajectory[Any, Any]:
    """A trajectory as it travels, on the CPU: pickling a view would take all that it is a view of along."""
    if trajectory.decisions is None:
        return trajectory
    return replace(trajectory, decisions=trajectory.decisions.map(lambda tensor: tensor.detach().cpu().clone()))


@dataclass(slots=True)
class _Place:
    """What the worker at a place is doing, and the monotonic time by which it must be ready or have answered."""

    deadline: float
    ready: bool = False
    call: Call | None = None


class FleetExecutor(LedgerExecutor[StatesT, ActionsT]):
    """Hands jobs to workers, one call each at a time, whichever is free; base of `ProcessExecutor` and `RayExecutor`.

    Workers are looked after in `submit` and `poll` alone: there is no thread in the background. A call whose worker
    dies, hangs past the deadline or raises is made again, last, with the same seeds and weights, by a fresh worker (by
    the same one after `RolloutError`). After its last try its jobs come back as failed; a scene in which this happened
    to several jobs is quarantined. An executor that raised `ExecutorError` is broken and says so from then on. Jobs
    keep the weights of their submission, which are copied.

    Args:
        workers: How many; at least 1.
        jobs_per_call: Most jobs of a group in one call of the rollout; None for all that were submitted together.
        tolerance: How much trouble is put up with.
    """

    def __init__(self, *, workers: int, jobs_per_call: int | None, tolerance: FaultTolerance | None) -> None:
        super().__init__(jobs_per_call=jobs_per_call, tolerance=tolerance)
        self._weights: Weights | None = None
        self._failed_starts = 0
        self._lost_scenes: set[Scene] = set()
        self._places = [_Place(math.inf) for _ in range(workers)]
        try:
            for place in range(workers):
                self._start(place)
        except BaseException:
            self._release()
            raise

    def set_weights(self, version: int, weights: Mapping[str, Tensor], /) -> None:
        """See `Executor.set_weights`."""
        self._check_open()
        self._version = version
        self._weights = Weights(0 if self._weights is None else self._weights.number + 1, self._pack(weights))

    def submit(self, jobs: Sequence[Job], /) -> None:
        """See `Executor.submit`; gives jobs to workers that are free."""
        self._check_open()
        self._ledger.submit(jobs, version=self._version, weights=self._weights)
        self._dispatch()

    def poll(self, timeout: float | None = None, /) -> list[Trajectory[StatesT, ActionsT]]:
        """See `Executor.poll`; raises `ExecutorError` if workers fail to start or scenes are lost one after another."""
        self._check_open()
        end = math.inf if timeout is None else time.monotonic() + timeout
        self._attend(0.0)
        while not (finished := self._ledger.take()) and self._ledger.outstanding:
            now = time.monotonic()
            if now >= end:
                break
            next_event = min(end, *(place.deadline for place in self._places))
            self._attend(None if next_event == math.inf else max(0.0, next_event - now))
        return finished

    def cancel(self) -> None:
        """See `Executor.cancel`; workers that are busy are replaced."""
        super().cancel()
        for place, worker in enumerate(self._places):
            if worker.call is not None and not self._closed and self._broken is None:
                self._replace(place)

    def close(self) -> None:
        """See `Executor.close`; ends the workers."""
        super().close()
        self._weights = None
        self._release()

    @abstractmethod
    def _start_worker(self, place: int) -> None:
        """Starts a worker at an empty place and returns at once; `_wait` tells when it is ready."""

    @abstractmethod
    def _stop_worker(self, place: int) -> None:
        """Ends the worker at a place, if there is one, whatever it is doing; `_wait` says no more of it."""

    @abstractmethod
    def _pack(self, weights: Mapping[str, Tensor]) -> Any:
        """Keeps weights as they are now, as what travels with calls."""

    @abstractmethod
    def _send(self, place: int, call: Call) -> None:
        """Gives a call to a ready worker and returns at once; that the worker is dead comes out in `_wait`."""

    @abstractmethod
    def _wait(self, timeout: float | None) -> list[tuple[int, Answer]]:
        """Waits, None for ever, for what workers say and their places; that of one that died is empty."""

    @abstractmethod
    def _release(self) -> None:
        """Ends all workers and frees the rest."""

    def _attend(self, timeout: float | None) -> None:
        """Waits for answers, then settles them, ends what is overdue and gives out calls."""
        self._dispatch()
        answers = self._wait(timeout)
        try:
            for place, answer in answers:
                self._settle(place, answer)
            for place, worker in enumerate(self._places):
                if worker.deadline < time.monotonic():
                    self._end_overdue(place)
        except BaseException as error:  # also Ctrl-C: half settled, a call would be waited for without end
            self._broken = error
            raise
        self._dispatch()

    def _dispatch(self) -> None:
        for place, worker in enumerate(self._places):
            if worker.ready and worker.call is None:
                if (call := self._ledger.next()) is None:
                    return
                worker.call, worker.deadline = call, time.monotonic() + self._tolerance.deadline
                self._send(place, call)

    def _settle(self, place: int, answer: Answer) -> None:
        worker = self._places[place]
        call, worker.call, worker.deadline = worker.call, None, math.inf
        if not worker.ready:
            if answer.outcome == "ready":
                worker.ready, self._failed_starts = True, 0
            else:
                self._fail_start(place, answer.error)
        elif call is None:
            log.warning("worker %d died while it had nothing to do: %s", place, answer.error)
            self._replace(place)
        elif answer.outcome == "done":
            self._ledger.finish(call, answer.trajectories)
            self._lost_scenes.clear()
        else:
            if answer.outcome != "rollout_errors":
                self._replace(place)
            self._fail(call, answer.outcome, answer.error)

    def _end_overdue(self, place: int) -> None:
        call = self._places[place].call
        if call is None:
            self._fail_start(place, f"it was not ready within {self._tolerance.start_deadline:g} s")
            return
        self._replace(place)
        self._fail(call, "timeouts", f"no answer within {self._tolerance.deadline:g} s; its worker was ended")

    def _fail(self, call: Call, event: str, reason: str) -> None:
        self._ledger.events[event] += 1
        if not self._ledger.fail(call, reason, status="timeout" if event == "timeouts" else "crash"):
            return
        self._lost_scenes.add(call.scene)
        if len(self._lost_scenes) >= self._tolerance.max_lost_scenes:
            lost = f"{len(self._lost_scenes)} scenes were given up without any episode finished between them"
            raise ExecutorError(f"{lost}; mend the rollout, or raise `max_lost_scenes`. The last one: {reason}")

    def _fail_start(self, place: int, reason: str) -> None:
        self._ledger.events["failed_starts"] += 1
        log.warning("worker %d failed to start: %s", place, reason)
        self._failed_starts += 1
        if self._failed_starts >= self._tolerance.max_failed_starts:
            self._stop_worker(place)
            failed = f"{self._failed_starts} workers failed one after another to start"
            do = "make the worker factory work in a process of its own, or allow more `start_deadline`"
            raise ExecutorError(f"{failed}; {do}. The last one: {reason}")
        self._replace(place)

    def _replace(self, place: int) -> None:
        self._stop_worker(place)
        self._ledger.events["restarts"] += 1
        self._start(place)

    def _start(self, place: int) -> None:
        self._places[place] = _Place(time.monotonic() + self._tolerance.start_deadline)
        self._start_worker(place)

"""A pool of environments whose results do not depend on how many processes run them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from numpy.typing import NDArray

from ..aborting import abort_each
from ..errors import VectorEnvError
from .host import Answer, ChunkEnv, EnvFailure, Host, Job, Request, play_chunk
from .worker_client import Worker, pack

Spec = TypeVar("Spec")
Outcome = TypeVar("Outcome")
Argument = TypeVar("Argument")
Result = TypeVar("Result")

_INTERRUPTED = "the call was interrupted"


class PoolError(VectorEnvError):
    """Environments were lost during a call; the others finished it.

    Attributes:
        failures: What was lost, by index, asked or not (a worker takes all it hosts with it). `EnvironmentPool.reset`
            revives an environment, after `EnvironmentPool.restart` where its worker died.
        results: What environments returned before anything happened to them.
    """

    def __init__(self, failures: Mapping[int, EnvFailure], results: Mapping[int, Any]) -> None:
        self.failures = dict(failures)
        self.results = dict(results)
        lines = [str(failure) for failure in self.failures.values()]
        details = next((failure.traceback for failure in self.failures.values() if failure.traceback), "")
        advice = "Others are unharmed; `restart` the pool if a worker died, then `reset` these."
        super().__init__("\n".join([*lines, advice, details]).rstrip())


class EnvironmentPool(Generic[Spec, Outcome]):
    """Environments `0 ... num_envs - 1`, spread over worker processes.

    Environment `i` lives in worker `i % workers`, or in a thread of its own in the calling process. Every episode is
    started with an explicit seed and no environment sees another, so that results are the same for any number of
    workers, and in threads.

    A failed environment (an exception, a worker that died or went silent) raises `PoolError`, which names it and
    carries the results of the others. A call that is interrupted (Ctrl-C) loses the environments it waited for; in
    threads, those that have an `abort` are told to end what they do.

    Args:
        make: Makes an environment from a job's `spec`: a class or function of a module. `TabletopEnv` fits, with
            `TabletopConfig` as spec.
        num_envs: Number of environments.
        workers: Number of processes; 0 runs all in the calling one.
        threads: Give each environment a thread of the calling process: for those that have a process of their own,
            as `RoboTwinEnv`, so that they work at the same time. Needs `workers=0`.
        timeout: Seconds one environment may take for one request before its worker is ended. Not for `workers=0`.

    Raises:
        VectorEnvError: the numbers are out of range, or a worker cannot import `make`.

    Examples:
        >>> with EnvironmentPool(TabletopEnv, num_envs=8, workers=2) as pool:  # doctest: +SKIP
        ...     started = pool.reset({i: Job(spec=config, seed=100 + i) for i in range(8)})
        ...     outcomes = pool.step_chunk({i: policy(started[i][0]) for i in range(8)})
    """

    def __init__(
        self,
        make: Callable[[Spec], ChunkEnv[Outcome]],
        *,
        num_envs: int,
        workers: int = 0,
        threads: bool = False,
        timeout: float = 600.0,
    ) -> None:
        if num_envs < 1 or workers < 0 or timeout <= 0:
            raise VectorEnvError(
                f"`num_envs` is {num_envs}, `workers` {workers}, `timeout` {timeout}; "
                "they must be 1 or more, 0 or more, and positive."
            )
        if threads and workers:
            raise VectorEnvError(f"`threads` is set and `workers` is {workers}; environments have one or the other.")
        self.num_envs = num_envs
        self._make = make
        self._timeout = timeout
        self._seeds: dict[int, int] = {}
        self._failures: dict[int, EnvFailure] = {}
        self._closed = False
        self._hosts: list[Host[Spec]] = []
        if workers == 0:
            self._hosts = [Host(make) for _ in range(num_envs if threads else 1)]
        # One thread per host, not one pool of threads: what an interrupted call left running must end before the next.
        self._threads = [ThreadPoolExecutor(1, "environment") for _ in self._hosts] if threads else []
        self._workers: list[Worker | None] = [None] * min(workers, num_envs)
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def failures(self) -> dict[int, EnvFailure]:
        """Environments that are lost until they are reset."""
        return dict(self._failures)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.pid for worker in self._workers if worker is not None]

    def reset(self, jobs: Mapping[int, Job[Spec]]) -> dict[int, tuple[Any, dict[str, Any]]]:
        """Start episodes.

        Args:
            jobs: Environment index to the episode it shall start; others are left alone.

        Returns:
            Observation and info by index.

        Raises:
            PoolError: environments failed.
            VectorEnvError: an index is out of range, or its worker is dead.
        """
        self._check_indices(jobs)
        for index in jobs:
            self._check_worker(index)
        for index, job in jobs.items():
            self._seeds[index] = job.seed
            self._failures.pop(index, None)
        return self._ask([Request(index=index, seed=job.seed, job=job) for index, job in jobs.items()])

    def step_chunk(self, actions: Mapping[int, NDArray[Any]], *, record_every: int | None = None) -> dict[int, Outcome]:
        """Play a chunk of actions in each named environment.

        Args:
            actions: Environment index to `(time, action size)`; others are left alone.
            record_every: Passed to the environments' `step_chunk`.

        Returns:
            What `step_chunk` of each environment returned.

        Raises:
            PoolError: environments failed.
            VectorEnvError: an index is out of range or has no running episode.
        """
        return self.call(play_chunk, {index: (chunk, record_every) for index, chunk in actions.items()})

    def call(self, function: Callable[[Any, Argument], Result], arguments: Mapping[int, Argument]) -> dict[int, Result]:
        """Call a function with each named environment, where the environment lives.

        Args:
            function: Gets the environment and its argument: a function of a module, such as one that plays the
                expert and returns the episode.
            arguments: Environment index to argument; picklable.

        Returns:
            What the function returned, by index; picklable.

        Raises:
            PoolError: environments failed.
            VectorEnvError: an index is out of range or has no running episode.
        """
        self._check_indices(arguments)
        for index in arguments:
            if index in self._failures:
                raise VectorEnvError(f"{self._failures[index]}; the environment is lost until it is reset.")
            if index not in self._seeds:
                raise VectorEnvError(f"environment {index} has no episode; `reset` it first.")
        return self._ask(
            [
                Request(index=index, seed=self._seeds[index], function=function, argument=argument)
                for index, argument in arguments.items()
            ]
        )

    def restart(self) -> None:
        """Start workers in place of those that died; their environments wait for `reset`.

        Raises:
            VectorEnvError: a worker cannot start.
        """
        self._check_open()
        started = {place: Worker(self._make) for place, worker in enumerate(self._workers) if worker is None}
        try:
            while started:
                place = min(started)
                started[place].wait_ready()
                self._workers[place] = started.pop(place)
        finally:
            for worker in started.values():
                worker.kill()

    def close(self) -> None:
        """Close the environments and end the workers. Closing twice is harmless."""
        if self._threads:
            closing = [thread.submit(host.close) for thread, host in zip(self._threads, self._hosts, strict=True)]
            wait_for(closing)
            for thread in self._threads:
                thread.shutdown()
        else:
            for host in self._hosts:
                host.close()
        for worker in self._workers:
            if worker is not None:
                worker.stop()
        self._workers, self._hosts, self._threads, self._closed = [], [], [], True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, requests: list[Request]) -> dict[int, Any]:
        results: dict[int, Any] = {}
        failures: dict[int, EnvFailure] = {}
        for index, answer in self._answers(requests):
            if isinstance(answer, EnvFailure):
                failures[index] = answer
            else:
                results[index] = pickle.loads(answer)
        self._failures.update(failures)
        if failures:
            raise PoolError(dict(sorted(failures.items())), results)
        return {request.index: results[request.index] for request in requests}

    def _answers(self, requests: list[Request]) -> list[Answer]:
        if self._hosts:
            return self._answers_here(requests)
        waiting: dict[int, list[Request]] = {}
        for request in requests:
            waiting.setdefault(request.index % len(self._workers), []).append(request)
        packed = {place: pack(batch) for place, batch in waiting.items()}
        try:
            for place, batch in waiting.items():
                self._worker(place).send(batch, packed[place])
            return self._collect(waiting)
        except BaseException:
            for place in list(waiting):
                self._failures.update(self._bury(place, f"{_INTERRUPTED}; its worker was ended", waiting))
            raise

    def _answers_here(self, requests: list[Request]) -> list[Answer]:
        copies: list[Request] = pickle.loads(pack(requests))  # results must not depend on what the caller shares
        try:
            if not self._threads:
                return list(self._hosts[0].serve(copies))
            asked = [
                self._threads[request.index].submit(_serve_one, self._hosts[request.index], request)
                for request in copies
            ]
            return [answer.result() for answer in asked]
        except BaseException:
            for request in requests:
                lost = EnvFailure(index=request.index, seed=request.seed, reason=_INTERRUPTED, status="interrupted")
                self._failures[request.index] = lost
            if self._threads:
                abort_each(self._hosts[request.index].abort for request in requests)
            raise

    def _collect(self, waiting: dict[int, list[Request]]) -> list[Answer]:
        """Take answers until nothing is waited for; `waiting` shrinks along."""
        answers: list[Answer] = []
        deadlines = dict.fromkeys(waiting, time.monotonic() + self._timeout)
        while waiting:
            for place in self._readable(waiting, min(deadlines[place] for place in waiting)):
                worker = self._worker(place)
                try:
                    answer = worker.receive()
                except (EOFError, OSError):
                    reason = f"its worker ended with exit status {worker.exit_status()}"
                    answers += self._bury(place, reason, waiting)
                    continue
                answers.append(answer)
                deadlines[place] = time.monotonic() + self._timeout
                waiting[place] = [request for request in waiting[place] if request.index != answer[0]]
                if not waiting[place]:
                    del waiting[place]
            for place in [place for place in waiting if deadlines[place] < time.monotonic()]:
                answers += self._bury(place, f"no answer within {self._timeout:g} s; its worker was ended", waiting)
        return answers

    def _readable(self, waiting: Mapping[int, object], deadline: float) -> list[int]:
        places = {self._worker(place).connection: place for place in waiting}
        ready = wait(list(places), timeout=max(0.0, deadline - time.monotonic()))
        return [place for connection, place in places.items() if connection in ready]

    def _check_worker(self, index: int) -> None:
        if self._workers:
            self._worker(index % len(self._workers))

    def _worker(self, place: int) -> Worker:
        worker = self._workers[place]
        if worker is None:
            raise VectorEnvError(f"worker {place} died; call `restart` before using its environments.")
        return worker

    def _bury(self, place: int, reason: str, waiting: dict[int, list[Request]]) -> list[tuple[int, EnvFailure]]:
        """Note the loss of a worker and of every environment it hosted."""
        self._worker(place).kill()
        self._workers[place] = None
        waiting.pop(place, None)
        count = len(self._workers)
        lost = [index for index in self._seeds if index % count == place]
        return [
            (index, EnvFailure(index=index, seed=self._seeds[index], reason=reason, status="worker")) for index in lost
        ]

    def _check_indices(self, indices: Mapping[int, object]) -> None:
        self._check_open()
        outside = [index for index in indices if not 0 <= index < self.num_envs]
        if outside:
            raise VectorEnvError(f"no environments {outside}; the pool has 0 to {self.num_envs - 1}.")

    def _check_open(self) -> None:
        if self._closed:
            raise VectorEnvError("the pool is closed; make a new one.")


def _serve_one(host: Host[Any], request: Request) -> Answer:
    (answer,) = host.serve([request])
    return answer

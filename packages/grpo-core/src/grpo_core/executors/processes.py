"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from multiprocessing.util import Finalize

import torch
from torch import Tensor

from grpo_core.errors import ExecutorError, at_least_one
from grpo_core.executors.ledger import Call
from grpo_core.executors.protocol import FaultTolerance, WorkerFactory
from grpo_core.executors.scheduling import Answer, FleetExecutor, WorkerBody, packed, unpacked
from grpo_core.trajectory import ActionsT, StatesT

STALLED_SECONDS = 30
"""How long a message may stand still half-way before its worker counts as dead."""
LEAVE_SECONDS = 5.0
"""How long an idle worker may take to leave of its own accord."""


class ProcessExecutor(FleetExecutor[StatesT, ActionsT]):
    """Rolls out in worker processes of this machine; see `FleetExecutor` for what happens when workers fail.

    Each worker is a fresh interpreter that makes its own rollout and computes on few threads; it may start processes
    of its own. All are ended with the executor, with the process that made it, however that ends, and with whatever
    they started. POSIX only. A script that makes one needs the guard `if __name__ == "__main__":`.

    Args:
        factory: Makes a worker's rollout, in the worker; `ExecutorError` if it cannot be pickled.
        workers: How many; at least 1.
        jobs_per_call: See `FleetExecutor`.
        tolerance: How much trouble is put up with.
        threads: CPU threads of torch in each worker.
    """

    def __init__(
        self,
        factory: WorkerFactory[StatesT, ActionsT],
        *,
        workers: int,
        jobs_per_call: int | None = 1,
        tolerance: FaultTolerance | None = None,
        threads: int = 1,
    ) -> None:
        at_least_one(workers=workers, threads=threads)
        try:
            self._factory = pickle.dumps(factory)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ExecutorError(
                f"`factory` cannot travel to a worker ({error}); give a function or a frozen dataclass of a module."
            ) from error
        self._threads = threads
        self._workers: list[_Process | None] = [None] * workers
        # Runs before the interpreter, on its way out, would wait for workers that wait for it.
        self._end_all = Finalize(self, _end_all, args=(self._workers,), exitpriority=100)
        super().__init__(workers=workers, jobs_per_call=jobs_per_call, tolerance=tolerance)

    def _start_worker(self, place: int) -> None:
        self._workers[place] = _Process(self._factory, threads=self._threads)

    def _stop_worker(self, place: int) -> None:
        worker, self._workers[place] = self._workers[place], None
        if worker is not None:
            worker.kill()

    def _pack(self, weights: Mapping[str, Tensor]) -> bytes:
        return packed(weights)

    def _send(self, place: int, call: Call) -> None:
        worker, weights = self._workers[place], call.weights
        assert worker is not None
        if weights is not None and weights.number == worker.weights:
            call = replace(call, weights=weights._replace(payload=None))
        elif weights is not None:
            worker.weights = weights.number
        worker.busy = True
        with suppress(OSError):  # the end of the pipe tells `_wait`
            worker.connection.send_bytes(pickle.dumps(call))

    def _wait(self, timeout: float | None) -> list[tuple[int, Answer]]:
        connections = {worker.connection: place for place, worker in enumerate(self._workers) if worker is not None}
        ready = wait(list(connections), timeout)
        return [(place, self._receive(place)) for connection, place in connections.items() if connection in ready]

    def _receive(self, place: int) -> Answer:
        worker = self._workers[place]
        assert worker is not None
        try:
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            self._workers[place] = None
            return Answer("deaths", f"its worker died ({worker.kill()})")
        worker.busy = False
        return unpacked(message)

    def _release(self) -> None:
        self._end_all()


class _Process:
    """A worker process seen from the one that starts it."""

    def __init__(self, factory: bytes, *, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.weights, self.busy = -1, True
        with socket.socket(fileno=os.dup(self.connection.fileno())) as pipe:
            for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                pipe.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", STALLED_SECONDS, 0))
        self._process: SpawnProcess = context.Process(target=serve, args=(theirs, factory, threads), name="rollout")
        ensure_running()  # would listen to Ctrl-C again
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent alone
        with theirs:
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def kill(self, *, grace: float = 0.0) -> str:
        """Ends the process and its group, after `grace` seconds; returns how it ended."""
        self.connection.close()
        self._process.join(grace)
        pid = self._process.pid
        assert pid is not None
        with suppress(ProcessLookupError, PermissionError):  # the worker leads a group of its own, once it runs
            os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        assert code is not None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _end_all(workers: list[_Process | None]) -> None:
    living = [worker for worker in workers if worker is not None]
    workers[:] = [None] * len(workers)
    for worker in living:
        worker.connection.close()  # an idle worker leaves
    for worker in living:
        worker.kill(grace=0.0 if worker.busy else LEAVE_SECONDS)


def serve(connection: Connection, factory: bytes, threads: int) -> None:
    """Answers calls until the pipe is closed, or the process that started this one is gone."""
    os.setsid()  # whatever is started here can be ended with this process
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    body = WorkerBody(factory, pickle.loads)
    _send(connection, body.start())
    with suppress(EOFError, ConnectionError):
        while True:
            _send(connection, body.answer(pickle.loads(connection.recv_bytes())))


def _send(connection: Connection, answer: Answer) -> None:
    try:
        message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # what a rollout puts into a trajectory is its own choice
        message = pickle.dumps(Answer("exceptions", f"the trajectories cannot be pickled: {error!r}"))
    connection.send_bytes(message)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)

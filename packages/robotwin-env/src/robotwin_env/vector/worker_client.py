"""Worker processes seen from the process that starts them."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import VectorEnvError
from .host import Answer, Request

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
START_SECONDS = 120.0
STOP_SECONDS = 10.0


class Worker:
    """A fresh interpreter that hosts environments.

    It is not `multiprocessing`'s child, so that it does not import the caller's main script (which may import
    torch, and would need a guard). It runs mathematics on one thread, leaves Ctrl-C to its parent, and exits when its
    parent does, however that dies. POSIX only.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        packed = pack(make)
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "robotwin_env.vector.worker_main", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(_THREADS, "1"), "PYTHONPATH": _import_path()},
            )
        self.connection = Connection(ours.detach())
        with suppress(OSError):  # `wait_ready` tells if it died
            self.connection.send_bytes(packed)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the worker has imported what it makes environments with.

        Raises:
            VectorEnvError: it could not, or died.
        """
        try:
            problem: str | None = "no answer" if not self.connection.poll(START_SECONDS) else self._receive()
        except (EOFError, ConnectionError):
            status = self.exit_status()
            if status is not None and status < 0:
                raise VectorEnvError(
                    f"a worker was killed by signal {-status} while it started, perhaps for want of memory; begin "
                    "again, with fewer workers where memory is short."
                ) from None
            problem = f"it ended with exit status {status}"
        if problem is not None:
            self.kill()
            raise VectorEnvError(
                "a worker did not start; what makes the environments must be importable (a class or function of a "
                f"module, not of the main script):\n{problem}"
            )

    def send(self, requests: list[Request], packed: bytes) -> None:
        """Ask for a batch, given plainly and packed; a dead worker is noticed by `receive`."""
        who = [(request.index, request.seed) for request in requests]
        with suppress(OSError):
            self.connection.send_bytes(pickle.dumps((who, packed)))

    def receive(self) -> Answer:
        """The next environment's index and result.

        Raises:
            EOFError: the worker is gone.
        """
        answer: Answer = self._receive()
        return answer

    def exit_status(self) -> int | None:
        """Exit status, waiting a moment for it; negative for a signal, `None` while running."""
        try:
            return self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Let the worker close its environments, and end it."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self.connection.send_bytes(pickle.dumps(None))
            self._process.wait(timeout=STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def _receive(self) -> Any:
        return pickle.loads(self.connection.recv_bytes())


def _import_path() -> str:
    """What this process can import, a worker can."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)


def pack(value: object) -> bytes:
    """Pickle something for a worker.

    Raises:
        VectorEnvError: it cannot be pickled.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise VectorEnvError(
            f"`{value!r:.200}` cannot be sent to a worker ({error}); use classes and functions of a module."
        ) from error

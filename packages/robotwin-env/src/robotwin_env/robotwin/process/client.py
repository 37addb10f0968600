"""A simulator's process seen from the process that starts it: calls with deadlines, and what became of it."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import (
    SCENE_FAILURES,
    CheckoutError,
    SimulatorError,
    SimulatorExceptionError,
    SimulatorExitError,
    SimulatorHangError,
    SimulatorMemoryError,
    SimulatorSignalError,
)
from ..simulator.wire import PROTOCOL_VERSION, Arrays, Channel, Fields, SharedRegion, WireError

_log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
KILL_SECONDS = 10.0
WATCH_SECONDS = 0.5
"""Between two looks at the memory of one process."""
_SCRIPT = Path(__file__).parents[1] / "simulator" / "__main__.py"
_LAUNCH = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OURS_ALONE = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_TAIL_BYTES = 4000
_LOG_LIMIT = 64 << 20
_REPORTED: dict[str, type[SimulatorError]] = {
    failure.status: failure for failure in (*SCENE_FAILURES, SimulatorExitError, SimulatorExceptionError)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a simulator's process is started."""

    python: Path | None
    """Its interpreter; `None` for this one."""
    simulator: Path | None
    """A file with `make_simulator`; `None` for RoboTwin."""
    folder: Path
    """Working directory: RoboTwin's root."""
    variables: Mapping[str, str]
    """Added to the environment."""
    log: Path | None
    """File that its output is added to; `None` keeps only the end of it, in errors."""
    memory_limit: int | None
    """Resident memory (bytes), of it and of what it has started, at which all are ended."""

    def interpreter(self) -> str:
        """Return the interpreter's path.

        Raises:
            CheckoutError: there is none.
        """
        if self.python is None:
            return sys.executable
        found = shutil.which(self.python)
        if found is None:
            raise CheckoutError(
                f"`{self.python}` is no program; name the interpreter that RoboTwin is installed in, such as "
                "`~/miniconda3/envs/RoboTwin/bin/python`."
            )
        return str(Path(found).absolute())


class SimulatorProcess:
    """One process with one simulator, in a process group of its own.

    It shares no standard stream with this process, leaves Ctrl-C to it, and ends when it does, or when nobody holds
    this object any more. Every call has a deadline; what does not answer is ended with everything it has started. Not
    for use by two threads at once, but for `interrupt`.
    """

    def __init__(self, launch: Launch) -> None:
        """Start the process; it says nothing before the call `open`.

        Raises:
            CheckoutError: the interpreter or the folder is not there.
        """
        if not launch.folder.is_dir():
            raise CheckoutError(f"`{launch.folder}` is no folder; name the root of a RoboTwin checkout.")
        python = launch.interpreter()
        self._memory_limit = launch.memory_limit
        self._watched = time.monotonic()
        self._last_words = ""
        with ExitStack() as opened:
            self._log = opened.enter_context(_open_log(launch.log))
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            with theirs:
                region = SharedRegion.create()
                opened.callback(region.close)
                command = [python, "-X", "faulthandler", "-u", "-c", _LAUNCH, str(_SCRIPT)]
                command += ["--socket", str(theirs.fileno()), "--memory", str(region.descriptor)]
                command += ["--parent", str(os.getpid())]
                command += [] if launch.simulator is None else ["--simulator", str(launch.simulator.absolute())]
                self._process = subprocess.Popen(
                    command,
                    cwd=launch.folder,
                    env=foreign_environment(launch.variables, python),
                    pass_fds=[theirs.fileno(), region.descriptor],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                )
            opened.pop_all()
        self._channel = Channel(ours, region, writes_shared=False)
        self._end = weakref.finalize(self, _end, self._process, self._channel, self._log)

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._end.alive and self._process.poll() is None

    @property
    def memory(self) -> int:
        """Resident memory of the process and of all it has started (bytes)."""
        return resident_memory(self.pid)

    def open(self, settings: Mapping[str, object], *, timeout: float) -> Fields:
        """Make the simulator; returns how it describes itself.

        Raises:
            SimulatorError: it cannot be made.
        """
        hello, _ = self.call("open", {"settings": dict(settings)}, timeout=timeout)
        if hello["protocol"] != PROTOCOL_VERSION:
            self.kill()
            raise SimulatorExceptionError(f"the simulator speaks protocol {hello['protocol']}, not {PROTOCOL_VERSION}.")
        return hello

    def call(
        self, name: str, fields: Fields, arrays: Mapping[str, NDArray[Any]] | None = None, *, timeout: float
    ) -> tuple[Fields, Arrays]:
        """Ask for something and wait for the answer.

        Args:
            name: One of the simulator's methods.
            fields: Its plain arguments.
            arrays: Its array arguments.
            timeout: Seconds until the process is given up.

        Returns:
            Info and arrays.

        Raises:
            SimulatorError: the call failed; where the error says `lost`, the process is gone.
        """
        self._shorten_log()
        try:
            self._watch_memory()
            with suppress(BrokenPipeError, ConnectionError):  # how it died, the answer that does not come tells
                self._channel.send({**fields, "call": name, "timeout": timeout}, arrays, timeout=timeout)
            reply, results = self._channel.receive(timeout, while_waiting=self._watch_memory, every=WATCH_SECONDS)
        except TimeoutError:
            raise self._hang(name, timeout) from None
        except EOFError:
            raise self._death(name) from None
        except WireError as error:
            self.kill()
            raise SimulatorExceptionError(
                f"`{name}` was answered with something else: {error}{self._tail()}"
            ) from error
        except BaseException:  # the memory limit, or an interrupted caller: no answer can be told from the next
            self.kill()
            raise
        if reply["status"] != "ok":
            raise self._reported(name, reply)
        return reply["info"], results

    def stop(self) -> None:
        """Let the simulator close its scene and end."""
        with suppress(SimulatorError):
            if self.alive:
                self.call("close", {}, timeout=STOP_SECONDS)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process and everything it has started, at once; harmless when it is gone."""
        if self._end.alive:
            self._last_words = self._tail()
            self._end()

    def interrupt(self) -> None:
        """End the process from another thread than the one that waits for its answer, which then learns of it."""
        if self._end.alive:
            _kill_group(self._process)

    def _reported(self, name: str, reply: Fields) -> SimulatorError:
        failure = _REPORTED.get(reply["status"], SimulatorExceptionError)
        if not failure.lost:
            return failure(f"`{name}`: {reply['reason']}")
        self.kill()
        return failure(f"`{name}` failed in the simulator: {reply['reason']}\n{reply['traceback']}{self._tail()}")

    def _hang(self, name: str, timeout: float) -> SimulatorError:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)  # writes the stacks of its threads to the log, if it can still do that
        time.sleep(0.2)
        self.kill()
        return SimulatorHangError(
            f"`{name}` was not answered within {timeout:g} s; the process was ended.{self._tail()}"
        )

    def _death(self, name: str) -> SimulatorError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)
        status = self._process.poll()
        self.kill()
        if status is None:
            return SimulatorExceptionError(f"the process hung up during `{name}`.{self._tail()}")
        if status >= 0:
            return SimulatorExitError(f"the process ended during `{name}` with exit status {status}.{self._tail()}")
        if -status == signal.SIGALRM:
            return SimulatorHangError(f"`{name}` outlived its deadline; the process ended itself.{self._tail()}")
        hint = "; the system may have run out of memory" if -status == signal.SIGKILL else ""
        return SimulatorSignalError(
            f"the process was ended during `{name}` by {signal.Signals(-status).name}{hint}.{self._tail()}"
        )

    def _watch_memory(self) -> None:
        now = time.monotonic()
        if self._memory_limit is None or now - self._watched < WATCH_SECONDS:
            return
        self._watched = now
        resident = self.memory
        if resident > self._memory_limit:
            raise SimulatorMemoryError(
                f"the process, with all it has started, grew to {resident / 2**30:.2f} GiB, over its limit of "
                f"{self._memory_limit / 2**30:.2f} GiB, and was ended; raise `memory_limit_gib` if it needs that much."
            )

    def _shorten_log(self) -> None:
        if os.fstat(self._log.fileno()).st_size > _LOG_LIMIT:
            self._log.truncate(0)

    def _tail(self) -> str:
        if not self._end.alive:
            return self._last_words
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()
        return f"\nThe end of what it printed:\n{tail}" if tail else ""


def foreign_environment(variables: Mapping[str, str], python: str) -> dict[str, str]:
    """Return this process's environment for another interpreter: without what concerns this one, on one thread.

    The interpreter's own programs come first on `PATH`, as if its environment were activated: cuRobo compiles with the
    `ninja` and `nvcc` that it finds there.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS_ALONE}
    path = os.pathsep.join([str(Path(python).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, "PATH": path, **dict.fromkeys(_THREADS, "1"), **variables}


def resident_memory(session: int) -> int:
    """Resident memory of all processes of a session (bytes), what they share counted once.

    0 where it is gone, and anywhere but on Linux.
    """
    if sys.platform != "linux":
        return 0
    own, shared = 0, 0
    for process in os.listdir("/proc"):  # noqa: PTH208 (pathlib takes thrice as long)
        try:
            if process.isdigit() and os.getsid(int(process)) == session:
                _, resident, common, *_ = map(int, Path("/proc", process, "statm").read_text().split())
                own, shared = own + resident - common, max(shared, common)
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return (own + shared) * os.sysconf("SC_PAGE_SIZE")


def _end(process: subprocess.Popen[bytes], channel: Channel, log: Any) -> None:
    _kill_group(process)
    try:
        process.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        _log.error(
            "process %d did not end within %g s of being killed, as one that hangs in a driver; it is left behind.",
            process.pid,
            KILL_SECONDS,
        )
    channel.close()
    log.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _open_log(path: Path | None) -> Any:
    if path is None:
        return tempfile.TemporaryFile("ab+")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+")


_numbers = itertools.count()


def log_file(folder: Path | None) -> Path | None:
    """Name the file for the output of one environment's processes, one after the other."""
    return None if folder is None else folder / f"simulator-{os.getpid()}-{next(_numbers)}.log"

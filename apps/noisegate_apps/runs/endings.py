"""How a run ends: one line for what was refused, one for Ctrl-C and SIGTERM; a traceback means a bug."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from noisegate_apps.runs.errors import RunError
from robotwin_env.errors import RobotwinEnvError

BASES = {
    "grpo_core.errors": "GRPOError",
    "noisegate_gpn.errors": "GatingPolicyError",
    "safetensors": "SafetensorError",
    "wam_backbone.errors": "WamError",
}
"""Module to the base of all errors that its package words, safetensors those of the disk.

They are not imported for it, since that loads torch.
"""

SURROUNDINGS = {
    errno.EACCES, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO,
    errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
    errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE,
}  # fmt: skip
"""What the machine refuses: rights, space, files at once, an address, or a file where a folder is needed."""

CUT = "\nTraceback (most recent call last)"
"""Where the message of an error from another process goes on to where it was raised."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Turn what the packages refuse and what interrupts into one line on stderr and an exit status.

    The status is 1 for what was refused, 128 and the signal's number for Ctrl-C, SIGTERM and a reader that has gone.
    """
    try:
        Path.cwd()
    except FileNotFoundError:  # with which torch's libraries end the process
        sys.exit("error: the current folder has been removed; change to one that is there.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a name that the terminal cannot show would end a run
            stream.reconfigure(errors="backslashreplace")
    main = threading.current_thread() is threading.main_thread()  # elsewhere no handler can be set
    earlier = signal.signal(signal.SIGTERM, _terminate) if main else None
    try:
        yield
    except KeyboardInterrupt as end:
        number = signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT
        print(f"\nended by {number.name}; the same command goes on where this run stopped.", file=sys.stderr)  # noqa: T201
        sys.exit(128 + number)
    except worded() as error:
        sys.exit(f"error: {' '.join(str(error).split(CUT)[0].split())}")
    except BrokenPipeError:
        if not _unread(sys.stdout) and not _unread(sys.stderr):  # another process than the reader has gone
            raise
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        named = error.errno is None or isinstance(error, socket.gaierror)
        if not named and error.errno not in SURROUNDINGS:
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")  # without a number, a library's words
    finally:
        if main:
            signal.signal(signal.SIGTERM, earlier)


def _unread(stream: TextIO) -> bool:
    """Whether whoever read the output, such as `head`, has seen enough."""
    try:
        ready = select.poll()
        ready.register(stream.fileno(), 0)
        return bool(ready.poll(0))  # asked for nothing, it tells of errors alone
    except (OSError, ValueError, AttributeError):  # no stream of the system's
        return False


def worded() -> tuple[type[Exception], ...]:
    """Return the base errors of all packages that are loaded: their messages say what to do."""
    loaded = [getattr(sys.modules[module], name) for module, name in BASES.items() if module in sys.modules]
    return (RunError, RobotwinEnvError, *loaded)


def _terminate(_: int, __: FrameType | None) -> None:
    raise Terminated

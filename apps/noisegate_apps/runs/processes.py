"""Worker processes that end with the run, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from noisegate_apps.runs.errors import RunError


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of spawned processes; they leave Ctrl-C to this one, from their start, and do not outlive it.

    Args:
        count: How many.

    Raises:
        RunError: If one of them is killed.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    with _deaf_to_ctrl_c():
        for _ in range(count):
            pool.submit(os.getpid)  # starts one process, since none is idle
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for want of memory; the same command goes on with what is missing, "
            "`--workers 1` needs the least."
        ) from error
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def in_background(call: Callable[..., object], *given: Any) -> Iterator[None]:
    """Run a call in a process of its own, on cores that nothing else wants, until the block ends.

    Nobody hears of its failure: whoever opens this can do without what the call leaves.

    Args:
        call: A function of a module.
        *given: What it takes, picklable.
    """
    process = multiprocessing.get_context("spawn").Process(target=_in_background, args=(call, given), daemon=True)
    with _deaf_to_ctrl_c():
        process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _in_background(call: Callable[..., object], given: tuple[Any, ...]) -> None:
    _follow_parent()
    os.nice(19)
    say_nothing()
    call(*given)


def say_nothing() -> None:
    """Close this process's ways to the terminal, on which another one shows how far both are."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started meanwhile never hears Ctrl-C, not even while it imports: whoever started it does, and ends it."""
    ensure_running()  # where it is not, a start brings it up, and listens to Ctrl-C again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

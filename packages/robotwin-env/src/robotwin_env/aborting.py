"""Ending what several environments do in other threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

_log = logging.getLogger(__name__)


def abort_each(aborts: Iterable[Callable[[], None]]) -> None:
    """Call every `abort`; one that fails is logged, spares no other and hides nothing of why they are called."""
    for abort in aborts:
        try:
            abort()
        except Exception:
            _log.exception("an environment could not be aborted.")

"""A simulator that outlives its process: started when needed, exchanged when old, large, lost or stuck."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ...errors import RobotwinEnvError, SimulatorError
from ..checkout import Checkout
from ..config import RoboTwinConfig
from ..simulator.wire import Arrays, Fields
from .client import Launch, SimulatorProcess, log_file
from .scenes import collect_arguments

GIB = 2**30


class Simulation:
    """The process behind one environment, whichever it is at the moment.

    Attributes:
        starts: Processes started so far.
        failures: How often each status ended a call.
    """

    def __init__(self, config: RoboTwinConfig) -> None:
        self.config = config
        self.starts = 0
        self.failures: Counter[str] = Counter()
        self._process: SimulatorProcess | None = None
        self._hello: Fields | None = None
        self._scene: Fields | None = None
        self._served = 0
        self._loss: str | None = None
        self._log = log_file(config.log_folder)
        self._starting = threading.Lock()
        self._aborted = False

    @property
    def hello(self) -> Fields:
        """How the simulator describes itself; starts it if it never was.

        Raises:
            CheckoutError: checkout or interpreter lack something.
            SimulatorError: it does not start.
        """
        if self._hello is None:
            self._start()
        assert self._hello is not None
        return self._hello

    @property
    def scene(self) -> Fields:
        """What can be said of the scenes: by the checkout's files, or by another simulator, which is started for it."""
        if self._scene is None:
            self._scene = tell(self.config).identity or self.hello
        return self._scene

    @property
    def pid(self) -> int | None:
        """Process id, also of the process group; `None` where none runs."""
        return None if self._process is None else self._process.pid

    def begin(self, name: str, fields: Fields, *, timeout: float) -> tuple[Fields, Arrays]:
        """Make a call that starts anew, in a fresh process where the old one is lost or due.

        Raises:
            CheckoutError: checkout or interpreter lack something.
            SimulatorError: the call or the start failed.
        """
        if self._process is not None and (self._is_due(self._process) or not self._process.alive):
            self._process.stop()
            self._process = None
        if self._process is None:
            self._start()
        self._served += 1
        self._loss = None
        return self._ask(name, fields, None, timeout)

    def call(
        self, name: str, fields: Fields, arrays: Mapping[str, NDArray[Any]], *, timeout: float
    ) -> tuple[Fields, Arrays]:
        """Make a call that goes on with what `begin` started.

        Raises:
            RobotwinEnvError: that was lost.
            SimulatorError: the call failed.
        """
        if self._process is None or self._loss is not None:
            raise RobotwinEnvError(f"the episode was lost ({self._loss or 'none was started'}); call `reset`.")
        return self._ask(name, fields, arrays, timeout)

    def abort(self) -> None:
        """End the process from another thread; the call that waits for it fails, and no other starts before `close`."""
        with self._starting:
            self._aborted = True
            process = self._process  # which the thread that waits for it may give up meanwhile
            if process is not None:
                process.interrupt()

    def close(self) -> None:
        """End the process."""
        self._aborted = False
        if self._process is not None:
            self._process.stop()
        self._process, self._loss = None, "the environment was closed"

    def _start(self) -> None:
        if sys.platform != "linux":
            raise RobotwinEnvError(
                f"This is {sys.platform}; RoboTwin's simulators run on Linux alone. Files of episodes can be read here."
            )
        config = self.config
        told = tell(config)
        limit = config.memory_limit_gib
        launch = Launch(
            python=config.python,
            simulator=config.simulator,
            folder=config.root.absolute(),
            variables=config.variables,
            log=self._log,
            memory_limit=None if limit is None else round(limit * GIB),
        )
        with self._starting:
            if self._aborted:
                raise RobotwinEnvError("the environment was aborted; `close` it before it is used again.")
            self._process = SimulatorProcess(launch)
        self._served = 0
        self.starts += 1
        try:
            hello = self._process.open(told.settings, timeout=config.setup_timeout)
        except BaseException as error:
            self._note(error)
            raise
        self._hello = {**hello, "split": config.split, **told.identity}

    def _ask(
        self, name: str, fields: Fields, arrays: Mapping[str, NDArray[Any]] | None, timeout: float
    ) -> tuple[Fields, Arrays]:
        assert self._process is not None
        try:
            return self._process.call(name, fields, arrays, timeout=timeout)
        except BaseException as error:
            self._note(error)
            raise

    def _note(self, error: BaseException) -> None:
        status = error.status if isinstance(error, SimulatorError) else type(error).__name__
        self._loss = status
        self.failures[status] += 1
        if not (isinstance(error, SimulatorError) and not error.lost) and self._process is not None:
            self._process.kill()
            self._process = None

    def _is_due(self, process: SimulatorProcess) -> bool:
        resets, limit = self.config.recycle_after_resets, self.config.recycle_above_gib
        aged = resets is not None and self._served >= resets
        return aged or (limit is not None and process.memory > limit * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A configuration and what the checkout's files make of it."""

    settings: Fields
    """What the simulator's process is told, as JSON can hold it."""
    identity: Fields
    """What the checkout's files say of it."""


def tell(config: RoboTwinConfig) -> Told:
    """Say what a configuration means, for RoboTwin with all that its files spell out.

    Raises:
        CheckoutError: the checkout lacks something.
    """
    settings: Fields = {
        "root": str(config.root.absolute()),
        "task": config.task,
        "split": config.split,
        "instructions": config.instructions,
        "max_steps": config.max_steps,
        "action_mode": config.action_mode,
        "control": config.control,
        "cameras": list(config.cameras),
        "modalities": list(config.modalities),
        "render": config.render,
        "planner": config.planner,
        "clear_cache_every": config.clear_cache_every,
    }
    if config.simulator is not None:
        return Told(settings=settings, identity={})
    checkout = Checkout.probe(config.root)
    scene = collect_arguments(checkout, config)
    identity: Fields = {
        "action_low": scene.action_low,
        "action_high": scene.action_high,
        "cameras": {name: list(size) for name, size in scene.cameras.items()},
        "step_limit": scene.step_limit,
        "task": config.task,
        "embodiment": scene.embodiment,
        "config_hash": scene.config_hash,
        "instructions": scene.instructions,
        "layout": checkout.layout,
        "commit": checkout.commit(),
    }
    scene_settings = {"instructions": scene.instructions, "max_steps": scene.step_limit, "setup": scene.values}
    return Told(settings={**settings, **scene_settings}, identity=identity)

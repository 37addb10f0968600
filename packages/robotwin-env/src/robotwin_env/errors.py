"""Errors of this package; all derive from `RobotwinEnvError`."""

from __future__ import annotations

from typing import ClassVar


class RobotwinEnvError(Exception):
    """Base of every error raised by `robotwin_env`."""


class RendererUnavailableError(RobotwinEnvError, RuntimeError):
    """A renderer lacks a library or a device on this machine."""


class SceneError(RobotwinEnvError, ValueError):
    """A scene description or a set of poses that no renderer can draw."""


class EpisodeError(RobotwinEnvError, ValueError):
    """An episode whose parts do not fit together."""


class EpisodeFormatError(EpisodeError):
    """An episode file that is truncated, foreign or inconsistent; the message names the file."""


class MissingPackageError(RobotwinEnvError, ImportError):
    """An optional package that is not installed."""


class WindowIndexError(EpisodeError, IndexError):
    """A training window that does not exist."""


class SeedPoolError(RobotwinEnvError, ValueError):
    """A pool of seeds that cannot be read, belongs to other scenes, or does not hold what is asked."""


class EvaluationError(RobotwinEnvError, ValueError):
    """An evaluation that cannot go on, or a record of another one."""


class VectorEnvError(RobotwinEnvError, RuntimeError):
    """A call that a pool of environments cannot carry out."""


class UnknownNameError(RobotwinEnvError, ValueError):
    """A task, scene, renderer or camera that does not exist; the message lists those that do."""


class SplitError(RobotwinEnvError, ValueError):
    """A scene of an evaluation that was to be trained on, or the other way round."""


class TaskError(RobotwinEnvError, ValueError):
    """A user's task that lacks something or cannot be sent to a worker process."""


class ActionError(RobotwinEnvError, ValueError):
    """An action that was refused before anything moved."""


class UnreachableError(RobotwinEnvError, ValueError):
    """A tool pose that an arm cannot take."""


class CheckoutError(RobotwinEnvError, ValueError):
    """A RoboTwin checkout, or the interpreter it is installed in, that lacks something; the message says what to do."""


class SimulatorError(RobotwinEnvError, RuntimeError):
    """A simulator's process could not do what was asked; never the doing of the policy that drives it.

    Attributes:
        status: What happened, in a word; results record it.
        lost: Whether the process is gone; `reset` starts another.
    """

    status: ClassVar[str] = "exception"
    lost: ClassVar[bool] = True


class UnstableSceneError(SimulatorError, SceneError):
    """A seed whose scene does not come to rest; it is never exchanged for another."""

    status = "unstable"
    lost = False


class SetupRaisedError(SimulatorError):
    """A seed on which RoboTwin's code raises while it builds the scene."""

    status = "setup_error"
    lost = False


class PlanFailureError(SimulatorError):
    """A seed on which the planner finds no motion where one is needed to go on."""

    status = "plan_failure"
    lost = False


class CheckFailureError(SimulatorError):
    """A seed on which RoboTwin's expert finishes and the task is not solved."""

    status = "check_failure"
    lost = False


class ExpertRaisedError(SimulatorError):
    """A seed on which the code of RoboTwin's expert raises."""

    status = "expert_error"
    lost = False


class SimulatorExceptionError(SimulatorError):
    """An exception in the simulator's process that says nothing of the scene; the message carries its traceback."""


class SimulatorExitError(SimulatorError):
    """A simulator's process that ended itself, such as by `exit()` in RoboTwin's code."""

    status = "exit"


class SimulatorSignalError(SimulatorError):
    """A simulator's process that a signal ended: a segmentation fault, or the system's lack of memory."""

    status = "signal"


class SimulatorHangError(SimulatorError):
    """A simulator's process that did not answer in time and was ended; the message carries its stack."""

    status = "hang"


class SimulatorMemoryError(SimulatorError):
    """A simulator's process that outgrew its memory limit and was ended."""

    status = "memory"


SCENE_FAILURES = (UnstableSceneError, SetupRaisedError, PlanFailureError, CheckFailureError, ExpertRaisedError)
"""What a seed's scene is to blame for; the process goes on."""
PROCESS_FAILURES = (
    SimulatorExceptionError,
    SimulatorExitError,
    SimulatorSignalError,
    SimulatorHangError,
    SimulatorMemoryError,
)
"""What ends a simulator's process."""

"""Errors of this package; all derive from `RobotwinEnvError`."""

from __future__ import annotations


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


class VectorEnvError(RobotwinEnvError, RuntimeError):
    """A call that a pool of environments cannot carry out."""


class UnknownNameError(RobotwinEnvError, ValueError):
    """A task, scene, renderer or camera that does not exist; the message lists those that do."""


class ActionError(RobotwinEnvError, ValueError):
    """An action that was refused before anything moved."""


class UnreachableError(RobotwinEnvError, ValueError):
    """A tool pose that an arm cannot take."""

"""Errors of this package; all derive from `RobotwinEnvError`."""

from __future__ import annotations


class RobotwinEnvError(Exception):
    """Base of every error raised by `robotwin_env`."""


class RendererUnavailableError(RobotwinEnvError, RuntimeError):
    """A renderer lacks a library or a device on this machine."""


class SceneError(RobotwinEnvError, ValueError):
    """A scene description or a set of poses that no renderer can draw."""


class EpisodeFormatError(RobotwinEnvError, ValueError):
    """An episode file that is truncated, foreign or inconsistent; the message names the file."""


class VectorEnvError(RobotwinEnvError, RuntimeError):
    """A call that a pool of environments cannot carry out."""

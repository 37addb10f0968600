"""Errors of this package; every one of them is a `GatingPolicyError`."""


class GatingPolicyError(Exception):
    """Base of every error that this package raises."""


class ConfigError(GatingPolicyError, ValueError):
    """A configuration field is outside its range."""


class StateShapeError(GatingPolicyError, ValueError):
    """Tensors of a denoising state do not fit the network or each other."""


class ScheduleNoiseError(GatingPolicyError, ValueError):
    """The pre-drawn noise of a sampled schedule does not cover the rows, steps or latents asked for."""


class NoDecisionsError(GatingPolicyError, RuntimeError):
    """Recorded decisions were asked for, but none were recorded."""


class CheckpointError(GatingPolicyError, ValueError):
    """A saved policy is incomplete or was written for another architecture."""

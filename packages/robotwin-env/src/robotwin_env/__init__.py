"""RoboTwin tasks behind Gymnasium: an embedded two-arm tabletop that needs no GPU."""

from .errors import (
    ActionError,
    EpisodeError,
    EpisodeFormatError,
    RendererUnavailableError,
    RobotwinEnvError,
    SceneError,
    UnknownNameError,
    UnreachableError,
    VectorEnvError,
)
from .tabletop import (
    TASKS,
    ChunkOutcome,
    Observation,
    Randomization,
    TabletopConfig,
    TabletopEnv,
    register_envs,
)

__all__ = [
    "TASKS",
    "ActionError",
    "ChunkOutcome",
    "EpisodeError",
    "EpisodeFormatError",
    "Observation",
    "Randomization",
    "RendererUnavailableError",
    "RobotwinEnvError",
    "SceneError",
    "TabletopConfig",
    "TabletopEnv",
    "UnknownNameError",
    "UnreachableError",
    "VectorEnvError",
    "register_envs",
]

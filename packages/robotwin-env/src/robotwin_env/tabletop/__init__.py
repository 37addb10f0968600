"""The embedded tabletop: RoboTwin's task names on our own two-arm robot, simulated on one CPU core."""

from .config import TabletopConfig
from .env import ChunkOutcome, Info, Observation, TabletopEnv
from .kinematics import Side
from .motion import Action
from .registration import register_envs
from .scene import CLEAN, RANDOM, Randomization
from .tasks import TASKS, Instructions, Task

__all__ = [
    "CLEAN",
    "RANDOM",
    "TASKS",
    "Action",
    "ChunkOutcome",
    "Info",
    "Instructions",
    "Observation",
    "Randomization",
    "Side",
    "TabletopConfig",
    "TabletopEnv",
    "Task",
    "register_envs",
]

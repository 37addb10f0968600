"""Demonstrations on disk in RoboTwin's HDF5 layouts."""

from ..conventions import CameraMatrices
from . import _installed as _installed
from .catalogue import CameraEntry, EpisodeEntry, warn_of_copies
from .episode import Episode
from .file import EpisodeFile, beside, episode_files, episode_path, read_episode, write_episode
from .index import EpisodeIndex
from .jpeg import decode_frame, encode_frame
from .lerobot import LeRobotIndex, LeRobotWindows, open_episodes
from .lerobot_writer import write_lerobot
from .order import ShuffledOrder
from .statistics import ColumnStatistics, EpisodeStatistics
from .windows import Episodes, EpisodeWindows, Window, WindowLayout, check_rates

__all__ = [
    "CameraEntry",
    "CameraMatrices",
    "ColumnStatistics",
    "Episode",
    "EpisodeEntry",
    "EpisodeFile",
    "EpisodeIndex",
    "EpisodeStatistics",
    "EpisodeWindows",
    "Episodes",
    "LeRobotIndex",
    "LeRobotWindows",
    "ShuffledOrder",
    "Window",
    "WindowLayout",
    "beside",
    "check_rates",
    "decode_frame",
    "encode_frame",
    "episode_files",
    "episode_path",
    "open_episodes",
    "read_episode",
    "warn_of_copies",
    "write_episode",
    "write_lerobot",
]

"""Demonstrations on disk in RoboTwin's HDF5 layouts."""

from robotwin_env.episodes.episode import Episode
from robotwin_env.episodes.file import EpisodeFile, episode_files, episode_path, read_episode, write_episode
from robotwin_env.episodes.jpeg import decode_frame, encode_frame

__all__ = [
    "Episode",
    "EpisodeFile",
    "decode_frame",
    "encode_frame",
    "episode_files",
    "episode_path",
    "read_episode",
    "write_episode",
]

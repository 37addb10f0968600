"""Weights in: Wan's video transformer, Fast-WAM's policies, and an action expert made from the video's."""

from wam_backbone.weights.action_init import ActionInit, action_weights, interpolate, take_channels
from wam_backbone.weights.fastwam import FastWAMCheckpoint, open_fastwam
from wam_backbone.weights.stored import (
    DeviceMap,
    Hub,
    StoredTensor,
    check_fit,
    checkpoint_folder,
    fill,
    floats,
    locate,
    one_device,
    open_saved,
    read_object,
    safetensors_in,
    shapes_of,
)
from wam_backbone.weights.wan import VideoSizes, check_video, load_wan_weights, open_wan, wan_weights

__all__ = [
    "ActionInit",
    "DeviceMap",
    "FastWAMCheckpoint",
    "Hub",
    "StoredTensor",
    "VideoSizes",
    "action_weights",
    "check_fit",
    "check_video",
    "checkpoint_folder",
    "fill",
    "floats",
    "interpolate",
    "load_wan_weights",
    "locate",
    "one_device",
    "open_fastwam",
    "open_saved",
    "open_wan",
    "read_object",
    "safetensors_in",
    "shapes_of",
    "take_channels",
    "wan_weights",
]

"""What a codec shows: object positions and the robot's state, read from its latents by a linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from noisegate_apps.data.demonstrations import Demonstrations
from noisegate_apps.data.tabletop import encode_single
from wam_backbone import ConvCodec

PROBED = 40_000
"""Frames that a read-out is fitted to, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is to be read from every frame, in units of its own deviation."""

    names: tuple[str, ...]
    """Objects, as `task/object`."""
    positions: Float[Tensor, "frames objects 3"]
    """0 where absent."""
    present: Bool[Tensor, "frames objects"]
    spread: Float[Tensor, "objects 3"]
    """Standard deviation (m)."""
    states: Float[Tensor, "frames 14"]
    """The robot's, at the moment of the frame."""

    @property
    def size(self) -> int:
        """Numbers that a read-out gives: three for each object, and the state's."""
        return 3 * len(self.names) + self.states.shape[1]


def labels_of(demonstrations: Demonstrations) -> Labels:
    """Gather and standardise object positions, where there are any, and states."""
    names = tuple(demonstrations.object_positions)
    nowhere = torch.empty(len(demonstrations.frames), 0, 3)
    positions = torch.cat((nowhere, *(demonstrations.object_positions[name][:, None] for name in names)), dim=1)
    present = ~positions[..., 0].isnan()
    positions = positions.nan_to_num()
    count = present.sum(0).unsqueeze(-1)
    mean = (positions * present.unsqueeze(-1)).sum(0) / count
    centred = (positions - mean) * present.unsqueeze(-1)
    spread = (centred.square().sum(0) / count).sqrt().clamp(min=0.01)
    states = states_of_frames(demonstrations)
    return Labels(
        names=names,
        positions=centred / spread,
        present=present,
        spread=spread,
        states=(states - states.mean(0)) / states.std(0).clamp(min=0.01),
    )


def states_of_frames(demonstrations: Demonstrations) -> Float[Tensor, "frames 14"]:
    """The robot's state at the moment of every frame: before its action, or after the last one."""
    counts = demonstrations.frame_start.diff()
    episode = torch.repeat_interleave(torch.arange(demonstrations.episodes), counts)
    index = torch.arange(int(counts.sum())) - demonstrations.frame_start[episode]
    step = demonstrations.step_start[episode] + index * demonstrations.frame_stride
    last = demonstrations.step_start[episode + 1] - 1
    before = demonstrations.states[torch.minimum(step, last)]
    return torch.where((step > last).unsqueeze(1), demonstrations.actions[last], before)


def missed(
    read: Float[Tensor, "*batch numbers"], labels: Labels, frames: Int[Tensor, "*batch"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean squared error of a read-out, in units of each number's variance.

    Args:
        read: What it says of each frame.
        labels: What is right.
        frames: Which frames.

    Returns:
        For the objects that are there, and for the robot's state.
    """
    size = 3 * len(labels.names)
    present = labels.present[frames].to(read.device)
    objects = rearrange(read[..., :size], "... (objects xyz) -> ... objects xyz", xyz=3)
    positions = objects - labels.positions[frames].to(read.device)
    position = (positions.square().mean(-1) * present).sum() / present.sum().clamp(min=1)
    return position, (read[..., size:] - labels.states[frames].to(read.device)).square().mean()


def probe(
    codec: ConvCodec, demonstrations: Demonstrations, labels: Labels, test: Bool[Tensor, " frames"], *, seed: int = 0
) -> dict[str, object]:
    """Fit a ridge regression from single-frame latents and return its error on frames held out.

    Args:
        codec: The codec to judge.
        demonstrations: All frames.
        labels: What is read.
        test: Which frames are held out.
        seed: Chooses the frames that are used where there are very many.

    Returns:
        `median_error_cm` of each object (horizontal) and `state_error`, the state's mean squared error in units of its
        variance.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(test), generator=generator)
    fit, judge = (order[chosen[order]][:PROBED].sort().values for chosen in (~test, test))
    device = codec.mean.device
    known, asked = (_features(codec, demonstrations.frames[frames], device) for frames in (fit, judge))
    errors = {}
    for index, name in enumerate(labels.names):
        here, there = labels.present[fit, index], labels.present[judge, index]
        read = _ridge(known[here], labels.positions[fit, index][here], asked[there])
        off = (read - labels.positions[judge, index][there]) * labels.spread[index]
        errors[name] = 100 * float(off[:, :2].norm(dim=1).median())
    state = (_ridge(known, labels.states[fit], asked) - labels.states[judge]).square().mean()
    return {"median_error_cm": errors, "state_error": float(state), "held_out_frames": len(judge)}


def _features(codec: ConvCodec, frames: Tensor, device: torch.device) -> Float[Tensor, "frames numbers"]:
    features = encode_single(codec, frames, device=device).flatten(1)
    return torch.cat((features, torch.ones(len(features), 1)), dim=1).double()


def _ridge(known: Tensor, target: Tensor, asked: Tensor) -> Tensor:
    ridge = 10.0 * torch.eye(known.shape[1], dtype=known.dtype)
    weights: Tensor = torch.linalg.solve(known.T @ known + ridge, known.T @ target.double())
    return asked @ weights

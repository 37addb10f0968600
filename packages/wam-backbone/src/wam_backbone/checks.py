"""What a model refuses before it computes, each by the name of the argument and with what it needs instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from wam_backbone.action_index import ActionIndex
from wam_backbone.errors import ConfigurationError, ShapeError, TimeError
from wam_backbone.interface import ContextCache, ObservationCache, Padding, Stamp
from wam_backbone.layout import AttentionLayout
from wam_backbone.rotary import ActionAxis

_Choice = TypeVar("_Choice", bound=Enum)


class StateToken(Enum):
    """Where the robot's state enters; the value is what a model's config stores."""

    ACTIONS = "actions"
    """As one clean token in front of the action chunk, of the action expert's width."""
    TEXT = "text"
    """As one more text token, after the instruction, which both experts read (Fast-WAM)."""


def choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    """The member of an enumeration that a configuration names.

    Raises:
        ConfigurationError: There is none of that name.
    """
    try:
        return kind(value)
    except ValueError as error:
        allowed = ", ".join(f"`{member.value}`" for member in kind)
        raise ConfigurationError(f"`{name}` is `{value}`; use one of {allowed}.") from error


def check_sizes(patch_size: tuple[int, ...], state_dim: int, **sizes: int) -> None:
    """Refuse sizes of a model that no model can have."""
    if patch_size[0] != 1:
        raise ConfigurationError(f"`patch_size` is {tuple(patch_size)}; one time per frame needs 1 in front.")
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"`{name}` is {size}; it must be at least 1.")
    if sizes["freq_dim"] < 2:
        raise ConfigurationError(
            f"`freq_dim` is {sizes['freq_dim']}; time features are pairs of a cosine and a sine: use 2."
        )
    if state_dim < 0:
        raise ConfigurationError(f"`state_dim` is {state_dim}; use 0 for a model without state.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChecks:
    """The sizes and choices of a model that its inputs must fit."""

    latent_channels: int
    patch_size: tuple[int, int, int]
    num_layers: int
    action_dim: int
    state_dim: int
    text_dim: int
    layout: AttentionLayout
    state_token: StateToken
    action_axis: ActionAxis
    action_index: ActionIndex
    looked_at: set[tuple[str, torch.device]] = field(default_factory=set, compare=False, repr=False)
    """Times of which values were looked at where that costs a wait."""

    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None,
        video_times: Tensor,
        action_time: Tensor | None,
        context: Tensor | ContextCache,
        state: Tensor | None,
        observation: ObservationCache | None,
        padding: Padding | None,
    ) -> None:
        """Refuse what `WorldActionModel.forward` cannot take."""
        batch = len(video_times)
        if video is not None:
            self.video(video)
            batch = len(video)
            if video_times.shape != (batch, video.shape[2]):
                raise ShapeError(
                    f"`video_times` is {tuple(video_times.shape)}; it must be one time per frame, "
                    f"{(batch, video.shape[2])}."
                )
        elif observation is None or actions is None or self.layout.actions_see_future:
            raise ShapeError(
                f"`video` is None; that needs `actions`, an `observation` cache and a layout whose actions do not see "
                f"the future (`fastwam`), not `{self.layout.value}`."
            )
        self.times("video_times", video_times, clean_first=observation is None and actions is not None)
        self.context(context, batch)
        if observation is not None:
            self.observation(observation, batch, video)
        future = video_times.shape[1] - (observation is None)
        self._padding(padding, batch, future, actions, observation)
        if actions is None:
            if action_time is not None or (state is not None and self.state_token is StateToken.ACTIONS):
                raise ShapeError("`action_time` or `state` came without `actions`; pass all of them, or none.")
            return
        if (
            actions.ndim != 3
            or actions.shape[0] != batch
            or actions.shape[-1] != self.action_dim
            or not actions.numel()
        ):
            raise ShapeError(
                f"`actions` is {tuple(actions.shape)}; it must be (batch = {batch}, steps of at least 1, action_dim = "
                f"{self.action_dim})."
            )
        if action_time is None or action_time.shape != (batch,):
            found = None if action_time is None else tuple(action_time.shape)
            raise ShapeError(f"`action_time` is {found}; it must be one time per chunk, {(batch,)}.")
        self.times("action_time", action_time)
        if self.state_token is StateToken.ACTIONS:
            self.state(state, batch)
        if not future and self.action_index is ActionIndex.NONE and self.action_axis is ActionAxis.FRAMES:
            raise ConfigurationError(
                "a chunk without future latents has no frames to place its actions by, so this model (`action_index` "
                "`none`, `action_axis` `frames`) cannot tell them apart; use `action_index` `sinusoid`."
            )

    def video(self, video: Tensor) -> None:
        """Refuse latents of another shape."""
        _, patch_rows, patch_columns = self.patch_size
        if video.ndim != 5 or video.shape[1] != self.latent_channels:
            raise ShapeError(
                f"`video` is {tuple(video.shape)}; it must be (batch, latent_channels = {self.latent_channels}, "
                "1 + frames, height, width)."
            )
        height, width = video.shape[3:]
        if height % patch_rows or width % patch_columns:
            raise ShapeError(
                f"`video` has latents of {height} x {width}; both must divide by the patch {patch_rows} x "
                f"{patch_columns}: pad the image or change `patch_size`."
            )

    def times(self, name: str, times: Tensor, *, clean_first: bool = False) -> None:
        """Refuse times of another kind; of values on a GPU, where a look costs a wait, only the first are looked at."""
        if not times.is_floating_point() or times.dtype.itemsize < torch.float32.itemsize:
            raise TimeError(
                f"`{name}` is {times.dtype}; times are fp32 (or fp64) in [0, 1]: fewer bits cannot tell them "
                "apart, and Wan's 0 to 1000 must be divided by 1000."
            )
        if type(times) is not Tensor or torch.compiler.is_compiling() or not self._may_look(name, times.device):
            return
        if bool(((times < 0) | (times > 1) | times.isnan()).any()):
            raise TimeError(
                f"`{name}` lies between {float(times.min()):g} and {float(times.max()):g}; times are in [0, 1], 1 is "
                "noise: divide Wan's 0 to 1000 by 1000."
            )
        if clean_first and bool((times[:, 0] != 0).any()):
            raise TimeError(
                f"`{name}` gives the observation (frame 0) the time {float(times[:, 0].max()):g}; beside actions it is "
                "clean: pass 0."
            )

    def _may_look(self, name: str, device: torch.device) -> bool:
        if device.type == "cpu":
            return True
        if (name, device) in self.looked_at or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return False
        self.looked_at.add((name, device))
        return device.type != "meta"

    def context(self, context: Tensor | ContextCache, batch: int | None = None) -> None:
        """Refuse a text embedding, or a cache of one, of another shape."""
        if isinstance(context, Tensor):
            if context.ndim != 3 or context.shape[-1] != self.text_dim or (batch or len(context)) != len(context):
                raise ShapeError(
                    f"`context` is {tuple(context.shape)}; it must be (batch{f' = {batch}' if batch else ''}, text "
                    f"tokens, text_dim = {self.text_dim})."
                )
            return
        found = (len(context.layers), len(context.layers[0].video.keys) if context.layers else 0)
        if found != (self.num_layers, batch or found[1]):
            raise ShapeError(
                f"the `context` cache has {found[0]} layers and {found[1]} rows; it must have {self.num_layers} layers "
                f"and {batch or found[1]} rows: encode the text of this batch with this model."
            )

    def stamp(self, cache: ContextCache | ObservationCache, stamp: Stamp | None) -> None:
        """Refuse a cache that was made with other weights or adapters; None says nothing."""
        if cache.stamp is None or stamp is None or cache.stamp == stamp:
            return
        changed = [name for name, one, other in zip(Stamp._fields, cache.stamp, stamp, strict=True) if one != other]
        raise ConfigurationError(
            f"the {type(cache).__name__} was made before the {changed[-1]} changed, or by another model; encode again."
        )

    def observation(self, observation: ObservationCache, batch: int, video: Tensor | None) -> None:
        """Refuse a cached observation of another batch, size or layout."""
        if not self.layout.observation_is_alone:
            raise ConfigurationError(
                f"an `observation` cache does not hold in the layout `{self.layout.value}`; use `joint` or `fastwam`."
            )
        rows = observation.layers[0].shape[1]
        _, patch_rows, patch_columns = self.patch_size
        grid = observation.grid if video is None else (video.shape[3] // patch_rows, video.shape[4] // patch_columns)
        if (rows, observation.grid, len(observation.layers)) != (batch, grid, self.num_layers):
            raise ShapeError(
                f"the `observation` cache holds {rows} rows of {observation.grid} tokens in {len(observation.layers)} "
                f"layers; the video needs {batch} rows of {grid} in {self.num_layers}: encode the observation of this "
                "batch with this model."
            )

    def state(self, state: Tensor | None, batch: int) -> None:
        """Refuse a state of another size, or one too many or too few."""
        if self.state_dim == 0 and state is not None and state.shape == (batch, 0):
            return
        needed = (batch, self.state_dim) if self.state_dim else None
        found = None if state is None else tuple(state.shape)
        if found != needed:
            raise ShapeError(f"`state` is {found}; a model with `state_dim` = {self.state_dim} needs {needed}.")

    def _padding(
        self,
        padding: Padding | None,
        batch: int,
        future: int,
        actions: Tensor | None,
        observation: ObservationCache | None,
    ) -> None:
        if padding is None:
            return
        if observation is not None or actions is None:
            raise ConfigurationError(
                "`padding` belongs to training: pass video and actions, and no `observation` cache."
            )
        needed = ((batch, future), tuple(actions.shape[:2]))
        for name, mask, shape in zip(padding._fields, padding, needed, strict=True):
            if mask is not None and (tuple(mask.shape) != shape or mask.dtype is not torch.bool):
                raise ShapeError(
                    f"`padding.{name}` is {tuple(mask.shape)} of {mask.dtype}; it must be {shape}, boolean."
                )

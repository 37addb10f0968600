"""Rotary position embedding on one space-time axis system for video and action tokens.

Video tokens sit at Wan's integer positions (frame, row, column). Action `i` of `T` sits at the fractional frame
position `(i + 1) F / T`, so that the chunk spans the predicted frames and ends with the last one, and at row and column
-1, outside the grid; the state token sits at frame 0. (The shared temporal axis is LingBot-VA's idea.) Fast-WAM instead
numbers its action tokens on an axis of their own, by which all channels of a head turn.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from einops import rearrange
from jaxtyping import Complex64, Float, Float32
from torch import Tensor

from wam_backbone.action_index import index_code
from wam_backbone.embedding import time_frequencies
from wam_backbone.errors import ConfigurationError


class ActionAxis(Enum):
    """Where the tokens of the action expert sit; the value is what a model's config stores."""

    FRAMES = "frames"
    """On the video's axes, at fractions of frames."""
    OWN = "own"
    """On one axis of their own, at 0, 1, 2, ...: a phase between action and video says nothing (Fast-WAM)."""


def head_split(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with frame, row and column: Wan's split.

    Raises:
        ConfigurationError: `head_dim` is odd or below 6.
    """
    if head_dim % 2 or head_dim < 6:
        raise ConfigurationError(f"`head_dim` is {head_dim}; rotary embedding needs an even number of at least 6.")
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def positions(
    frames: int,
    rows: int,
    columns: int,
    *,
    actions: int = 0,
    state_tokens: int = 0,
    device: torch.device | None = None,
) -> Float[Tensor, " tokens 3"]:
    """Position (frame, row, column) of every token of the joint sequence.

    Args:
        frames: Latent frames, the observation (frame 0) among them.
        rows: Token rows of a frame.
        columns: Token columns of a frame.
        actions: Length of the action chunk.
        state_tokens: Tokens in front of the actions.
        device: Where they are computed, in fp64.
    """
    grid = torch.cartesian_prod(*(torch.arange(size, device=device) for size in (frames, rows, columns))).double()
    chunk = torch.full((state_tokens + actions, 3), -1.0, dtype=torch.float64, device=device)
    chunk[:state_tokens, 0] = 0.0
    chunk[state_tokens:, 0] = (torch.arange(actions, device=device) + 1) * (frames - 1) / max(actions, 1)
    return torch.cat((grid, chunk))


def rotation(
    token_positions: Float[Tensor, " tokens 3"], head_dim: int, theta: float = 10000.0
) -> Float32[Tensor, "tokens pairs 2"]:
    """Cosine and sine by which each pair of channels of a head turns.

    Args:
        token_positions: Frame, row and column of each token; fractions are allowed.
        head_dim: Channels of one head.
        theta: Base of the frequencies.
    """
    axes = zip(token_positions.unbind(1), head_split(head_dim), strict=True)
    angle = torch.cat([_angles(places, channels, theta) for places, channels in axes], dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


def line_rotation(
    tokens: int, head_dim: int, theta: float = 10000.0, device: torch.device | None = None
) -> Float32[Tensor, "tokens pairs 2"]:
    """As `rotation`, for tokens numbered 0, 1, 2, ... on one axis that turns all channels."""
    angle = _angles(torch.arange(tokens, device=device), head_dim, theta)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


class PositionTables:
    """What tells a model's tokens apart by their places: made once per shape and device, and kept by the model.

    Kept tables are ordinary tensors even when they are first asked for under `torch.inference_mode`, so that training
    may use them later, and live as long as the model, so that captured graphs may read them. Compiled and traced code
    makes its own.

    Args:
        head_dim: Channels of one head.
        theta: Base of the rotary frequencies.
        action_axis: Where action tokens sit.
    """

    def __init__(self, head_dim: int, theta: float, action_axis: ActionAxis) -> None:
        self._head_dim, self._theta, self._action_axis = head_dim, theta, action_axis
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def rotation(
        self,
        frames: int,
        rows: int,
        columns: int,
        actions: int,
        state_tokens: int,
        *,
        left_out: int,
        like: Tensor,
    ) -> Float32[Tensor, "tokens 1 pairs 2"]:
        """The rotary table of the joint sequence.

        Args:
            frames: Latent frames, the observation among them.
            rows: Token rows of a frame.
            columns: Token columns of a frame.
            actions: Length of the action chunk.
            state_tokens: Tokens in front of the actions.
            left_out: Tokens at the start that are not there, or cached.
            like: An input of the model, for its device.
        """
        return self._keep(
            ("rotation", frames, rows, columns, actions, state_tokens, left_out),
            lambda device: self._rotation(frames, rows, columns, actions, state_tokens, left_out, device),
            like,
        )

    def frequencies(self, channels: int, like: Tensor) -> Float32[Tensor, " half"]:
        """`time_frequencies` on the device of an input."""
        return self._keep(("frequencies", channels), lambda device: time_frequencies(channels, device), like)

    def index(self, steps: int, tokens: Tensor) -> Float[Tensor, "steps width"]:
        """`index_code` in the type of the action tokens `(batch, steps, width)` that it is added to."""
        width, dtype = tokens.shape[-1], tokens.dtype
        return self._keep(
            ("index", steps, width, dtype), lambda device: index_code(steps, width, device).to(dtype), tokens
        )

    def _keep(
        self, key: tuple[object, ...], make: Callable[[torch.device], Tensor], like: Tensor
    ) -> Float[Tensor, ...]:
        if torch.compiler.is_compiling() or type(like) is not Tensor:
            return make(like.device)
        found = self._kept.get((*key, like.device))
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._kept[(*key, like.device)] = make(torch.device("cpu")).to(like.device)
        return found

    def _rotation(
        self,
        frames: int,
        rows: int,
        columns: int,
        actions: int,
        state_tokens: int,
        left_out: int,
        device: torch.device,
    ) -> Tensor:
        if self._action_axis is ActionAxis.OWN:
            grid = rotation(positions(frames, rows, columns, device=device), self._head_dim, self._theta)
            line = line_rotation(state_tokens + actions, self._head_dim, self._theta, device)
            table = torch.cat((grid, line))
        else:
            places = positions(frames, rows, columns, actions=actions, state_tokens=state_tokens, device=device)
            table = rotation(places, self._head_dim, self._theta)
        return table[left_out:].unsqueeze(1)


def rotate(
    heads: Float[Tensor, "*batch tokens heads channels"], table: Float32[Tensor, " tokens 1 pairs 2"]
) -> Float[Tensor, "*batch tokens heads channels"]:
    """Turn neighbouring channel pairs by the table's angles (Wan's interleaved convention)."""
    if not torch.compiler.is_compiling():  # one complex product, the fewest operators
        pairs = rearrange(heads.float(), "... (pairs two) -> ... pairs two", two=2)
        turning: Complex64[Tensor, "*batch tokens heads pairs"] = torch.view_as_complex(pairs)
        return torch.view_as_real(turning * torch.view_as_complex(table)).flatten(-2).to(heads.dtype)
    # The compiler fuses real arithmetic and cannot see into complex kernels.
    even, odd = rearrange(heads, "... (pairs two) -> two ... pairs", two=2)
    cos, sin = table.unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rearrange(turned, "... pairs two -> ... (pairs two)").to(heads.dtype)


def _angles(places: Tensor, channels: int, theta: float) -> Tensor:
    """Angle of every token and pair of channels on one axis, fp64."""
    exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=places.device) / channels
    return places.double().unsqueeze(1) * theta**-exponents

"""The three cameras tiled into the one frame that the codec sees: the head's picture over the two wrists' at half size.

The tiling is Fast-WAM's (arXiv 2603.16666): for cameras of 64x64 the frame is 96 rows of 64 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

CAMERAS = ("head", "left_wrist", "right_wrist")


def tile(images: Mapping[str, NDArray[np.uint8]]) -> UInt8[Tensor, "time rows columns 3"]:
    """Tile camera pictures `(T, H, W, 3)` or `(H, W, 3)` into frames of `3/2 H` rows.

    The wrists are averaged over 2x2 pixels, which keeps sub-pixel positions.

    Raises:
        ValueError: If a camera is missing, or the pictures are not square, even-sized and alike.
    """
    missing = [name for name in CAMERAS if name not in images]
    if missing:
        raise ValueError(f"cameras {missing} are missing from {sorted(images)}; observe all of {list(CAMERAS)}.")
    shapes = {name: images[name].shape for name in CAMERAS}
    if len(set(shapes.values())) > 1 or shapes["head"][-3] % 2 or shapes["head"][-3] != shapes["head"][-2]:
        raise ValueError(f"camera pictures {shapes} must be square, of even size and alike.")
    head, *wrists = (np.asarray(images[name]).reshape(-1, *images[name].shape[-3:]) for name in CAMERAS)
    small = [reduce(picture.astype(np.float32), "t (h 2) (w 2) c -> t h w c", "mean") for picture in wrists]
    below = np.concatenate([np.rint(picture).astype(np.uint8) for picture in small], axis=2)
    return torch.from_numpy(np.concatenate([head, below], axis=1))


def to_codec(frames: UInt8[Tensor, "time rows columns 3"]) -> Float[Tensor, "3 time rows columns"]:
    """Bring frames into the codec's range and order."""
    return rearrange(frames, "t h w c -> c t h w").float() / 127.5 - 1.0


def to_pictures(video: Float[Tensor, "3 time rows columns"]) -> NDArray[np.uint8]:
    """Bring decoded frames `(3, T, H, W)` in [-1, 1] back to `(T, H, W, 3)` RGB."""
    pixels = ((video.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    pictures: NDArray[np.uint8] = rearrange(pixels, "c t h w -> t h w c").cpu().numpy()
    return pictures

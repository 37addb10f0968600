"""Arithmetic on pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_filter(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink a picture by a whole factor; each pixel is the rounded mean of `factor` x `factor`.

    Args:
        picture: `(height, width, 3)`, both multiples of `factor`.
        factor: 1 or more.

    Returns:
        `(height / factor, width / factor, 3)`.
    """
    total = np.zeros((picture.shape[0] // factor, picture.shape[1] // factor, 3), dtype=np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += picture[row::factor, column::factor]
    area = factor * factor
    return ((total + area // 2) // area).astype(np.uint8)

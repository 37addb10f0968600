"""Parquet and video files of LeRobot data sets: the one place that knows pyarrow and PyAV, the extra `lerobot`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

from ..errors import EpisodeFormatError
from ..optional import required

CODEC, PIXELS = "libx264", "yuv420p"
"""What videos are written with."""
_QUALITY = {"crf": "18", "g": "2", "preset": "fast"}
"""A key frame every other frame, as LeRobot writes, so that any frame is decoded by decoding at most two."""


def arrow(name: str = "pyarrow") -> Any:
    """Import pyarrow or one of its modules.

    Raises:
        MissingPackageError: it is not installed.
    """
    return _imported(name)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a parquet file.

    Raises:
        EpisodeFormatError: it is missing, damaged, or lacks a column.
    """
    parquet = arrow("pyarrow.parquet")
    try:
        return parquet.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, arrow().ArrowException, KeyError) as error:
        raise EpisodeFormatError(f"{path} cannot be read ({error}); copy the data set again.") from error


def names_in(path: Path) -> list[str]:
    """Names of the columns of a parquet file.

    Raises:
        EpisodeFormatError: it is missing or damaged.
    """
    try:
        return list(arrow("pyarrow.parquet").read_schema(path).names)
    except (OSError, arrow().ArrowException) as error:
        raise EpisodeFormatError(f"{path} cannot be read ({error}); copy the data set again.") from error


def rows_of_numbers(column: Any, width: int) -> Float[np.ndarray, "rows width"] | Int[np.ndarray, "rows width"] | None:
    """The rows of a column of lists of numbers; None where one is missing, of another length, or of something else."""
    try:
        lengths = arrow("pyarrow.compute").list_value_length(column).to_numpy()
    except arrow().ArrowException:  # no lists
        return None
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not (lengths == width).all() or flat.dtype.kind not in "fiu":
        return None
    numbers: Float[np.ndarray, "rows width"] = flat.reshape(-1, width)
    return numbers


def decode_picture(path: Path, row: int, data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture that lies in a row of a parquet file, as RGB.

    Raises:
        EpisodeFormatError: it is damaged, or has more than eight bits a colour.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P"):
                raise EpisodeFormatError(f"{path}: the picture of row {row} has mode {image.mode}; RGB is needed.")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise EpisodeFormatError(f"{path}: the picture of row {row} does not decode ({error}).") from error


def decode_video(path: Path, frames: Sequence[int], rate: float) -> Mapping[int, UInt8[np.ndarray, "height width 3"]]:
    """Decode some frames of a video.

    Args:
        path: The file.
        frames: Their numbers, counted in `1 / rate` seconds from the video's start.
        rate: Frames per second.

    Returns:
        Number to RGB.

    Raises:
        EpisodeFormatError: the file is missing or damaged, or ends before one of the frames.
    """
    av = _imported("av")
    missing, found = set(frames), {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            first = min(missing)
            container.seek(max(0, round((first - 0.5) / rate / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                number = round(float(frame.pts * stream.time_base) * rate)
                if number in missing:
                    found[number] = frame.to_ndarray(format="rgb24")
                    missing.discard(number)
                if not missing:
                    break
    except (OSError, av.FFmpegError, IndexError) as error:
        raise EpisodeFormatError(f"{path} cannot be decoded ({error}); copy the data set again.") from error
    if missing:
        raise EpisodeFormatError(f"{path} has no frames {sorted(missing)}; it is cut off, or has another rate.")
    return found


def encode_video(path: Path, frames: Iterable[UInt8[np.ndarray, "height width 3"]], rate: int) -> None:
    """Write RGB frames as a video."""
    av = _imported("av")
    with av.open(str(path), "w") as container:
        stream = None
        for picture in frames:
            if stream is None:
                stream = container.add_stream(CODEC, rate=rate, options=_QUALITY)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = PIXELS
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def _imported(name: str) -> Any:
    return required(name, extra="lerobot")

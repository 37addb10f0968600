"""RoboTwin episodes as clips of Wan's latents: only used frames are decoded, and each clip is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, Int
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from noisegate_apps.data.clips import Clips, one_window_each
from robotwin_env.episodes import Episodes, EpisodeWindows, WindowLayout
from wam_backbone import Codec, Normalizer
from wam_backbone.cameras import CAMERAS, tile_cameras
from wam_backbone.data import TensorCache
from wam_backbone.presets import CameraTiling, ChunkTiming

Number = TypeVar("Number", bound=np.generic)

ENCODED_AT_ONCE = 8
"""Clips that go through the codec together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How clips become latents, and who does it."""

    codec: Callable[[], Codec]
    """Loads the codec; called only where latents are missing."""
    codec_digest: str
    """Of its weights and configuration."""
    device: torch.device
    """Where it runs."""
    dtype: torch.dtype = torch.float16
    """Of the latents on disk: they have deviation 1, for which this is finer than bf16."""
    rows_per_shard: int = 4096
    """Clips in a file; half a gigabyte at full size."""
    part: tuple[int, int] = (0, 1)
    """Number of this process and of all that encode together."""
    wait: Callable[[], None] = lambda: None
    """Returns when all of them got here."""


class WanClips:
    """Windows over RoboTwin episodes, their latents cached below the episodes' folder.

    Args:
        index: The episodes.
        timing: Frames and actions of a window.
        tiling: The cameras in one frame.
        states: Normalises states.
        actions: Normalises actions.
        start_every: Steps between the starts of two windows; the cache shrinks with it.
        encoding: How latents are made where they are missing.
        cache: Folder of the latents.
    """

    def __init__(
        self,
        index: Episodes,
        *,
        timing: ChunkTiming,
        tiling: CameraTiling,
        states: Normalizer,
        actions: Normalizer,
        start_every: int,
        encoding: Encoding,
        cache: Path,
    ) -> None:
        self._stride = timing.step_stride
        self._windows = EpisodeWindows(
            index,
            WindowLayout(
                cameras=CAMERAS,
                future_frames=timing.future_frames,
                frame_stride=timing.frame_stride,
                action_steps=timing.action_steps * timing.step_stride,
                start_every=start_every,
            ),
        )
        self._states, self._actions = states, actions
        self.action_steps = timing.action_steps
        self.instructions: Sequence[str] = index.phrases
        self._latents = _encode(self._windows, tiling, encoding, cache)
        self.fingerprint = self._latents.folder.name
        channels, latents, rows, columns = self._latents.read("clip", torch.tensor([0])).shape[1:]
        self.clip_shape = (channels, latents, rows, columns)
        self.labelled = None

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._windows)

    def windows_by_task(self) -> dict[str, Int[Tensor, " windows"]]:
        """Numbers of each task's windows, of one randomly placed window per episode; of its first words if unnamed."""
        index = self._windows.index
        names = [entry.task or index.instructions(place)[0] for place, entry in enumerate(index.entries)]
        window = one_window_each(torch.from_numpy(self._windows.locate(np.arange(len(self)))[0]))
        return {task: window[torch.tensor([name == task for name in names])] for task in sorted(set(names))}

    def read(self, windows: Int[Tensor, " batch"], phrasings: Sequence[int]) -> Clips:
        """Read some windows; what lies past an episode's end is marked as padding."""
        ids = windows.numpy()
        episodes, _ = self._windows.locate(ids)
        phrases = [self._windows.index.instructions(int(episode)) for episode in episodes]
        # A latent is padding where all of its frames are.
        padded = reduce(self._windows.frame_padding(ids)[:, 1:], "b (f four) -> b f", "min", four=4)
        return Clips(
            video=self._latents.read("clip", windows).float(),
            actions=self._actions.normalize(torch.from_numpy(self._thinned(self._windows.actions(ids)))),
            states=self._states.normalize(torch.from_numpy(self._windows.states(ids))),
            instructions=tuple(own[phrasing % len(own)] for own, phrasing in zip(phrases, phrasings, strict=True)),
            video_valid=torch.from_numpy(~padded),
            actions_valid=torch.from_numpy(~self._thinned(self._windows.action_padding(ids))),
        )

    def _thinned(self, steps: NDArray[Number]) -> NDArray[Number]:
        """Where an action spans several steps of the recording, its target is the last of them."""
        return np.ascontiguousarray(steps[:, self._stride - 1 :: self._stride])


def _encode(windows: EpisodeWindows, tiling: CameraTiling, encoding: Encoding, cache: Path) -> TensorCache:
    loaded: list[Codec] = []

    def produce(shard: int) -> Mapping[str, Tensor]:
        if not loaded:
            loaded.append(encoding.codec())
        first = shard * encoding.rows_per_shard
        last = min(first + encoding.rows_per_shard, len(windows))
        parts = []
        for start in track(range(first, last, ENCODED_AT_ONCE), description=f"encoding clips from {first} on"):
            clips = [_frames(windows, window, tiling) for window in range(start, min(start + ENCODED_AT_ONCE, last))]
            parts.append(loaded[0].encode(torch.stack(clips).to(encoding.device)).to("cpu", encoding.dtype))
        return {"clip": torch.cat(parts)}

    record = {
        "latents": "observation and future of every window",
        "episodes": windows.index.fingerprint,
        "windows": asdict(windows.layout),
        "tiling": asdict(tiling),
        "codec": encoding.codec_digest,
        "type": str(encoding.dtype),
    }
    whole, rest = divmod(len(windows), encoding.rows_per_shard)
    rows = [encoding.rows_per_shard] * whole + [rest] * bool(rest)
    return TensorCache.build(cache, record, rows, produce, part=encoding.part, wait=encoding.wait)


def _frames(windows: EpisodeWindows, window: int, tiling: CameraTiling) -> Float[Tensor, "3 time rows columns"]:
    return tile_cameras({camera: windows.frames(window, camera) for camera in CAMERAS}, tiling)

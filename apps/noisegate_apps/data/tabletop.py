"""Demonstrations as latents: every frame alone, and every group of four, encoded once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from rich.progress import track
from torch import Tensor

from noisegate_apps.data.clips import Clips, one_window_each
from noisegate_apps.data.demonstrations import FRAMES_PER_LATENT, Demonstrations, Windows
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import derived
from wam_backbone import ConvCodec, Normalizer
from wam_backbone.cameras import to_codec
from wam_backbone.data import TensorCache, weights_digest

EPISODES_PER_SHARD = 128


@torch.no_grad()
def encode_single(
    codec: ConvCodec,
    frames: UInt8[Tensor, "frames rows columns 3"],
    *,
    batch_size: int = 512,
    device: torch.device | None = None,
) -> Float[Tensor, "frames channels h w"]:
    """Encode every frame as an observation, on `device` (the CPU unless told), into CPU memory."""
    parts = []
    for part in torch.split(frames, batch_size):
        latent = codec.encode_observation(rearrange(to_codec(part.to(device or "cpu")), "c b h w -> b c h w"))
        parts.append(rearrange(latent, "b c 1 h w -> b c h w").cpu())
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class WindowLatents:
    """Latents of all windows, stored once per frame instead of once per window."""

    cache: TensorCache
    """`single`: each frame alone; `group`: the four frames after it, an episode's last one repeated past its end."""

    def clips(self, windows: Windows, chosen: Tensor) -> Float[Tensor, "batch channels latents h w"]:
        """Return observation and future latents of the chosen windows."""
        starts = windows.frame[chosen][:, :-1:FRAMES_PER_LATENT]
        future = self.cache.read("group", rearrange(starts, "b f -> (b f)"))
        return torch.cat(
            (
                rearrange(self.cache.read("single", windows.frame[chosen, 0]), "b c h w -> b c 1 h w"),
                rearrange(future, "(b f) c h w -> b c f h w", f=starts.shape[1]),
            ),
            dim=2,
        )


def cached_windows(
    codec: ConvCodec,
    demonstrations: Demonstrations,
    root: Path,
    *,
    device: torch.device | None = None,
    part: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
) -> WindowLatents:
    """Encode every frame and the group that follows it, or find them on disk below the demonstrations.

    Args:
        codec: Its weights are part of the cache's name.
        demonstrations: Likewise.
        root: Where the demonstrations lie.
        device: The codec's; the CPU unless told.
        part: Number of this process and of all that encode together.
        wait: Returns when all of them got here.
    """
    starts = demonstrations.frame_start.tolist()
    bounds = [*starts[:-1:EPISODES_PER_SHARD], starts[-1]]
    episodes = list(pairwise(starts))

    @torch.no_grad()
    def encode(shard: int) -> Mapping[str, Tensor]:
        single, group = [], []
        first = shard * EPISODES_PER_SHARD
        for start, end in _shown(episodes[first : first + EPISODES_PER_SHARD], shard):
            frames = rearrange(to_codec(demonstrations.frames[start:end].to(device or "cpu")), "c t h w -> t c h w")
            alone, following = codec.encode_every(frames)
            single.append(alone.cpu())
            group.append(following.cpu())
        return {"single": torch.cat(single), "group": torch.cat(group)}

    record = {
        "latents": "each frame alone, and the four after it",
        "demonstrations": demonstrations.fingerprint,
        "codec": weights_digest(codec),
    }
    rows = [end - start for start, end in pairwise(bounds)]
    return WindowLatents(TensorCache.build(derived(root) / ".latents", record, rows, encode, part=part, wait=wait))


class TabletopClips:
    """The embedded tabletop's demonstrations, held in memory; past an episode's end the last action is trained on.

    Args:
        demonstrations: The episodes.
        windows: Their windows.
        latents: The windows' latents.
        states: Normalises states.
        actions: Normalises actions.
        given: The episodes whose actions (and states, which are earlier actions) are given; all others are videos.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        windows: Windows,
        latents: WindowLatents,
        *,
        states: Normalizer,
        actions: Normalizer,
        given: Bool[Tensor, " episodes"],
    ) -> None:
        self.fingerprint = f"{demonstrations.fingerprint}-{latents.cache.folder.name}"
        self.instructions = sorted(set(demonstrations.instructions))
        self.action_steps = windows.step.shape[1]
        self._demonstrations, self._windows, self._latents = demonstrations, windows, latents
        self._states, self._actions = states.normalize(demonstrations.states), actions.normalize(demonstrations.actions)
        self.labelled = None if bool(given.all()) else given[windows.episode]
        channels, count, rows, columns = latents.clips(windows, torch.tensor([0])).shape[1:]
        self.clip_shape = (channels, count, rows, columns)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._windows)

    def windows_by_task(self) -> dict[str, Int[Tensor, " windows"]]:
        """Numbers of each task's windows, of one randomly placed window per solved episode."""
        tasks, solved = self._demonstrations.tasks, torch.tensor(self._demonstrations.success)
        window = one_window_each(self._windows.episode)
        return {task: window[solved & torch.tensor([name == task for name in tasks])] for task in sorted(set(tasks))}

    def read(self, windows: Int[Tensor, " batch"], phrasings: Sequence[int]) -> Clips:
        """Read some windows; an episode of the tabletop has one instruction."""
        steps = self._windows.step[windows]
        states = self._states[steps[:, 0]]
        if self.labelled is not None:
            states = torch.where(self.labelled[windows].unsqueeze(1), states, 0.0)
        return Clips(
            video=self._latents.clips(self._windows, windows),
            actions=self._actions[steps],
            states=states,
            instructions=tuple(
                self._demonstrations.instructions[episode] for episode in self._windows.episode[windows].tolist()
            ),
            labelled=None if self.labelled is None else self.labelled[windows],
        )


def labelled_episodes(
    demonstrations: Demonstrations, most: int, *, scarce: Sequence[str] = (), most_of_scarce: int = 0
) -> Bool[Tensor, " episodes"]:
    """Tell which episodes keep their actions: of each task the first `most` that succeeded, or all of those (0).

    Args:
        demonstrations: Of all tasks.
        most: Episodes of a task, or 0.
        scarce: Tasks of which the first `most_of_scarce` do instead.
        most_of_scarce: Episodes of such a task; with 0 it is known from videos alone.

    Raises:
        RunError: If a task has fewer, if there are no demonstrations of one, or if all are scarce.
    """
    names = sorted(set(demonstrations.tasks))
    missing = sorted(set(scarce) - set(names))
    if missing:
        raise RunError(f"there are no demonstrations of {missing}, which `scarce` names; there are of {names}.")
    if set(scarce) >= set(names):
        raise RunError(f"`scarce` names all tasks, {names}; leave one out, or give `labelled` alone.")
    solved = torch.tensor(demonstrations.success)
    given = torch.zeros_like(solved)
    for task in names:
        own = torch.tensor([name == task for name in demonstrations.tasks]) & solved
        option, count = ("scarce_labelled", most_of_scarce) if task in scarce else ("labelled", most)
        if int(own.sum()) < count:
            raise RunError(f"`{task}` has {int(own.sum())} solved demonstrations; `{option}` asks for {count}.")
        given |= own & ((own.cumsum(0) <= count) | (task not in scarce and not count))
    return given


def _shown(episodes: Iterable[tuple[int, int]], shard: int) -> Iterable[tuple[int, int]]:
    return track(list(episodes), description=f"encoding demonstrations, part {shard + 1}")

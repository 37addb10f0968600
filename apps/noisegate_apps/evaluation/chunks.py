"""What the chunks of an evaluation say of their schedule: how times fell, and how many network calls they took."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from threading import Lock

import torch
from torch import Tensor

from noisegate_apps.play.episodes import PlayedEpisode
from noisegate_apps.policy.world import Plan
from noisegate_apps.runs.files import JsonValue


class Chunks:
    """Sees every chunk that is planned for the scenes of a task.

    A chunk that is planned again, since its episode was lost, counts once.

    Args:
        file: What `keep` adds to, one JSON object a line, and what earlier runs have added; none where None.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._seen: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self._file = file
        self._writing = Lock()
        if file is not None and file.exists():
            self._read(file)

    def __call__(self, rows: Sequence[PlayedEpisode], _: object, plan: Plan) -> None:
        """See the chunks of some episodes, one row each."""
        found = zip(rows, plan.chunk.times.cpu(), plan.chunk.evaluated.tolist(), strict=True)
        self._seen |= {(row.job.seed, row.chunks): (times, calls) for row, times, calls in found}

    def of(self, seeds: Collection[int]) -> JsonValue:
        """Return what is known of some scenes, in JSON form; empty where that is nothing.

        Args:
            seeds: Of the scenes, in the order of the result.

        Returns:
            `times`: mean, deviation, and where the middle 80% run, of every latent's time `(steps + 1, frames)`, and
            the number of chunks. `calls`: network calls per chunk of each scene of which a chunk is known.
        """
        wanted = set(seeds)
        known = {place: one for place, one in self._seen.items() if place[0] in wanted}
        by_seed: dict[int, list[int]] = defaultdict(list)
        for (seed, _), (_, calls) in known.items():
            by_seed[seed].append(calls)
        if not known:
            return {}
        times = _spread(torch.stack([times for times, _ in known.values()]))
        return {"times": times, "calls": [fmean(by_seed[seed]) for seed in seeds if seed in by_seed]}

    def keep(self, seed: int) -> None:
        """Write down the chunks of a scene that is done; for several threads at once."""
        assert self._file is not None
        chunks = [[times.tolist(), calls] for (one, _), (times, calls) in list(self._seen.items()) if one == seed]
        with self._writing, self._file.open("a", encoding="utf-8") as file:
            # The line break comes first, so that a line that a crash cut off stays alone.
            file.write(f"\n{json.dumps({'seed': seed, 'chunks': chunks})}")

    def _read(self, file: Path) -> None:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                found = enumerate(record["chunks"])
                self._seen |= {
                    (record["seed"], number): (torch.tensor(times), calls) for number, (times, calls) in found
                }


def _spread(times: Tensor) -> JsonValue:
    deviation = times.std(0) if len(times) > 1 else torch.zeros_like(times[0])
    low, high = times.quantile(torch.tensor([0.1, 0.9]), dim=0)
    spread = {"deviation": deviation.tolist(), "low": low.tolist(), "high": high.tolist()}
    return {"mean": times.mean(0).tolist(), **spread, "chunks": len(times)}

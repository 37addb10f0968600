"""Which scene seeds of a task are worth playing: files of what RoboTwin's expert made of each.

What a seed means depends on the task configuration, the split's backgrounds, the robot and RoboTwin's code, and whether
its expert succeeds on the planner too. A pool belongs to one such combination and refuses any other, and the seeds of
the other split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from ...atomic_file import write_json
from ...errors import PROCESS_FAILURES, SCENE_FAILURES, SeedPoolError
from ...optional import required
from ...splits import Split, check_seeds, split_of

VERSION = 2

_LOST = tuple(failure.status for failure in PROCESS_FAILURES)
STATUSES = ("ok", "listed", *(failure.status for failure in SCENE_FAILURES), *_LOST)
"""What is known of a seed.

`ok`: the expert solved it here. `listed`: somebody else's list has it, and nobody has tried it here. `unstable`: the
scene does not come to rest. `setup_error`: RoboTwin's code raised while it built the scene. `plan_failure`,
`check_failure`, `expert_error`: the expert found no motion, did not succeed, or raised. The others: what happened to
the simulator's process.
"""

UNDECIDED = ("listed", *_LOST)
"""Statuses that say nothing of the scene: nobody tried it, or the process was lost, twice, on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolKey:
    """What the meaning of a seed depends on."""

    task: str
    task_config: str
    """Name of RoboTwin's task configuration."""
    config_hash: str
    """Of the configuration's content."""
    embodiment: str
    """The robot, or both robots and their distance."""
    commit: str
    """Of RoboTwin."""
    planner: str
    """`curobo` or `mplib`; it decides where the expert succeeds."""
    split: Split
    """Training's scenes or an evaluation's: other seeds, other backgrounds, other words."""

    def __post_init__(self) -> None:
        unknown = [name for name, value in asdict(self).items() if not value or value == "None"]
        if unknown:
            raise SeedPoolError(
                f"{', '.join(f'`{name}`' for name in unknown)} of these scenes is unknown, so that no pool can be told "
                "from another's; the simulator's `hello` must say it."
            )

    @property
    def file_name(self) -> str:
        """The pool's file: the task, and a digest of the rest."""
        digest = blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=6).hexdigest()
        return f"{self.task}-{self.task_config}-{digest}.json"


class SeedPool:
    """The known seeds of one `PoolKey`.

    Args:
        path: Its file; need not exist yet.
        key: What its seeds belong to.

    Raises:
        SeedPoolError: the file is damaged or belongs to another key.
    """

    def __init__(self, path: Path, key: PoolKey) -> None:
        self.path = path
        self.key = key
        self._statuses: dict[int, str] = {}
        self._sources: list[str] = []
        self._noted: dict[int, str | None] = {}
        if path.exists():
            self._statuses, self._sources = self._read()

    @classmethod
    def open(cls, folder: Path, key: PoolKey) -> Self:
        """Open the pool of a key in a folder of pools.

        Raises:
            SeedPoolError: the pool is damaged, or the folder has one of an older kind.
        """
        for path in sorted(folder.glob(f"{key.task}-{key.task_config}-*.json")):
            _read_version(path)
        return cls(folder / key.file_name, key)

    @property
    def statuses(self) -> Mapping[int, str]:
        """Seed to its status."""
        return MappingProxyType(self._statuses)

    def note(self, seed: int, status: str) -> None:
        """Record what became of a seed; `save` writes it down.

        Raises:
            SeedPoolError: the seed is negative or the status unknown.
            SplitError: the seed belongs to the other split.
        """
        if seed < 0 or status not in STATUSES:
            raise SeedPoolError(f"seed {seed} with status `{status}`; it must be 0 or more, and one of {STATUSES}.")
        check_seeds([seed], self.key.split)
        self._statuses[seed] = self._noted[seed] = status

    def forget(self, seed: int) -> None:
        """Know nothing of a seed any more."""
        self._statuses.pop(seed, None)
        self._noted[seed] = None

    def add_listed(self, seeds: tuple[int, ...], *, source: str) -> int:
        """Add seeds from somebody else's list, all but the other split's; what is already known stays as it is.

        Args:
            seeds: Their scene seeds, for the same task configuration and robot.
            source: Where the list comes from.

        Returns:
            How many were new.
        """
        ours = [seed for seed in dict.fromkeys(seeds) if split_of(seed) == self.key.split]
        new = [seed for seed in ours if seed not in self._statuses]
        for seed in new:
            self.note(seed, "listed")
        self._sources.append(f"{source}: {len(new)} of {len(seeds)} seeds")
        return len(new)

    def accepted(self, *, first: int, count: int) -> tuple[tuple[int, ...], int | None]:
        """Find the first seeds, from `first` on, that the expert solved: the official evaluation's.

        Args:
            first: Where the search starts.
            count: How many are wanted.

        Returns:
            The seeds, ascending, and the first seed that must be tried to find more; `None` where all are found.
        """
        found: list[int] = []
        seed = first
        while len(found) < count:
            status = self._statuses.get(seed, "listed")
            if status == "listed":
                return tuple(found), seed
            if status == "ok":
                found.append(seed)
            seed += 1
        return tuple(found), None

    @property
    def usable(self) -> tuple[int, ...]:
        """Seeds worth playing, ascending: `ok` and `listed`."""
        return tuple(sorted(seed for seed, status in self._statuses.items() if status in ("ok", "listed")))

    def counts(self) -> dict[str, int]:
        """How many seeds have each status that occurs."""
        counted = Counter(self._statuses.values())
        return {status: counted[status] for status in STATUSES if counted[status]}

    def save(self) -> None:
        """Write down what was noted, beside what other processes have written meanwhile; whole or not at all.

        Raises:
            MissingPackageError: the system has no locks of files.
        """
        with self._locked():
            statuses, sources = self._read() if self.path.exists() else ({}, [])
            for seed, status in self._noted.items():
                if status is None:
                    statuses.pop(seed, None)
                elif status not in UNDECIDED or statuses.get(seed, "listed") in UNDECIDED:
                    statuses[seed] = status  # what another process decided is not undone by not knowing
            self._statuses = statuses
            self._sources = list(dict.fromkeys([*sources, *self._sources]))
            record = {
                "version": VERSION,
                "key": asdict(self.key),
                "sources": self._sources,
                "seeds": {str(seed): self._statuses[seed] for seed in sorted(self._statuses)},
            }
            write_json(self.path, record, indent=1, sort_keys=False)
            self._noted.clear()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl = required("fcntl", extra="robotwin")  # not on every system
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> tuple[dict[int, str], list[str]]:
        record = _read_version(self.path)
        try:
            key, seeds = record["key"], record["seeds"]
            known = {int(seed): str(status) for seed, status in seeds.items()}
            sources = [str(source) for source in record["sources"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SeedPoolError(f"{self.path} is no seed pool ({error!r}); remove it and scan again.") from error
        wanted = asdict(self.key)
        if key != wanted:
            names = [field.name for field in fields(PoolKey)]
            found = key if isinstance(key, dict) else {}
            differs = "; ".join(
                f"`{name}` is {found.get(name)!r} there and {wanted[name]!r} here"
                for name in names
                if found.get(name) != wanted[name]
            )
            raise SeedPoolError(f"{self.path} belongs to other scenes ({differs}); open the pool of your own key.")
        odd = [seed for seed, status in known.items() if seed < 0 or status not in STATUSES]
        if odd:
            raise SeedPoolError(f"{self.path} says `{known[odd[0]]}` of seed {odd[0]}; remove it and scan again.")
        check_seeds(known, self.key.split)
        return known, sources


def _read_version(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = record["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise SeedPoolError(f"{path} is no seed pool ({error!r}); remove it and scan again.") from error
    if version == 1:
        raise SeedPoolError(
            f"{path} was made before training's and evaluation's scenes were told apart, and may hold both; remove it "
            "and scan again, with `--split train` or `--split eval`."
        )
    if version != VERSION:
        raise SeedPoolError(f"{path} has version {version!r}; this package reads {VERSION}. Scan again.")
    return record


def read_success_seeds(path: Path, task: str) -> tuple[int, ...]:
    """Read one task's seeds from a list as RLinf and SimpleVLA-RL publish it: `{task: {"success_seeds": [...]}}`.

    Both lists were made with two Piper arms 0.6 m apart, `demo_randomized`, and unknown commits of RoboTwin.

    Raises:
        SeedPoolError: the file is something else or lacks the task.
        FileNotFoundError: there is no such file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if task not in record:
            raise SeedPoolError(f"{path} has no task `{task}`; it has {', '.join(sorted(record))}.")
        seeds = record[task]["success_seeds"]
        if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
            raise TypeError(f"`success_seeds` of `{task}` is not a list of seeds")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, SeedPoolError):
            raise
        raise SeedPoolError(
            f'{path} is no list of seeds ({error!r}); expected `{{task: {{"success_seeds": [...]}}}}`.'
        ) from error
    return tuple(seeds)

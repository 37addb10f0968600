"""What was tried in an evaluation, on disk after every seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ...atomic_file import write_json
from ...errors import EvaluationError
from ...optional import required
from ..seeds.pool import UNDECIDED

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRecord:
    """What came of one scene seed."""

    seed: int
    expert: str
    """`ok`, `unchecked`, or why the seed was dropped (a status of `seeds.pool.STATUSES`)."""
    outcome: Literal["success", "failure", "env_failure"] | None = None
    """Of the episode; `None` where none was played. `env_failure` where its simulator was lost twice, or once and
    the scene then failed."""
    failure: str = ""
    """Why: `action` where the policy's actions were refused, else the status of the simulator that failed."""
    instruction: str = ""
    instruction_problem: str = ""
    """Why RoboTwin had no words for the episode, so that the task's name was its instruction; empty where it had."""
    steps: int = 0
    """Actions played."""

    @property
    def undecided(self) -> bool:
        """Whether it is unknown if this seed counts: its process was lost before the expert had finished."""
        return self.outcome is None and self.expert in UNDECIDED

    @property
    def success(self) -> bool:
        """Whether the policy solved it."""
        return self.outcome == "success"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a record to one evaluation: two would write over one another's seeds.

    Raises:
        EvaluationError: another one has it, of this process or of another on this machine.
        MissingPackageError: the system has no locks of files.
    """
    fcntl = required("fcntl", extra="robotwin")  # not on every system
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"another evaluation is writing {path}; wait until it ends, or evaluate to another place."
            ) from None
        yield


class EvaluationRecord:
    """The seeds of one evaluation.

    Args:
        path: Its file; need not exist yet.
        identity: What the results belong to, JSON values.

    Raises:
        EvaluationError: the file is damaged, or belongs to another identity.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path = path
        self.identity: dict[str, object] = json.loads(json.dumps(dict(identity)))
        self._seeds: dict[int, SeedRecord] = {}
        if path.exists():
            self._load()

    @property
    def seeds(self) -> Mapping[int, SeedRecord]:
        """Seed to what came of it."""
        return MappingProxyType(self._seeds)

    def add(self, seed: SeedRecord) -> None:
        """Record a seed and write the file."""
        self._seeds[seed.seed] = seed
        listed = [asdict(self._seeds[number]) for number in sorted(self._seeds)]
        write_json(self.path, {"version": VERSION, "identity": self.identity, "seeds": listed}, indent=1)

    def _load(self) -> None:
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["version"] != VERSION:
                raise ValueError(f"version {record['version']!r}")
            found = record["identity"]
            seeds = [SeedRecord(**seed) for seed in record["seeds"]]
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{self.path} is no record of an evaluation ({error!r}); remove it to start again."
            ) from error
        if found != self.identity:
            names = sorted(found.keys() | self.identity.keys())
            differs = "; ".join(
                f"`{name}` is {found.get(name)!r} there and {self.identity.get(name)!r} here"
                for name in names
                if found.get(name) != self.identity.get(name)
            )
            raise EvaluationError(f"{self.path} belongs to another evaluation ({differs}); evaluate to another place.")
        self._seeds = {seed.seed: seed for seed in seeds}

"""RoboTwin's official evaluation of one task, on any number of simulators, with results in the order of the seeds.

The protocol is that of RoboTwin's own evaluation script: scene seeds from `100000 * (1 + s)` upward, each first solved
by RoboTwin's expert and dropped where it fails, until 100 episodes are played. Which seeds count depends on the seeds
alone, never on which simulator was faster.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...aborting import abort_each
from ...errors import EvaluationError
from ...splits import EVALUATION_SEEDS
from ..seeds.pool import SeedPool
from .record import EvaluationRecord, SeedRecord, held
from .seed_runner import EvaluatedEnv, Plan, SeedRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialProtocol:
    """How a task is evaluated; the defaults are RoboTwin's."""

    seed: int = 0
    """s: scene seeds start at `100000 * (1 + s)`."""
    episodes: int = 100
    """Accepted episodes."""
    expert_check: bool = True
    """Whether the expert must solve a seed first."""
    undecided: Literal["refuse", "drop"] = "refuse"
    """What becomes of a seed on which the simulator was lost twice before its expert had finished. `refuse`: there is
    no result before another run has decided it. `drop`: it is left out, and listed; which episodes count then depends
    on what happened to processes."""
    max_tries: int | None = None
    """Seeds after which the search is given up; 50 per episode unless told, as RoboTwin does."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < EVALUATION_SEEDS.stop // 100_000 - 1:
            raise EvaluationError(
                f"`seed` is {self.seed}; it must be 0 to {EVALUATION_SEEDS.stop // 100_000 - 2}, whose scenes are kept "
                "from training."
            )
        if self.episodes < 1 or (self.max_tries is not None and self.max_tries < self.episodes):
            raise EvaluationError(f"{self}: `episodes` must be 1 or more, and `max_tries` no less than `episodes`.")
        if self.end - self.first_seed > 100_000:
            raise EvaluationError(f"{self} tries {self.end - self.first_seed} seeds; at most 100000 are this `seed`'s.")

    @property
    def first_seed(self) -> int:
        """The first scene seed."""
        return 100_000 * (1 + self.seed)

    @property
    def end(self) -> int:
        """One past the last scene seed that is tried."""
        return self.first_seed + (50 * self.episodes if self.max_tries is None else self.max_tries)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What came of a task."""

    episodes: tuple[SeedRecord, ...]
    """The accepted episodes, in the order of their seeds."""
    tried: int
    """Seeds up to the last accepted one."""
    rejected: Mapping[str, int]
    """Why seeds among these were dropped: status to number of seeds."""
    env_failures: tuple[SeedRecord, ...]
    """Episodes among these that a lost simulator ended, and which count as failed."""

    @property
    def outcomes(self) -> list[bool]:
        """Success of each episode."""
        return [episode.success for episode in self.episodes]


def evaluate_task(
    envs: Sequence[EvaluatedEnv],
    plan: Plan,
    protocol: OfficialProtocol,
    *,
    record: Path,
    identity: Mapping[str, object],
    pool: SeedPool | None = None,
    on_seed: Callable[[SeedRecord], None] | None = None,
) -> TaskResult:
    """Evaluate a policy on one task; what `record` already holds is not played again.

    Args:
        envs: Environments of the task, one per simulator; their number changes nothing but the time.
        plan: The policy. Where it draws noise, that must depend on the request alone.
        protocol: How it is evaluated.
        record: File of what was tried, kept up to date.
        identity: What the results belong to: policy, task configuration, commit, planner, control mode. A record of
            another identity is refused.
        pool: Seeds that the expert is known to solve or not; what it does here is added.
        on_seed: Called with every seed that is done.

    Raises:
        EvaluationError: too few seeds are accepted, the record belongs to something else, or another evaluation is
            writing it.
    """
    if not envs:
        raise EvaluationError("there is no simulator; at least one is needed.")
    runner = SeedRunner(plan, expert_check=protocol.expert_check, pool=pool)
    with held(record):
        kept = EvaluationRecord(record, {**identity, "expert_check": protocol.expert_check})
        _play(envs, runner, _SeedQueue(protocol, kept), on_seed)
    return summarise(protocol, kept.seeds)


def _play(
    envs: Sequence[EvaluatedEnv],
    runner: SeedRunner,
    queue: _SeedQueue,
    on_seed: Callable[[SeedRecord], None] | None,
) -> None:
    """Play what the queue hands out, with a thread per environment."""

    def work(env: EvaluatedEnv) -> None:
        try:
            while (seed := queue.claim()) is not None:
                done = runner.run(env, seed, on_accepted=queue.begin_episode)
                if queue.finish(done) and on_seed is not None:
                    on_seed(done)
        except BaseException:
            queue.stop()
            raise

    with ThreadPoolExecutor(len(envs), thread_name_prefix="evaluation") as threads:
        try:
            for worker in [threads.submit(work, env) for env in envs]:
                worker.result()
        except BaseException:  # Ctrl-C arrives here, while the simulators play
            queue.stop()
            abort_each(env.abort for env in envs)
            raise


def summarise(protocol: OfficialProtocol, seeds: Mapping[int, SeedRecord]) -> TaskResult:
    """Pick the episodes that count out of everything that was tried.

    Raises:
        EvaluationError: they are too few.
    """
    counted: list[SeedRecord] = []
    passed: list[SeedRecord] = []
    for seed in range(protocol.first_seed, protocol.end):
        if len(counted) == protocol.episodes or seed not in seeds:
            break
        passed.append(seeds[seed])
        if seeds[seed].outcome is not None:
            counted.append(seeds[seed])
    dropped = Counter(seed.expert for seed in passed if seed.outcome is None)
    undecided = {seed.seed: seed.expert for seed in passed if seed.undecided}
    if undecided and protocol.undecided == "refuse":
        raise EvaluationError(
            f"the simulator was lost twice on {_listed(undecided)} before the expert had finished, so that it is "
            "unknown whether these seeds count. Everything else is kept: evaluate again to try them alone, or set "
            "`undecided` to `drop`."
        )
    if len(counted) < protocol.episodes:
        raise EvaluationError(
            f"of {len(passed)} seeds from {protocol.first_seed} only {len(counted)} were accepted; "
            f"{protocol.episodes} are needed. Dropped: {dict(dropped)}. Raise `max_tries`, or look at what fails."
        )
    return TaskResult(
        episodes=tuple(counted),
        tried=len(passed),
        rejected=dict(sorted(dropped.items())),
        env_failures=tuple(seed for seed in counted if seed.outcome == "env_failure"),
    )


def _listed(undecided: Mapping[int, str]) -> str:
    shown = ", ".join(f"seed {seed} ({status})" for seed, status in list(undecided.items())[:5])
    return shown + (f" and {len(undecided) - 5} more" if len(undecided) > 5 else "")


class _SeedQueue:
    """Hands out seeds in order, as long as more episodes may be needed."""

    def __init__(self, protocol: OfficialProtocol, record: EvaluationRecord) -> None:
        self._protocol = protocol
        self._record = record
        self._next = protocol.first_seed
        self._again = {number for number, seed in record.seeds.items() if seed.undecided}
        self._changed = threading.Condition()
        self._playing: set[int] = set()
        self._stopped = False

    def claim(self) -> int | None:
        """The next seed; waits while the episodes in play may be all that is needed, `None` once enough are counted."""
        with self._changed:
            while True:
                while self._next in self._record.seeds and self._next not in self._again:
                    self._next += 1
                accepted = sum(
                    seed.outcome is not None
                    for number, seed in self._record.seeds.items()
                    if self._protocol.first_seed <= number < self._next
                )
                if self._stopped or accepted >= self._protocol.episodes or self._next >= self._protocol.end:
                    return None
                if accepted + len(self._playing) < self._protocol.episodes:
                    self._next += 1
                    return self._next - 1
                self._changed.wait()

    def begin_episode(self, seed: int) -> None:
        """Note that a seed was accepted and is being played."""
        with self._changed:
            self._playing.add(seed)

    def finish(self, seed: SeedRecord) -> bool:
        """Record a seed, and say whether: once stopped, none whose simulator was lost, which stopping may have done."""
        with self._changed:
            kept = not (self._stopped and (seed.undecided or seed.outcome == "env_failure"))
            if kept:
                self._record.add(seed)
            self._playing.discard(seed.seed)
            self._changed.notify_all()
        return kept

    def stop(self) -> None:
        """Hand out no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

"""What an evaluation does with one scene seed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ...conventions import ChunkOutcome, Info, Observation
from ...errors import ActionError, SimulatorError
from ..seeds.pool import UNDECIDED, SeedPool
from ..seeds.scan import log_failure
from .record import SeedRecord

_log = logging.getLogger(__name__)


class EvaluatedEnv(Protocol):
    """What is needed of an environment; `RoboTwinEnv` fits."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start the episode of a seed; with the option `expert`, after the expert has solved it."""

    def step_chunk(self, actions: NDArray[Any]) -> ChunkOutcome:
        """Play actions."""

    def abort(self) -> None:
        """End what runs, called by another thread; what it was asked fails, and is not tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a policy is asked."""

    observation: Observation
    instruction: str
    seed: int
    """The scene's; a policy's own noise should depend on it, `chunk` and nothing else."""
    chunk: int
    """Plans made before in this episode."""
    step: int
    """Actions played before in this episode."""


Plan = Callable[[PlanRequest], Float[np.ndarray, "time action"]]
"""Answers with the next actions; called by one thread per simulator, and may block until others have asked too."""


class SeedRunner:
    """Plays single seeds: expert, reset, episode; for several threads at once.

    Args:
        plan: The policy.
        expert_check: Whether the expert must solve a seed first.
        pool: Seeds that the expert is known to solve or not; what it does is added.
    """

    def __init__(self, plan: Plan, *, expert_check: bool, pool: SeedPool | None) -> None:
        self._plan = plan
        self._expert_check = expert_check
        self._pool = pool
        self._pool_lock = threading.Lock()

    def run(self, env: EvaluatedEnv, seed: int, *, on_accepted: Callable[[int], None]) -> SeedRecord:
        """Return what came of a seed; a simulator that fails gets a second chance.

        One that fails twice leaves it undecided whether the seed counts, unless its expert had solved it: then the
        episode counts, as failed. An expert that has solved the seed decides nothing any more, and an episode that has
        begun counts, whatever becomes of its scene in the second attempt.
        """
        known = self._known(seed)
        if known not in ("ok", "unchecked", None):
            return SeedRecord(seed=seed, expert=known)
        begun = False
        for attempt in (1, 2):
            try:
                observation, info = _reset(env, seed, known)
                begun = True
                self._learn(seed, known, "ok")
                known = known or "ok"
                on_accepted(seed)
                return self._episode(env, seed, known, observation, info)
            except SimulatorError as error:
                log_failure(seed, attempt, error)
                if error.lost and attempt == 1:
                    continue
                if begun or (known == "ok" and error.lost):
                    return SeedRecord(seed=seed, expert=known or "ok", outcome="env_failure", failure=error.status)
                self._learn(seed, known, error.status)  # the policy had no part in it
                return SeedRecord(seed=seed, expert=error.status)
        raise AssertionError("unreachable")

    def _known(self, seed: int) -> str | None:
        if not self._expert_check:
            return "unchecked"
        with self._pool_lock:
            status = "listed" if self._pool is None else self._pool.statuses.get(seed, "listed")
        return None if status in UNDECIDED else status

    def _learn(self, seed: int, known: str | None, status: str) -> None:
        if self._pool is None or known is not None or status in UNDECIDED:
            return
        with self._pool_lock:
            if self._pool.statuses.get(seed) != status:
                self._pool.note(seed, status)
                self._pool.save()

    def _episode(self, env: EvaluatedEnv, seed: int, expert: str, observation: Observation, info: Info) -> SeedRecord:
        instruction = str(info["instruction"])
        problem = str(info.get("instruction_problem", ""))
        if problem:
            _log.warning("seed %d is played as `%s`: %s", seed, instruction, problem)
        played = partial(SeedRecord, seed=seed, expert=expert, instruction=instruction, instruction_problem=problem)
        chunks = steps = 0
        while True:
            request = PlanRequest(observation=observation, instruction=instruction, seed=seed, chunk=chunks, step=steps)
            actions = self._plan(request)
            try:
                outcome = env.step_chunk(actions)
            except ActionError as error:
                _log.warning("seed %d: the policy's actions were refused: %s", seed, error)
                return played(outcome="failure", failure="action", steps=steps)
            observation, chunks, steps = outcome.observation, chunks + 1, steps + outcome.executed
            if outcome.terminated or outcome.truncated:
                return played(outcome="success" if outcome.terminated else "failure", steps=steps)


def _reset(env: EvaluatedEnv, seed: int, known: str | None) -> tuple[Observation, Info]:
    """Start an episode, after the expert unless it is known what that makes of the seed.

    An expert whose code tells an episode's objects only while it moves is run for them too. Should it fail this time,
    the episode goes by its task's name: that it has solved the seed is known.
    """
    observation, info = env.reset(seed=seed, options={"expert": known is None})
    if known != "ok" or "instruction_problem" not in info or info.get("episode_info"):
        return observation, info
    try:
        return env.reset(seed=seed, options={"expert": True})
    except SimulatorError as error:
        if error.lost:
            raise
        return env.reset(seed=seed, options={"expert": False})

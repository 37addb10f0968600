"""The environments of one process and what they are asked to do."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionError, SimulatorError, VectorEnvError

Spec = TypeVar("Spec")
Outcome_co = TypeVar("Outcome_co", covariant=True)
Env = TypeVar("Env", bound="ChunkEnv[Any]")


class ChunkEnv(Protocol[Outcome_co]):
    """What a pool needs of an environment: Gymnasium's `reset` and `close`, and chunks of actions."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: observation and info."""

    def step_chunk(self, actions: NDArray[Any], *, record_every: int | None = None) -> Outcome_co:
        """Play `(time, action size)` actions, fewer where the episode ends."""

    def close(self) -> None:
        """Free resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Spec]):
    """An episode to start."""

    spec: Spec
    """What the environment is made from; the environment is kept while this stays equal."""
    seed: int
    options: Mapping[str, Any] | None = None
    """Passed to the environment's `reset`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFailure:
    """Why an environment was lost."""

    index: int
    seed: int | None
    """Of the episode that was running or being started; `None` before the first."""
    reason: str
    """One line."""
    status: str = "exception"
    """What happened, in a word: a `SimulatorError`'s status, `worker` where a worker of the pool died or
    went silent, `interrupted` where the caller did not wait for the answer."""
    traceback: str = ""
    """Of the process that raised; empty where a worker died or went silent."""

    def __str__(self) -> str:
        return f"environment {self.index} (seed {self.seed}): {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing to do with one environment."""

    index: int
    seed: int | None
    job: Job[Any] | None = None
    """Start this episode; otherwise call `function`."""
    function: Callable[[Any, Any], Any] | None = None
    argument: Any = None


Answer = tuple[int, bytes | EnvFailure]
"""The environment's index and the pickled result."""


class Host(Generic[Spec]):
    """Makes, keeps and drives environments, one after the other.

    Results leave pickled, so that they share no memory with an environment and are the same objects from every
    kind of process.
    """

    def __init__(self, make: Callable[[Spec], ChunkEnv[Any]]) -> None:
        self._make = make
        self._envs: dict[int, tuple[Spec, ChunkEnv[Any]]] = {}

    def serve(self, requests: list[Request]) -> Iterator[Answer]:
        """Carry out requests in order; an environment that raises answers with its failure.

        It is dropped, unless the error says that it is sound: an action that was refused, a seed without a scene.
        """
        for request in requests:
            try:
                result = self._reset(request.index, request.job) if request.job else self._call(request)
                answer: bytes | EnvFailure = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # becomes a PoolError in the process that asked
                answer = failure(request, error)
                if not (isinstance(error, ActionError) or (isinstance(error, SimulatorError) and not error.lost)):
                    self._drop(request.index)
            yield request.index, answer

    def close(self) -> None:
        """Close every environment."""
        while self._envs:
            _, (_, env) = self._envs.popitem()
            env.close()

    def abort(self) -> None:
        """End what an environment does in another thread, where it can be told to, so that nobody waits for it."""
        for _, env in list(self._envs.values()):
            end = getattr(env, "abort", None)
            if end is not None:
                end()

    def _drop(self, index: int) -> None:
        kept = self._envs.pop(index, None)
        if kept is not None:
            with suppress(Exception):  # what it fails at now adds nothing to how it failed before
                kept[1].close()

    def _reset(self, index: int, job: Job[Spec]) -> tuple[Any, dict[str, Any]]:
        kept = self._envs.get(index)
        if kept is not None and kept[0] == job.spec:
            env = kept[1]
        else:
            self._drop(index)
            env = self._make(job.spec)
            self._envs[index] = (job.spec, env)
        return env.reset(seed=job.seed, options=None if job.options is None else dict(job.options))

    def _call(self, request: Request) -> Any:
        if request.index not in self._envs or request.function is None:
            raise VectorEnvError(f"environment {request.index} has no episode; `reset` it first.")
        return request.function(self._envs[request.index][1], request.argument)


def failure(request: Request, error: BaseException) -> EnvFailure:
    """The failure of a request that raised."""
    return EnvFailure(
        index=request.index,
        seed=request.seed,
        reason=f"{type(error).__name__}: {error}",
        status=error.status if isinstance(error, SimulatorError) else "exception",
        traceback="".join(traceback.format_exception(error)),
    )


def play_chunk(env: ChunkEnv[Outcome_co], chunk: tuple[NDArray[np.generic], int | None]) -> Outcome_co:
    """Call `step_chunk`; a module-level function, because it travels to workers by name."""
    actions, record_every = chunk
    return env.step_chunk(actions, record_every=record_every)

"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo_core.errors import ConfigError, ExecutorError, at_least_one
from grpo_core.executors.ledger import Call
from grpo_core.executors.protocol import FaultTolerance, WorkerFactory
from grpo_core.executors.scheduling import Answer, FleetExecutor, WorkerBody, packed, unpacked
from grpo_core.trajectory import ActionsT, StatesT


class RayExecutor(FleetExecutor[StatesT, ActionsT]):
    """Rolls out in actors of a Ray cluster, one machine or many; see `FleetExecutor` for workers that fail.

    Weights are put into Ray's object store once per version; every call carries the reference, and a worker fetches
    them if it has others. If Ray is initialised already, that cluster is used and left as it is. Otherwise a cluster of
    this machine's own is started, or the one at `address` is joined, until the executor is closed. A failed worker is
    replaced by a new actor: a call to one that Ray restarts may still meet the dying process.

    Args:
        factory: Makes a worker's rollout, in the worker; travels by cloudpickle. What it imports must be installed on
            the cluster; on one that is started here, the import path is the caller's.
        workers: How many; at least 1. The cluster must have room for them.
        address: Of the cluster to join, as `ray.init` takes it; None for one of this machine's own, whatever
            `RAY_ADDRESS` says.
        jobs_per_call: See `FleetExecutor`.
        tolerance: How much trouble is put up with; `start_deadline` includes the wait for room on the cluster.
        cpus: CPUs that Ray sets aside for each worker; not a limit.
        gpus: GPUs, or shares of one, for each worker, which sees no others.
        threads: CPU threads of torch in each worker.

    Raises:
        ExecutorError: Ray is not installed, no cluster answers at `address`, or another one is in use already.
    """

    def __init__(
        self,
        factory: WorkerFactory[StatesT, ActionsT],
        *,
        workers: int,
        address: str | None = None,
        jobs_per_call: int | None = 1,
        tolerance: FaultTolerance | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int = 1,
    ) -> None:
        at_least_one(workers=workers, threads=threads, jobs_per_call=jobs_per_call)
        if cpus < 0 or gpus < 0:
            raise ConfigError(f"`cpus` is {cpus}, `gpus` is {gpus}; neither must be negative.")
        try:
            import ray
        except ImportError as error:
            raise ExecutorError("Ray is not installed; install it with `pip install 'grpo-core[ray]'`.") from error

        self._ray, self._threads = ray, threads
        self._factory = ray.cloudpickle.dumps(factory)
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray and address is None:
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, math.ceil(cpus * workers)),  # they wait for simulators
                include_dashboard=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
            )
        elif self._owns_ray:
            try:
                ray.init(address=address)
            except ConnectionError as error:
                raise ExecutorError(f"No Ray cluster answers at `{address}`: {error}") from error
        elif address not in (None, "auto", used := ray.get_runtime_context().gcs_address):
            raise ExecutorError(
                f"Ray is in use already, with the cluster at `{used}`, not `{address}`; leave `address` out."
            )
        self._make = ray.remote(_Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0, max_concurrency=1
        )
        self._actors: list[Any] = [None] * workers
        self._pending: dict[Any, int] = {}
        super().__init__(workers=workers, jobs_per_call=jobs_per_call, tolerance=tolerance)

    def _start_worker(self, place: int) -> None:
        self._actors[place] = self._make.remote(self._factory, self._threads)
        self._pending[self._actors[place].start.remote()] = place

    def _stop_worker(self, place: int) -> None:
        actor, self._actors[place] = self._actors[place], None
        self._pending = {ref: other for ref, other in self._pending.items() if other != place}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def _pack(self, weights: Mapping[str, Tensor]) -> Any:
        return self._ray.put(packed(weights))

    def _send(self, place: int, call: Call) -> None:
        # Ray passes a reference inside an argument as it is: the worker need not fetch what it has.
        self._pending[self._actors[place].answer.remote(call)] = place

    def _wait(self, timeout: float | None) -> list[tuple[int, Answer]]:
        if not self._pending:
            return []
        self._ray.wait(list(self._pending), num_returns=1, timeout=timeout)
        # All that are ready: a worker whose answer is left for the next round would count as overdue.
        ready, _ = self._ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return [self._receive(ref) for ref in ready]

    def _receive(self, ref: Any) -> tuple[int, Answer]:
        place = self._pending.pop(ref)
        try:
            return place, unpacked(self._ray.get(ref))
        except self._ray.exceptions.RayTaskError as error:
            return place, Answer("exceptions", str(error))
        except self._ray.exceptions.RayError as error:
            self._stop_worker(place)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return place, Answer("deaths", f"its worker died ({reason})")

    def _release(self) -> None:
        if self._ray.is_initialized():
            for place in range(len(self._actors)):
                self._stop_worker(place)
            if self._owns_ray:
                self._ray.shutdown()
        self._owns_ray = False


class _Actor:
    """A worker inside its actor; its answers are packed by cloudpickle, which takes the main script's classes too."""

    def __init__(self, factory: bytes, threads: int) -> None:
        from ray import cloudpickle, get

        torch.set_num_threads(threads)
        self._dumps = cloudpickle.dumps
        self._body = WorkerBody(factory, lambda reference: pickle.loads(get(reference)))

    def start(self) -> bytes:
        return pickle.dumps(self._body.start())

    def answer(self, call: Call) -> bytes:
        message: bytes = self._dumps(self._body.answer(call))
        return message

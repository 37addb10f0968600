"""A whole run: the loop of collecting and updating, and its state in one file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grpo_core.collection import Collected, KeepRule, Replay, collect_groups, every_group
from grpo_core.distributed import Ranks
from grpo_core.errors import ConfigError, StateError
from grpo_core.executors import Executor
from grpo_core.groups import GroupSource
from grpo_core.learner import Learner
from grpo_core.metrics import UpdateMetrics
from grpo_core.trajectory import ActionsT, StatesT, collate


def train(
    source: GroupSource,
    executor: Executor[StatesT, ActionsT],
    learner: Learner[StatesT, ActionsT],
    *,
    updates: int,
    groups: int,
    max_episodes: int | None = None,
    keep: KeepRule = every_group,
    provision: float = 1.0,
    replay: Replay[StatesT, ActionsT] | None = None,
    device: torch.device | str | None = None,
    on_collect: Callable[[Collected[StatesT, ActionsT]], None] | None = None,
    on_update: Callable[[UpdateMetrics, Collected[StatesT, ActionsT]], None] | None = None,
) -> None:
    """Collects and updates until the learner has made a number of updates; after `load` it goes on.

    Args:
        source: Gives the groups.
        executor: Rolls them out, under the learner's weights of the moment.
        learner: Learns from them; its policy is an `nn.Module` of this process alone.
        updates: Updates in all, those before this call included.
        groups: Groups wanted for each; see `collect_groups`, also for the next three.
        max_episodes: Bounds what one collection may cost.
        keep: Which groups are learned from.
        provision: Groups drawn for each one that is missing.
        replay: Gives mixed groups again, unless their update was refused; needs `GRPOConfig.staleness`.
        device: Where decisions go for the update; None leaves them where they are.
        on_collect: Sees what was collected, also the groups that were dropped, before the update.
        on_update: Sees what the update did; the place to log, and to `save`.
    """
    policy = _module_of(learner)
    if Ranks.of(policy).count > 1:
        raise ConfigError(
            "The policy is spread over processes; write a loop that has `gather` join what each collects."
        )
    if replay is not None and learner.config.staleness is None:
        raise ConfigError("There is a `replay`, but `GRPOConfig.staleness` is None; set it, for example `Staleness()`.")
    while learner.updates < updates:
        executor.set_weights(learner.updates, policy.state_dict())
        collected = collect_groups(
            source, executor, groups=groups, max_episodes=max_episodes, keep=keep, provision=provision
        )
        if on_collect is not None:
            on_collect(collected)
        again = [] if replay is None else replay.take(learner.updates)
        metrics = learner.update(collate([*collected.trajectories, *again], device=device))
        if replay is not None and metrics.refused is None:
            replay.add(collected.trajectories)
        if on_update is not None:
            on_update(metrics, collected)


def save(path: str | Path, learner: Learner[Any, Any], source: GroupSource | None = None) -> None:
    """Writes a whole run to one file: policy, optimiser, counters, and the source if it is given.

    A kill at any moment leaves the file of before or the new one. Random numbers are not among it: every seed comes
    from a counter. The learner's policy is an `nn.Module` that is not sharded; of several processes, let one save.
    """
    state = {
        "policy": _module_of(learner).state_dict(),
        "learner": learner.state_dict(),
        "source": None if source is None else source.state_dict(),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, learner: Learner[Any, Any], source: GroupSource | None = None) -> None:
    """Takes up a run where `save` left it, to go on bit for bit; the file can hold tensors and plain values alone.

    Learner and source are built as those that were saved; None stands for a source that was left out.

    Raises:
        StateError: The file is damaged, or belongs to another policy, optimiser or source.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        policy, of_learner, of_source = state["policy"], state["learner"], state["source"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError) as error:
        raise StateError(f"`{path}` is not a saved run ({error}).") from error
    if (source is None) != (of_source is None):
        raise StateError(f"`{path}` was saved {'with' if source is None else 'without'} a source; load it so.")
    try:
        _module_of(learner).load_state_dict(policy)
    except (RuntimeError, TypeError) as error:
        raise StateError(f"`{path}` holds another policy: {error}") from error
    learner.load_state_dict(of_learner)
    if source is not None:
        source.load_state_dict(of_source)


def _module_of(learner: Learner[Any, Any]) -> nn.Module:
    if not isinstance(learner.policy, nn.Module):
        raise ConfigError(f"The learner's policy is a `{type(learner.policy).__name__}`; it must be an `nn.Module`.")
    return learner.policy

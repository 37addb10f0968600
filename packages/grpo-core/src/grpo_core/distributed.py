"""Several processes that train one policy, and what they tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from grpo_core.trajectory import ActionsT, StatesT, Trajectory


def gather(trajectories: Sequence[Trajectory[StatesT, ActionsT]]) -> list[Trajectory[StatesT, ActionsT]]:
    """The trajectories of all processes, for a batch that every one of them gives to its learner.

    Groups need numbers that are unique over the processes, as of one source of which each takes its share. They travel
    pickled, between processes that trust each other.
    """
    everyone: list[list[Trajectory[StatesT, ActionsT]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, list(trajectories))
    return [trajectory for own in everyone for trajectory in own]


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process among those over which a policy is spread; alone, everything is the identity."""

    count: int = 1
    rank: int = 0

    @classmethod
    def of(cls, policy: Any) -> Ranks:
        """Those over which `DistributedDataParallel` or FSDP2 spread a policy; one for any other."""
        if not (isinstance(policy, DistributedDataParallel) or is_sharded(policy)):
            return cls()
        return cls(dist.get_world_size(), dist.get_rank())

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a value over the processes; NaN and infinities spread."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def combined(self, table: Tensor, added: int) -> Tensor:
        """Adds `added` columns of a table up, takes the smallest of the next one, and the largest of the others."""
        if self.count == 1:
            return table
        tables = [torch.empty_like(table) for _ in range(self.count)]
        dist.all_gather(tables, table.contiguous())
        every = torch.stack(tables)
        sums, smallest, largest = every[..., :added], every[..., added : added + 1], every[..., added + 1 :]
        return torch.cat([sums.sum(dim=0), smallest.amin(dim=0), largest.amax(dim=0)], dim=1)


def is_sharded(policy: Any) -> TypeGuard[nn.Module]:
    """Whether `fully_shard` (FSDP2) was applied to a policy."""
    if not isinstance(policy, nn.Module) or not dist.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(policy, FSDPModule)

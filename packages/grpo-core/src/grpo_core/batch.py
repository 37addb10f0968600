"""Trajectories of different lengths side by side, without padding; any part of a batch is a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self

import torch
from torch import Tensor

from grpo_core._tensors import concatenate, to_device
from grpo_core.errors import ShapeError, TrajectoryError
from grpo_core.groups import Job
from grpo_core.trajectory import ActionsT, Decisions, StatesT, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[StatesT, ActionsT]):
    """Decisions of all trajectories, one after the other, and what is known of each trajectory.

    What there is one of per trajectory, and `owner`, live on the CPU, so that planning an update never waits for a
    device; the rest lives where the policy does. A part holds fewer decisions of the same trajectories. The columns
    from `advantages` on are the learner's.
    """

    decisions: Decisions[StatesT, ActionsT]
    """What was decided, perhaps nothing; a failed trajectory has no part in it."""
    owner: Int[Tensor, " rows"]
    """Number of the trajectory of each decision, ascending."""
    groups: Int[Tensor, " trajectories"]
    """Group of each trajectory, numbered from 0 without gaps."""
    rewards: Float[Tensor, " trajectories"]
    """Reward of each trajectory in float64; NaN where it failed."""
    valid: Bool[Tensor, " trajectories"]
    """Trajectories that did not fail."""
    versions: Int[Tensor, " trajectories"]
    """Version of the weights that acted."""
    jobs: tuple[Job, ...]
    """The job of each trajectory."""
    advantages: Float[Tensor, "rows components"] | Float[Tensor, "rows 1"] | None = None
    """Advantage of each decision, or of each of its components."""
    old_log_prob: Float[Tensor, "rows components"] | None = None
    """What ratios are taken to where the objective is decoupled: the weights at the start of the update."""
    reference: Float[Tensor, "rows components"] | None = None
    """Log-probabilities under the reference of a KL penalty."""

    def __post_init__(self) -> None:
        sizes = {len(values) for values in (self.groups, self.rewards, self.valid, self.versions, self.jobs)}
        if len(sizes) > 1 or len(self.owner) != len(self.decisions):
            raise ShapeError(
                f"The fields cover {sorted(sizes)} trajectories, `owner` {len(self.owner)} of {len(self.decisions)} "
                "rows; build batches with `collate`."
            )

    @property
    def lengths(self) -> Int[Tensor, " trajectories"]:
        """Number of decisions of each trajectory."""
        return torch.bincount(self.owner, minlength=len(self))

    @property
    def mask(self) -> Bool[Tensor, "rows components"]:
        """Components that count."""
        recorded = self.decisions.mask
        return torch.ones_like(self.decisions.log_prob, dtype=torch.bool) if recorded is None else recorded

    @property
    def old(self) -> Float[Tensor, "rows components"]:
        """The log-probabilities that ratios are taken to."""
        return self.decisions.log_prob if self.old_log_prob is None else self.old_log_prob

    @property
    def trajectory(self) -> Int[Tensor, " rows"]:
        """`owner` where the decisions are."""
        return to_device(self.owner, self.decisions.log_prob.device)

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its decisions on `device`."""
        return self._part(self.owner, lambda column: column.to(device))

    def take(self, rows: Int[Tensor, " taken"]) -> Self:
        """The decisions with these numbers, ascending and on the CPU."""
        index = to_device(rows, self.decisions.log_prob.device)
        return self._part(self.owner[rows], lambda column: column.index_select(0, index))

    def cut(self, start: int, stop: int) -> Self:
        """The decisions `start:stop`, without copying them."""
        return self._part(self.owner[start:stop], lambda column: column[start:stop])

    def silenced(self) -> Self:
        """The first decision with nothing in it that counts: what a process evaluates that has no part of a step."""
        first = self.cut(0, 1)
        return replace(first, decisions=replace(first.decisions, mask=torch.zeros_like(first.mask)))

    def _part(self, owner: Tensor, change: Callable[[Tensor], Tensor]) -> Self:
        columns = {name: getattr(self, name) for name in ("advantages", "old_log_prob", "reference")}
        changed: dict[str, Any] = {name: change(column) for name, column in columns.items() if column is not None}
        return replace(self, decisions=self.decisions.map(change), owner=owner, **changed)

    def __len__(self) -> int:
        return len(self.jobs)


def collate(
    trajectories: Sequence[Trajectory[StatesT, ActionsT]], *, device: torch.device | str | None = None
) -> Batch[StatesT, ActionsT]:
    """Joins trajectories, of any groups in any order, and sorts them by group and member.

    Sorted, a batch does not depend on the order in which episodes finished, and neither does the rounding of an update.
    Failed trajectories belong to it too; without any it is empty, and an update of it learns nothing. The decisions go
    to `device`; None leaves them where they are.

    Raises:
        TrajectoryError: One member of a group came twice.
        ShapeError: Decisions differ in structure, trailing shape or type.
    """
    trajectories = sorted(trajectories, key=lambda trajectory: (trajectory.job.spec.group, trajectory.job.member))
    jobs = tuple(trajectory.job for trajectory in trajectories)
    seen: set[tuple[int, int]] = set()
    for job in jobs:
        if (job.spec.group, job.member) in seen:
            raise TrajectoryError(f"{job} came twice; an episode must not count double.")
        seen.add((job.spec.group, job.member))
    lengths = [0 if trajectory.decisions is None else len(trajectory.decisions) for trajectory in trajectories]
    numbers = torch.tensor([job.spec.group for job in jobs], dtype=torch.long)
    rewards = [float("nan") if trajectory.reward is None else trajectory.reward for trajectory in trajectories]
    decisions = _join([trajectory.decisions for trajectory in trajectories if trajectory.decisions is not None])
    return Batch(
        decisions=decisions if device is None else decisions.map(lambda tensor: tensor.to(device)),
        owner=torch.arange(len(jobs)).repeat_interleave(torch.tensor(lengths, dtype=torch.long)),
        groups=torch.unique(numbers, return_inverse=True)[1],
        rewards=torch.tensor(rewards, dtype=torch.float64),
        valid=torch.tensor([trajectory.status == "ok" for trajectory in trajectories], dtype=torch.bool),
        versions=torch.tensor([trajectory.version for trajectory in trajectories], dtype=torch.long),
        jobs=jobs,
    )


def _join(parts: Sequence[Decisions[Any, Any]]) -> Decisions[Any, Any]:
    if not parts:
        return Decisions(states=(), actions=(), log_prob=torch.zeros(0, 1))
    masks = [torch.ones_like(part.log_prob, dtype=torch.bool) if part.mask is None else part.mask for part in parts]
    return Decisions(
        states=concatenate([part.states for part in parts]),
        actions=concatenate([part.actions for part in parts]),
        log_prob=concatenate([part.log_prob for part in parts]),
        mask=concatenate(masks) if any(part.mask is not None for part in parts) else None,
    )

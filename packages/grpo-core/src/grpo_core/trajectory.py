"""What episodes decided and what they were worth, one by one and in batches, and what evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from grpo_core._tensors import concatenate, flat_tensors, map_tensors, to_device
from grpo_core.errors import ShapeError, TrajectoryError
from grpo_core.groups import Job

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

StatesT = TypeVar("StatesT")
ActionsT = TypeVar("ActionsT")
StatesT_contra = TypeVar("StatesT_contra", contravariant=True)
ActionsT_contra = TypeVar("ActionsT_contra", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions(Generic[StatesT, ActionsT]):
    """Decisions in the order in which they were made, one row each; rows of an episode need not be equally many.

    Raises:
        ShapeError: The number of rows differs between the fields.
    """

    states: StatesT
    """What the policy saw: a tensor, or mappings and sequences of them, one leading row per decision."""
    actions: ActionsT
    """What it chose, as `Policy.evaluate` takes it."""
    log_prob: Float[Tensor, "rows components"]
    """Log-probability of each component under the weights that acted."""
    mask: Bool[Tensor, "rows components"] | None = None
    """Components that count; None if all do."""

    def __post_init__(self) -> None:
        shape = tuple(self.log_prob.shape)
        if len(shape) != 2:
            raise ShapeError(f"`log_prob` has shape {shape}; needed is (rows, components).")
        if self.mask is not None and (self.mask.shape != shape or self.mask.dtype != torch.bool):
            raise ShapeError(f"`mask` is {self.mask.dtype} {tuple(self.mask.shape)}; needed is bool {shape}.")
        for name, tree in (("states", self.states), ("actions", self.actions)):
            for tensor in flat_tensors(tree)[0]:
                if tensor.ndim == 0 or len(tensor) != shape[0]:
                    raise ShapeError(
                        f"`{name}` holds a tensor of shape {tuple(tensor.shape)}, `log_prob` has {shape[0]} rows; "
                        "every tensor needs one leading row per decision."
                    )

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed: other rows of it, or another place for it."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in ("states", "actions", "log_prob", "mask")}
        return replace(self, **map_tensors(columns, change))

    def __len__(self) -> int:
        return len(self.log_prob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory(Generic[StatesT, ActionsT]):
    """One rolled-out episode. A failed one has neither reward nor decisions, and is never counted as reward 0.

    Raises:
        TrajectoryError: An episode with status `ok` lacks its reward or decisions, or a failed one has them.
    """

    job: Job
    """The job that it answers."""
    decisions: Decisions[StatesT, ActionsT] | None
    """What the policy decided; None if the episode failed."""
    reward: float | None
    """What the episode was worth; None if it failed."""
    status: Literal["ok", "crash", "timeout"] = "ok"
    """`crash` and `timeout` mark episodes that failed through no fault of the policy."""
    version: int = 0
    """Version of the weights that acted."""
    error: str | None = None
    """Why it failed."""
    info: Mapping[str, float] = field(default_factory=dict)
    """Further numbers worth logging."""

    def __post_init__(self) -> None:
        given = {self.reward is not None, self.decisions is not None}
        if self.status == "ok" and False in given:
            raise TrajectoryError(f"{self.job}: status `ok` needs a reward and decisions; use `failed` for a failure.")
        if self.status != "ok" and True in given:
            raise TrajectoryError(f"{self.job}: status `{self.status}` has a reward or decisions; leave both None.")

    @classmethod
    def failed(
        cls, job: Job, *, error: str, status: Literal["crash", "timeout"] = "crash", version: int = 0
    ) -> Trajectory[Any, Any]:
        """An episode that failed through no fault of the policy, and why."""
        return cls(job=job, decisions=None, reward=None, status=status, version=version, error=error)


class Evaluated(Protocol):
    """What `Policy.evaluate` returns; any object with these attributes fits, `Evaluation` is a ready-made one."""

    @property
    def log_prob(self) -> Float[Tensor, "rows components"]:
        """See `Evaluation`."""

    @property
    def entropy(self) -> Float[Tensor, " rows"] | Float[Tensor, "rows components"] | None:
        """See `Evaluation`."""


class Evaluation(NamedTuple):
    """How likely recorded actions are."""

    log_prob: Float[Tensor, "rows components"]
    """Log-probability of every component of every action, differentiable; a scalar action has one component."""
    entropy: Float[Tensor, " rows"] | Float[Tensor, "rows components"] | None = None
    """Entropy in nats, of whole decisions or of their components; None where there is no bonus."""


class Policy(Protocol[StatesT_contra, ActionsT_contra]):
    """A policy as the learner sees it; any object with this method fits.

    How a policy *acts* is between it and the rollout: acting must record, for every decision, what `evaluate` needs
    (the state, and the action before anything lossy such as a squash or a clip) and its log-probability under the
    weights that acted. `evaluate` then gives that log-probability back for unchanged weights, whatever the batch.
    """

    def evaluate(self, states: StatesT_contra, actions: ActionsT_contra, /) -> Evaluated:
        """Scores recorded actions under the current weights, in the order of the rows, with gradients."""


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

    def take(self, rows: Int[Tensor, " taken"]) -> Self:
        """The decisions with these numbers, ascending and on the CPU."""
        index = to_device(rows, self.decisions.log_prob.device)
        return self._part(self.owner[rows], lambda column: column.index_select(0, index))

    def cut(self, start: int, stop: int) -> Self:
        """The decisions `start:stop`, without copying them."""
        return self._part(self.owner[start:stop], lambda column: column[start:stop])

    def _part(self, owner: Tensor, change: Callable[[Tensor], Tensor]) -> Self:
        columns: dict[str, Any] = {name: getattr(self, name) for name in ("advantages", "old_log_prob", "reference")}
        return replace(self, decisions=self.decisions.map(change), owner=owner, **map_tensors(columns, change))

    def __len__(self) -> int:
        return len(self.jobs)


def collate(
    trajectories: Sequence[Trajectory[StatesT, ActionsT]], *, device: torch.device | str | None = None
) -> Batch[StatesT, ActionsT]:
    """Joins trajectories, of any groups in any order, and sorts them by group and member.

    Sorted, a batch does not depend on the order in which episodes finished, and neither does the rounding of an update.
    Failed trajectories belong to it too; it may be empty. Decisions go to `device`; None leaves them where they are.

    Raises:
        TrajectoryError: One member of a group came twice.
        ShapeError: Decisions differ in structure, trailing shape or type.
    """
    trajectories = sorted(trajectories, key=lambda trajectory: trajectory.job.key)
    jobs = tuple(trajectory.job for trajectory in trajectories)
    for job, following in pairwise(jobs):
        if job.key == following.key:
            raise TrajectoryError(f"{job} came twice; an episode must not count double.")
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

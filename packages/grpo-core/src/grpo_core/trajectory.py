"""What one episode decided, what it was worth, and how likely a policy makes its decisions now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from grpo_core._tensors import map_tensors, tensors_of
from grpo_core.errors import ShapeError, TrajectoryError
from grpo_core.groups import Job

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

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
            for tensor in tensors_of(tree):
                if tensor.ndim == 0 or len(tensor) != shape[0]:
                    raise ShapeError(
                        f"`{name}` holds a tensor of shape {tuple(tensor.shape)}, `log_prob` has {shape[0]} rows; "
                        "every tensor needs one leading row per decision."
                    )

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed: other rows of it, or another place for it."""
        return type(self)(
            states=map_tensors(self.states, change),
            actions=map_tensors(self.actions, change),
            log_prob=change(self.log_prob),
            mask=None if self.mask is None else change(self.mask),
        )

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

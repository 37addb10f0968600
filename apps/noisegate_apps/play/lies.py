"""When imagination is made to lie: the settings of the stress test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Lies = Literal["never", "always", "tasks", "episodes", "auto"]
"""When imagination lies: never, in every episode, in half of the tasks, or in episodes drawn at random; `auto` is
`tasks` where a policy brings what to lie with, and `never` elsewhere."""
Half = Literal["first", "second"]
"""Which of every two tasks, in alphabetical order, is lied to."""
Lying = Literal["near", "far", "both", "any"]
"""Which latents lie: the first, the last, all, or one of these three, drawn for every episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaginationConfig:
    """When and where imagination is made to lie."""

    lies: Lies = "never"
    """When: `never`, `always`, in one `half` of the `tasks`, or in `episodes` drawn at random; `auto` is `tasks` where
    the policy brings futures of all tasks to lie with (`always` for a single task), and `never` elsewhere."""
    half: Half = "second"
    """For `tasks`, which half: the `first` or the `second` of every two tasks in alphabetical order."""
    lying: Lying = "both"
    """Which latents: the `near` one, the `far` one, `both`, or `any` of these, drawn for every episode."""
    probability: float = 0.5
    """With which an episode is lied to, for `episodes`; between 0 and 1."""

    def __post_init__(self) -> None:
        if self.lies not in get_args(Lies) or self.lying not in get_args(Lying):
            raise ValueError(f"`{self.lies}` and `{self.lying}` are no imagination; choose among {Lies} and {Lying}.")
        if self.half not in get_args(Half):
            raise ValueError(f"`half` is `{self.half}`; choose among {get_args(Half)}.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"`probability` is {self.probability}; it must lie between 0 and 1.")

    @property
    def name(self) -> str:
        """Short name for folders and tables."""
        if self.lies == "never":
            return "reliable"
        return f"{self.lies}-{self.lying}" + ("-first" if self.lies == "tasks" and self.half == "first" else "")

    def resolved(self, tasks: Sequence[str], known: Collection[str]) -> ImaginationConfig:
        """Return what `auto` stands for; any other choice stays.

        Args:
            tasks: All tasks that are played.
            known: Tasks of which there are futures to lie with.
        """
        if self.lies != "auto":
            return self
        if not set(tasks) <= set(known):
            return replace(self, lies="never")
        return replace(self, lies="tasks" if len(set(tasks)) > 1 else "always")

    def lied_to(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks in which imagination may lie: all, none, or one of every two in alphabetical order."""
        ordered = sorted(set(tasks))
        return {"never": (), "tasks": tuple(ordered[self.half == "second" :: 2])}.get(self.lies, tuple(ordered))

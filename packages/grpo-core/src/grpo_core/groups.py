"""Which group of episodes comes next, and the seeds of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from grpo_core.errors import ConfigError, StateError
from grpo_core.seeds import stable_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Episodes that differ in nothing but the policy's noise: the same task and the same scene."""

    group: int
    """Number of the group, unique in a run."""

    task: str
    """Name of the task."""

    seed: int
    """Seed of the scene."""

    size: int
    """Number of members; at least 1."""

    run_seed: int = 0
    """Seed of the whole run."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"`size` is {self.size}; a group needs at least one member.")

    @property
    def common_seed(self) -> int:
        """Seed of every noise that the members share (common random numbers), such as the initial latents."""
        return stable_seed(self.run_seed, "group", self.group)

    def jobs(self) -> tuple[Job, ...]:
        """One job per member, in order."""
        return tuple(Job(spec=self, member=member) for member in range(self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One episode to roll out."""

    spec: GroupSpec
    """Its group."""

    member: int
    """Number in the group, from 0."""

    attempt: int = 0
    """How often it was tried before; changes no seed, so that a repeated job is the same episode."""

    @property
    def policy_seed(self) -> int:
        """Seed of the policy's own noise: the only thing in which the members of a group differ."""
        return stable_seed(self.spec.run_seed, "member", self.spec.group, self.member)

    def __str__(self) -> str:
        return f"group {self.spec.group} member {self.member} (task `{self.spec.task}`, seed {self.spec.seed})"


class GroupSource(Protocol):
    """Decides which group comes next."""

    def next(self) -> GroupSpec:
        """The next group to roll out."""

    def report(self, spec: GroupSpec, rewards: Sequence[float | None], /) -> int:
        """Learns what became of a group.

        Args:
            spec: The group.
            rewards: Its rewards so far in any order; None for a failed episode.

        Returns:
            How many more members to roll out for it; 0 when it is done.
        """

    def state_dict(self) -> dict[str, int]:
        """Everything needed to continue: JSON-able."""

    def load_state_dict(self, state: Mapping[str, int], /) -> None:
        """Continues where `state_dict` was taken."""


class RoundRobin:
    """Goes through all tasks, then to the next scene seed, and from the last seed back to the first.

    Args:
        tasks: Names of the tasks; at least one.
        seeds: Scene seeds; at least one, all different.
        size: Members per group.
        run_seed: Seed of the run, which goes into the seeds of noise.

    Raises:
        ConfigError: There is no task or no seed, one of them repeats, or the size is below 1.
    """

    def __init__(self, tasks: Sequence[str], seeds: Sequence[int], *, size: int, run_seed: int = 0) -> None:
        for name, values in (("tasks", tasks), ("seeds", seeds)):
            if len(values) == 0 or len(set(values)) < len(values):
                raise ConfigError(f"`{name}` has {len(values)} entries, {len(set(values))} different; give each once.")
        if size < 1:
            raise ConfigError(f"`size` is {size}; a group needs at least one member.")
        self._tasks = tuple(tasks)
        self._seeds = tuple(seeds)
        self._size = size
        self._run_seed = run_seed
        self._given = 0

    def next(self) -> GroupSpec:
        """The next group to roll out."""
        seed_turn, task_turn = divmod(self._given, len(self._tasks))
        spec = GroupSpec(
            group=self._given,
            task=self._tasks[task_turn],
            seed=self._seeds[seed_turn % len(self._seeds)],
            size=self._size,
            run_seed=self._run_seed,
        )
        self._given += 1
        return spec

    def report(self, spec: GroupSpec, rewards: Sequence[float | None], /) -> int:
        """Wants no further members, whatever the rewards."""
        return 0

    def state_dict(self) -> dict[str, int]:
        """The number of groups given so far."""
        return {"given": self._given}

    def load_state_dict(self, state: Mapping[str, int], /) -> None:
        """Continues where `state_dict` was taken.

        Raises:
            StateError: The state is not that of a `RoundRobin`.
        """
        if set(state) != {"given"} or state["given"] < 0:
            raise StateError(f"The state is {dict(state)}; needed is `given`, the number of groups given so far.")
        self._given = state["given"]

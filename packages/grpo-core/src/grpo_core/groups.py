"""Groups of episodes, the seeds of their members, and who decides which group comes next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grpo_core.errors import at_least_one


def stable_seed(*parts: int | str) -> int:
    """Hashes what a seed is for, such as a run's seed, a purpose and a counter, to a seed in [0, 2**63).

    The same in every process, on every machine and in every Python version, unlike `hash`.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Episodes that differ in nothing but the policy's noise: the same task, scene and initial noise."""

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
    antithetic: bool = False
    """Whether the members come in pairs that draw the policy's noise with opposite signs."""
    greedy: bool = False
    """Whether the first member plays without the policy's noise, as the baseline of the others (`greedy_baseline`)."""
    noise: int = 0
    """Which initial noise of the scene its members share: with task and seed, the arm that a source may give again."""

    def __post_init__(self) -> None:
        at_least_one(size=self.size)

    @property
    def common_seed(self) -> int:
        """Seed of every noise that the members share (common random numbers), such as the initial latents.

        It belongs to the arm, not to the group: a second visit starts from the same noise, while the policy's is new.
        """
        return stable_seed(self.run_seed, "common", self.task, self.seed, self.noise)

    def jobs(self) -> tuple[Job, ...]:
        """One job per member, in order."""
        return tuple(Job(spec=self, member=member) for member in range(self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One episode to roll out: a member, from 0, of a group."""

    spec: GroupSpec
    member: int
    attempt: int = 0
    """How often it was tried before; changes no seed, so that a repeated job is the same episode."""

    @property
    def key(self) -> tuple[int, int]:
        """Group and member, which tell it from every other job of a run."""
        return self.spec.group, self.member

    @property
    def policy_seed(self) -> int:
        """Seed of the policy's own noise: the only thing in which the members of a group differ."""
        return stable_seed(self.spec.run_seed, "member", self.spec.group, self.member)

    @property
    def noise_seed(self) -> int:
        """Seed of the noise that `noise_sign` belongs to: `policy_seed`, or in an antithetic group that of the pair.

        A rollout that draws `noise_sign * randn(generator of noise_seed)` works for both kinds of groups. Antithetic
        pairs cancel what is even in the noise, and with it the variance that curved rewards cause; what is odd, as in
        a reward that rises along the noise, they count double. Measure before you use them.
        """
        if not self.spec.antithetic:
            return self.policy_seed
        return stable_seed(self.spec.run_seed, "pair", self.spec.group, (self.member - self.spec.greedy) // 2)

    @property
    def noise_sign(self) -> int:
        """1, -1 for the second of an antithetic pair, 0 for the greedy member."""
        if self.spec.greedy and self.member == 0:
            return 0
        return -1 if self.spec.antithetic and (self.member - self.spec.greedy) % 2 else 1

    def __str__(self) -> str:
        return f"group {self.spec.group} member {self.member} (task `{self.spec.task}`, seed {self.spec.seed})"


class GroupSource(Protocol):
    """Decides which group comes next."""

    def next(self) -> GroupSpec:
        """The next group to roll out; `SourceError` if every scene is excluded."""

    def report(self, spec: GroupSpec, rewards: Sequence[float | None], /) -> None:
        """Learns the rewards of a group, once for each that was given; None for members without one."""

    def exclude(self, task: str, seed: int, /) -> None:
        """Never gives this scene again, for example because it breaks the simulator."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: JSON-able."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continues where `state_dict` was taken."""

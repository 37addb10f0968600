"""Which group comes next: every scene in turn, or where groups will be mixed.

All sources are deterministic, give each group a new number, and continue from their `state_dict` where it was taken.
What they give depends on what was reported to them, and in which order, but on nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from grpo_core.advantages import are_mixed
from grpo_core.errors import ConfigError, SourceError, StateError, at_least_one
from grpo_core.groups import GroupSpec, stable_seed

ValueT = TypeVar("ValueT")

Arm = tuple[str, int, int]
"""Task, scene seed and index of the initial noise: what can be rolled out again."""


class RoundRobin:
    """Goes through all tasks, then to the next scene seed, and from the last seed back to the first with new noise.

    Args:
        tasks: Names of the tasks; at least one.
        seeds: Scene seeds, the same for every task; at least one, all different.
        size: Members per group.
        run_seed: Seed of the run, which goes into the seeds of noise.
        antithetic: Whether members come in pairs of opposite noise (`Job.noise_sign`).
        greedy: Whether the first member of a group plays without noise (`greedy_baseline`).
    """

    def __init__(
        self,
        tasks: Sequence[str],
        seeds: Sequence[int],
        *,
        size: int,
        run_seed: int = 0,
        antithetic: bool = False,
        greedy: bool = False,
    ) -> None:
        for name, values in (("tasks", tasks), ("seeds", seeds)):
            if len(values) == 0 or len(set(values)) < len(values):
                raise ConfigError(f"`{name}` has {len(values)} entries, {len(set(values))} different; give each once.")
        at_least_one(size=size)
        self._tasks, self._seeds = tuple(tasks), seeds
        self._options: dict[str, Any] = {"size": size, "run_seed": run_seed, "antithetic": antithetic, "greedy": greedy}
        self._given = self._turn = 0
        self._turns = dict.fromkeys(self._tasks, 0)
        self._excluded: set[tuple[str, int]] = set()

    def next(self) -> GroupSpec:
        """The next group to roll out; `SourceError` if every scene is excluded."""
        tasks = self._open_tasks()
        while (task := self._tasks[self._turn % len(self._tasks)]) not in tasks:
            self._turn += 1
        self._turn += 1
        return self._group(self._fresh_arm(task))

    def report(self, spec: GroupSpec, rewards: Sequence[float | None], /) -> None:
        """Learns nothing."""

    def exclude(self, task: str, seed: int, /) -> None:
        """Never gives this scene again; one that it does not have is ignored."""
        if task in self._turns and seed in self._seeds:
            self._excluded.add((task, seed))

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and what is excluded."""
        excluded = [list(scene) for scene in sorted(self._excluded)]
        return {"given": self._given, "turn": self._turn, "turns": dict(self._turns), "excluded": excluded}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continues where `state_dict` was taken; `StateError` if that was no such source over these tasks."""
        try:
            self._take_up(state)
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"The state is not that of a `{type(self).__name__}` over these tasks: {error!r}"
            raise StateError(f"{wrong}; give what `state_dict` returned.") from error

    def _take_up(self, state: Mapping[str, Any]) -> None:
        turns = {task: int(state["turns"][task]) for task in self._tasks}
        excluded = {(str(task), int(seed)) for task, seed in state["excluded"]}
        given, turn = int(state["given"]), int(state["turn"])
        self._given, self._turn, self._turns, self._excluded = given, turn, turns, excluded

    def _open_tasks(self) -> tuple[str, ...]:
        lost = Counter(task for task, _ in self._excluded)
        found = tuple(task for task in self._tasks if lost[task] < len(self._seeds))
        if not found:
            lost_all = f"All {len(self._excluded)} scenes of {len(self._tasks)} tasks are excluded"
            raise SourceError(f"{lost_all}; look at why they fail, or give more seeds.")
        return found

    def _fresh_arm(self, task: str) -> Arm:
        """The task's next scene, after the last seed from the first again with the next initial noise."""
        while True:
            noise, place = divmod(self._turns[task], len(self._seeds))
            self._turns[task] += 1
            if (task, self._seeds[place]) not in self._excluded:
                return task, self._seeds[place], noise

    def _group(self, arm: Arm) -> GroupSpec:
        task, seed, noise = arm
        self._given += 1
        return GroupSpec(group=self._given - 1, task=task, seed=seed, noise=noise, **self._options)


class MixedAllocation(RoundRobin):
    """Gives groups where they are likely to be mixed, and arms that were mixed again.

    Groups with equal rewards teach nothing. Whether a group is mixed is one trial of its arm (task, scene, initial
    noise), however many members it has: under common noise these agree. Two estimates follow: of every task, a Beta
    distribution over "a new arm of it is mixed", to which all its scenes contribute, since few are seen twice; and of
    every arm that was mixed, one of its own around that of its task.

    Tasks are drawn in proportion to theirs, or alike as far as `explore` says. Of a task's groups a share `revisit`
    goes back to its fragile arms, in proportion to how likely they still are to be mixed; the policy's noise is
    another one at every visit. The others are new arms.

    Args:
        tasks: As of `RoundRobin`, like the next five.
        revisit: Share of the groups that go to fragile arms, as far as their task has any; in [0, 1].
        explore: Share of the groups whose task is drawn uniformly, in [0, 1]. Below 1, tasks of which more groups are
            mixed weigh more in what is learned; 1 keeps the mean over tasks the goal.
        discount: What is left of old counts when a group is added to them, in (0, 1].
        strength: How many groups an arm counts its task for in its own estimate; positive.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        seeds: Sequence[int],
        *,
        size: int,
        run_seed: int = 0,
        antithetic: bool = False,
        greedy: bool = False,
        revisit: float = 0.5,
        explore: float = 0.1,
        discount: float = 0.9,
        strength: float = 2.0,
    ) -> None:
        super().__init__(tasks, seeds, size=size, run_seed=run_seed, antithetic=antithetic, greedy=greedy)
        for name, share in (("revisit", revisit), ("explore", explore), ("discount", discount)):
            if not 0 <= share <= 1 or (name == "discount" and share == 0):
                raise ConfigError(f"`{name}` is {share}; it must be in [0, 1], and `discount` above 0.")
        if not strength > 0:
            raise ConfigError(f"`strength` is {strength}; it must be positive.")
        self._revisit, self._explore, self._discount, self._strength = revisit, explore, discount, strength
        # Of every task, new arms that were mixed and that were not, discounted; the same of every arm that was mixed
        # when it was new; and by group that is under way, the arm, and whether it is a new one.
        self._new: dict[str, list[float]] = {task: [0.0, 0.0] for task in self._tasks}
        self._fragile: dict[Arm, list[float]] = {}
        self._under_way: dict[int, tuple[Arm, bool]] = {}

    def chance(self, task: str, seed: int | None = None, noise: int = 0) -> float:
        """Probability that a group is mixed: of a new arm of a task, or of an arm that was given."""
        mixed, equal = self._new[task]
        of_task = (1 + mixed) / (2 + mixed + equal)
        if seed is None:
            return of_task
        mixed, equal = self._fragile.get((task, seed, noise), [0.0, 0.0])
        return (self._strength * of_task + mixed) / (self._strength + mixed + equal)

    def next(self) -> GroupSpec:
        """The next group to roll out; `SourceError` if every scene is excluded."""
        weights = {task: self.chance(task) for task in self._open_tasks()}
        uniform = self._explore * sum(weights.values()) / len(weights)
        shares = {task: uniform + (1 - self._explore) * weight for task, weight in weights.items()}
        task = _pick(shares, (stable_seed(self._options["run_seed"], "tasks") / 2**63 + self._given * _GOLDEN) % 1.0)
        chances = {arm: self.chance(*arm) for arm in self._candidates(task)}
        again = bool(chances) and self._draw("revisit") < self._revisit
        arm = _pick(chances, self._draw("arm")) if again else self._fresh_arm(task)
        self._under_way[self._given] = arm, not again
        return self._group(arm)

    def report(self, spec: GroupSpec, rewards: Sequence[float | None], /) -> None:
        """Learns whether the group was mixed; one without two scored members says nothing."""
        arm, new = self._under_way.pop(spec.group, ((spec.task, spec.seed, spec.noise), True))
        if sum(reward is not None for reward in rewards) < 2:
            return
        mixed = are_mixed(rewards)
        if new:
            self._count(self._new[spec.task], mixed)
        if mixed or arm in self._fragile:
            self._count(self._fragile.setdefault(arm, [0.0, 0.0]), mixed)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, what is excluded, and what is known of tasks and arms; not which groups are under way."""
        fragile = [[*arm, *counts] for arm, counts in self._fragile.items()]
        new = {task: list(counts) for task, counts in self._new.items()}
        return {**super().state_dict(), "new": new, "fragile": fragile}

    def _take_up(self, state: Mapping[str, Any]) -> None:
        new = {task: [float(count) for count in state["new"][task]] for task in self._tasks}
        fragile = {
            (str(task), int(seed), int(noise)): [float(mixed), float(equal)]
            for task, seed, noise, mixed, equal in state["fragile"]
        }
        super()._take_up(state)
        self._new, self._fragile, self._under_way = new, fragile, {}

    def _candidates(self, task: str) -> list[Arm]:
        """Fragile arms of a task that are likelier to be mixed than a new one."""
        busy = {arm for arm, _ in self._under_way.values()}
        known = [arm for arm in self._fragile if arm[0] == task and arm not in busy and arm[:2] not in self._excluded]
        return [arm for arm in known if self.chance(*arm) > self.chance(task)]

    def _count(self, counts: list[float], mixed: bool) -> None:
        counts[:] = [self._discount * counts[0] + mixed, self._discount * counts[1] + (not mixed)]

    def _draw(self, purpose: str) -> float:
        return stable_seed(self._options["run_seed"], "allocation", purpose, self._given) / 2**63


_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Multiples of it, modulo 1, cover every interval evenly from the first few on: each task soon has its share."""


def _pick(weights: Mapping[ValueT, float], draw: float) -> ValueT:
    found, ends = list(weights), list(accumulate(weights.values()))
    return next((value for value, end in zip(found, ends, strict=True) if draw * ends[-1] < end), found[-1])

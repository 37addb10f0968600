"""The loop between a source and an executor: rolls groups out until enough of them are worth training on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic

from grpo_core.advantages import are_mixed
from grpo_core.errors import ConfigError, ExecutorError, at_least_one
from grpo_core.executors import Executor
from grpo_core.groups import GroupSource, GroupSpec
from grpo_core.trajectory import ActionsT, StatesT, Trajectory

KeepRule = Callable[[Sequence[float | None]], bool]
"""Whether a group with these rewards, None for failed episodes, is kept: `every_group`, `are_mixed` or one's own."""


def every_group(rewards: Sequence[float | None]) -> bool:
    """Keeps all groups."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected(Generic[StatesT, ActionsT]):
    """What a collection brought in: groups kept, with two different rewards, and tried; episodes, failed ones too."""

    trajectories: tuple[Trajectory[StatesT, ActionsT], ...]
    """Those of the groups that were kept, failed ones included, by group and member; perhaps none."""
    dropped: tuple[Trajectory[StatesT, ActionsT], ...]
    """Those of the other groups."""
    kept: int
    mixed: int
    tried: int
    episodes: int
    failed: int
    reward_mean: float | None
    """Mean reward of all scored episodes, also of the groups that were dropped; None without any. Of a source that
    chooses its groups it is no estimate of the policy's success."""

    @property
    def acceptance(self) -> float:
        """Share of the groups rolled out that were mixed."""
        return self.mixed / self.tried


def collect_groups(
    source: GroupSource,
    executor: Executor[StatesT, ActionsT],
    *,
    groups: int,
    max_episodes: int | None = None,
    keep: KeepRule = every_group,
    provision: float = 1.0,
) -> Collected[StatesT, ActionsT]:
    """Rolls groups out until enough of them were kept, refilling what was dropped.

    Works in rounds: groups are drawn from the source, rolled out together, judged, and reported to the source in the
    order of their numbers. So what comes out depends neither on the executor nor on its timing, and quick episodes are
    not preferred. Whatever was worth keeping is kept, also more groups than were wanted. Scenes that the executor gave
    up are passed on to the source. If anything raises, jobs under way are cancelled, and both can be used again.

    Args:
        source: Gives the groups and learns what became of them.
        executor: Rolls them out, under the weights that were set before.
        groups: Groups wanted; at least 1.
        max_episodes: No further group is begun once so many episodes were; None for `groups` groups and no refill.
        keep: Which groups are kept: `every_group`, or `are_mixed` for those from which something can be learned.
        provision: Groups drawn in a round for each one that is missing; at least 1. With `keep=are_mixed` and a share
            p of mixed groups, 1 / p needs about one round, and so waits for the slowest episode only once.

    Raises:
        SourceError: Every scene is excluded.
        ExecutorError: The executor lost jobs.

    References:
        Refill: Yu et al. 2025, DAPO (arXiv 2503.14476) §3.2.
    """
    at_least_one(groups=groups, max_episodes=max_episodes)
    if not 1 <= provision < math.inf:
        raise ConfigError(f"`provision` is {provision}; it must be at least 1 and finite.")
    tried: list[tuple[list[Trajectory[StatesT, ActionsT]], list[float | None], bool]] = []
    kept = episodes = 0
    while kept < groups:
        _pass_on_quarantine(source, executor)
        specs: list[GroupSpec] = []
        for _ in range(math.ceil((groups - kept) * provision)):
            if len(tried) + len(specs) >= groups if max_episodes is None else episodes >= max_episodes:
                break
            specs.append(source.next())
            episodes += specs[-1].size
        if not specs:
            break
        for spec, members in zip(specs, _roll_out(source, executor, specs), strict=True):
            rewards = [trajectory.reward for trajectory in members]
            source.report(spec, rewards)
            tried.append((members, rewards, keep(rewards)))
            kept += tried[-1][2]
    _pass_on_quarantine(source, executor)
    scored = [reward for _, rewards, _ in tried for reward in rewards if reward is not None]
    return Collected(
        trajectories=tuple(trajectory for members, _, wanted in tried if wanted for trajectory in members),
        dropped=tuple(trajectory for members, _, wanted in tried if not wanted for trajectory in members),
        kept=kept,
        mixed=sum(are_mixed(rewards) for _, rewards, _ in tried),
        tried=len(tried),
        episodes=episodes,
        failed=episodes - len(scored),
        reward_mean=sum(scored) / len(scored) if scored else None,
    )


def _roll_out(
    source: GroupSource, executor: Executor[StatesT, ActionsT], specs: Sequence[GroupSpec]
) -> list[list[Trajectory[StatesT, ActionsT]]]:
    """The trajectories of each group, by member."""
    back: dict[tuple[int, int], Trajectory[StatesT, ActionsT]] = {}
    jobs = [job for spec in specs for job in spec.jobs()]
    wanted = {job.key for job in jobs}
    try:
        executor.submit(jobs)
        while len(back) < len(wanted):
            if not (finished := executor.poll()):
                lack = len(wanted) - len(back)
                raise ExecutorError(f"The executor has nothing left, but {lack} episodes lack; it lost jobs.")
            back = {t.job.key: t for t in finished if t.job.key in wanted} | back
    except BaseException:
        executor.cancel()
        for spec in specs:
            source.report(spec, [None] * spec.size)
        raise
    return [[back[job.key] for job in spec.jobs()] for spec in specs]


def _pass_on_quarantine(source: GroupSource, executor: Executor[StatesT, ActionsT]) -> None:
    for task, seed in sorted(executor.quarantined):
        source.exclude(task, seed)


class Replay(Generic[StatesT, ActionsT]):
    """Keeps the latest mixed groups, and gives them again while the weights are not much newer.

    An update with them needs `GRPOConfig(staleness=Staleness(...))`; `UpdateMetrics.effective_sample_share` says what
    is left of them. It is not saved: a run that is taken up again begins with none.

    Args:
        groups: Most groups to keep.
        max_age: Most versions since a group was rolled out.
    """

    def __init__(self, *, groups: int, max_age: int) -> None:
        at_least_one(groups=groups, max_age=max_age)
        self._groups: deque[tuple[Trajectory[StatesT, ActionsT], ...]] = deque(maxlen=groups)
        self._max_age = max_age

    def add(self, trajectories: Iterable[Trajectory[StatesT, ActionsT]]) -> None:
        """Keeps the mixed groups among trajectories that lie side by side by group, as a collection has them."""
        for _, members in groupby(trajectories, key=lambda trajectory: trajectory.job.spec.group):
            group = tuple(members)
            if are_mixed([trajectory.reward for trajectory in group]):
                self._groups.append(group)

    def take(self, version: int) -> list[Trajectory[StatesT, ActionsT]]:
        """The groups that older weights made, but not too old ones, for an update of weights of a version."""
        young = [group for group in self._groups if 0 < version - group[0].version <= self._max_age]
        return [trajectory for group in young for trajectory in group]

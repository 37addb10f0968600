from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from grpo_core import GroupSpec, MixedAllocation, RoundRobin, are_mixed
from grpo_core.errors import ConfigError, SourceError, StateError
from grpo_core.groups import GroupSource

TASKS = ["never", "rare", "often"]
FRAGILE = {"never": 0.0, "rare": 0.1, "often": 0.5}
"""Share of a task's arms that are fragile: only a group of one of these can be mixed."""

SOURCES: dict[str, Callable[[], GroupSource]] = {
    "round_robin": lambda: RoundRobin(TASKS, range(6), size=8, run_seed=1),
    "allocation": lambda: MixedAllocation(TASKS, range(6), size=8, run_seed=1),
}


def draw(*seed: int) -> float:
    return float(torch.rand((), generator=torch.Generator().manual_seed(hash(seed) % 2**62)))


def outcome(spec: GroupSpec) -> list[float]:
    """Members agree, as they do under common noise, unless the arm is a fragile one.

    The common outcome is a success for half of the arms, so every task succeeds half of the time.
    """
    if draw(spec.common_seed) < FRAGILE[spec.task]:
        return [float(draw(job.policy_seed) < 0.5) for job in spec.jobs()]
    return [float(draw(spec.common_seed, 1) < 0.5)] * spec.size


def play(source: GroupSource, groups: int) -> list[GroupSpec]:
    specs = []
    for _ in range(groups):
        specs.append(source.next())
        source.report(specs[-1], outcome(specs[-1]))
    return specs


def share_of_mixed(specs: Sequence[GroupSpec]) -> float:
    return sum(are_mixed(outcome(spec)) for spec in specs) / len(specs)


def test_all_tasks_come_before_the_next_seed_and_seeds_begin_again_with_other_noise():
    source = RoundRobin(["bell", "pot"], [7, 5], size=3)
    specs = [source.next() for _ in range(6)]
    arms = [("bell", 7, 0), ("pot", 7, 0), ("bell", 5, 0), ("pot", 5, 0), ("bell", 7, 1), ("pot", 7, 1)]
    assert [(spec.task, spec.seed, spec.noise) for spec in specs] == arms
    assert [spec.group for spec in specs] == list(range(6))
    assert specs[0].common_seed != specs[4].common_seed


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_goes_on_where_it_was_saved(kind):
    source, other = SOURCES[kind](), SOURCES[kind]()
    play(source, 37)
    source.exclude("rare", 3)
    other.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert play(other, 25) == play(source, 25)
    assert other.state_dict() == source.state_dict()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_foreign_state_is_refused_and_changes_nothing(kind):
    source = SOURCES[kind]()
    play(source, 5)
    before = source.state_dict()
    with pytest.raises(StateError, match="over these tasks"):
        source.load_state_dict({"cursor": 3})
    state = RoundRobin(["another task"], [0], size=8).state_dict() | {"new": {}, "fragile": []}
    with pytest.raises(StateError, match=r"never"):
        source.load_state_dict(state)
    assert source.state_dict() == before


@pytest.mark.parametrize("kind", SOURCES)
def test_the_run_seed_goes_into_every_group_and_numbers_are_never_reused(kind):
    specs = play(SOURCES[kind](), 30)
    assert [spec.group for spec in specs] == list(range(30))
    assert {spec.run_seed for spec in specs} == {1}


@pytest.mark.parametrize("kind", SOURCES)
def test_an_excluded_scene_never_comes_again(kind):
    source = SOURCES[kind]()
    play(source, 30)
    kept = {("never", 1), ("often", 4), ("often", 5)}
    for task in TASKS:
        for seed in range(6):
            if (task, seed) not in kept:
                source.exclude(task, seed)
    source.exclude("a task of somebody else", 3)
    given = Counter((spec.task, spec.seed) for spec in play(source, 40))
    assert set(given) == kept
    for task, seed in kept:
        source.exclude(task, seed)
    with pytest.raises(SourceError, match="All 18 scenes of 3 tasks"):
        source.next()


def test_a_task_whose_members_always_agree_is_not_mistaken_for_one_at_half_of_its_successes():
    """Both tasks succeed half of the time; groups of the first are never mixed, though no draw of one rate says so."""
    source = MixedAllocation(["never", "often"], range(1000), size=8, run_seed=3, revisit=0.0)
    specs = play(source, 200)
    counts = Counter(spec.task for spec in specs[100:])
    assert counts["often"] > 75
    assert source.chance("never") < 0.15
    assert source.chance("often") == pytest.approx(0.5, abs=0.2)


def test_what_is_learned_of_one_scene_is_believed_of_all_others_of_its_task():
    source = MixedAllocation(TASKS, range(1000), size=8, run_seed=3)
    before = source.chance("rare", 999)
    specs = play(source, 60)
    assert all((spec.task, spec.seed) != ("rare", 999) for spec in specs)
    assert source.chance("rare", 999) < before


def test_fragile_arms_are_given_again_with_the_same_noise_and_another_exploration():
    source = MixedAllocation(TASKS, range(1000), size=8, run_seed=3, revisit=0.5)
    specs = play(source, 300)
    arms = Counter((spec.task, spec.seed, spec.noise) for spec in specs)
    again = [spec for spec in specs if arms[spec.task, spec.seed, spec.noise] > 1]
    often = [arm for arm in arms if arm[0] == "often"]
    visits = sum(arms[arm] for arm in often)
    assert 0.4 < (visits - len(often)) / visits < 0.6
    assert all(count == 1 for (task, _, _), count in arms.items() if task == "never")
    by_arm: dict[tuple[str, int, int], list[GroupSpec]] = {}
    for spec in again:
        by_arm.setdefault((spec.task, spec.seed, spec.noise), []).append(spec)
    for group in by_arm.values():
        assert len({spec.common_seed for spec in group}) == 1
        seeds = [job.policy_seed for spec in group for job in spec.jobs()]
        assert len(set(seeds)) == len(seeds)
        assert are_mixed(outcome(group[0])), "only what was mixed is worth another visit"


def test_revisits_find_more_mixed_groups_than_taking_turns():
    revisited = share_of_mixed(play(MixedAllocation(TASKS, range(1000), size=8, run_seed=3), 300)[100:])
    fresh = share_of_mixed(play(MixedAllocation(TASKS, range(1000), size=8, run_seed=3, revisit=0.0), 300)[100:])
    turns = share_of_mixed(play(RoundRobin(TASKS, range(1000), size=8, run_seed=3), 300)[100:])
    assert revisited > 1.3 * fresh > 1.3 * 1.3 * turns


def test_an_arm_that_is_no_longer_mixed_is_left():
    source = MixedAllocation(["only"], range(1000), size=2, run_seed=0, revisit=1.0, discount=1.0)
    first = source.next()
    source.report(first, [0.0, 1.0])
    for _ in range(40):
        spec = source.next()
        source.report(spec, [1.0, 1.0])
    arms = Counter((spec.task, spec.seed, spec.noise) for spec in (source.next() for _ in range(50)))
    assert (first.task, first.seed, first.noise) not in arms
    assert max(arms.values()) == 1


def test_an_arm_under_way_is_not_given_a_second_time():
    source = MixedAllocation(["only"], range(1000), size=2, run_seed=0, revisit=1.0)
    source.report(source.next(), [0.0, 1.0])
    specs = [source.next() for _ in range(5)]
    assert len({(spec.seed, spec.noise) for spec in specs}) == 5
    for spec in specs:
        source.report(spec, [None, None])
    assert source.next().seed == 0, "called off, it may come again"


def test_failed_episodes_say_nothing():
    source = MixedAllocation(["a"], range(9), size=2)
    before = source.chance("a")
    source.report(source.next(), [None, None])
    source.report(source.next(), [None, 1.0])
    assert source.chance("a") == before
    source.report(source.next(), [0.0, 1.0])
    assert source.chance("a") == pytest.approx(2 / 3)
    assert source.chance("a", 2) == pytest.approx((2 * 2 / 3 + 1) / 3)


def test_new_arms_are_drawn_in_proportion_to_their_tasks_chance():
    source = MixedAllocation(["a", "b"], range(10_000), size=2, run_seed=3, explore=0.2, revisit=0.0, discount=1.0)
    for number in range(30):
        for task in ("a", "b"):
            source.report(GroupSpec(group=-1, task=task, seed=number, size=2), [0.0, float(task == "a")])
    chances = {task: source.chance(task) for task in ("a", "b")}
    assert chances == pytest.approx({"a": 31 / 32, "b": 1 / 32})
    counts = Counter(source.next().task for _ in range(2000))
    assert counts["b"] / 2000 == pytest.approx(0.2 / 2 + 0.8 / 32, abs=0.02)


def test_explored_alike_every_task_gets_its_share_also_of_the_revisits():
    source = MixedAllocation(TASKS, range(1000), size=8, run_seed=3, explore=1.0)
    specs = play(source, 600)
    counts = Counter(spec.task for spec in specs)
    assert all(abs(counts[task] - 200) < 5 for task in TASKS)
    assert all(abs(Counter(spec.task for spec in specs[:60])[task] - 20) < 3 for task in TASKS)
    arms = {task: len({(spec.seed, spec.noise) for spec in specs if spec.task == task}) for task in TASKS}
    assert arms["never"] == counts["never"]
    assert arms["often"] / counts["often"] == pytest.approx(0.5, abs=0.1)
    assert share_of_mixed(specs) > share_of_mixed(play(RoundRobin(TASKS, range(1000), size=8, run_seed=3), 600))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RoundRobin([], [1], size=8), "`tasks` has 0 entries"),
        (lambda: RoundRobin(["bell"], [1, 2, 1], size=8), "`seeds` has 3 entries, 2 different"),
        (lambda: RoundRobin(["bell"], [1], size=0), "`size` is 0"),
        (lambda: MixedAllocation(["bell"], [1], size=8, explore=1.5), "`explore` is 1.5"),
        (lambda: MixedAllocation(["bell"], [1], size=8, revisit=-0.5), "`revisit` is -0.5"),
        (lambda: MixedAllocation(["bell"], [1], size=8, discount=0.0), "`discount` is 0.0"),
        (lambda: MixedAllocation(["bell"], [1], size=8, strength=0.0), "`strength` is 0.0"),
    ],
)
def test_sources_out_of_range_are_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()

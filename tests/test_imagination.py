"""Imagination that is made to lie: when, where, and the same for every schedule."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from noisegate_apps.play.imagination import UnreliableImagination
from noisegate_apps.play.lies import ImaginationConfig

TASKS = ("c", "a", "b", "d")
FUTURES = {
    task: torch.full((5, 2, 2, 1, 1), index) + torch.arange(5).view(5, 1, 1, 1, 1) / 10
    for index, task in enumerate("abcd")
}


@dataclass
class Row:
    task: str
    noise_seed: int
    chunks: int = 0


def lies(row, **config):
    made = UnreliableImagination(ImaginationConfig(**config), FUTURES, TASKS, frames=2).of([row])
    return (False, False) if made is None else tuple(made.lying[0].tolist())


def test_reliable_imagination_is_left_alone():
    assert lies(Row("a", 1), lies="never") == (False, False)


@pytest.mark.parametrize(
    ("which", "expected"), [("near", (True, False)), ("far", (False, True)), ("both", (True, True))]
)
def test_the_named_latents_lie(which, expected):
    assert lies(Row("a", 1), lies="always", lying=which) == expected


def test_half_of_the_tasks_lie_whatever_their_order():
    assert [lies(Row(task, 1), lies="tasks") != (False, False) for task in "abcd"] == [False, True, False, True]
    found = [lies(Row(task, 1), lies="tasks", half="first") != (False, False) for task in "abcd"]
    assert found == [True, False, True, False]
    assert ImaginationConfig(lies="tasks").name != ImaginationConfig(lies="tasks", half="first").name


def test_episodes_lie_at_random_with_their_probability_for_all_their_chunks():
    found = [lies(Row("a", seed), lies="episodes", probability=0.25) for seed in range(400)]
    assert 0.18 < sum(lie != (False, False) for lie in found) / 400 < 0.32
    again = [lies(Row("a", seed, chunks=3), lies="episodes", probability=0.25) for seed in range(400)]
    assert found == again


def test_any_draws_near_far_and_both_alike():
    found = [lies(Row("a", seed), lies="always", lying="any") for seed in range(600)]
    for kind in ((True, False), (False, True), (True, True)):
        assert 150 < found.count(kind) < 250


def test_what_is_said_is_a_future_of_the_same_task_and_depends_on_episode_and_chunk_alone():
    made = UnreliableImagination(ImaginationConfig(lies="always"), FUTURES, TASKS, frames=2)
    rows = [Row("a", 1), Row("c", 1), Row("a", 2), Row("a", 1, chunks=1)]
    wrong = made.of(rows).wrong
    assert [int(one.flatten()[0]) for one in wrong] == [0, 2, 0, 0]
    assert torch.equal(made.of(rows[::-1]).wrong, wrong.flip(0))
    assert len({float(made.of([Row("a", seed)]).wrong.flatten()[0]) for seed in range(40)}) == 5


def test_rows_that_are_not_lied_to_are_marked_so():
    made = UnreliableImagination(ImaginationConfig(lies="tasks"), FUTURES, TASKS, frames=2)
    assert made.of([Row("a", 1), Row("b", 1)]).lying.tolist() == [[False, False], [True, True]]
    assert made.of([Row("a", 1), Row("c", 1)]) is None


def test_a_task_without_futures_is_refused():
    with pytest.raises(ValueError, match=r"no futures of \['e'\]"):
        UnreliableImagination(ImaginationConfig(lies="always"), FUTURES, ("a", "e"), frames=2)


def test_auto_lies_only_where_there_is_something_to_lie_with():
    auto = ImaginationConfig(lies="auto")
    assert auto.resolved(("a", "b"), FUTURES).lies == "tasks"
    assert auto.resolved(("a",), FUTURES).lies == "always"
    assert auto.resolved(("a", "e"), FUTURES).lies == "never"
    assert auto.resolved(("a",), ()).lies == "never"
    assert ImaginationConfig(lies="tasks").resolved(("e",), ()).lies == "tasks"

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from grpo_core import (
    Batch,
    Decisions,
    GroupSpec,
    Job,
    Trajectory,
    collate,
)
from grpo_core.errors import ShapeError, TrajectoryError


class Seen(NamedTuple):
    image: Tensor
    extra: dict[str, Tensor]


def job(group: int, member: int) -> Job:
    return Job(spec=GroupSpec(group=group, task="t", seed=3, size=8), member=member)


def decisions(rows: int, value: float = 0.0, **options: Tensor) -> Decisions[Seen, Tensor]:
    states = Seen(torch.full((rows, 2, 2), value), {"time": torch.full((rows,), value)})
    return Decisions(states=states, actions=torch.full((rows, 1), value), log_prob=torch.zeros(rows, 2), **options)


def test_trajectories_lie_side_by_side_without_padding():
    batch = collate(
        [
            Trajectory(job=job(9, 0), decisions=decisions(3, 1.0), reward=0.5, version=4),
            Trajectory.failed(job(2, 1), error="it fell over", status="timeout", version=4),
            Trajectory(job=job(9, 1), decisions=decisions(1, 2.0), reward=-1.0, version=5),
            Trajectory(job=job(2, 0), decisions=decisions(0), reward=0.0, version=5),
        ]
    )
    assert [(job.spec.group, job.member) for job in batch.jobs] == [(2, 0), (2, 1), (9, 0), (9, 1)]
    assert batch.owner.tolist() == [2, 2, 2, 3]
    assert batch.groups.tolist() == [0, 0, 1, 1]
    assert batch.valid.tolist() == [True, False, True, True]
    assert batch.rewards[batch.valid].tolist() == [0.0, 0.5, -1.0]
    assert batch.rewards[1].isnan()
    assert batch.versions.tolist() == [5, 4, 4, 5]
    assert isinstance(batch.decisions.states, Seen)
    assert batch.decisions.states.extra["time"].tolist() == [1.0, 1.0, 1.0, 2.0]
    assert batch.decisions.actions.shape == (4, 1)
    assert batch.decisions.mask is None


def test_a_mask_of_one_trajectory_leaves_the_others_whole():
    mask = torch.tensor([[True, False]])
    parts = [decisions(2), decisions(1, mask=mask)]
    batch = collate([Trajectory(job=job(0, m), decisions=part, reward=0.0) for m, part in enumerate(parts)])
    assert batch.decisions.mask is not None
    assert batch.decisions.mask.tolist() == [[True, True], [True, True], [True, False]]


def test_an_episode_that_comes_twice_is_refused():
    same = [Trajectory(job=job(0, 3), decisions=decisions(1), reward=0.0) for _ in range(2)]
    with pytest.raises(TrajectoryError, match=r"group 0 member 3 \(task `t`, seed 3\) came twice"):
        collate(same)


def test_no_trajectories_make_an_empty_batch():
    batch = collate([])
    assert (len(batch), len(batch.decisions), batch.owner.tolist()) == (0, 0, [])


def test_an_ok_episode_needs_reward_and_decisions_and_a_failed_one_has_neither():
    with pytest.raises(TrajectoryError, match="status `ok` needs"):
        Trajectory(job=job(0, 0), decisions=decisions(1), reward=None)
    with pytest.raises(TrajectoryError, match="status `ok` needs"):
        Trajectory(job=job(0, 0), decisions=None, reward=1.0)
    with pytest.raises(TrajectoryError, match="status `crash` has"):
        Trajectory(job=job(0, 0), decisions=None, reward=0.0, status="crash")


def test_decisions_that_do_not_fit_each_other_are_refused():
    rows = torch.zeros(3, 1)
    with pytest.raises(ShapeError, match="`states` holds a tensor of shape \\(2,\\), `log_prob` has 3 rows"):
        Decisions(states=[rows, torch.zeros(2)], actions=rows, log_prob=rows)
    with pytest.raises(ShapeError, match="`log_prob` has shape \\(3,\\)"):
        Decisions(states=rows, actions=rows, log_prob=torch.zeros(3))
    with pytest.raises(ShapeError, match="`mask`"):
        Decisions(states=rows, actions=rows, log_prob=rows, mask=rows)
    with pytest.raises(ShapeError, match="holds a `str`"):
        Decisions(states={"name": "x"}, actions=rows, log_prob=rows)


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({"a": torch.zeros(1, 2)}, {"a": torch.zeros(1, 3)}, "shape or type"),
        ({"a": torch.zeros(1, 2)}, {"a": torch.zeros(1, 2).double()}, "shape or type"),
        ({"a": torch.zeros(1)}, {"b": torch.zeros(1)}, "structure"),
        ((torch.zeros(1),), (torch.zeros(1), torch.zeros(1)), "structure"),
        (torch.zeros(1), [torch.zeros(1)], "structure"),
        ([torch.zeros(1)], (torch.zeros(1),), "structure"),
    ],
)
def test_trajectories_whose_states_differ_in_structure_are_refused(first, second, match):
    one = torch.zeros(1, 1)
    parts = [Decisions(states=states, actions=one, log_prob=one) for states in (first, second)]
    with pytest.raises(ShapeError, match=match):
        collate([Trajectory(job=job(0, m), decisions=part, reward=0.0) for m, part in enumerate(parts)])


def test_the_order_in_which_episodes_finish_changes_nothing_in_a_batch():
    trajectories = [
        Trajectory(job=job(group, member), decisions=decisions(1 + member, group + 0.1 * member), reward=float(member))
        for group in (4, 1)
        for member in range(3)
    ]
    first, second = collate(trajectories), collate(trajectories[::-1])
    assert first.jobs == second.jobs
    assert torch.equal(first.decisions.actions, second.decisions.actions)
    assert torch.equal(first.rewards, second.rewards)


def test_a_batch_put_together_wrongly_is_refused():
    good = collate([Trajectory(job=job(0, 0), decisions=decisions(2), reward=0.0)])
    with pytest.raises(ShapeError, match="build batches with `collate`"):
        Batch(
            decisions=good.decisions,
            owner=torch.tensor([0]),
            groups=good.groups,
            rewards=good.rewards,
            valid=good.valid,
            versions=good.versions,
            jobs=good.jobs,
        )

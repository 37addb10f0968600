"""Which groups Stage 2 plays, and when an epoch of them ends."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from grpo_core import Decisions, InProcessExecutor, MixedAllocation, RoundRobin, Trajectory
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import training
from noisegate_apps.stage2.config import Sampling, Stage2Config, paper
from noisegate_apps.stage2.training import collect, group_source

TASKS = ("click_bell", "lift_pot")


def config(**sampling):
    return Stage2Config(tasks=TASKS, episodes_per_epoch=32, sampling=Sampling(**sampling))


def executor():
    """Every group of `lift_pot` is mixed, none of `click_bell`."""
    one = torch.zeros(1, 1)
    decisions = Decisions(states=one, actions=one, log_prob=one)

    def rollout(jobs):
        return [
            Trajectory(job=job, decisions=decisions, reward=float(job.spec.task == "lift_pot" and job.member % 2))
            for job in jobs
        ]

    return InProcessExecutor(rollout)


def test_the_paper_takes_tasks_and_scenes_in_turn_and_the_default_goes_where_something_can_be_learned():
    turns = group_source(dataclasses.replace(paper(), tasks=TASKS))
    assert type(turns) is RoundRobin
    first = [turns.next() for _ in range(4)]
    assert [group.task for group in first] == [*TASKS, *TASKS]
    assert not any(group.antithetic for group in first)
    assert type(group_source(config())) is MixedAllocation
    assert group_source(config()).next().antithetic
    assert not group_source(config(antithetic=False)).next().antithetic


@pytest.mark.parametrize(
    ("decay", "rates"),
    [(0.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (0.75, [1, 1, 2 / 3, 1 / 3]), (1.0, [1, 0.75, 0.5, 0.25])],
)
def test_the_learning_rate_falls_over_the_last_updates(decay, rates):
    settings = Stage2Config(epochs=4, learning_rate=1e-3, decay=decay)
    assert [1e3 * settings.learning_rate_of(epoch) for epoch in range(4)] == pytest.approx(rates)
    assert paper().learning_rate_of(49) == paper().learning_rate == 3e-4


def test_tasks_weigh_alike_whatever_is_mixed():
    groups, play = group_source(config()), executor()
    given = [one for _ in range(10) for one in collect(config(), groups, play).trajectories]
    tasks = [trajectory.job.spec.task for trajectory in given]
    assert tasks.count("lift_pot") == tasks.count("click_bell")
    scenes = {task: {t.job.spec.seed for t in given if t.job.spec.task == task} for task in TASKS}
    assert len(scenes["lift_pot"]) < 0.75 * len(scenes["click_bell"])  # fragile ones come again


def test_scenes_of_no_pool_of_a_task_are_never_given(monkeypatch):
    monkeypatch.setattr(training, "training_seeds", lambda _: {"click_bell": (1, 2), "lift_pot": (2, 3)})
    groups = group_source(config(revisit=None))
    assert {(spec.task, spec.seed) for spec in (groups.next() for _ in range(12))} == {
        ("click_bell", 1), ("click_bell", 2), ("lift_pot", 2), ("lift_pot", 3),
    }  # fmt: skip


def test_an_epoch_plays_its_episodes_or_ends_with_enough_mixed_groups():
    everything = collect(config(revisit=None), group_source(config(revisit=None)), executor())
    assert (everything.episodes, everything.mixed, everything.kept) == (32, 2, 4)
    enough = config(revisit=None, mixed_groups=1)
    found = collect(enough, group_source(enough), executor())
    assert (found.episodes, found.mixed, found.kept) == (16, 1, 1)
    many = config(revisit=None, mixed_groups=100)
    assert collect(many, group_source(many), executor()).episodes == 32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Sampling(revisit=1.5), "revisit"),
        (lambda: Stage2Config(decay=1.5), "`decay` is 1.5"),
        (lambda: Sampling(mixed_groups=0), "mixed_groups"),
        (lambda: Stage2Config(kl=(0.05, 0.01)), "kl"),
    ],
)
def test_settings_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("tasks", "lies", "played"), [((), "tasks", 6), (("lift_pot",), "always", 1), (("click_bell",), "never", 1)]
)
def test_what_a_caller_leaves_open_is_decided_by_the_policy(tmp_path, monkeypatch, tasks, lies, played):
    """Also where `train` is called from Python, without the command around it."""

    class Seen(Exception):
        pass

    def players(config, *_):
        raise Seen(config)

    monkeypatch.setattr(training, "players", players)
    left_open = Stage2Config(tasks=tasks, orient=0)
    policy = load_policy(left_open.policy)
    with pytest.raises(Seen) as seen:
        training.train(left_open, RunFolder(tmp_path), policy)
    (config,) = seen.value.args
    assert (len(config.tasks), config.scene, config.imagination.lies) == (played, "clean", lies)
    assert training.resolved(config, policy) == config

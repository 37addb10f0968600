from __future__ import annotations

import pytest

from grpo_core import ConfigError, GroupSpec, RoundRobin, StateError, stable_seed


def test_all_tasks_come_before_the_next_seed_and_seeds_begin_again():
    source = RoundRobin(["bell", "pot"], [7, 5], size=3)
    specs = [source.next() for _ in range(6)]
    assert [(spec.task, spec.seed) for spec in specs] == [
        ("bell", 7),
        ("pot", 7),
        ("bell", 5),
        ("pot", 5),
        ("bell", 7),
        ("pot", 7),
    ]
    assert [spec.group for spec in specs] == list(range(6))
    assert source.report(specs[0], [1.0, None, 0.0]) == 0


def test_a_source_goes_on_where_it_was_saved():
    source, other = (RoundRobin(["bell", "pot"], range(5), size=8, run_seed=42) for _ in range(2))
    for _ in range(7):
        source.next()
    other.load_state_dict(source.state_dict())
    assert [other.next() for _ in range(5)] == [source.next() for _ in range(5)]
    with pytest.raises(StateError, match="given"):
        other.load_state_dict({"cursor": 3})


def test_members_share_the_common_noise_and_differ_in_the_policys():
    source = RoundRobin(["bell"], [0], size=8, run_seed=42)
    jobs = [job for _ in range(50) for job in source.next().jobs()]
    assert len({job.policy_seed for job in jobs}) == 400
    assert len({job.spec.common_seed for job in jobs}) == 50
    assert not {job.policy_seed for job in jobs} & {job.spec.common_seed for job in jobs}
    again = GroupSpec(group=3, task="pot", seed=9, size=2, run_seed=42)
    assert again.jobs()[1].policy_seed == jobs[25].policy_seed
    elsewhere = GroupSpec(group=3, task="bell", seed=0, size=8, run_seed=43)
    assert elsewhere.jobs()[1].policy_seed != jobs[25].policy_seed


def test_seeds_are_the_same_in_every_process():
    # A hash that Python salts would differ from this number in almost every process.
    assert stable_seed(42, "member", 3, 1) == 5793483298168336534
    assert 0 <= stable_seed("x") < 2**63
    assert stable_seed(1, 23) != stable_seed(12, 3) != stable_seed("12", 3)


def test_sources_that_give_nothing_are_refused():
    with pytest.raises(ConfigError, match="`tasks` has 0 entries"):
        RoundRobin([], [1], size=8)
    with pytest.raises(ConfigError, match="`seeds` has 3 entries, 2 different"):
        RoundRobin(["bell"], [1, 2, 1], size=8)
    with pytest.raises(ConfigError, match="`size` is 0"):
        RoundRobin(["bell"], [1], size=0)
    with pytest.raises(ConfigError, match="`size` is 0"):
        GroupSpec(group=0, task="bell", seed=0, size=0)

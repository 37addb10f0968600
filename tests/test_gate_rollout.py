"""The gate in closed loop: what is recorded for the learner is what was decided."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation import HeldOutScenes, shared
from gate_rollout import GateRollout, learned
from grpo_core import RoundRobin, collate
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork
from rollout import play, tabletop_pool
from world_policy import WorldPolicy

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def policy():
    return WorldPolicy.load(ROOT / "checkpoints" / "tabletop-independent")


@pytest.fixture
def gate(policy):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=policy.backbone.latent_channels, frames=2))


@pytest.fixture(scope="module")
def pool():
    with tabletop_pool(slots=3, workers=0) as environments:
        yield environments


def roll_out(policy, gate, pool, **options):
    jobs = RoundRobin(["lift_pot"], [7], size=3, run_seed=1).next().jobs()
    return GateRollout(policy, gate, pool, scene="random", **options)(jobs)


def first_latents(trajectory):
    return trajectory.decisions.states["latents"][0]


def test_recorded_decisions_evaluate_to_the_same_log_probability(policy, gate, pool):
    trajectories = roll_out(policy, gate, pool)
    assert [trajectory.job.member for trajectory in trajectories] == [0, 1, 2]
    for trajectory in trajectories:
        decisions = trajectory.decisions
        assert len(decisions) % policy.clock.num_steps == 0
        found = gate.evaluate(decisions.states, decisions.actions)
        torch.testing.assert_close(found.log_prob, decisions.log_prob, rtol=0, atol=1e-5)
    assert len(collate(trajectories).rewards) == 3


def test_members_share_the_initial_noise_and_not_the_gates(policy, gate, pool):
    one, two, _ = roll_out(policy, gate, pool)
    assert torch.equal(first_latents(one), first_latents(two))
    assert not torch.equal(one.decisions.actions[0], two.decisions.actions[0])


def test_members_can_draw_noise_of_their_own(policy, gate, pool):
    one, two, _ = roll_out(policy, gate, pool, common_noise=False)
    assert not torch.equal(first_latents(one), first_latents(two))


def test_a_group_is_played_again_alike(policy, gate, pool):
    for first, second in zip(roll_out(policy, gate, pool), roll_out(policy, gate, pool), strict=True):
        assert first.reward == second.reward
        assert torch.equal(first.decisions.actions, second.decisions.actions)
        assert torch.equal(first.decisions.states["latents"], second.decisions.states["latents"])


def test_the_untrained_gate_plays_exactly_as_the_shared_schedule(policy, gate, pool):
    jobs = HeldOutScenes(tasks=("click_bell",), episodes=3).jobs("click_bell")
    plain = dict(play(policy, pool, jobs, shared))
    gated = dict(play(policy, pool, jobs, learned(gate)))
    for place, episode in plain.items():
        assert (episode.success, episode.steps) == (gated[place].success, gated[place].steps)
        assert (episode.observation["state"] == gated[place].observation["state"]).all()

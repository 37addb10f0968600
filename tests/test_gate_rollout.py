"""The gate in closed loop: what is recorded for the learner is what was decided."""

from __future__ import annotations

import math
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grpo_core import RolloutError, RoundRobin, Trajectory, collate
from noisegate_apps.evaluation.tabletop import HeldOutScenes, shared
from noisegate_apps.play.episodes import play
from noisegate_apps.play.lies import ImaginationConfig
from noisegate_apps.play.worlds import pool_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.stage2.config import Exploration, GateSettings, paper
from noisegate_apps.stage2.gate import learned, new_gate
from noisegate_apps.stage2.rollout import GateRollout, schedule_statistics
from noisegate_apps.stage2.workers import GateWorkers
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def policy():
    return load_policy(ROOT / "checkpoints" / "tabletop-independent", steps=4)


@pytest.fixture(scope="module")
def gate(policy):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=policy.backbone.latent_channels, frames=2))


@pytest.fixture(scope="module")
def pool():
    with pool_of("tabletop", slots=3, workers=0) as environments:
        yield environments


def jobs_of(*, antithetic=False):
    return RoundRobin(["lift_pot"], [7], size=3, run_seed=1, antithetic=antithetic).next().jobs()


def roll_out(policy, gate, pool, *, antithetic=False, **options):
    return GateRollout(policy, gate, pool, scene="random", **options)(jobs_of(antithetic=antithetic))


@pytest.fixture(scope="module")
def rolled(policy, gate, pool):
    """What a group of three did, in order."""
    return roll_out(policy, gate, pool)


def first_latents(trajectory):
    return trajectory.decisions.states["latents"][0]


def test_the_preset_of_the_paper_builds_its_gate(policy):
    """Which is that of the package's own defaults."""
    own = GatingPolicyConfig(latent_channels=policy.backbone.latent_channels, frames=2, initial_log_std=math.log(0.5))
    assert new_gate(paper().gate, policy).config == replace(own, sees="latents", sigma="shared", relative=False)


@pytest.mark.parametrize(
    "chosen",
    [
        {"sees": "content"},
        {"relative": True, "compares": True},
        {"sigma": "state"},
        {"max_mean": 2.0},
        {"sight": 0.9},
        {"width": 32},
        {"scales": "chunk"},
        {"stops": True},
    ],
)
def test_what_is_chosen_of_a_gate_is_built(policy, chosen):
    base = new_gate(paper().gate, policy).config
    assert new_gate(replace(paper().gate, **chosen), policy).config == replace(base, **chosen)


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        (GateSettings(start_scales=(0.4, 1.7)), [0.4, 1.7]),
        (GateSettings(start_scales=(0.7,)), [0.7, 0.7]),
        (GateSettings(start_scales=(0.7,), scales="chunk"), [0.7]),
        (GateSettings(start_scales=(0.7,), scales="none", stops=True), []),
        (GateSettings(start_scales=()), [1.0, 1.0]),
        (paper().gate, [1.0, 1.0]),
    ],
)
def test_a_gate_starts_at_the_scales_that_were_asked_for(policy, settings, scales):
    gate = new_gate(settings, policy)
    latents = torch.randn(3, policy.backbone.latent_channels, 3, 6, 4)
    found = gate(latents[:, :, 1:], latents[:, :, :1], torch.full((3, 2), 0.6)).mean[:, : len(scales)]
    torch.testing.assert_close(1 + found.tanh(), torch.tensor([scales] * 3))


def test_recorded_decisions_evaluate_to_the_same_log_probability(policy, gate, rolled):
    assert [trajectory.job.member for trajectory in rolled] == [0, 1, 2]
    for trajectory in rolled:
        decisions = trajectory.decisions
        assert len(decisions) % policy.clock.num_steps == 0
        found = gate.evaluate(decisions.states, decisions.actions)
        torch.testing.assert_close(found.log_prob, decisions.log_prob, rtol=0, atol=1e-5)
    assert len(collate(rolled).rewards) == 3


def test_the_last_decision_of_every_chunk_does_not_count(policy, rolled):
    for trajectory in rolled:
        by_chunk = trajectory.decisions.mask.unflatten(0, (-1, policy.clock.num_steps))
        assert not by_chunk[:, -1].any()
        assert by_chunk[:, 0].all()


def test_members_share_the_initial_noise_and_not_the_gates(rolled):
    one, two, _ = rolled
    assert torch.equal(first_latents(one), first_latents(two))
    assert not torch.equal(one.decisions.actions[0], two.decisions.actions[0])


def test_members_can_draw_noise_of_their_own(policy, gate, pool):
    one, two, _ = roll_out(policy, gate, pool, common_noise=False)
    assert not torch.equal(first_latents(one), first_latents(two))


def test_antithetic_members_draw_opposite_noise(policy, gate, pool):
    one, two, three = roll_out(policy, gate, pool, antithetic=True)
    frame = {name: states[:1] for name, states in one.decisions.states.items()}
    with torch.no_grad():
        mean = gate(**frame).mean[0]
    torch.testing.assert_close(one.decisions.actions[0] + two.decisions.actions[0], 2 * mean, rtol=0, atol=1e-5)
    assert not torch.allclose(one.decisions.actions[0], mean)
    assert not torch.equal(one.decisions.actions[0], three.decisions.actions[0])


def test_a_worker_plays_a_job_exactly_as_this_process_does(policy, gate, pool):
    here = GateRollout(policy, gate, pool, scene="random")
    make = GateWorkers(
        policy=ROOT / "checkpoints" / "tabletop-independent",
        denoising_steps=policy.clock.num_steps,
        head_start=None,
        gate=gate.config,
        scene="random",
        common_noise=True,
        exploration=Exploration(),
        imagination=ImaginationConfig(),
        tasks=("click_bell",),
        episodes=1,
    )
    worker = pickle.loads(pickle.dumps(make))()
    worker.load_weights(gate.state_dict())
    for job in jobs_of()[1:]:
        (ours,), (theirs,) = here([job]), worker([job])
        assert (ours.reward, ours.info) == (theirs.reward, theirs.info)
        assert torch.equal(ours.decisions.actions, theirs.decisions.actions)
        assert torch.equal(ours.decisions.states["latents"], theirs.decisions.states["latents"])
    assert replace(make, head_start=0.5)()._policy.clock.waiting == policy.clock.num_steps // 2 > 0


def test_schedule_statistics_are_means_over_chunks(gate, rolled):
    found = schedule_statistics([*rolled, Trajectory.failed(jobs_of()[0], error="lost")])
    u = torch.cat([trajectory.decisions.actions for trajectory in rolled])
    scales = gate.config.alpha_max * (1 + u.tanh()) / 2
    assert [found["scale_1"], found["scale_2"]] == pytest.approx(scales.mean(0).tolist(), rel=1e-5)
    assert 0 <= found["residual_time_1"] < 1
    assert schedule_statistics([Trajectory.failed(jobs_of()[0], error="lost")]) == {}


def test_a_lost_simulator_is_reported_as_such_and_the_next_call_is_whole(policy, gate):
    with pool_of("tabletop", slots=3, workers=1) as environments:
        os.kill(environments.worker_pids[0], signal.SIGKILL)
        with pytest.raises(RolloutError):
            roll_out(policy, gate, environments)
        assert len(roll_out(policy, gate, environments)) == 3


def test_a_group_is_played_again_alike(policy, gate, pool, rolled):
    for first, second in zip(rolled, roll_out(policy, gate, pool), strict=True):
        assert first.reward == second.reward
        assert torch.equal(first.decisions.actions, second.decisions.actions)
        assert torch.equal(first.decisions.states["latents"], second.decisions.states["latents"])


def test_the_untrained_gate_plays_exactly_as_the_shared_schedule(policy, gate, pool):
    jobs = HeldOutScenes(tasks=("click_bell",), episodes=3).jobs("click_bell")
    plain = dict(play(policy, pool, jobs, shared))
    gated = dict(play(policy, pool, jobs, learned(gate, policy)))
    for place, episode in plain.items():
        assert (episode.success, episode.steps) == (gated[place].success, gated[place].steps)
        assert (episode.observation["state"] == gated[place].observation["state"]).all()


def test_a_step_has_its_price_and_a_stop_spares_it(policy, pool):
    settings = GateSettings(stops=True)
    gates = [new_gate(settings, policy), new_gate(settings, policy)]
    for gate, mean in zip(gates, (-9.0, 9.0), strict=True):
        with torch.no_grad():
            gate.mean_bias[-1] = mean
    late, early = (roll_out(policy, gate, pool, step_price=0.1) for gate in gates)
    for found, calls in ((late, policy.clock.num_steps), (early, 1)):
        for trajectory in found:
            assert trajectory.info["calls_per_chunk"] == calls
            assert trajectory.reward == pytest.approx(trajectory.info["success"] - 0.1 * calls)
    assert schedule_statistics(early)["calls_per_chunk"] == 1
    masks = torch.cat([trajectory.decisions.mask for trajectory in early])
    assert masks[:, -1].all()  # that it stopped did act
    assert not masks[:, :-1].any()  # where the latents went then did not

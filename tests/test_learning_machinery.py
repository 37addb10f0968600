"""GPN, sampler and GRPO together find a schedule that is known to be best.

The video model here is analytic: a linear-Gaussian world in which every prediction is an exact posterior mean. Two
future latents imagine where a target will be. One is right up to a known spread; the other is off by one unit per
direction, and the model, which believes both, lets its action attend to each by its reliability, that is by its time.
Success has a closed form for every fixed schedule, so that the best one can be searched for without learning.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from grpo_core import (
    Decisions,
    EpisodePolicy,
    GRPOConfig,
    InProcessExecutor,
    Job,
    Learner,
    RoundRobin,
    Trajectory,
    collate,
)
from noisegate_gpn import ConstantSchedule, GatingPolicyConfig, GatingPolicyNetwork, LearnedSchedule, schedule_noise
from wam_backbone import Chunk, Clock, MatrixSchedule, MonotoneSchedule, Noise, Observation, SharedSchedule, denoise
from wam_backbone.interface import ContextCache, Prediction

DIRECTIONS = 2
"""Dimensions of target and action."""
GRID = (2, 2)
CELLS = math.prod(GRID)
CHANNELS = 2 * DIRECTIONS + 1
STEPS = 5
SPREAD = 0.2
"""Standard deviation of what a latent imagines, around what the scene suggests."""
TOLERANCE = 0.5
"""Success: the action is within this of the target in each direction."""


class AnalyticBackbone:
    """The exact flow of a world model that believes both of its imaginations.

    Observation channels: where the first latent sees the target (2), where the second does (2), which one is wrong (1).
    A future latent holds, in each cell of its first two channels, the position that it imagines.
    """

    action_dim = DIRECTIONS

    def encode_context(self, context: Tensor | ContextCache, state: Tensor | None = None) -> ContextCache:
        return ContextCache(layers=())

    def __call__(
        self,
        video: Tensor,
        actions: Tensor,
        video_times: Tensor,
        action_time: Tensor,
        context: Tensor | ContextCache,
        state: Tensor | None = None,
    ) -> Prediction:
        suggested = rearrange(video[:, : 2 * DIRECTIONS, 0, 0, 0], "batch (frame xy) -> batch xy frame", xy=DIRECTIONS)
        times = rearrange(video_times[:, 1:], "batch frame -> batch 1 frame")
        seen = reduce(video[:, :DIRECTIONS, 1:], "batch xy frame height width -> batch xy frame", "mean")
        noise_variance = times.square() / CELLS

        # What each latent shows: a Gaussian posterior from the scene and from the noisy cells.
        signal = (1 - times) * SPREAD**2
        imagined = suggested + signal / ((1 - times) * signal + noise_variance) * (seen - (1 - times) * suggested)
        clean = torch.zeros_like(video[:, :, 1:])
        clean[:, :DIRECTIONS] = rearrange(imagined, "batch xy frame -> batch xy frame 1 1")
        cell_times = rearrange(times, "batch 1 frame -> batch 1 frame 1 1")
        noise = (video[:, :, 1:] - (1 - cell_times) * clean) / cell_times.clamp_min(1e-6)

        # Where to go: attention over a standard normal prior, the noisy action and the two latents, by reliability.
        weights = (1 - times) / ((1 - times).square() * SPREAD**2 + noise_variance)
        own_time = rearrange(action_time, "batch -> batch 1")
        own = rearrange(actions, "batch 1 xy -> batch xy")
        reliability = 1 + ((1 - own_time) / own_time).square() + (weights * (1 - times)).sum(dim=2)
        target = ((weights * seen).sum(dim=2) + (1 - own_time) / own_time.square() * own) / reliability
        velocity = rearrange((own - target) / own_time, "batch xy -> batch 1 xy")

        video_velocity = torch.cat([torch.zeros_like(video[:, :, :1]), noise - clean], dim=2)
        return Prediction(video_velocity, velocity)


@dataclass(frozen=True)
class Scenes:
    """Targets, and what the two latents are led to imagine."""

    target: Tensor
    observation: Observation

    @classmethod
    def draw(cls, seeds: Sequence[int], *, cued: bool) -> Scenes:
        """One scene per seed; `cued` scenes differ in which latent is wrong, otherwise it is the second."""
        targets, latents = [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            target = torch.randn(DIRECTIONS, generator=generator)
            wrong = target + 2.0 * torch.randint(0, 2, (DIRECTIONS,), generator=generator) - 1.0
            second = not cued or bool(torch.randint(0, 2, (), generator=generator))
            views = (target, wrong) if second else (wrong, target)
            targets.append(target)
            latents.append(torch.cat([*views, torch.tensor([1.0 if second else -1.0])]))
        latent = repeat(torch.stack(latents), "b c -> b c 1 height width", height=GRID[0], width=GRID[1])
        return cls(torch.stack(targets), Observation(latent=latent, context=torch.zeros(len(latents), 1, 1)))

    def noise(self, seeds: Sequence[int]) -> Noise:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return Noise.draw(self.observation, frames=2, action_steps=1, action_dim=DIRECTIONS, generator=generators)

    def plan(self, schedule, noise: Noise | Sequence[int]) -> Chunk:
        noise = noise if isinstance(noise, Noise) else self.noise(noise)
        clock = Clock.linear(STEPS)
        return denoise(
            AnalyticBackbone(), self.observation, schedule, frames=2, action_steps=1, clock=clock, noise=noise
        )

    def success(self, chunk: Chunk) -> Tensor:
        return ((chunk.actions[:, 0] - self.target).abs() < TOLERANCE).all(dim=1)


def exact_success(times: Tensor) -> Tensor:
    """Probability of success of fixed schedules, where the second latent is the wrong one.

    Everything is linear in five independent quantities: target, error of the wrong view, and the initial noise of each
    latent and of the action. This follows their coefficients, by conditioning on joint covariances where the backbone
    adds up reliabilities.

    Args:
        times: Schedules, (schedules, steps + 1, 2), float64.
    """
    basis = torch.eye(5, dtype=times.dtype)
    suggested = torch.stack([basis[0], basis[0] + basis[1]])
    latents = repeat(basis[2:4], "frame basis -> many frame basis", many=len(times))
    action = repeat(basis[4], "basis -> many basis", many=len(times))
    for step in range(STEPS):
        action_time = 1 - step / STEPS
        now, following = times[:, step, :, None], times[:, step + 1, :, None]
        scale = torch.cat([1 - now, torch.full_like(now[:, :1], 1 - action_time)], dim=1)
        own_variance = torch.cat(
            [((1 - now) * SPREAD).square() + now.square() / CELLS, torch.full_like(now[:, :1], action_time**2)], dim=1
        )
        covariance = scale * scale.mT + torch.diag_embed(own_variance[..., 0])
        gain = torch.linalg.solve(covariance, scale)
        target = (gain * torch.cat([latents, action[:, None]], dim=1)).sum(dim=1)

        variance = ((1 - now) * SPREAD).square() + now.square() / CELLS
        imagined = suggested + (1 - now) * SPREAD**2 / variance * (latents - (1 - now) * suggested)
        noise = (latents - (1 - now) * imagined) / now.clamp_min(1e-9)
        latents = latents - (now - following) * (noise - imagined)
        action = action - (action - target) / action_time / STEPS
    error = action - basis[0]
    deviation = (error[:, 0].square() + error[:, 2:4].square().sum(dim=1) / CELLS + error[:, 4].square()).sqrt()
    within = torch.special.ndtr((TOLERANCE - error[:, 1]) / deviation)
    return (within - torch.special.ndtr((-TOLERANCE - error[:, 1]) / deviation)) ** DIRECTIONS


def times_of(scales: Tensor) -> Tensor:
    """Times of fixed relative scales (schedules, steps, 2): NoiseGate eq. (6)."""
    times = [torch.ones_like(scales[:, 0])]
    for step in range(STEPS):
        times.append((times[-1] - scales[:, step] / STEPS).clamp(0, 1))
    return torch.stack(times, dim=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are tiny: threads would only wait for each other, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def speed_lattice() -> Tensor:
    """Every fixed schedule whose scales are 0, 1 or 2, (schedules, steps, 2)."""
    scales = torch.tensor(list(itertools.product((0.0, 1.0, 2.0), repeat=2 * STEPS)), dtype=torch.float64)
    return rearrange(scales, "many (step frame) -> many step frame", frame=2)


@pytest.fixture(scope="module")
def shared_success() -> float:
    return exact_success(times_of(torch.ones(1, STEPS, 2, dtype=torch.float64))).item()


@pytest.fixture(scope="module")
def best_scales(one_thread: None) -> Tensor:
    """The best fixed schedule: every combination of three speeds, then ascent from the best hundred."""
    lattice = speed_lattice()
    leading = lattice[exact_success(times_of(lattice)).topk(100).indices]
    scales = leading.clamp(0.02, 1.98).requires_grad_()
    optimizer = torch.optim.Adam([scales], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (-exact_success(times_of(scales)).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            scales.clamp_(0, 2)
    candidates = torch.cat([leading, scales.detach()])
    return candidates[exact_success(times_of(candidates)).argmax()]


@pytest.fixture(scope="module")
def best_blind_success(one_thread: None) -> float:
    """What a fixed schedule reaches where each latent is the wrong one half the time."""
    lattice = times_of(speed_lattice())
    return ((exact_success(lattice) + exact_success(lattice.flip(2))) / 2).max().item()


def learn(
    seed: int, *, cued: bool, updates: int, groups_per_update: int = 8, rate: float = 1e-3
) -> tuple[GatingPolicyNetwork, int]:
    """Trains a policy with GRPO on groups of eight; returns it with the number of decisions that it took."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = GatingPolicyNetwork(GatingPolicyConfig(latent_channels=CHANNELS, frames=2))

    def rollout(jobs: Sequence[Job]) -> list[Trajectory]:
        scenes = Scenes.draw([job.spec.seed for job in jobs], cued=cued)
        generators = [torch.Generator().manual_seed(job.policy_seed) for job in jobs]
        schedule = LearnedSchedule(policy, noise=schedule_noise(generators, steps=STEPS, frames=2))
        success = scenes.success(scenes.plan(schedule, [job.spec.common_seed for job in jobs]))
        decisions = schedule.decisions()
        trajectories = []
        for row, job in enumerate(jobs):
            own = decisions.of_row(row)
            recorded = Decisions(states=own.states, actions=own.u, log_prob=own.log_prob, mask=own.mask)
            trajectories.append(Trajectory(job=job, decisions=recorded, reward=float(success[row])))
        return trajectories

    # Appendix D but for the learning rate, 1e-3 instead of 3e-4, because there are fewer updates than its 50 epochs,
    # and for five denoising steps instead of ten, which halves the decisions of a chunk.
    learner = Learner(policy, torch.optim.AdamW(policy.parameters(), lr=rate), GRPOConfig(seed=seed))
    groups = RoundRobin(["target"], range(10_000), size=8, run_seed=seed)
    executor = InProcessExecutor(rollout)
    decisions = 0
    for _ in range(updates):
        for _ in range(groups_per_update):
            executor.submit(groups.next().jobs())
        trajectories = [trajectory for _ in range(groups_per_update) for trajectory in executor.poll()]
        decisions += sum(len(trajectory.decisions) for trajectory in trajectories if trajectory.decisions is not None)
        learner.update(collate(trajectories))
    return policy, decisions


@cache
def held_out(cued: bool) -> tuple[Scenes, Noise]:
    scenes = Scenes.draw(range(1_000_000, 1_004_096), cued=cued)
    return scenes, scenes.noise(range(2_000_000, 2_004_096))


def held_out_success(schedule, *, cued: bool) -> float:
    scenes, noise = held_out(cued)
    return scenes.success(scenes.plan(schedule, noise)).double().mean().item()


def gain(policy: GatingPolicyNetwork, shared: float, best: float, *, cued: bool) -> float:
    """Share of the possible gain over the shared schedule that the policy's deterministic schedule makes."""
    return (held_out_success(LearnedSchedule(policy, record=False), cued=cued) - shared) / (best - shared)


def test_best_schedule_hurries_the_right_latent_and_masks_the_wrong_one(best_scales, shared_success):
    times = times_of(best_scales[None])[0]
    last = STEPS - 1  # the action is predicted from these times; where the last step leads, it never sees
    assert times[last, 0] == 0
    assert times[last, 1] > 0.5
    assert exact_success(times[None]).item() > shared_success + 0.5


def test_sampler_succeeds_as_often_as_the_closed_form_says(best_scales, shared_success):
    best = times_of(best_scales[None])
    cases = [(SharedSchedule(), shared_success), (MatrixSchedule(best[0].float()), exact_success(best).item())]
    for schedule, exact in cases:
        standard_error = math.sqrt(exact * (1 - exact) / 4096)
        assert held_out_success(schedule, cued=False) == pytest.approx(exact, abs=4 * standard_error)


def test_untrained_policy_plans_exactly_as_the_shared_schedule():
    scenes = Scenes.draw(range(64), cued=True)
    policy = GatingPolicyNetwork(GatingPolicyConfig(latent_channels=CHANNELS, frames=2))
    learned, shared = (scenes.plan(schedule, range(64)) for schedule in (LearnedSchedule(policy), SharedSchedule()))
    assert torch.equal(learned.times, shared.times)
    assert torch.equal(learned.actions, shared.actions)
    assert torch.equal(learned.latents, shared.latents)


def test_a_constant_schedule_plays_the_sampler_s_own_shared_and_hand_crafted_ones():
    scenes = Scenes.draw(range(8), cued=True)
    # Half as fast again, the second latent later by half of its own path: a third of the shared one.
    lagging = ConstantSchedule(torch.tensor([1.5, 1.5]), delay=torch.tensor([0.0, 1 / 3]))
    for constant, own in (
        (ConstantSchedule(torch.ones(2)), SharedSchedule()),
        (lagging, MonotoneSchedule(lag=0.5)),
    ):
        played, meant = (scenes.plan(schedule, range(8)).times for schedule in (constant, own))
        torch.testing.assert_close(played, meant, atol=1e-6, rtol=0)


@pytest.mark.parametrize("step", range(STEPS))
def test_a_masked_decision_moves_no_action_and_the_others_do(step):
    scenes = Scenes.draw(range(64), cued=True)
    policy = GatingPolicyNetwork(GatingPolicyConfig(latent_channels=CHANNELS, frames=2))
    noise = schedule_noise([torch.Generator().manual_seed(seed) for seed in range(64)], steps=STEPS, frames=2)
    noise[:32, : STEPS // 2, 0] = 20.0  # at twice the pace for two steps, then at pace: clean before the last but one
    schedule = LearnedSchedule(policy, noise=noise)
    actions = scenes.plan(schedule, range(64)).actions
    acts = schedule.decisions().mask.unflatten(0, (64, STEPS))[:, step]
    assert acts.any(dim=0).all() == (step < STEPS - 1)
    for frame in range(2):
        other = noise.clone()
        other[:, step, frame] = -6.0  # all but standing still
        moved = (scenes.plan(LearnedSchedule(policy, noise=other), range(64)).actions != actions).any(dim=(1, 2))
        assert not (moved & ~acts[:, frame]).any()
        assert moved[acts[:, frame]].all()


@pytest.mark.parametrize("seed", range(3))
def test_two_numbers_per_episode_find_a_schedule_and_a_gate_starts_at_it(seed, best_scales, shared_success):
    numbers = EpisodePolicy(classes=1, size=2)

    def rollout(jobs: Sequence[Job]) -> list[Trajectory]:
        generators = [torch.Generator().manual_seed(job.noise_seed) for job in jobs]
        noise = torch.stack([torch.randn(2, generator=generator) for generator in generators])
        signs = torch.tensor([[float(job.noise_sign)] for job in jobs])
        of_task = torch.zeros(len(jobs), dtype=torch.long)
        u, log_prob = numbers.act(of_task, noise * signs)
        scenes = Scenes.draw([job.spec.seed for job in jobs], cued=False)
        chunk = scenes.plan(ConstantSchedule(2 * torch.sigmoid(2 * u)), [job.spec.common_seed for job in jobs])
        return [
            Trajectory(
                job=job,
                decisions=Decisions(states=of_task[:1], actions=u[row : row + 1], log_prob=log_prob[row : row + 1]),
                reward=float(success),
            )
            for row, (job, success) in enumerate(zip(jobs, scenes.success(chunk), strict=True))
        ]

    learner = Learner(numbers, torch.optim.Adam(numbers.parameters(), lr=0.1), GRPOConfig(seed=seed))
    groups = RoundRobin(["target"], range(10_000), size=8, run_seed=seed, antithetic=True)
    executor = InProcessExecutor(rollout)
    for _ in range(50):  # 400 episodes
        executor.submit(groups.next().jobs())
        learner.update(collate(executor.poll()))

    found = 2 * torch.sigmoid(2 * numbers.mean[0].detach())
    gate = GatingPolicyNetwork(GatingPolicyConfig(latent_channels=CHANNELS, frames=2))
    gate.start_at(found.tolist())
    best = exact_success(times_of(best_scales[None])).item()
    assert gain(gate, shared_success, best, cued=False) >= 0.8
    drawn = Scenes.draw(range(64), cued=False)
    played, meant = (drawn.plan(schedule, range(64)) for schedule in (LearnedSchedule(gate), ConstantSchedule(found)))
    torch.testing.assert_close(played.times, meant.times, atol=1e-5, rtol=0)


def test_the_papers_own_budget_is_enough_where_the_schedule_matters(monkeypatch):
    """Appendix D to the letter: 50 updates of one group of eight, ten denoising steps, 400 episodes."""
    monkeypatch.setattr(sys.modules[__name__], "STEPS", 10)
    policy, decisions = learn(0, cued=False, updates=50, groups_per_update=1, rate=3e-4)
    assert decisions == 400 * STEPS
    before = held_out_success(SharedSchedule(), cued=False)
    assert held_out_success(LearnedSchedule(policy, record=False), cued=False) > before + 0.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_learning_reaches_nine_tenths_of_the_possible_gain(seed, best_scales, shared_success):
    policy, decisions = learn(seed, cued=False, updates=16)
    assert decisions == 16 * 8 * 8 * STEPS  # 5,120
    best = exact_success(times_of(best_scales[None])).item()
    assert gain(policy, shared_success, best, cued=False) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_learning_finds_which_latent_is_wrong_in_each_scene(seed, best_scales, best_blind_success, shared_success):
    best = exact_success(times_of(best_scales[None])).item()
    blind_gain = (best_blind_success - shared_success) / (best - shared_success)
    assert blind_gain < 0.3, "no fixed schedule comes far: the policy has to read the observation"
    policy, decisions = learn(seed, cued=True, updates=32)
    assert decisions == 32 * 8 * 8 * STEPS  # 10,240
    assert gain(policy, shared_success, best, cued=True) >= 0.5

"""Episodes of a group side by side in a vector environment."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from grpo_core import GroupSpec
from grpo_core.errors import ConfigError

gymnasium = pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")
from grpo_core.gym import VectorRollout  # noqa: E402


def act(states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A coin that leans to the side to which the pole falls."""
    right = torch.sigmoid(3 * states[:, 2])
    actions = (noise + 0.5 < right).long()
    return actions, torch.where(actions == 1, right, 1 - right).log().unsqueeze(1)


def rollout(*, horizon: int = 200) -> VectorRollout:
    return VectorRollout(act, lambda own: torch.rand((), generator=own) - 0.5, horizon=horizon)


SPEC = GroupSpec(group=3, task="CartPole-v1", seed=11, size=5, run_seed=1)


def alone(job: object) -> tuple[list[list[float]], list[int], float]:
    """The same episode in a plain environment, step by step."""
    env = gymnasium.make("CartPole-v1")
    state, _ = env.reset(seed=job.spec.seed)
    generator = torch.Generator().manual_seed(job.noise_seed)
    states, pushes, total = [], [], 0.0
    for _ in range(200):
        states.append(state.tolist())
        action, _ = act(torch.as_tensor(state).unsqueeze(0), torch.rand((), generator=generator).unsqueeze(0) - 0.5)
        pushes.append(int(action))
        state, reward, terminated, truncated, _ = env.step(pushes[-1])
        total += reward
        if terminated or truncated:
            break
    return states, pushes, total


def test_episodes_are_those_of_single_environments():
    trajectories = rollout()(SPEC.jobs())
    assert len({len(trajectory.decisions) for trajectory in trajectories}) > 1
    for trajectory in trajectories:
        states, pushes, total = alone(trajectory.job)
        torch.testing.assert_close(trajectory.decisions.states, torch.tensor(states))
        assert trajectory.decisions.actions.tolist() == pushes
        assert trajectory.reward == total == trajectory.info["length"]
        right = torch.sigmoid(3 * trajectory.decisions.states[:, 2])
        chosen = torch.where(trajectory.decisions.actions == 1, right, 1 - right)
        torch.testing.assert_close(trajectory.decisions.log_prob.exp().squeeze(1), chosen)


def test_members_start_alike_and_an_episode_does_not_depend_on_who_plays_beside_it():
    play = rollout()
    together = play(SPEC.jobs())
    assert len({tuple(one.decisions.states[0].tolist()) for one in together}) == 1
    for one in (play([SPEC.jobs()[2]])[0], play(SPEC.jobs()[1:4])[1]):
        torch.testing.assert_close(one.decisions.states, together[2].decisions.states)
        assert one.reward == together[2].reward


def test_an_episode_ends_at_the_horizon():
    assert {len(one.decisions) for one in rollout(horizon=4)(SPEC.jobs())} == {4}
    with pytest.raises(ConfigError, match="`horizon` is 0"):
        rollout(horizon=0)


def test_an_episode_ends_where_its_environment_cuts_it_off():
    def make(task: str, count: int) -> object:
        short = [lambda env: gymnasium.wrappers.TimeLimit(env, 3)]
        return gymnasium.make_vec(task, count, vectorization_mode="sync", wrappers=short)

    play = VectorRollout(act, lambda own: torch.rand((), generator=own) - 0.5, horizon=9, make_envs=make)
    assert {(len(one.decisions), one.reward) for one in play(SPEC.jobs())} == {(3, 3.0)}


def test_partners_play_the_opposite_noise_and_the_greedy_member_none():
    seen: list[Tensor] = []

    def watch(states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(noise)
        return act(states, noise)

    spec = dataclasses.replace(SPEC, antithetic=True, greedy=True)
    play = VectorRollout(watch, lambda own: torch.rand((), generator=own) - 0.5, horizon=9)
    greedy = play(spec.jobs())[0]
    noise = torch.stack(seen)
    assert (noise[:, 0] == 0).all()
    assert torch.equal(noise[:, 1::2], -noise[:, 2::2])
    assert (noise[:, 1:] != 0).all()
    assert (greedy.decisions.log_prob.exp() >= 0.5).all()


def test_environments_are_kept_and_closed():
    made = []

    def make(task: str, count: int) -> object:
        made.append((task, count))
        return gymnasium.make_vec(task, count, vectorization_mode="sync")

    play = VectorRollout(act, lambda own: torch.rand((), generator=own) - 0.5, horizon=5, make_envs=make)
    for _ in range(2):
        play(SPEC.jobs())
    play(SPEC.jobs()[:2])
    assert made == [("CartPole-v1", 5), ("CartPole-v1", 2)]
    play.close()
    play(SPEC.jobs())
    assert len(made) == 3

"""Pendulum by GRPO, a continuous torque: pip install 'grpo-core[gym]' && python pendulum.py."""

import torch
from torch import Tensor, nn

import grpo_core as grpo
from grpo_core.gym import VectorRollout


class Policy(nn.Module):
    """A Gaussian over the torque, in units of the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_std = nn.Parameter(torch.tensor(-0.5))

    def evaluate(self, states: Tensor, actions: Tensor) -> grpo.Evaluation:
        """Scores torques; states are brought to one scale."""
        normal = torch.distributions.Normal(self.mean(states * torch.tensor([1, 1, 1 / 8])), self.log_std.exp())
        return grpo.Evaluation(normal.log_prob(actions), normal.entropy())

    def act(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws torques by standard normal noise."""
        actions = self.mean(states * torch.tensor([1, 1, 1 / 8])) + self.log_std.exp() * noise
        return actions, self.evaluate(states, actions).log_prob


def train(policy: Policy, *, updates: int = 120, horizon: int = 200) -> None:
    """Prints the mean return of an update's episodes."""
    learner = grpo.Learner(policy, torch.optim.Adam(policy.parameters(), lr=3e-3), grpo.GRPOConfig(minibatches=4))
    torque = lambda actions: 2 * actions.clamp(-1, 1).numpy()  # noqa: E731  (of the environment)
    rollout = VectorRollout(policy.act, lambda own: torch.randn(1, generator=own), horizon=horizon, to_env=torque)
    executor, source = grpo.InProcessExecutor(rollout), grpo.RoundRobin(["Pendulum-v1"], range(1_000_000), size=16)
    grpo.train(source, executor, learner, updates=updates, groups=8, on_update=lambda one, _: print(one.reward_mean))


if __name__ == "__main__":
    train(Policy())

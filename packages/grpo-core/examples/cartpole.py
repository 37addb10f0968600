"""CartPole by GRPO, members of a group from one start: pip install 'grpo-core[gym]' && python cartpole.py."""

import torch
from torch import Tensor, nn

import grpo_core as grpo
from grpo_core.gym import VectorRollout


class Policy(nn.Module):
    """Pushes left or right."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))

    def evaluate(self, states: Tensor, actions: Tensor) -> grpo.Evaluation:
        """Scores pushes; states are brought to one scale."""
        push = torch.distributions.Categorical(logits=self.logits(states * torch.tensor([0.5, 0.5, 5.0, 0.5])))
        return grpo.Evaluation(push.log_prob(actions).unsqueeze(1), push.entropy())

    def act(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pushes to the right where noise, uniform in (-0.5, 0.5), is that far below its probability."""
        actions = (noise + 0.5 < self.evaluate(states, torch.ones(len(states))).log_prob.exp().squeeze(1)).long()
        return actions, self.evaluate(states, actions).log_prob


def train(policy: Policy, *, updates: int = 40, horizon: int = 500) -> None:
    """Prints the mean length of an update's episodes."""
    learner = grpo.Learner(policy, torch.optim.Adam(policy.parameters(), lr=0.01), grpo.GRPOConfig(minibatches=4))
    rollout = VectorRollout(policy.act, lambda own: torch.rand((), generator=own) - 0.5, horizon=horizon)
    executor, source = grpo.InProcessExecutor(rollout), grpo.RoundRobin(["CartPole-v1"], range(1_000_000), size=16)
    grpo.train(source, executor, learner, updates=updates, groups=4, on_update=lambda one, _: print(one.reward_mean))


if __name__ == "__main__":
    train(Policy())

"""What the network learns to see, by supervised regression of its mean on rules that a good gate would follow.

The world is smooth: eight hidden numbers make a latent, a true future moves them a little, a lie is the future of
another scene. Nothing but the observation tells a lie from the truth.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from einops import rearrange
from torch import Tensor

from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

CHANNELS, FRAMES, GRID, HIDDEN = 16, 2, (6, 4), 8
_FIXED = torch.Generator().manual_seed(11)
MIX = torch.randn(HIDDEN, 24, generator=_FIXED) * 1.5 / HIDDEN**0.5
SHOW = torch.randn(24, CHANNELS, *GRID, generator=_FIXED) / 24**0.5
BACKGROUND = torch.randn(CHANNELS, *GRID, generator=_FIXED)


@dataclass(frozen=True)
class Scenes:
    """Denoising states, with what is true of each."""

    latents: Tensor
    observation: Tensor
    times: Tensor
    hidden: Tensor
    truthful: Tensor

    @classmethod
    def draw(cls, rows: int, generator: torch.Generator, *, between: tuple[float, float] = (0.0, 0.6)) -> "Scenes":
        def futures(start: Tensor) -> Tensor:
            moves = 0.3 * torch.randn(rows, FRAMES, HIDDEN, generator=generator)
            return latent_of(start[:, None] + moves.cumsum(dim=1)).movedim(1, 2)

        hidden, other = torch.randn(2, rows, HIDDEN, generator=generator)
        truthful = torch.rand(rows, FRAMES, generator=generator) < 0.5
        earliest, latest = between
        times = earliest + (latest - earliest) * torch.rand(rows, FRAMES, generator=generator)
        clean = torch.where(truthful[:, None, :, None, None], futures(hidden), futures(other))
        noise = torch.randn(clean.shape, generator=generator)
        at = times[:, None, :, None, None]
        return cls((1 - at) * clean + at * noise, latent_of(hidden)[:, :, None], times, hidden, truthful)


def latent_of(hidden: Tensor) -> Tensor:
    return BACKGROUND + torch.einsum("...k,kchw->...chw", (hidden @ MIX).tanh(), SHOW)


def by_truth(scenes: Scenes) -> Tensor:
    """Hurry what is true, hold back what is not."""
    return scenes.truthful


def by_task(scenes: Scenes) -> Tensor:
    """One of four tasks, readable in the observation alone: each latent has its own two in which to hurry."""
    return scenes.hidden[:, :FRAMES] > 0


def accuracy(rule, steps: int, *, context: bool = False, between: tuple[float, float] = (0.0, 0.6), **options) -> float:
    """Share of decisions on the right side of the rule, on new scenes, after steps of 64 scenes at such times."""
    torch.manual_seed(0)
    policy = GatingPolicyNetwork(
        GatingPolicyConfig(latent_channels=CHANNELS, frames=FRAMES, context_dim=HIDDEN if context else 0, **options)
    )

    def mean_of(scenes: Scenes) -> Tensor:
        given = {"context": scenes.hidden} if context else {}
        shown = replace(scenes, observation=torch.zeros_like(scenes.observation)) if context else scenes
        return policy(shown.latents, shown.observation, shown.times, **given).mean

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        scenes = Scenes.draw(64, generator, between=between)
        loss = (mean_of(scenes).tanh() - (2.0 * rule(scenes) - 1.0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = Scenes.draw(1024, generator, between=between)
    with torch.no_grad():
        return ((mean_of(held_out) > 0) == rule(held_out)).double().mean().item()


def test_a_latent_that_lies_is_told_from_a_true_one_within_sixty_steps_by_its_difference_to_the_observation():
    by_difference = accuracy(by_truth, 60)
    assert by_difference > 0.9
    assert by_difference > accuracy(by_truth, 60, relative=False) + 0.2


def test_a_latent_of_nine_tenths_of_noise_is_told_by_how_it_varies_with_the_observation():
    assert accuracy(by_truth, 120, between=(0.85, 0.92), compares=True) > 0.62  # 0.5 without that comparison


def test_a_comparison_that_has_learned_nothing_changes_nothing():
    states = Scenes.draw(8, torch.Generator().manual_seed(0))
    seen = {"latents": states.latents, "observation": states.observation, "times": states.times}
    features = []
    for compares in (False, True):
        torch.manual_seed(0)
        config = GatingPolicyConfig(latent_channels=CHANNELS, frames=FRAMES, compares=compares)
        features.append(GatingPolicyNetwork(config).features_in(seen))
    assert torch.equal(*features)


def test_of_content_a_still_picture_is_taken_whole_and_of_latents_as_much_as_their_time_leaves():
    scenes = Scenes.draw(8, torch.Generator().manual_seed(0))
    seen = {"observation": scenes.observation, "times": scenes.times}
    left = rearrange(1.0 - scenes.times, "batch frames -> batch 1 frames 1 1")
    added = torch.randn(scenes.latents.shape, generator=torch.Generator().manual_seed(1))
    features = []
    for sees, latents in (("content", scenes.observation + added), ("latents", left * scenes.observation + added)):
        torch.manual_seed(0)
        config = GatingPolicyConfig(latent_channels=CHANNELS, frames=FRAMES, sees=sees)
        features.append(GatingPolicyNetwork(config).features_in({"latents": latents, **seen}))
    torch.testing.assert_close(*features)


@pytest.mark.parametrize("relative", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_task_that_the_observation_shows_is_told_within_120_steps(relative):
    assert accuracy(by_task, 120, relative=relative) > 0.88


def test_a_task_that_the_instruction_alone_shows_is_told_within_120_steps():
    assert accuracy(by_task, 120, context=True) > 0.88

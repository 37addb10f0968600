"""A gate that learns to see what follows before it is rewarded: what it sees by changes, what it decides does not."""

from __future__ import annotations

import shutil

import pytest
import torch

from noisegate_apps.data.transitions import load_transitions, save_transitions, to_learn_from
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.folder import RunFolder
from noisegate_apps.stage2 import training
from noisegate_apps.stage2.config import GateSettings, Stage2Config
from noisegate_apps.stage2.orientation import Followed, Orientation, _exchanged, _shown, orient
from noisegate_gpn import GatingPolicyConfig, GatingPolicyNetwork

KINDS = (
    {"compares": True},
    {"scales": "chunk"},
    {"scales": "none", "stops": True},
    {"stops": True},
    {"relative": False},
)
STEPS = 72


def gate_of(**options):
    torch.manual_seed(0)
    return GatingPolicyNetwork(GatingPolicyConfig(latent_channels=4, frames=2, width=16, **options))


def transitions(episodes=192, *, tasks=2, seed=1):
    """Every episode has a colour of its own, which its future keeps."""
    generator = torch.Generator().manual_seed(seed)
    colour = 3 * torch.randn(tasks, episodes, 4, 1, 1, 1, generator=generator)
    clips = colour + 0.1 * torch.randn(tasks, episodes, 4, 3, 3, 2, generator=generator)
    return {f"task {number}": own for number, own in enumerate(clips)}


def states_of(seen, *, foreign):
    """States at the same times, some latents of which come from a later episode of the same task."""
    moved = seen.future.roll(12, dims=0)
    latents = torch.where(torch.tensor(foreign)[:, None, None], moved, seen.future)
    times = torch.full((len(latents), 2), 0.3)
    return {"latents": 0.7 * latents, "observation": seen.observation, "times": times}


@pytest.mark.parametrize("options", KINDS, ids=["latents", "chunk", "stop", "both", "as they are"])
def test_the_gate_sees_what_does_not_follow_and_decides_what_it_decided(options):
    gate = gate_of(**options)
    states = states_of(Followed.of(transitions(seed=2)), foreign=[True, False])
    decided = gate.policy_in(states)
    found = orient(gate, transitions(), steps=STEPS, seed=0)
    now = gate.policy_in(states)
    assert found.accuracy > 0.75 > found.chance >= 0.5
    assert torch.equal(now.mean, decided.mean)
    assert torch.equal(now.log_std, decided.log_std)


def test_each_latent_is_seen_by_itself():
    gate = gate_of()
    orient(gate, transitions(), steps=4 * STEPS, seed=0)
    unseen = Followed.of(transitions(seed=2))
    kinds = ([False, False], [True, False], [False, True], [True, True])
    with torch.no_grad():
        rows = torch.stack([gate.features_in(states_of(unseen, foreign=kind)) for kind in kinds])
    foreign = torch.tensor(kinds)
    for place in range(2):  # of the four kinds of state, those in which this latent is foreign are told from the others
        apart = rows[foreign[:, place], :, place].mean((0, 1)) - rows[~foreign[:, place], :, place].mean((0, 1))
        along = (rows[:, :, place] @ apart).mean(1)
        assert along[foreign[:, place]].min() > along[~foreign[:, place]].max()


def test_orientation_is_a_function_of_its_seed():
    first, second, third = gate_of(), gate_of(), gate_of()
    seen = transitions(16)
    assert orient(first, seen, steps=8, seed=0) == orient(second, seen, steps=8, seed=0)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    orient(third, seen, steps=8, seed=1)
    assert not torch.equal(first.merge[1].weight, third.merge[1].weight)


def test_held_out_episodes_are_never_learned_from():
    seen = transitions(32)
    kept = torch.arange(32) % 8 == 1
    other = {task: torch.where(kept[:, None, None, None, None], -clips, clips) for task, clips in seen.items()}
    first, second = gate_of(), gate_of()
    assert orient(first, seen, steps=STEPS, seed=0).accuracy != orient(second, other, steps=STEPS, seed=0).accuracy
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_foreign_latents_are_of_the_same_task_and_another_episode():
    seen, generator = Followed.of(transitions(9, tasks=3)), torch.Generator().manual_seed(0)
    known = torch.tensor([row for row in range(27) if row != 4])
    rows = torch.arange(27).repeat(800)
    chosen, foreign = _exchanged(seen, rows, known, generator)
    assert torch.equal(seen.task[chosen], seen.task[rows])
    assert not (chosen == 4).any()
    assert not foreign[chosen == rows].any()
    assert len(set(chosen[rows == 0].tolist())) == 8  # every other one of its task
    possible = foreign[chosen != rows].float()
    assert possible.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    # Of one half of the chunks both or none, of the other each for itself.
    assert (possible[:, 0] * possible[:, 1]).mean() == pytest.approx(0.5 * 0.5 + 0.5 * 0.25, abs=0.02)


def test_tasks_of_any_number_of_episodes_stand_beside_each_other():
    clips = transitions(9)
    seen = Followed.of({"b": clips["task 0"], "a": clips["task 1"][:5]})
    assert seen.task.tolist() == [0] * 5 + [1] * 9
    assert torch.equal(torch.cat([seen.observation, seen.future], dim=2)[5:], clips["task 0"])


def test_times_lie_nearer_to_noise_and_in_half_of_the_chunks_are_the_same_for_all_latents():
    seen, generator = Followed.of(transitions(9)), torch.Generator().manual_seed(0)
    states, _ = _shown(gate_of(), seen, torch.arange(18).repeat(500), torch.arange(18), generator)
    times = states["times"]
    assert times.mean().item() == pytest.approx(2 / 3, abs=0.01)
    assert (times > 0.5).float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert (times[:, 0] == times[:, 1]).float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("words", [False, True])
def test_four_episodes_of_a_task_are_enough(words):
    gate = gate_of(context_dim=6 * words, state_dim=14 * words)
    assert 0.5 <= orient(gate, transitions(4, tasks=1), steps=2, seed=0).chance < 1


@pytest.mark.sim
def test_stage_2_learns_to_see_first_and_only_once(tmp_path, monkeypatch, capsys):
    learned = []

    def watched(*given, **options):
        learned.append((given[1], options))
        return Orientation(0.8, 0.5)

    monkeypatch.setattr(training, "orient", watched)
    options = {"tasks": ("lift_pot",), "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "orient": 8}
    for epochs in (0, 1, 2):  # the last goes on where the second ended
        config = Stage2Config(**options, epochs=epochs, gate=GateSettings(sees_words_and_state=True))
        policy = load_policy(config.policy, steps=2)
        training.train(config, RunFolder(tmp_path), policy)
    assert [options for _, options in learned] == [{"steps": 8, "seed": config.seed}] * 2
    taught = to_learn_from(policy.transitions)
    assert all(torch.equal(clips, taught[task]) for seen, _ in learned for task, clips in seen.items())
    demonstrations = sum(len(clips) for clips in taught.values())
    said = " ".join(capsys.readouterr().err.split())
    assert f"followed in {demonstrations} demonstrations: of others it tells in 80% whether a noisy latent" in said


def test_a_policy_of_too_few_demonstrations_is_refused_before_the_folder_is_claimed(tmp_path):
    policy = tmp_path / "policy"
    shutil.copytree(Stage2Config().policy, policy)
    kept = {task: clips[:7] for task, clips in load_transitions(policy).items() if task == "lift_pot"}
    save_transitions(policy, kept)
    config = Stage2Config(policy=policy, out=tmp_path / "run", tasks=("lift_pot",))
    with pytest.raises(RunError, match=r"transitions of \{'lift_pot': 7\}; train .* 8 solved episodes"):
        training.run(config)
    assert not config.out.exists()

"""A gate that learns to see what follows before it is rewarded: what it sees by changes, what it decides does not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from grpo_core import Decisions, Learner, collate
from noisegate_apps.data.transitions import load_transitions, save_transitions, to_learn_from
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.policy.world import WorldPolicy
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
    {"sees": "content", "compares": True},
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


@pytest.mark.parametrize("options", KINDS, ids=["latents", "chunk", "stop", "both", "as they are", "content"])
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


def test_accuracy_is_of_what_has_begun():
    """Of the fifth that has not, a still picture, nobody can tell: right in 90% of all would be the most."""
    found = orient(gate_of(sees="content", compares=True), transitions(), steps=2 * STEPS, seed=0)
    assert found.accuracy > 0.95


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


def test_content_is_shown_between_a_still_picture_and_the_future_with_errors_and_without_the_noise_of_its_time():
    seen, generator = Followed.of(transitions(9, tasks=1)), torch.Generator().manual_seed(0)
    rows = torch.zeros(4000, dtype=torch.long)
    states, foreign = _shown(gate_of(sees="content"), seen, rows, torch.arange(9), generator)
    begun = states["times"][:, 0] < 1
    assert torch.equal(states["latents"][~begun, :, 0], seen.observation[rows[~begun], :, 0])  # a still picture
    own = ~foreign[:, 0] & begun
    added = states["latents"][own, :, 0] - seen.observation[0, :, 0]
    change = (seen.future - seen.observation)[0, :, 0]
    shares = (added * change).sum((1, 2, 3)) / change.square().sum()
    assert float(shares.mean()) == pytest.approx(0.65, abs=0.2)  # of 0.3 to 1
    errors = (added - shares[:, None, None, None] * change).std((1, 2, 3))
    assert 0 <= float(errors.min()) < 0.05 < 0.2 < float(errors.mean()) < 0.3 < float(errors.max()) < 0.8
    near, far = (states["times"][own, 0] < 0.4, states["times"][own, 0] > 0.9)
    assert float(errors[near].mean()) == pytest.approx(float(errors[far].mean()), abs=0.04)


def test_times_lie_nearer_to_noise_in_half_of_the_chunks_the_same_for_all_latents_and_a_fifth_have_not_begun():
    seen, generator = Followed.of(transitions(9)), torch.Generator().manual_seed(0)
    states, _ = _shown(gate_of(), seen, torch.arange(18).repeat(500), torch.arange(18), generator)
    times = states["times"]
    begun = (times < 1).all(dim=1)
    assert begun.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (times[~begun] == 1).all()
    assert times[begun].mean().item() == pytest.approx(2 / 3, abs=0.01)
    assert (times[begun] > 0.5).float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert (times[begun, 0] == times[begun, 1]).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_features_are_measured_in_the_first_states_that_can_act_and_only_once_they_have_learned_something():
    gate = gate_of(sees="content")
    generator = torch.Generator().manual_seed(0)
    states, _ = _shown(gate, Followed.of(transitions()), torch.arange(128), torch.arange(384), generator)
    acts = torch.arange(128) < 96
    states["latents"] = torch.where(acts[:, None, None, None, None], states["latents"], 100.0)
    blank = torch.zeros(128, 2)
    first = Decisions(states=states, actions=blank, log_prob=blank, mask=acts[:, None].expand(-1, 2))
    decided = gate.policy_in(states).mean
    untouched = gate.features_in(states)
    training.measure(gate, first, oriented=False)
    assert torch.equal(gate.features_in(states), untouched)
    training.measure(gate, first, oriented=True)
    features = gate.features_in(states)[acts]
    assert torch.equal(gate.policy_in(states).mean, decided)
    torch.testing.assert_close(features.mean((0, 1)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std((0, 1), correction=0), torch.ones(16), atol=0.05, rtol=0)
    training.measure(gate, replace(first, mask=torch.zeros(128, 2, dtype=torch.bool)), oriented=True)
    assert torch.equal(gate.features_in(states)[acts], features)  # of nothing that acts, nothing is measured


@pytest.mark.parametrize("words", [False, True])
def test_four_episodes_of_a_task_are_enough(words):
    gate = gate_of(context_dim=6 * words, state_dim=14 * words)
    assert 0.5 <= orient(gate, transitions(4, tasks=1), steps=2, seed=0).chance < 1


@pytest.mark.sim
def test_stage_2_learns_to_see_first_and_only_once(tmp_path, monkeypatch, capsys):
    learned, measured = [], []

    def watched(*given, **options):
        learned.append((given[1], options))
        return Orientation(0.8, 0.5)

    monkeypatch.setattr(training, "orient", watched)

    def rewarded(trajectories, **options):  # the second epoch's members differ, so that something can be learned
        found = collate(trajectories, **options)
        return replace(found, rewards=found.rewards + torch.arange(2.0)) if len(measured) == 1 else found

    monkeypatch.setattr(training, "collate", rewarded)
    monkeypatch.setattr(training, "measure", lambda *given, oriented: measured.append(oriented))
    options = {"tasks": ("lift_pot",), "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "orient": 8}
    for epochs in (0, 1, 2, 3):  # from the second on each goes on where the one before it ended
        config = Stage2Config(**options, epochs=epochs, gate=GateSettings(sees_words_and_state=True))
        policy = load_policy(config.policy, steps=2)
        training.train(config, RunFolder(tmp_path), policy)
    assert [options for _, options in learned] == [{"steps": 8, "seed": config.seed}] * 2
    assert [line["optimizer_steps"] > 0 for line in RunFolder(tmp_path).history()] == [False, True, False]
    assert [1e3 * line["learning_rate"] for line in RunFolder(tmp_path).history()] == pytest.approx([1, 1, 2 / 3])
    assert measured == [True, True]  # anew, until something is learned of success
    taught = to_learn_from(policy.transitions)
    assert all(torch.equal(clips, taught[task]) for seen, _ in learned for task, clips in seen.items())
    demonstrations = sum(len(clips) for clips in taught.values())
    said = " ".join(capsys.readouterr().err.split())
    assert f"followed in {demonstrations} demonstrations: of others it tells in 80% whether a noisy latent" in said


@pytest.mark.sim
def test_a_gate_is_trained_in_one_thread_however_many_there_are_and_kl_decides_its_rate(tmp_path, monkeypatch):
    used = {"looks around": set(), "plays": set(), "learns": set()}

    def watch(owner, name, what):
        before = getattr(owner, name)

        def watched(*given, **options):
            used[what].add(torch.get_num_threads())
            return before(*given, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(training, "orient", "looks around")
    watch(WorldPolicy, "plan", "plays")
    watch(Learner, "update", "learns")
    options = {"tasks": ("lift_pot",), "group_size": 2, "episodes_per_epoch": 2, "workers": 0, "orient": 1}
    config = Stage2Config(**options, epochs=2, decay=1.0, kl=(0.0, 0.1))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        training.train(config, RunFolder(tmp_path), load_policy(config.policy, steps=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert all(found == {1} for found in used.values())
    assert [line["learning_rate"] for line in RunFolder(tmp_path).history()] == [1e-3, 1e-3]  # `kl` decides it


def test_a_policy_of_too_few_demonstrations_is_refused_before_the_folder_is_claimed(tmp_path):
    policy = tmp_path / "policy"
    shutil.copytree(Stage2Config().policy, policy)
    kept = {task: clips[:7] for task, clips in load_transitions(policy).items() if task == "lift_pot"}
    save_transitions(policy, kept)
    config = Stage2Config(policy=policy, out=tmp_path / "run", tasks=("lift_pot",))
    with pytest.raises(RunError, match=r"transitions of \{'lift_pot': 7\}; train .* 8 solved episodes"):
        training.run(config)
    assert not config.out.exists()

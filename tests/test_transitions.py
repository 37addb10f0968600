"""What a policy brings of its demonstrations: what is lied with is never learned from, and files are whole."""

from __future__ import annotations

import pytest
import torch

from noisegate_apps.data.clips import one_window_each
from noisegate_apps.data.transitions import (
    LYING,
    load_transitions,
    save_transitions,
    some_transitions,
    to_learn_from,
    to_lie_with,
)
from noisegate_apps.runs.errors import RunError


class Windows:
    """A source whose clips hold the number of their window."""

    def windows_by_task(self):
        return {"a": torch.arange(100), "b": torch.arange(100, 106)}

    def read(self, windows, phrasings):
        assert len(phrasings) == len(windows)
        self.video = windows.view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 1, 1).float()
        return self


def test_clips_are_drawn_of_every_task_without_repeats_and_the_same_by_the_same_seed():
    drawn = some_transitions(Windows(), per_task=60, seed=0)
    assert {task: clips.shape for task, clips in drawn.items()} == {"a": (60, 2, 3, 1, 1), "b": (6, 2, 3, 1, 1)}
    numbers = drawn["a"][:, 0, 0, 0, 0].tolist()
    assert len(set(numbers)) == 60
    assert set(numbers) <= set(range(100))
    assert drawn["a"].dtype == torch.float16
    again, other = (some_transitions(Windows(), per_task=24, seed=seed)["a"] for seed in (0, 1))
    assert torch.equal(again, drawn["a"][:24])  # more of them leave the first what they were
    assert not torch.equal(again, other)


def test_what_is_lied_with_is_never_learned_from():
    drawn = some_transitions(Windows(), per_task=60, seed=0)
    drawn["b"] = drawn["a"][:9]
    lies, lessons = to_lie_with(drawn), to_learn_from(drawn)
    assert {task: len(clips) for task, clips in lies.items()} == {"a": LYING, "b": 5}
    for task, clips in drawn.items():
        assert torch.equal(torch.cat([lies[task], lessons[task][:, :, 1:]]), clips[:, :, 1:])


@pytest.mark.parametrize(("known", "said"), [({"a": 8, "b": 7}, r"\{'b': 7\}"), ({}, "no task")])
def test_too_few_to_learn_from_are_refused(known, said):
    with pytest.raises(RunError, match=f"of {said}; train .* 8 solved episodes .* `orient` be 0"):
        to_learn_from({task: torch.zeros(count, 2, 3, 1, 1) for task, count in known.items()})


def test_they_come_back_as_they_were_written(tmp_path):
    drawn = some_transitions(Windows(), per_task=60, seed=0)
    save_transitions(tmp_path, drawn)
    found = load_transitions(tmp_path)
    assert found.keys() == drawn.keys()
    assert all(torch.equal(found[task], clips) for task, clips in drawn.items())
    assert load_transitions(tmp_path / "elsewhere") == {}


def test_of_every_episode_one_window_is_drawn_at_any_place():
    episode = torch.arange(3000).repeat_interleave(torch.arange(3000) % 4 + 1)
    window = one_window_each(episode)
    assert torch.equal(episode[window], torch.arange(3000))
    place = window - torch.searchsorted(episode, torch.arange(3000))
    of_four = place[torch.arange(3000) % 4 == 3]
    assert of_four.bincount().tolist() == pytest.approx([187.5] * 4, rel=0.25)

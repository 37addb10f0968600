from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robotwin_env import TASKS, SplitError, TabletopConfig, TabletopEnv, UnknownNameError
from robotwin_env.render.patterns import pattern_pixels
from robotwin_env.splits import EVALUATION_SEEDS, Split, draw_seed
from robotwin_env.tabletop import RANDOM, Task
from robotwin_env.tabletop.appearance import texture
from robotwin_env.tabletop.scene import Scene, sample_scene
from robotwin_env.tabletop.splits import TEXTURES
from robotwin_env.visual import Pattern

SPLITS: tuple[Split, ...] = ("train", "eval")
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def scenes(task: Task, split: Split, count: int = 100) -> list[Scene]:
    first = EVALUATION_SEEDS.start if split == "eval" else 0
    return [sample_scene(task, first + number, RANDOM, split) for number in range(count)]


def surfaces(scene: Scene) -> tuple[Pattern | None, Pattern | None]:
    return scene.wall.pattern, scene.table.shapes[0].pattern


@each_task
def test_training_and_evaluation_share_no_phrase(task: Task) -> None:
    said = {split: {scene.instruction for scene in scenes(task, split)} for split in SPLITS}
    assert said["train"] == set(task.instructions.seen)
    assert said["eval"] == set(task.instructions.unseen)
    assert not said["train"] & said["eval"]


def test_a_part_of_the_phrases_is_drawn_and_all_else_of_the_scene_stays() -> None:
    """What demonstrations said can be recorded again after more ways of saying it were added."""
    task = next(task for task in TASKS if task.name == "lift_pot")
    env = TabletopEnv(TabletopConfig(task=task, phrases=4, cameras=()))
    said = {seed: env.reset(seed=seed)[1]["instruction"] for seed in range(40)}
    assert set(said.values()) == set(task.instructions.seen[:4])
    whole, part = (sample_scene(task, 7, RANDOM, first_phrases=count) for count in (None, 4))
    assert replace(whole, instruction=part.instruction) == part
    with pytest.raises(ValueError, match="`phrases` is 0"):
        TabletopConfig(phrases=0)


def test_training_and_evaluation_share_no_texture() -> None:
    patterns = {
        split: {
            surface.pattern for scene in scenes(TASKS[0], split, 400) for surface in (scene.wall, *scene.table.shapes)
        }
        for split in ("train", "eval")  # type: ignore[arg-type]
    }
    assert min(map(len, patterns.values())) > 60
    assert not patterns["train"] & patterns["eval"]
    assert patterns["eval"] <= {texture(number) for number in TEXTURES["eval"]}


def test_no_held_out_texture_looks_like_one_for_training() -> None:
    """Not two numbers of one look: the pixels differ too."""
    small = {
        split: np.stack([pattern_pixels(texture(number))[::16, ::16].ravel() for number in numbers]).astype(float)
        for split, numbers in TEXTURES.items()
    }
    assert len({pixels.tobytes() for pixels in small["train"]}) == len(TEXTURES["train"])
    nearest = [np.abs(small["train"] - held_out).mean(axis=1).min() for held_out in small["eval"]]
    assert min(nearest) > 1.0  # of 255


def test_textures_of_both_splits_are_of_every_kind() -> None:
    for numbers in TEXTURES.values():
        kinds = [texture(number).kind for number in numbers]
        assert len(set(kinds)) == 8
        assert min(map(kinds.count, kinds)) >= 5


@pytest.mark.sim
def test_a_seed_of_the_other_split_is_refused_and_the_episode_goes_on() -> None:
    for split, own, foreign in (("train", 99_999, 100_000), ("train", 1_000_000, 999_999), ("eval", 100_000, 99_999)):
        env = TabletopEnv(TabletopConfig(split=split, cameras=()))  # type: ignore[arg-type]
        env.reset(seed=own)
        with pytest.raises(SplitError, match=rf"seed {foreign} does not belong to the split `{split}`.*split="):
            env.reset(seed=foreign)
        assert env.step(env.world.command)[4]["seed"] == own
        env.close()
    with pytest.raises(SplitError, match="1000000"):
        TabletopEnv(TabletopConfig(split="eval", cameras=())).reset(seed=1_000_000)


def test_drawn_seeds_belong_to_their_split_and_reach_all_of_it() -> None:
    class Fixed:
        """Answers every draw with the least or the greatest number."""

        def __init__(self, place: int) -> None:
            self.place = place

        def integers(self, *bounds: int) -> int:
            span = range(*bounds)
            return span[self.place]

    ends = {place: draw_seed("train", Fixed(place)) for place in (0, 99_999, 100_000, -1)}  # type: ignore[arg-type]
    assert ends == {0: 0, 99_999: 99_999, 100_000: 1_000_000, -1: 2**31 - 1}
    assert [draw_seed("eval", Fixed(place)) for place in (0, -1)] == [100_000, 999_999]  # type: ignore[arg-type]


@pytest.mark.sim
def test_a_reset_without_seed_draws_one_of_the_split() -> None:
    env = TabletopEnv(TabletopConfig(split="eval", cameras=()))
    env.reset(seed=100_003)
    _, info = env.reset()
    assert info["seed"] in EVALUATION_SEEDS
    assert info["instruction"] in env.task.instructions.unseen
    env.close()


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no split `test`; choose one of `train`, `eval`"):
        TabletopConfig(split="test")  # type: ignore[arg-type]

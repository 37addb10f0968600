from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest

from robotwin_env import TASKS, Randomization
from robotwin_env.tabletop import CLEAN, RANDOM, Task
from robotwin_env.tabletop.scene import sample_scene

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
SEEDS = range(40)


@each_task
def test_a_seed_decides_the_whole_scene(task: Task) -> None:
    scenes = [sample_scene(task, seed, RANDOM) for seed in SEEDS]
    np.random.default_rng().uniform()
    assert scenes == [sample_scene(task, seed, RANDOM) for seed in SEEDS]
    assert len({scene.objects[0].position for scene in scenes}) == len(SEEDS)


@each_task
def test_objects_stand_at_the_same_places_in_clean_and_random_scenes(task: Task) -> None:
    for seed in SEEDS:
        clean, varied = sample_scene(task, seed, CLEAN), sample_scene(task, seed, RANDOM)
        assert [(o.name, o.position, o.yaw) for o in clean.objects] == [
            (o.name, o.position, o.yaw) for o in varied.objects
        ]
        assert clean.instruction == varied.instruction


@each_task
def test_clean_scenes_differ_in_poses_and_words_only(task: Task) -> None:
    scenes = [sample_scene(task, seed, CLEAN) for seed in SEEDS]
    assert len({scene.lighting for scene in scenes}) == 1
    assert len({scene.table for scene in scenes}) == 1
    assert {scene.table_height for scene in scenes} == {0.0}
    assert not any(scene.distractors for scene in scenes)
    assert len({tuple(o.shapes for o in scene.objects) for scene in scenes}) == 1


@each_task
def test_random_scenes_vary_colour_light_height_and_distractors(task: Task) -> None:
    scenes = [sample_scene(task, seed, RANDOM) for seed in SEEDS]
    assert len({scene.lighting for scene in scenes}) == len(SEEDS)
    assert len({scene.table.shapes[0].color for scene in scenes}) == len(SEEDS)
    heights = [scene.table_height for scene in scenes]
    assert -0.03 <= min(heights) < -0.02
    assert 0.02 < max(heights) <= 0.03
    assert {len(scene.distractors) for scene in scenes} == {1, 2, 3}


@each_task
def test_distractors_keep_clear_of_everything_and_of_the_near_table(task: Task) -> None:
    for seed in SEEDS:
        scene = sample_scene(task, seed, RANDOM)
        for distractor in scene.distractors:
            others = [o for o in (*scene.objects, *scene.distractors) if o is not distractor]
            assert all(math.dist(distractor.position, other.position) > 0.09 for other in others)
            assert distractor.position[1] > 0.2


@each_task
def test_colours_keep_their_hue_family(task: Task) -> None:
    """The same shape of the same object never turns to another family's hue."""
    plain = sample_scene(task, 0, CLEAN)
    for seed in SEEDS:
        varied = sample_scene(task, seed, RANDOM)
        for a, b in zip(plain.objects, varied.objects, strict=True):
            for shape_a, shape_b in zip(a.shapes, b.shapes, strict=True):
                hue_a, saturation, _ = colorsys.rgb_to_hsv(*shape_a.color)
                hue_b, _, _ = colorsys.rgb_to_hsv(*shape_b.color)
                turn = abs((hue_a - hue_b + 0.5) % 1 - 0.5)
                assert turn < 0.03 or saturation < 0.2


def test_colour_strength_scales_between_clean_and_random() -> None:
    task = TASKS[0]

    def table(strength: float) -> tuple[float, float, float]:
        return sample_scene(task, 5, Randomization(colors=strength)).table.shapes[0].color

    np.testing.assert_allclose(np.add(table(0.0), table(1.0)) / 2, table(0.5), atol=1e-12)


@each_task
def test_held_out_paraphrases_are_never_drawn_for_training(task: Task) -> None:
    seen = {sample_scene(task, seed, CLEAN).instruction for seed in range(100)}
    unseen = {sample_scene(task, seed, CLEAN, "unseen").instruction for seed in range(100)}
    assert seen == set(task.instructions.seen)
    assert unseen == set(task.instructions.unseen)
    assert not seen & unseen


@pytest.mark.parametrize(
    "wrong", [{"colors": 1.5}, {"colors": -0.1}, {"table_height": 0.2}, {"distractors": 9}], ids=str
)
def test_randomization_outside_its_range_names_the_field(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is"):
        Randomization(**wrong)  # type: ignore[arg-type]

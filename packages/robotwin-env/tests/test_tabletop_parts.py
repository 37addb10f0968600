"""Parts that turn or slide on an object: physics of one object without a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from robotwin_env.tabletop import MovingPart, SceneObject, box, sphere
from robotwin_env.tabletop._sapien import Physics

pytestmark = pytest.mark.sim

GREY = (0.5, 0.5, 0.5)
TABLE = SceneObject(name="table", shapes=(box((0.5, 0.5, 0.02), GREY, (0, 0, -0.02)),), position=(0, 0), motion="fixed")
BLOCK = box((0.04, 0.04, 0.02), GREY, (0, 0, 0.02))
LID = MovingPart(
    name="lid",
    kind="revolute",
    shapes=(box((0.04, 0.04, 0.002), GREY, (0.04, 0, 0)),),
    axis=(0, -1, 0),
    origin=(-0.04, 0, 0.045),
    lower=0.0,
    upper=1.2,
    start=0.8,
)
DRAWER = MovingPart(
    name="drawer", kind="prismatic", shapes=(BLOCK,), axis=(1, 1, 0), origin=(0, 0, 0.05), lower=-0.03, upper=0.05
)

Build = Callable[..., Physics]


@pytest.fixture
def build() -> Iterator[Build]:
    """Simulate one object on the table, turned by 30 degrees: `build(part, ..., motion="fixed")`."""
    made: list[Physics] = []

    def make(*parts: MovingPart, others: tuple[SceneObject, ...] = (), motion: str = "fixed") -> Physics:
        thing = SceneObject(name="thing", shapes=(BLOCK,), position=(0.1, 0.05), yaw=math.pi / 6, parts=parts)
        made.append(Physics((replace(thing, motion=motion), *others), TABLE, 0.0))
        return made[-1]

    yield make
    for physics in made:
        physics.close()


def test_a_lid_falls_shut_about_its_hinge(build: Build) -> None:
    physics = build(LID)
    assert physics.joint("lid") == pytest.approx(0.8)
    hinge = np.array([0.1 - 0.04 * math.cos(math.pi / 6), 0.05 - 0.04 * math.sin(math.pi / 6), 0.045])
    for _ in range(30):
        physics.advance(5)
        np.testing.assert_allclose(physics.pose("lid")[:3], hinge, atol=1e-4)
    assert physics.joint("lid") == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(
        physics.pose("lid")[3:], [math.cos(math.pi / 12), 0, 0, math.sin(math.pi / 12)], atol=1e-3
    )


def test_damping_slows_a_lid(build: Build) -> None:
    free, damped = build(LID), build(replace(LID, damping=0.02))
    for physics in (free, damped):
        physics.advance(20)
    assert free.joint("lid") < damped.joint("lid") - 0.1


def test_a_spring_pulls_a_drawer_along_its_axis_to_its_rest_or_a_stop(build: Build) -> None:
    for rest, expected in ((0.02, 0.02), (-0.2, -0.03)):
        physics = build(replace(DRAWER, stiffness=100.0, damping=10.0, rest=rest))
        physics.advance(500)
        assert physics.joint("drawer") == pytest.approx(expected, abs=1e-3)
        angle = math.pi / 6 + math.pi / 4
        along = physics.pose("drawer")[:2] - [0.1, 0.05]
        np.testing.assert_allclose(along, [expected * math.cos(angle), expected * math.sin(angle)], atol=1e-3)


def test_a_part_weighs_what_its_density_says(build: Build) -> None:
    """A spring is pressed down by weight over stiffness: 0.08 x 0.08 x 0.04 m of water on 1000 N/m."""
    part = replace(DRAWER, axis=(0, 0, 1), lower=-0.05, stiffness=1000.0, damping=50.0, density=1000.0)
    physics = build(part)
    physics.advance(500)
    assert -physics.joint("drawer") == pytest.approx(0.256 * 9.81 / 1000, rel=0.02)


def test_an_object_with_parts_can_be_pushed_about_unless_it_is_fixed(build: Build) -> None:
    puck = SceneObject(
        name="puck", shapes=(BLOCK,), position=(-0.05, 0.05), friction=0.0, velocity=(1.0, 0.0, 0.0), density=3000.0
    )
    held, loose = build(LID, others=(puck,)), build(LID, others=(puck,), motion="free")
    for physics in (held, loose):
        physics.start_moving((puck,))
        physics.advance(100)
    assert held.pose("thing")[0] == pytest.approx(0.1, abs=1e-6)
    assert loose.pose("thing")[0] > 0.11
    assert loose.pose("lid")[0] - held.pose("lid")[0] == pytest.approx(loose.pose("thing")[0] - 0.1, abs=0.02)


def test_a_ball_lies_on_its_radius_and_rolls_on_where_a_block_stops() -> None:
    block = SceneObject(name="block", shapes=(BLOCK,), position=(0.0, 0.1), velocity=(0.5, 0.0, 0.0))
    ball = replace(block, name="ball", shapes=(sphere(0.025, GREY),), position=(0.0, -0.1), height=0.025)
    physics = Physics((block, ball), TABLE, 0.0)
    physics.start_moving((block, ball))
    physics.advance(125)
    rolled, slid = physics.pose("ball"), physics.pose("block")
    assert rolled[2] == pytest.approx(0.025, abs=1e-3)
    assert rolled[0] == pytest.approx(5 / 7 * 0.5 * 0.5, rel=0.1)  # of what slides, five sevenths roll on
    assert slid[0] < 0.05
    physics.close()


def test_equal_looks_may_hide_different_weights() -> None:
    """A plank over an edge tips to the side on which its second shape is heavy."""
    plank = SceneObject(
        name="plank",
        shapes=(box((0.1, 0.02, 0.01), GREY), box((0.02, 0.019, 0.009), GREY, (0.07, 0, 0))),
        position=(0.0, 0.0),
        height=0.06,
    )
    post = SceneObject(name="post", shapes=(box((0.01, 0.02, 0.025), GREY, (0, 0, 0.025)),), position=(0, 0))
    post = replace(post, motion="fixed")
    tilts = []
    for density in ((600.0, 1.0), (600.0, 20000.0)):
        physics = Physics((post, replace(plank, density=density)), TABLE, 0.0)
        physics.advance(100)
        w, _, y, _ = physics.pose("plank")[3:]
        tilts.append(2 * math.atan2(y, w))
        physics.close()
    assert abs(tilts[0]) < 0.02
    assert tilts[1] > 0.2
    with pytest.raises(ValueError, match="object `plank` has 2 shapes and 3 densities; give one number or"):
        replace(plank, density=(1.0, 2.0, 3.0))


def test_parts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"part `lid` starts at 2, outside its stops 0 and 1\.2; put `start` between"):
        replace(LID, start=2.0)
    with pytest.raises(ValueError, match="axis of part `lid` is zero"):
        replace(LID, axis=(0, 0, 0))

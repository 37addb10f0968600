"""The registry of schedules: one row for each that is compared, with what it needs.

Nothing slow is imported before a row is made, so that a command can check names and show them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noisegate_apps.policy.world import WorldPolicy
    from wam_backbone import Clock, Schedule

    Made = tuple[WorldPolicy, Callable[[object], Schedule]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRow:
    """A schedule that needs no training."""

    name: str
    """On the command line and in records."""
    label: str
    """In tables and figures."""
    make: Callable[[WorldPolicy], Made]
    """Gives a policy, perhaps under another clock, and what chooses its schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRow:
    """A schedule that Stage 2 has trained."""

    name: str
    label: str
    suffix: str
    """What follows the name of the gate's folder: rows of one policy lie side by side."""
    training: str
    """Options with which `apps/stage2.py` trains it."""

    def folder(self, gate: Path) -> Path:
        """Return where it lies, beside NoiseGate's own gate."""
        return gate.with_name(gate.name + self.suffix)


def _constant(make: Callable[[], Schedule]) -> Callable[[WorldPolicy], Made]:
    def made(policy: WorldPolicy) -> Made:
        schedule = make()
        return policy, lambda _: schedule

    return made


def _shared() -> Schedule:
    from wam_backbone import SharedSchedule

    return SharedSchedule()


def _monotone() -> Schedule:
    from wam_backbone import MonotoneSchedule

    return MonotoneSchedule()


def _blind() -> Schedule:
    from wam_backbone import Blind

    return Blind()


def _fewer_steps(policy: WorldPolicy) -> Made:
    return _constant(_shared)(policy.in_steps(max(1, policy.clock.num_steps // 2)))


def _together(policy: WorldPolicy) -> Made:
    return _constant(_shared)(policy.together())


def _spaced_as_ddim(policy: WorldPolicy) -> Made:
    from wam_backbone import Clock

    return _spaced(policy, Clock.ddim)


def _spaced_as_edm(policy: WorldPolicy) -> Made:
    from wam_backbone import Clock

    return _spaced(policy, Clock.edm)


def _spaced(policy: WorldPolicy, path: Callable[[int], Clock]) -> Made:
    """The shared schedule on paths of another spacing, with the same head start."""
    from wam_backbone.clock import in_turn

    return _constant(_shared)(policy.under(*in_turn(path, policy.clock.num_steps, policy.clock.waiting)))


def _imagine_first(policy: WorldPolicy) -> Made:
    from wam_backbone import ImagineFirst

    first = ImagineFirst(video_steps=max(1, policy.clock.num_steps // 2), shift=policy.pipeline.sampling.shift)
    return policy.under(first.clock(policy.clock.num_steps)), lambda _: first


ROWS: tuple[FixedRow | LearnedRow, ...] = (
    FixedRow(name="shared", label="Stage-1 WAM", make=_constant(_shared)),
    FixedRow(name="monotone", label="hand-crafted", make=_constant(_monotone)),
    LearnedRow(name="learned", label="NoiseGate", suffix="", training=""),
    FixedRow(name="blind", label="blind", make=_constant(_blind)),
    FixedRow(name="imagine-first", label="imagine first (IDM)", make=_imagine_first),
    FixedRow(name="together", label="actions without waiting", make=_together),
    FixedRow(name="fewer-steps", label="half the steps", make=_fewer_steps),
    FixedRow(name="ddim", label="DDIM's spacing", make=_spaced_as_ddim),
    FixedRow(name="edm", label="EDM's spacing", make=_spaced_as_edm),
    # After TPDM (arXiv 2412.01243): a learned schedule of one number per step.
    LearnedRow(name="global", label="learned, one for all", suffix="-global", training="--gate.scales chunk"),
    # After SANTS (arXiv 2605.27947): a learned stop, each step at a price.
    LearnedRow(
        name="stop",
        label="learned stop",
        suffix="-stop",
        training="--gate.scales none --gate.stops --step-price 0.02",
    ),
    LearnedRow(
        name="priced", label="NoiseGate, priced steps", suffix="-priced", training="--gate.stops --step-price 0.02"
    ),
)
"""All schedules with a name of their own."""

BY_NAME = {row.name: row for row in ROWS}

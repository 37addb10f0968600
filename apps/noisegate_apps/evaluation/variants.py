"""Rows of the registry, and points of the lattice, with the policy that plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from noisegate_apps.evaluation.lattice import fixed
from noisegate_apps.evaluation.schedules import BY_NAME, LearnedRow
from noisegate_apps.evaluation.tabletop import Variant
from noisegate_apps.policy.world import WorldPolicy, refuse_broken
from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage2.gate import Row, learned
from noisegate_gpn import GatingPolicyNetwork
from wam_backbone import Schedule
from wam_backbone.data import weights_digest


class Scheduled(NamedTuple):
    """A policy, and what chooses its schedules."""

    policy: WorldPolicy
    """Perhaps under another clock."""
    choose: Callable[[Sequence[Row]], Schedule]
    digest: str | None = None
    """Of the gate, where one is."""


def scheduled(name: str, policy: WorldPolicy, *, gate: Path | None) -> Scheduled:
    """Put a policy under the schedule of that name.

    Args:
        name: Of the registry, or a point of the lattice such as `hold+shared`.
        policy: That plans.
        gate: Folder of NoiseGate's gate, beside which those of other learned rows lie.

    Raises:
        RunError: If a gate is needed and none is given.
    """
    row = BY_NAME.get(name)
    if row is None:
        return Scheduled(policy, fixed(name))
    if not isinstance(row, LearnedRow):
        return Scheduled(*row.make(policy))
    if gate is None:
        raise RunError(f"the schedule `{name}` needs `--gate FOLDER`.")
    network = GatingPolicyNetwork.from_pretrained(row.folder(gate)).to(policy.device)
    refuse_broken(network, f"the weights of the gate `{row.folder(gate)}`")
    return Scheduled(policy, learned(network, policy), weights_digest(network))


def variant_of(name: str, policy: WorldPolicy, *, gate: Path | None) -> Variant:
    """Make a row of a comparison; the arguments are those of `scheduled`."""
    found = scheduled(name, policy, gate=gate)
    return Variant(name=name, policy=found.policy, choose=found.choose, schedule=found.digest)

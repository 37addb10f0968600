"""The composed system: a policy that acts, Stage 1, Stage 2 and evaluation, and what they take, from Python.

Names are loaded when they are first asked for, so that a command's help does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisegate_apps.evaluation.statistics import PairedDifference, SuccessRate
    from noisegate_apps.evaluation.tabletop import HeldOutScenes, Variant, evaluate
    from noisegate_apps.play.lies import ImaginationConfig
    from noisegate_apps.play.worlds import pool_of
    from noisegate_apps.policy.loading import load_policy
    from noisegate_apps.policy.world import WorldPolicy
    from noisegate_apps.runs.folder import RunFolder
    from noisegate_apps.stage1.config import Stage1Config
    from noisegate_apps.stage1.training import run as train_stage1
    from noisegate_apps.stage2.config import Stage2Config
    from noisegate_apps.stage2.training import train as train_gate

_PLACES = {
    "HeldOutScenes": ("evaluation.tabletop", "HeldOutScenes"),
    "ImaginationConfig": ("play.lies", "ImaginationConfig"),
    "PairedDifference": ("evaluation.statistics", "PairedDifference"),
    "RunFolder": ("runs.folder", "RunFolder"),
    "Stage1Config": ("stage1.config", "Stage1Config"),
    "Stage2Config": ("stage2.config", "Stage2Config"),
    "SuccessRate": ("evaluation.statistics", "SuccessRate"),
    "Variant": ("evaluation.tabletop", "Variant"),
    "WorldPolicy": ("policy.world", "WorldPolicy"),
    "evaluate": ("evaluation.tabletop", "evaluate"),
    "load_policy": ("policy.loading", "load_policy"),
    "pool_of": ("play.worlds", "pool_of"),
    "train_gate": ("stage2.training", "train"),
    "train_stage1": ("stage1.training", "run"),
}

__all__ = [
    "HeldOutScenes",
    "ImaginationConfig",
    "PairedDifference",
    "RunFolder",
    "Stage1Config",
    "Stage2Config",
    "SuccessRate",
    "Variant",
    "WorldPolicy",
    "evaluate",
    "load_policy",
    "pool_of",
    "train_gate",
    "train_stage1",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)

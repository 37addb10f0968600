"""What makes two runs the same: the one place that says which settings, weights and data a result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from noisegate_apps.runs.files import JsonValue, plain

INDIFFERENT = (
    "out", "folder", "workers", "executor", "call_deadline", "ray_address", "rollout_gpus", "device", "skip_eval",
    "illustrate",
)  # fmt: skip
"""Configuration fields that change no result: a run may go on with others."""

ROBOTWIN_FIELDS = ("env", "robotwin", "expert_check", "undecided", "seed_pools")
"""Settings of the apps that say nothing about a run on the tabletop."""

PROCESS_FIELDS = (
    "root",
    "python",
    "variables",
    "log_folder",
    "setup_timeout",
    "reset_timeout",
    "expert_timeout",
    "step_timeout",
    "action_timeout",
    "recycle_after_resets",
    "recycle_above_gib",
    "memory_limit_gib",
    "clear_cache_every",
)
"""Settings of RoboTwin's processes, which change no result: a run may go on with others."""


def identity_of(
    config: Any, digests: Mapping[str, JsonValue] | None = None, *, without: Sequence[str] = ()
) -> JsonValue:
    """Return what a run's results depend on, in JSON form.

    A path says nothing about what lies there: the digest of what was read stands in its place, so that a policy, or a
    file of RoboTwin's task configuration, may move and may not change. A run on the tabletop is not tied to RoboTwin's
    settings.

    Args:
        config: The run's configuration, a dataclass.
        digests: Field, such as `policy` or `wan.source`, to digest of what was read from there.
        without: More fields that change no result, such as `tasks` or `wan.cache`.
    """
    record: dict[str, JsonValue] = plain(asdict(config))
    if record.get("env") == "robotwin":
        record["robotwin"]["task_config"] = _content(Path(record["robotwin"]["task_config"]))
        dropped = [*INDIFFERENT, *(f"robotwin.{name}" for name in PROCESS_FIELDS), *without]
    else:
        dropped = [*INDIFFERENT, *ROBOTWIN_FIELDS, *without]
    for name in dropped:
        place, last = _place(record, name)
        place.pop(last, None)
    for name, digest in (digests or {}).items():
        place, last = _place(record, name)
        place[last] = digest
    return record


def _content(task_config: Path) -> str:
    """A task configuration of RoboTwin's by its name, one's own by the digest of its file, where that is there."""
    if not task_config.suffix or not task_config.is_file():
        return str(task_config)
    return f"{task_config.stem} {blake2b(task_config.read_bytes(), digest_size=16).hexdigest()}"


def _place(record: JsonValue, name: str) -> tuple[dict[str, JsonValue], str]:
    *above, last = name.split(".")
    for part in above:
        record = record[part]
    return record, last


def differences(there: JsonValue, here: JsonValue, prefix: str = "") -> list[str]:
    """List where two records differ, as `policy.layers` is 3 there, 4 here."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        first, second = there.get(name), here.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            found += differences(first, second, f"{prefix}{name}.")
        elif first != second:
            found.append(f"`{prefix}{name}` = {first!r} there, {second!r} here")
    return found

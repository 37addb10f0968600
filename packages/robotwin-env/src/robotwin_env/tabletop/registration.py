"""The tasks as Gymnasium ids."""

from __future__ import annotations

import gymnasium

from .config import TabletopConfig
from .tasks import TASKS


def register_envs() -> tuple[str, ...]:
    """Make `gymnasium.make("robotwin/click_bell-v0")` and its likes work; calling it again changes nothing.

    `gymnasium.make(..., config=TabletopConfig(task="click_bell", scene="clean"))` replaces the default configuration.

    Returns:
        Every id, in the order of `TASKS`.
    """
    ids = {f"robotwin/{task.name}-v0": TabletopConfig(task=task.name) for task in TASKS}
    for env_id, config in ids.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point="robotwin_env.tabletop.env:TabletopEnv", kwargs={"config": config})
    return tuple(ids)

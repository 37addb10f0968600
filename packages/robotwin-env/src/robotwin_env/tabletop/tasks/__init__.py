"""The tasks, under RoboTwin's names."""

from .base import Instructions, Task
from .click_bell import ClickBell
from .place_a2b import PlaceA2BLeft, PlaceA2BRight

TASKS: tuple[Task, ...] = (ClickBell(), PlaceA2BLeft(), PlaceA2BRight())

__all__ = ["TASKS", "Instructions", "Task"]

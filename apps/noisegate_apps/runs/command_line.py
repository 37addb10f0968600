"""The command line: the one module that knows tyro."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, Union, get_type_hints

import tyro

from noisegate_apps.runs.endings import ending_in_one_line
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import portable, read_json
from noisegate_apps.runs.folder import FolderOptions
from noisegate_apps.runs.identity import ROBOTWIN_FIELDS
from robotwin_env.robotwin import RoboTwinConfig
from robotwin_env.splits import Split


class Checked(Protocol):
    """A configuration that can say early what is missing."""

    def check(self) -> None:
        """Raise `RunError` where a run could not start."""


Config = TypeVar("Config", bound=Checked)

TaskNames = Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--task",))]
"""Tasks on the command line, as `--tasks` or `--task`."""

Folder = Annotated[FolderOptions, tyro.conf.arg(name="")]
"""`--resume`, `--no-resume` and `--overwrite`, without a prefix."""

Schedules = Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--schedule",))]
"""Schedules on the command line, as `--schedules` or `--schedule`."""

Folders = tyro.conf.Positional[tuple[Path, ...]]
"""Folders on the command line, without an option before them."""

Comparison = tyro.conf.Positional[Literal["schedules", "ablation", "lattice", "robotwin50"]]
"""What an evaluation compares: the first word after the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoboTwinOptions(RoboTwinConfig):
    """RoboTwin on the command line: `--robotwin.root PATH` and the like; the task comes from the app."""

    task: tyro.conf.Suppress[str] = "click_bell"
    """Replaced by each of the app's tasks."""
    split: tyro.conf.Suppress[Split] = "train"
    """`eval` in an evaluation; Stage 2 replaces it for its own."""
    task_config: Annotated[str, tyro.conf.arg(name="task-config", prefix_name=False)] = "demo_randomized"
    """The name of one of RoboTwin's task configurations, or the path of such a file (`.yml`)."""


ELSEWHERE = "With `--env robotwin --help`, RoboTwin's own options are shown too."


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset(Generic[Config]):
    """A subcommand that gives options other defaults; of several, the first is what runs where none is named."""

    name: str
    """The word on the command line."""
    description: str
    """What it is, for the help."""
    make: Callable[[], Config]
    """Makes the defaults, once, when the subcommand is chosen: it may import what is slow."""


def launch(
    config: type[Config],
    run: Callable[[Config], None],
    description: str | None,
    presets: Sequence[Preset[Config]] = (),
) -> None:
    """Parse the command line into `config` and run it; a mistake is answered by one line, without a traceback.

    Args:
        config: What is parsed.
        run: What runs.
        description: Of the app.
        presets: Subcommands with defaults of their own.
    """
    with ending_in_one_line():
        parsed = parse(config, sys.argv[1:], description, presets)
        parsed.check()
        run(parsed)


def parse(
    config: type[Config],
    arguments: Sequence[str],
    description: str | None = None,
    presets: Sequence[Preset[Config]] = (),
) -> Config:
    """Parse a command line; help leaves out what is for RoboTwin alone, more options than all others, unless asked.

    Raises:
        SystemExit: With status 2 if the options cannot be right, with 0 after help.
    """
    hidden: frozenset[str] = frozenset()
    if not {"--help", "-h"}.isdisjoint(arguments) and not any("robotwin" in argument for argument in arguments):
        hidden = frozenset(ROBOTWIN_FIELDS) - {"env"}
    if any(one.name in hidden for one in fields(config)):  # type: ignore[arg-type]
        description = f"{description}\n\n{ELSEWHERE}"
    kind: Any = with_defaults(config, config, hidden)
    if presets:
        branches = [
            Annotated[
                with_defaults(config, preset.make, hidden),
                tyro.conf.subcommand(preset.name, description=preset.description, is_default=preset is presets[0]),
            ]
            for preset in presets
        ]
        union: Any = Union
        chosen_by_options: Any = tyro.conf.CascadeSubcommandArgs  # an option of the first chooses the first
        kind = chosen_by_options[union[tuple(branches)]]
    parsed = tyro.cli(kind, args=arguments, description=description)
    return config(**{one.name: getattr(parsed, one.name) for one in fields(config)})  # type: ignore[arg-type]


def with_defaults(config: type[Config], make: Callable[[], Config], hidden: Collection[str]) -> type[Config]:
    """Return the configuration with defaults that are made when its parser is, and some options out of sight."""
    made = cache(make)
    kinds: dict[str, Any] = get_type_hints(config, include_extras=True)
    suppress: Any = tyro.conf.Suppress
    same = []
    for one in fields(config):  # type: ignore[arg-type]
        kind = suppress[kinds[one.name]] if one.name in hidden else kinds[one.name]
        default: Any = field(default_factory=partial(_of, made, one.name))
        same.append((one.name, kind, default))
    return make_dataclass(config.__name__, same, bases=(config,), frozen=True, kw_only=True)


def _of(make: Callable[[], object], name: str) -> object:
    return getattr(make(), name)


def at_least(config: object, least: int, *names: str) -> None:
    """Refuse numbers of a configuration that are too small; None passes.

    Raises:
        ValueError: If one is below `least`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")


def check_head_start(part: float | None) -> None:
    """Refuse a head start of imagination after which no call is left for the actions; None passes.

    Raises:
        ValueError: If it is not at least 0 and below 1.
    """
    if part is not None and not 0 <= part < 1:
        raise ValueError(f"`head_start` is {part}; it is a part of the calls, from 0 to below 1.")


def require(path: Path, what: str, remedy: str) -> None:
    """Refuse a missing or damaged file before a run folder is made and anything slow is imported.

    Raises:
        RunError: If there is nothing at `path`, or no JSON where its name says so.
    """
    if not path.exists():
        raise RunError(f"`{portable(path)}` does not exist: {what} is needed; {remedy}.")
    if path.suffix == ".json":
        read_json(path)


def require_checkout(options: RoboTwinOptions) -> None:
    """Refuse a missing checkout, or task configuration, before anything slow is imported.

    Raises:
        RunError: If there is none.
    """
    if options.root == RoboTwinConfig().root and not options.root.exists():
        raise RunError("`--env robotwin` needs `--robotwin.root PATH`, the folder of a RoboTwin 2.0 checkout.")
    require(options.root, "a RoboTwin 2.0 checkout", "give its folder with `--robotwin.root PATH`")
    if Path(options.task_config).suffix:
        require(Path(options.task_config), "a task configuration", "give its file, or a name of RoboTwin's")

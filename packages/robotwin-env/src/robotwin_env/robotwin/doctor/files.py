"""What the doctor says of a checkout's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import CheckoutError
from ..checkout import Checkout
from .experts import calls_unknown

Level = Literal["ok", "note", "fail"]

_BAKED_PATH = re.compile(r"""(?:^|[\s:"'\[])(/[^\s"'\],#]+)""", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    level: Level
    """`ok`; `note` for what some uses lack; `fail` for what every use needs."""
    subject: str
    found: str
    remedy: str = ""
    """What to do; empty where all is well."""

    def __str__(self) -> str:
        return f"{self.level:4}  {self.subject}: {self.found}" + (f" -> {self.remedy}" if self.remedy else "")


def check_code(checkout: Checkout) -> Iterator[Finding]:
    """Commit, task configurations and step limits."""
    folder = checkout.configs.relative_to(checkout.root)
    yield Finding(level="ok", subject="layout", found=f"{checkout.layout} (`{folder}`)")
    commit = checkout.commit()
    if commit.startswith("files-"):
        found = f"{commit}, a digest of its files; git does not know this folder"
        yield Finding(level="note", subject="commit", found=found, remedy="clone with git, so that results name it")
    elif "+" in commit:
        edited = f"{commit}: `envs` or `description` are edited or added to"
        yield Finding(
            level="note", subject="commit", found=edited, remedy="commit the edits, so that results name them"
        )
    else:
        yield Finding(level="ok", subject="commit", found=commit)
    try:
        tasks, limits = checkout.tasks(), checkout.step_limits()
        for config in sorted(checkout.configs.glob("demo_*.yml")):
            checkout.task_config(config.stem)
    except CheckoutError as error:
        yield Finding(level="fail", subject="task configurations", found=str(error), remedy="restore them with git")
        return
    missing = sorted(set(tasks) - set(limits))
    if missing or not tasks:
        yield Finding(
            level="note",
            subject="tasks",
            found=f"{len(tasks)}, of which {missing} have no official step limit",
            remedy="set `max_steps` for them",
        )
    else:
        yield Finding(level="ok", subject="tasks", found=f"{len(tasks)} with official step limits")


def check_experts(checkout: Checkout) -> Iterator[Finding]:
    """Whether every expert can be asked for an episode's words."""
    unknown = calls_unknown(checkout)
    if unknown:
        shown = "; ".join(f"`{task}` calls {', '.join(names)}" for task, names in unknown.items())
        remedy = "reset these with `expert`, and tell us: without their motions they may move something"
        yield Finding(level="note", subject="experts", found=shown, remedy=remedy)
    else:
        yield Finding(level="ok", subject="experts", found="all can be asked for an episode's words without moving")


def check_assets(checkout: Checkout) -> Iterator[Finding]:
    """Robots, objects and textures."""
    assets = checkout.root / "assets"
    download = f"`bash {checkout.scripts.name}/_download_assets.sh` in `{checkout.root}`"
    without_download = (
        f"{download}; or, for five tasks with a robot of this package and nothing to download, "
        f"`python -m robotwin_env.robotwin.toy_robot {checkout.root} FOLDER` and check that FOLDER"
    )
    robots = checkout.embodiments()
    there = [name for name, folder in robots.items() if (checkout.root / folder / "config.yml").is_file()]
    yield Finding(
        level="ok" if there else "fail",
        subject="robots",
        found=", ".join(there) or f"none of {', '.join(robots)}",
        remedy="" if there else without_download,
    )
    yield from _baked_paths(checkout, assets / "embodiments")
    lists = [assets / "objects" / name for name in ("objaverse/list.json", "same.json")]
    missing = [str(path.relative_to(checkout.root)) for path in lists if not path.is_file()]
    objects = [path for path in (assets / "objects").glob("[0-9]*_*") if path.is_dir()]
    if missing:
        yield Finding(level="fail", subject="objects", found=f"no {', '.join(missing)}", remedy=download)
    elif not objects:
        found = "none; only the tasks that use boxes alone can run"
        yield Finding(level="note", subject="objects", found=found, remedy=download)
    else:
        yield Finding(level="ok", subject="objects", found=f"{len(objects)} kinds")
    textures = [len(list((assets / "background_texture" / kind).glob("*.png"))) for kind in ("seen", "unseen")]
    if all(textures):
        yield Finding(level="ok", subject="background textures", found=f"{textures[0]} seen, {textures[1]} unseen")
    else:
        found = f"{textures[0]} seen, {textures[1]} unseen; `random_background` (demo_randomized) needs both"
        yield Finding(level="note", subject="background textures", found=found, remedy=download)


def _baked_paths(checkout: Checkout, robots: Path) -> Iterator[Finding]:
    """RoboTwin's set-up writes absolute paths into cuRobo's files; moving the checkout breaks them."""
    remedy = f"`python {checkout.scripts.name}/update_embodiment_config_path.py` in `{checkout.root}`"
    unmade = [file for file in robots.rglob("*_tmp.yml") if not file.with_name(file.name[:-8] + ".yml").is_file()]
    if unmade:
        found = f"`{unmade[0].relative_to(checkout.root)}` was never filled in ({len(unmade)} such)"
        yield Finding(level="note", subject="cuRobo's files", found=found, remedy=remedy)
        return
    files = [file for file in sorted(robots.rglob("curobo*.yml")) if not file.name.endswith("_tmp.yml")]
    for file in files:
        for path in _BAKED_PATH.findall(file.read_text(encoding="utf-8", errors="replace")):
            if not Path(path).exists():
                found = f"`{file.relative_to(checkout.root)}` names `{path}`, which does not exist"
                yield Finding(level="note", subject="cuRobo's files", found=found, remedy=remedy)
                return
    if files:
        yield Finding(level="ok", subject="cuRobo's files", found=f"{len(files)}; every path in them exists")

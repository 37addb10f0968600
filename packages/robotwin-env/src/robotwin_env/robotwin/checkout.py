"""A RoboTwin checkout seen from outside: its layout, tasks and configurations, nothing of it imported."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckoutError
from ..optional import required

Layout = Literal["current", "former"]
_CONFIG_FOLDERS: dict[Layout, str] = {"current": "env_cfg/task_config", "former": "task_config"}
_SCRIPT_FOLDERS: dict[Layout, str] = {"current": "scripts", "former": "script"}
_TASK_CLASS = re.compile(r"^class (\w+)\(\s*Base_Task\s*\)", re.MULTILINE)
_OWN_CODE = ("envs", "description")
_KINDS = ("*.py", "*.json")
_PLANNER = "curobo"
"""Cloned into `envs` by RoboTwin's installer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Where things are in one checkout."""

    root: Path
    layout: Layout
    """`current` since July 2026, `former` before."""

    @classmethod
    def probe(cls, root: Path) -> Checkout:
        """Recognise a checkout by what is in it, not by its version.

        Raises:
            CheckoutError: `root` is not a RoboTwin checkout.
        """
        if not root.is_dir():
            raise CheckoutError(f"`{root}` is no folder; name the root of a RoboTwin checkout.")
        if not (root / "envs" / "_base_task.py").is_file():
            raise CheckoutError(f"`{root}` has no `envs/_base_task.py`; name the root of a RoboTwin 2.0 checkout.")
        for layout, folder in _CONFIG_FOLDERS.items():
            if (root / folder / "_embodiment_config.yml").is_file():
                return cls(root=root.absolute(), layout=layout)
        places = " nor ".join(f"`{folder}/_embodiment_config.yml`" for folder in _CONFIG_FOLDERS.values())
        raise CheckoutError(f"`{root}` has neither {places}; update it or restore these files with git.")

    @property
    def configs(self) -> Path:
        """Folder of the task configurations."""
        return self.root / _CONFIG_FOLDERS[self.layout]

    @property
    def scripts(self) -> Path:
        """Folder of RoboTwin's scripts."""
        return self.root / _SCRIPT_FOLDERS[self.layout]

    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks, sorted."""
        files = sorted((self.root / "envs").glob("[a-z]*.py"))
        return tuple(file.stem for file in files if file.stem in _TASK_CLASS.findall(file.read_text(encoding="utf-8")))

    def step_limits(self) -> dict[str, int]:
        """Return the official number of actions by task."""
        return {task: int(limit) for task, limit in read_yaml(self.configs / "_eval_step_limit.yml").items()}

    def task_config(self, name: str) -> dict[str, Any]:
        """Read a task configuration, by its name or the path of a `.yml` file.

        Raises:
            CheckoutError: there is none, or it does not hold what RoboTwin reads.
        """
        path = Path(name) if Path(name).suffix else self.configs / f"{name}.yml"
        if not path.is_file():
            known = sorted(file.stem for file in self.configs.glob("[a-z]*.yml"))
            raise CheckoutError(f"there is no task configuration `{name}` (`{path}`); this checkout has {known}.")
        content = read_yaml(path)
        missing = [key for key in ("embodiment", "camera", "domain_randomization", "data_type") if key not in content]
        if missing:
            raise CheckoutError(f"`{path}` lacks {missing}; start from `{self.configs}/demo_clean.yml`.")
        return content

    def embodiments(self) -> dict[str, str]:
        """Return the folder of every robot by name, relative to the root."""
        listed = read_yaml(self.configs / "_embodiment_config.yml")
        return {str(name): str(entry["file_path"]) for name, entry in listed.items() if isinstance(entry, dict)}

    def commit(self) -> str:
        """Name RoboTwin's code: the git commit, and a digest of the files wherever that does not say all.

        Returns:
            The commit of a clean clone; `<commit>+<digest>` where RoboTwin's own code is edited, or a file was added to
            it that git is not told to ignore; `files-<digest>` where git does not know it, as of a copy inside another
            repository. A folder that links to a checkout's `envs` has the commit of that checkout.
        """
        code = (self.root / "envs").resolve().parent
        top = _git(code, "rev-parse", "--show-toplevel")
        head = _git(code, "rev-parse", "HEAD")
        if head is None or top is None or Path(top).resolve() != code:
            return f"files-{_digest(code)}"
        edited = _git(code, "status", "--porcelain", "--untracked-files=no", "--", *_OWN_CODE)
        own = [f":(glob){folder}/**/{kind}" for folder in _OWN_CODE for kind in _KINDS]
        others = f":(exclude,glob)**/{_PLANNER}/**"
        added = _git(code, "ls-files", "--others", "--exclude-standard", "--", *own, others)
        return f"{head}+{_digest(code)}" if edited or added else head


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        CheckoutError: it is missing, unreadable or holds something else.
    """
    yaml = required("yaml", extra="robotwin")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckoutError(f"`{path}` cannot be read ({error}); restore it.") from error
    if not isinstance(content, dict):
        raise CheckoutError(f"`{path}` holds a {type(content).__name__}; a mapping is needed.")
    return content


def _digest(code: Path) -> str:
    """Fingerprint RoboTwin's own code and phrases."""
    digest = hashlib.sha256()
    files = {
        path
        for folder in _OWN_CODE
        for kind in _KINDS
        for path in (code / folder).rglob(kind)
        if _PLANNER not in path.relative_to(code).parts
    }
    for path in sorted(files):
        digest.update(f"{path.relative_to(code)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git about a folder, whichever repository a hook that this process may run in has named."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

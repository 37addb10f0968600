"""Serve a policy to robots and simulators over the network.

`uv run apps/serve.py --policy FOLDER --gate FOLDER` loads a Stage-1 policy and its gate, plans one chunk to warm up,
and then listens at ws://127.0.0.1:8000 for clients that speak openpi's protocol; `--xpolicylab-port 19000` serves
XPolicyLab's clients (RoboTwin, RoboDojo) beside it. Beyond this machine, `--host` needs a key (`--api-key-file`, or the
variable NOISEGATE_API_KEY). SIGINT and SIGTERM finish what runs and end it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from noisegate_apps.runs.command_line import at_least, require
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import CHECKPOINTS

KEY_VARIABLE = "NOISEGATE_API_KEY"
"""Environment variable that may hold the key."""
LAST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What is served, where, and to whom."""

    policy: Path = CHECKPOINTS / "tabletop-independent"
    """Folder of the Stage-1 policy."""
    gate: Path | None = None
    """Folder of a trained gating policy network, which then chooses the schedule."""
    schedule: str | None = None
    """Name of another schedule, as `apps/eval.py` knows them; the gate's where one is given, else `shared`."""
    host: str = "127.0.0.1"
    """Address to listen at; beyond this machine only with a key, or `--no-auth`."""
    port: int = 8000
    """Port of openpi's dialect; 0 takes a free one."""
    xpolicylab_port: int | None = None
    """Port of XPolicyLab's dialect. Its clients can send no key: it stays on this machine unless `--no-auth`."""
    api_key_file: Path | None = None
    """File whose first line is the key that clients have to send."""
    no_auth: bool = False
    """Let everybody in who reaches the port."""
    origins: tuple[str, ...] = ()
    """Web pages, such as `http://localhost:3000`, that may connect; all others are refused."""
    connections: int = 8
    """Most connections at once."""
    sessions: int = 8
    """Most sessions that a connection may have; the one that was silent longest is forgotten for a new one."""
    max_mib: int = 64
    """Largest frame (MiB)."""
    idle_timeout: float | None = None
    """Seconds without a request after which a connection is ended; never unless given."""
    denoising_steps: int | None = None
    """Network calls per chunk; the policy's own number unless given."""
    device: DeviceName = "auto"
    """Where the policy plans: `auto` takes the GPU where there is one."""

    def __post_init__(self) -> None:
        at_least(self, 1, "connections", "sessions", "max_mib", "denoising_steps")
        at_least(self, 0, "port", "xpolicylab_port", "idle_timeout")
        for name in ("port", "xpolicylab_port"):
            if (getattr(self, name) or 0) > LAST_PORT:
                raise ValueError(f"`{name}` is {getattr(self, name)}; ports go up to {LAST_PORT}.")

    def check(self) -> None:
        """Refuse what is missing or unsafe before anything slow is loaded.

        Raises:
            RunError: If a policy, a gate or a key is not there.
        """
        require(self.policy / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
        if self.gate is not None:
            require(self.gate / "config.json", "a trained gate", "train one with `uv run apps/stage2.py`")
        elif self.schedule == "learned":
            raise RunError("`--schedule learned` needs `--gate FOLDER`.")
        if self.api_key is None and not self.no_auth and not is_loopback(self.host):
            raise RunError(
                f"`--host {self.host}` can be reached by others: give `--api-key-file FILE` (or {KEY_VARIABLE}), or "
                "`--no-auth` to let everybody in."
            )

    @property
    def api_key(self) -> str | None:
        """The key: the file's first line, or the variable's value; None without either.

        Raises:
            RunError: If the file is missing, empty or no text.
        """
        if self.no_auth:
            return None
        if self.api_key_file is None:
            return os.environ.get(KEY_VARIABLE, "").strip() or None
        require(self.api_key_file, "the key", "write one, for example with `openssl rand -hex 32`")
        try:
            lines = self.api_key_file.read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(
                f"`{self.api_key_file}` cannot be read as a key ({error}); write one line of ASCII."
            ) from error
        if len(lines) != 1 or len(lines[0]) < 16:
            raise RunError(f"`{self.api_key_file}` must hold one key of at least 16 characters, and nothing else.")
        return lines[0]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

"""Write the model cards of the shipped checkpoints from what they say of themselves; `--check` only compares.

Run as `python scripts/write_model_cards.py` after a checkpoint has changed. No number is written by hand: sizes come
from the weights, training from `training.json`, success from `results.json` where the folder holds one.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "checkpoints"

ABOUT: Mapping[str, tuple[str, str, str]] = {
    "train_codec": (
        "Codec of the embedded tabletop",
        "A small convolutional autoencoder: frames of three tiled cameras to latents and back, four to a latent.",
        "The pictures of this repository's tabletop at 64 pixels. It knows no other pictures.",
    ),
    "stage1": (
        "World action model of the embedded tabletop",
        "A joint video-action transformer, trained with one noise level for each imagined latent (Stage 1). The "
        "folder is a whole policy: backbone, its copy of the codec, normalisation and chunk sizes.",
        "Planning on the tasks and scenes named below, and research on noise schedules. No policy for a real robot.",
    ),
    "stage2": (
        "Gating policy network",
        "Decides in every denoising step how far each imagined latent falls (Stage 2): learns to see whether a "
        "latent follows from the observation, then what that is worth by GRPO on task success, the world model frozen.",
        "The world model, tasks and imagination that it was trained with; elsewhere its decisions mean nothing.",
    ),
}
"""App that trained a checkpoint to its title, what it is, and what it is for."""


def parameters(folder: Path) -> int:
    """Count the numbers in a folder's weights, from their headers."""
    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        if path.name == "transitions.safetensors" or (path.parent.name == "codec" and folder.name != path.parent.name):
            continue
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def card(folder: Path) -> str:
    """Return the card of one checkpoint."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    title, what, use = ABOUT[record["app"]]
    policy = folder / "policy.json"
    settings = json.loads(policy.read_text(encoding="utf-8")) if policy.exists() else {}
    identity = {**record.get("config", {}), **record.get("identity", {})}
    tasks = settings.get("tasks") or identity.get("tasks") or []
    scene = settings.get("scene") or identity.get("scene")
    machine = record.get("machine") or {}
    facts: dict[str, Any] = {
        "parameters": f"{parameters(folder):,}",
        "tasks": ", ".join(tasks),
        "scenes": scene,
        "sampled in": _sampling(settings),
        "imagination": _imagination(identity.get("imagination")),
        "command": f"`{record['command']}`",
        "commit": record.get("commit")
        and record["commit"] + (" (with uncommitted changes)" if record.get("dirty") else ""),
        "started": record.get("started"),
        "hours": record.get("hours"),
        "stopped": record.get("stopped_after"),
        "windows": f"{record['windows']:,}" if "windows" in record else None,
        "machine": ", ".join(machine.get("gpus") or []) or machine.get("processor"),
        "versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            f"library_name: {'noisegate-gpn' if record['app'] == 'stage2' else 'wam-backbone'}",
            "pipeline_tag: robotics",
            "tags: [world-model, robotics, diffusion]",
            "---",
            "",
            f"# {title}",
            "",
            what,
            "",
            f"**Meant for:** {use}",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            *_measured(folder),
            "**Data:** demonstrations of scripted experts in simulation, made by `uv run apps/collect.py`; no people,",
            "no real robots, no pictures from outside.",
            "",
            "How well it does, with intervals and commands: [docs/results.md](../../docs/results.md). This card is",
            "written by `scripts/write_model_cards.py`.",
            "",
        ]
    )


def _imagination(record: Mapping[str, Any] | None) -> str | None:
    if not record:
        return None
    return (
        "natural" if record["lies"] == "never" else f"a stress test: {record['lying']} latents lie ({record['lies']})"
    )


def _sampling(settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    alone = f", of which imagination has the first {settings['head_start']:.0%}" if settings.get("head_start") else ""
    return f"{settings['denoising_steps']} network calls per chunk{alone}"


def _measured(folder: Path) -> list[str]:
    path = folder / "results.json"
    if not path.exists():
        return []
    success = json.loads(path.read_text(encoding="utf-8"))["success"]
    lines = ["| method | success (%) [95%] | n |", "|---|---|---|"]
    for name, found in success.items():
        one, (low, high) = found["all"], found["all"]["interval95"]
        lines.append(f"| {name} | {100 * one['success']:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {one['episodes']} |")
    return [*lines, ""]


def main(arguments: list[str]) -> int:
    """Write or compare the card of every folder with a `training.json`."""
    if arguments not in ([], ["--check"]):
        print("usage: write_model_cards.py [--check]", file=sys.stderr)
        return 2
    folders = sorted(path.parent for path in CHECKPOINTS.glob("*/training.json"))
    stale = []
    for folder in folders:
        path, text = folder / "README.md", card(folder)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(folder.name)
        if not arguments:
            path.write_text(text, encoding="utf-8")
    if arguments and (stale or not folders):
        print(f"the cards of {stale} are not those of their weights; run `python scripts/write_model_cards.py`.")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

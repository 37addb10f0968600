"""The report: one HTML page with everything inside it, for any browser, on light and dark ground, without a network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console

from noisegate_apps.report.comparisons import seeds
from noisegate_apps.report.figures import save
from noisegate_apps.report.records import RunRecord, read_runs
from noisegate_apps.report.section import Section
from noisegate_apps.report.sections import SECTIONS, section_of
from noisegate_apps.runs.files import JsonValue, write_text_atomically

MEGABYTE = 1_000_000
PAGE = "report.html"
FILMED = "side-by-side"
"""The section whose figure is films."""
SUMMARY = {
    "stage2": "Stage 2: a gate trained on task success, compared with fixed schedules on held-out scenes.",
    "eval": "Evaluation of schedules on held-out scenes.",
    "collect": "Demonstrations of scripted experts.",
    "stage1": "Stage 1: the joint video-action model in training.",
    "train_codec": "The tabletop's codec in training.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A film inside the page."""

    task: str
    source: str
    """A `data:` address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section on the page."""

    name: str
    """Unique on the page."""
    section: Section
    drawing: Markup
    """Empty where films are shown instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One run on the page."""

    run: RunRecord
    summary: str
    parts: Sequence[Part]
    facts: Sequence[tuple[str, str]]
    """Provenance."""
    clips: Sequence[Clip] = ()
    left_out: Sequence[str] = ()
    """Films that would have made the page too large."""


def write_report(folders: Sequence[Path], out: Path | None = None, *, most_megabytes: float = 10.0) -> Path:
    """Write the page of some runs and return its path.

    Args:
        folders: Of runs, or folders that hold such.
        out: The page; `report.html` in the first folder unless given.
        most_megabytes: How large films may make the page.

    Raises:
        RunError: If a folder holds no run.
    """
    out = out or folders[0] / PAGE
    write_text_atomically(out, page_of(read_runs(folders), most_megabytes=most_megabytes))
    return out


def announce(folder: Path) -> None:
    """Write the report of a run that is done, and say where it is."""
    Console().print(f"report: {write_report([folder])}", soft_wrap=True)


def write_figure(name: str, folders: Sequence[Path], out: Path) -> Path:
    """Write one figure of some runs, in the format that the file's name says.

    Raises:
        RunError: If no run has what it needs.
    """
    save(section_of(name, read_runs(folders)).figure, out)
    return out


def page_of(runs: Sequence[RunRecord], *, most_megabytes: float = 10.0) -> str:
    """Return the page of some runs."""
    chapters = []
    for number, run in enumerate(runs, start=1):
        drawn = {f"{name}-{number}": one for name, draw in SECTIONS.items() if (one := draw(run)) is not None}
        parts = [_part(name, one, filmed=name.startswith(FILMED) and bool(run.films)) for name, one in drawn.items()]
        summary = SUMMARY.get(run.app, "A run.")
        chapters.append(Chapter(run=run, summary=summary, parts=parts, facts=facts_of(run.config)))
    together = [_part(f"seeds-{number}", one) for number, one in enumerate(seeds(runs), start=1)]
    left = int(most_megabytes * MEGABYTE) - len(_render(chapters, together).encode())
    filled = []
    for chapter in chapters:
        clips, left_out, left = _clips(chapter.run, left)
        filled.append(replace(chapter, clips=clips, left_out=left_out))
    return _render(filled, together)


def facts_of(config: JsonValue) -> list[tuple[str, str]]:
    """Return what produced a run, by name: command, commit, settings, versions, machine.

    Of what went on with it later, only what differs.
    """
    found = _produced(config)
    known = dict(found)
    for number, later in enumerate(config.get("continued", []), start=1):
        now = _produced(later)
        found += [(f"continued ({number}), {name}", value) for name, value in now if known.get(name) != value]
        known = dict(now)
    settings = _flat(config.get("identity") or {}).items()
    return [*found, *((name, str(value)) for name, value in settings if value not in (None, ""))]


def _produced(record: JsonValue) -> list[tuple[str, str]]:
    machine, versions = record.get("machine") or {}, record.get("versions") or {}
    torch = machine.get("torch") or {}
    changed = {True: " with uncommitted changes", False: "", None: ""}[record.get("dirty")]
    found = {
        "command": record.get("command"),
        "started": record.get("started"),
        "commit": f"{record['commit']}{changed}" if record.get("commit") else None,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": ", ".join(machine.get("gpus") or []) or machine.get("processor"),
        "threads": machine.get("threads"),
        "torch's build": f"CUDA {torch['cuda']}" if torch.get("cuda") else "CPU" if torch else None,
        "python, system": " on ".join(str(machine[key]) for key in ("python", "system") if key in machine),
        "physics": record.get("physics"),
    }
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def inline(figure: Figure, name: str, alt: str) -> Markup:
    """Return a figure as SVG for the page: black takes the page's ink, white its ground, and names are its own.

    Args:
        figure: Drawn in black on clear ground.
        name: Unique on the page.
        alt: What there is to see.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing, bbox_inches="tight")
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\1{name}-", svg)
    svg = svg.replace("#000000", "currentColor").replace("#ffffff", "var(--ground)")
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    natural = 1.25 * float(width[1])
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    size = f"width:{natural:.0f}px;min-width:{0.75 * natural:.0f}px"
    drawn = f'role="img" aria-label="{html.escape(alt, quote=True)}" style="{size}"'
    return Markup(re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', lambda found: f"{found[1]} {drawn}", svg, count=1))


def _part(name: str, section: Section, *, filmed: bool = False) -> Part:
    return Part(name=name, section=section, drawing=Markup() if filmed else inline(section.figure, name, section.alt))


def _render(chapters: Sequence[Chapter], together: Sequence[Part]) -> str:
    page = _environment().get_template("template.html").render(chapters=chapters, together=together)
    return page.encode(errors="backslashreplace").decode()  # names of folders may be of another encoding


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("noisegate_apps.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _clips(run: RunRecord, left: int) -> tuple[list[Clip], list[str], int]:
    clips, left_out = [], []
    for task, path in run.films.items():
        source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
        if len(source) > left:
            left_out.append(task)
            continue
        left -= len(source)
        clips.append(Clip(task=task, source=source))
    return clips, left_out, left


def _flat(record: JsonValue, prefix: str = "") -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return found

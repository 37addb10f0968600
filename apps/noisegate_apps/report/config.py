"""Draw the report of one or several runs: one HTML page that needs nothing else, or one figure of it.

`uv run apps/report.py runs/stage2` writes `runs/stage2/report.html`; several runs share a page, and runs that differ in
their training seed alone are summarised together. `--figure NAME --out FILE` writes one figure instead, in the format
that the file's name says (`.svg`, `.pdf`, `.eps`, `.png` or `.jpg`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from noisegate_apps.runs.command_line import Folders
from noisegate_apps.runs.errors import RunError

FigureName = Literal[
    "success",
    "differences",
    "seeds",
    "lattice",
    "side-by-side",
    "time-trajectories",
    "residual-times",
    "attention",
    "attention-layers",
    "learning-curve",
    "latency",
    "demonstrations",
]
"""Figures by their names; `docs/figures.md` says which is which in the paper."""


FORMATS = (".svg", ".pdf", ".eps", ".png", ".jpg")
"""What the file of a figure may end with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What is drawn, and where to."""

    runs: Folders = ()
    """Folders of runs (`--out` of `stage2`, `eval`, `collect`, ...), or folders that hold such folders."""
    out: Path | None = None
    """The page, or the figure; `report.html` in the first folder unless given."""
    figure: FigureName | None = None
    """One figure alone instead of the page."""
    most_megabytes: float = 10.0
    """How large the page may grow by its films; those that do not fit are left out, and named."""

    def __post_init__(self) -> None:
        if self.figure is not None and self.out is None:
            raise ValueError("`--figure` needs `--out FILE`, such as `--out figure.svg`.")
        if self.figure is not None and self.out is not None and self.out.suffix.lower() not in FORMATS:
            raise ValueError(f"`out` is `{self.out}`; the file of a figure ends with {', '.join(FORMATS)}.")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If no folder is named, or one is not there.
        """
        if not self.runs:
            raise RunError("no run is named; give at least one run's folder, such as `runs/stage2`.")
        for run in self.runs:
            if not run.is_dir():
                raise RunError(f"`{run}` is no folder; give the `--out` of a run.")

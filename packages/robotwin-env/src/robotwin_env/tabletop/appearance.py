"""How a scene looks: the colours of objects and table, light and background.

Each role of an object has its own hue family, in `random` scenes too: the policy and the instruction ("the red
block") must still mean the same thing.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..visual import Color, Lighting

Hue = Literal["red", "blue", "green", "yellow", "orange", "grey", "dark"]

_NOMINAL: dict[Hue, tuple[float, float, float]] = {
    "red": (0.0, 0.85, 0.80),
    "orange": (0.07, 0.90, 0.90),
    "yellow": (0.14, 0.90, 0.92),
    "green": (0.36, 0.80, 0.60),
    "blue": (0.61, 0.85, 0.75),
    "grey": (0.60, 0.06, 0.55),
    "dark": (0.60, 0.15, 0.20),
}
"""Hue, saturation, value."""
_TABLE: Color = (0.80, 0.75, 0.66)


@dataclass(frozen=True, slots=True)
class Appearance:
    """The colours of one scene; draws are made when it is created or asked, in a fixed order."""

    rng: np.random.Generator
    strength: float
    """0: every scene alike; 1: the full range of colours and light."""

    def color(self, hue: Hue) -> Color:
        """Draw a colour of a hue family."""
        h, s, v = _NOMINAL[hue]
        dh, ds, dv = self.strength * self.rng.uniform(-1, 1, 3)
        return _rgb(h + 0.025 * dh, s * (1 + 0.15 * ds), v * (1 + 0.2 * dv))

    def table(self) -> Color:
        """Draw the colour of the table: pale or dark, never saturated."""
        return self._toward(_TABLE, _rgb(self.rng.uniform(), self.rng.uniform(0.0, 0.2), self.rng.uniform(0.4, 0.9)))

    def distractor(self) -> Color:
        """Draw a muted colour for what does not matter."""
        return _rgb(self.rng.uniform(), self.rng.uniform(0.0, 0.25), self.rng.uniform(0.3, 0.8))

    def lighting(self) -> Lighting:
        """Draw the light's direction and strength, and the background."""
        plain = Lighting()
        angle, tilt = self.rng.uniform(-math.pi, math.pi), self.strength * self.rng.uniform(0.0, 0.8)
        directional, ambient = self.rng.uniform(0.5, 0.8), self.rng.uniform(0.3, 0.5)
        background = _rgb(self.rng.uniform(), self.rng.uniform(0.0, 0.3), self.rng.uniform(0.2, 0.8))
        if self.strength == 0:
            return plain
        return Lighting(
            direction=(tilt * math.cos(angle), tilt * math.sin(angle), -1.0),
            directional=self._toward(plain.directional, (directional,) * 3),
            ambient=self._toward(plain.ambient, (ambient,) * 3),
            background=self._toward(plain.background, background),
        )

    def _toward(self, plain: Color, drawn: Color) -> Color:
        red, green, blue = ((1 - self.strength) * a + self.strength * b for a, b in zip(plain, drawn, strict=True))
        return (red, green, blue)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))

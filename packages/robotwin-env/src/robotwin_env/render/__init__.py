"""Renderers of the scenes described in `robotwin_env.visual`."""

from robotwin_env.render.panda import Panda3DRenderer

__all__ = ["Panda3DRenderer"]

"""Train the tabletop's codec: a small convolutional autoencoder from which object positions can be read.

Reconstruction alone spends its capacity on backgrounds, and a policy learns only what its latents show. So a linear
read-out of the task objects' positions is trained along and thrown away: the codec sees nothing but pixels, and
positions become linear in its latents. `probe.json` beside the codec says how well, on scenes held out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from noisegate_apps.runs.command_line import Folder, at_least, require
from noisegate_apps.runs.devices import DeviceName
from noisegate_apps.runs.folder import FolderOptions, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """How the codec is trained."""

    data: Path = Path("data/tabletop")
    """Demonstrations, as `collect.py` writes them."""
    out: Path = Path("runs/codec")
    """Run folder; the codec lies in its `codec` folder in the end."""
    folder: Folder = field(default_factory=FolderOptions)
    """What becomes of an earlier run."""
    steps: int = 6000
    """How many optimiser steps are taken."""
    batch_size: int = 24
    """Clips of one frame and the group of four after it."""
    decoded: int = 8
    """Clips of a batch that are also decoded: localisation needs more pictures than reconstruction."""
    learning_rate: float = 2e-3
    """Peak of AdamW's step size; falls by a cosine to a twentieth."""
    latent_channels: int = 32
    """Channels of a latent: more show more, and make the world model larger."""
    base_width: int = 16
    """Channels after the first convolution; each halving of the picture doubles them."""
    position_weight: float = 1.0
    """Weight of the position read-out (in units of each object's spread); 0 where no positions are known, or for a
    plain autoencoder."""
    state_weight: float = 1.0
    """Weight of the read-out of the robot's state (in units of its deviation); 0 for none."""
    latent_noise: float = 0.1
    """Noise that the decoder must read through, in units of a channel's deviation."""
    held_out: float = 0.05
    """Share of the episodes that are kept from training, for the probe to judge by."""
    checkpoint_every: int = 500
    """After how many steps a checkpoint is written."""
    workers: int = 2
    """How many processes decode the demonstrations."""
    device: DeviceName = "auto"
    """Where the codec is trained: `auto` takes the GPU where there is one."""
    seed: int = 42
    """Decides initialisation, the order of the data, and noise."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "decoded", "latent_channels", "base_width", "checkpoint_every")
        at_least(self, 0, "steps", "position_weight", "state_weight", "latent_noise")
        if not 0 < self.held_out < 1:
            raise ValueError(f"`held_out` is {self.held_out}; it must lie between 0 and 1.")

    def check(self) -> None:
        """Refuse what is missing before anything slow is loaded.

        Raises:
            RunError: If there are no demonstrations.
        """
        refuse(self.out, "train_codec", self.folder)
        require(self.data, "a folder of demonstrations", "collect them with `uv run apps/collect.py`")

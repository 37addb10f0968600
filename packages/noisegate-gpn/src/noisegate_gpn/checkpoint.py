"""A policy on disk: `config.json` beside `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from noisegate_gpn.config import GatingPolicyConfig
from noisegate_gpn.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_checkpoint(directory: Path, config: GatingPolicyConfig, weights: Mapping[str, Tensor]) -> None:
    """Writes both files; a reader never sees one of them half written."""
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / f"{WEIGHTS_FILE}.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, written)
    written.replace(directory / WEIGHTS_FILE)
    written = directory / f"{CONFIG_FILE}.partial"
    written.write_text(json.dumps(asdict(config), indent=2) + "\n")
    written.replace(directory / CONFIG_FILE)


def load_config(directory: Path) -> GatingPolicyConfig:
    """Reads the configuration.

    Raises:
        CheckpointError: The file is missing, is no JSON object, or has fields that this version does not know.
    """
    path = directory / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"`{path}` does not exist; give the directory that `save_pretrained` wrote.") from error
    except ValueError as error:
        raise CheckpointError(f"`{path}` is not JSON: {error}.") from error
    known = {field.name for field in fields(GatingPolicyConfig)}
    if not isinstance(values, dict) or not set(values) <= known:
        found = sorted(set(values) - known) if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"`{path}` holds {found}; needed is an object with fields among {sorted(known)}.")
    try:
        return GatingPolicyConfig(**values)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"`{path}` is no valid configuration: {error}.") from error


def load_weights(directory: Path, policy: nn.Module) -> None:
    """Copies the saved weights into `policy`.

    Raises:
        CheckpointError: The file is missing or damaged, or a weight is missing, unknown or of another shape.
    """
    path = directory / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"`{path}` does not exist; give the directory that `save_pretrained` wrote.") from error
    except SafetensorError as error:
        raise CheckpointError(f"`{path}` is not a readable safetensors file: {error}.") from error
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"`{path}` does not fit `{directory / CONFIG_FILE}`: {error}.") from error

"""LoRA adapters per expert: trained together, saved apart, merged into the weights for use.

References:
    Hu et al. 2021, LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wam_backbone._peft import WEIGHTS_FILE, lora_config, read_config, write_config
from wam_backbone.cache import write_tensors
from wam_backbone.errors import AdapterError, ConfigurationError
from wam_backbone.model import WorldActionModel
from wam_backbone.sharding import whole

EXPERTS = ("video", "action")
_PREFIX = "base_model.model."  # peft's, before our names
_BESIDE = "beside.safetensors"
_UNREAD = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""Settings of peft under which the same weights mean something else."""
_INTERFACE = ("action_embedding.", "state_embedding.", "action_proj_out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Low-rank additions to one expert's linear layers in every block.

    Raises:
        ConfigurationError: A size does not fit, or no layer is chosen.
    """

    rank: int = 32
    """Of the additions."""
    alpha: float = 32.0
    """Additions are multiplied by `alpha / rank`."""
    self_attention: bool = True
    """Adapt queries, keys, values and output of the joint attention."""
    cross_attention: bool = True
    """Adapt those of the attention to text."""
    feed_forward: bool = True
    """Adapt both layers of the feed-forward."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigurationError(f"`rank` is {self.rank} and `alpha` {self.alpha}; both must be above 0.")
        if not (self.self_attention or self.cross_attention or self.feed_forward):
            raise ConfigurationError("the adapter adapts nothing; choose attention, feed-forward or both.")

    def targets(self, expert: str) -> str:
        """Regular expression of the adapted layers' names."""
        layers = [
            r"attn1\.(to_q|to_k|to_v|to_out\.0)" if self.self_attention else "",
            r"attn2\.(to_q|to_k|to_v|to_out\.0)" if self.cross_attention else "",
            r"ffn\.net\.(0\.proj|2)" if self.feed_forward else "",
        ]
        return rf"blocks\.\d+\.{expert}\.({'|'.join(layer for layer in layers if layer)})"


def add_adapters(model: WorldActionModel, adapters: Mapping[str, Adapter]) -> None:
    """Add adapters and freeze what they adapt; the other expert stays trainable.

    The action expert's interface to the robot (embeddings of actions and state, last projection) stays trainable and is
    saved with its adapter: no video model brings it. Fresh adapters change nothing: one of each pair of factors is
    zero. Needs `peft`.

    Args:
        model: Without adapters.
        adapters: `video` or `action`, or both, to its adapter.

    Raises:
        AdapterError: The model has adapters already, or an expert's name is not one of the two.
    """
    if not adapters or adapters.keys() - set(EXPERTS):
        raise AdapterError(f"adapters were given for {sorted(adapters)}; give them for `video`, `action` or both.")
    if adapters_of(model):
        raise AdapterError(f"the model has adapters for {sorted(adapters_of(model))}; merge them first.")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for expert, adapter in adapters.items():
        model.add_adapter(lora_config(adapter.rank, adapter.alpha, adapter.targets(expert)), adapter_name=expert)
    model.set_adapter(list(adapters))
    frozen = {name for name in trained if expert_of(name) in adapters and not _is_interface(name)}
    for name, parameter in model.named_parameters():
        base = name.replace(".base_layer.", ".")
        parameter.requires_grad_(_is_adapter(name) or (base in trained and base not in frozen))
    model.frozen_for_adapters = frozenset(frozen)


def adapters_of(model: WorldActionModel) -> dict[str, Adapter]:
    """The adapters that a model has."""
    if not getattr(model, "_hf_peft_config_loaded", False):
        return {}
    return {expert: _settings(config.to_dict()) for expert, config in model.peft_config.items()}


def expert_of(name: str) -> str:
    """Which expert a parameter belongs to; embeddings and heads belong to the one whose tokens they touch."""
    return "action" if name.startswith(("action_", "state_")) or ".action." in name else "video"


def save_adapters(model: WorldActionModel, folder: Path) -> None:
    """Write the adapters in peft's format, into `video/` and `action/`; of a sharded model, in all processes.

    `peft.PeftModel.from_pretrained(model, folder / "video")` reads them as `load_adapters` does. Whatever else is
    trainable, such as the whole of an expert without an adapter, lies in `beside.safetensors`, which peft does not
    read: freeze what is not trained.
    """
    adapted = adapters_of(model)
    beside = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not (expert_of(name) in adapted and _is_saved(name, expert_of(name)))
    }
    gathered = whole(beside)
    if gathered is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _BESIDE).unlink(missing_ok=True)
        if gathered:
            write_tensors(folder / _BESIDE, gathered, {"format": "pt"})
    for expert in adapted:
        tensors = {n: p for n, p in model.named_parameters() if expert_of(n) == expert and _is_saved(n, expert)}
        gathered = whole(tensors)
        if gathered is not None:
            named = {_PREFIX + name.replace(f".{expert}.weight", ".weight"): p for name, p in gathered.items()}
            (folder / expert).mkdir(parents=True, exist_ok=True)
            write_config(model.peft_config[expert], _modules_of(gathered, expert), folder / expert)
            write_tensors(folder / expert / WEIGHTS_FILE, named, {"format": "pt"})


def load_adapters(model: WorldActionModel, folder: Path) -> None:
    """Add the adapters that `save_adapters` wrote, and what trained beside them; a folder may hold one or both.

    Raises:
        AdapterError: There are none, or they do not fit the model.
    """
    stored: dict[str, tuple[Adapter, dict[str, Tensor]]] = {}
    for expert in EXPERTS:
        path = folder / expert / WEIGHTS_FILE
        if not path.exists():
            continue
        try:
            config = read_config(folder / expert)
            settings = _settings(config)
            with safe_open(path, framework="pt") as file:
                tensors = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise AdapterError(
                f"`{folder / expert}` holds no adapter ({error}); save it with `save_adapters`."
            ) from error
        if unread := [name for name in _UNREAD if config.get(name)]:
            raise AdapterError(f"`{folder / expert}` sets {unread}, which is not known here; merge it with peft.")
        stored[expert] = settings, tensors
    if not stored:
        raise AdapterError(f"`{folder}` holds neither `video/{WEIGHTS_FILE}` nor `action/{WEIGHTS_FILE}`.")
    beside = _read_beside(model, folder)
    add_adapters(model, {expert: settings for expert, (settings, _) in stored.items()})
    parameters = dict(model.named_parameters())
    for expert, (_, tensors) in stored.items():
        ours = {
            name.replace(f".{expert}.weight", ".weight"): parameter
            for name, parameter in parameters.items()
            if expert_of(name) == expert and _is_saved(name, expert)
        }
        wrong = sorted(
            name
            for name in ours.keys() | tensors.keys()
            if name not in ours or name not in tensors or ours[name].shape != tensors[name].shape
        )
        if wrong:
            raise AdapterError(
                f"the adapter of `{expert}` in `{folder}` does not fit the model ({len(wrong)} layers, `{wrong[0]}` "
                "first); load it into a model of the size that it was trained on."
            )
        with torch.no_grad():
            for name, parameter in ours.items():
                parameter.copy_(tensors[name])
    with torch.no_grad():
        for name, tensor in beside.items():
            parameters[name].copy_(tensor)


def merge_adapters(model: WorldActionModel) -> None:
    """Add the adapters' products to the weights and remove the adapters.

    Parameters have their plain names again, and those that the adapters froze are trainable again.

    Raises:
        AdapterError: There are none.
    """
    if not adapters_of(model):
        raise AdapterError("the model has no adapters to merge.")
    model.fuse_lora()
    model.unload_lora()
    for name, parameter in model.named_parameters():
        if name in model.frozen_for_adapters:
            parameter.requires_grad_(True)
    model.frozen_for_adapters = frozenset()


def _read_beside(model: WorldActionModel, folder: Path) -> dict[str, Tensor]:
    """What trained beside the adapters, checked against a model that has none yet."""
    path = folder / _BESIDE
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"`{path}` cannot be read ({error}); save it with `save_adapters`.") from error
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    wrong = sorted(name for name, tensor in tensors.items() if shapes.get(name) != tensor.shape)
    if wrong:
        raise AdapterError(
            f"`{path}` does not fit the model ({len(wrong)} tensors, `{wrong[0]}` first); load it into a model of the "
            "size that it was trained on."
        )
    return tensors


def _is_interface(name: str) -> bool:
    """Whether a parameter is of the ends where the robot's numbers enter and leave."""
    return name.startswith(_INTERFACE)


def _is_saved(name: str, expert: str) -> bool:
    return _is_adapter(name) or (expert == "action" and _is_interface(name))


def _modules_of(tensors: Mapping[str, Tensor], expert: str) -> list[str]:
    """Modules that are saved whole beside the adapter."""
    return sorted({name.split(".")[0] for name in tensors if expert == "action" and _is_interface(name)})


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _settings(config: Mapping[str, Any]) -> Adapter:
    targets = str(config["target_modules"])
    return Adapter(
        rank=config["r"],
        alpha=config["lora_alpha"],
        self_attention="attn1" in targets,
        cross_attention="attn2" in targets,
        feed_forward="ffn" in targets,
    )


def plain_model(
    model: WorldActionModel, weights: dict[str, Tensor], adapters: Mapping[str, Adapter]
) -> WorldActionModel:
    """Put gathered weights into a model without shards, its adapters merged."""
    with torch.device("meta"):
        plain = type(model).from_config(dict(model.config))
        if adapters:
            add_adapters(plain, adapters)
    plain.load_state_dict(weights, assign=True)
    if adapters:
        merge_adapters(plain)
    return plain

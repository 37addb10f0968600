"""Models from and to disk: our own folders, Wan's transformer, Fast-WAM's policies."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from wam_backbone._diffusers import DiffusersAdapterModel
from wam_backbone.action_index import ActionIndex
from wam_backbone.errors import AdapterError, ConfigurationError
from wam_backbone.initialisation import draw_missing, initialise_head
from wam_backbone.normalization import STATISTICS_FILE, Scaling, Statistics
from wam_backbone.sampling import SAMPLING_FILE, Sampling
from wam_backbone.sharding import whole
from wam_backbone.weights import (
    ActionInit,
    DeviceMap,
    Hub,
    action_weights,
    check_fit,
    check_video,
    fill,
    interpolate,
    one_device,
    open_fastwam,
    open_saved,
    open_wan,
    shapes_of,
)


class PretrainedModel(DiffusersAdapterModel):
    """What of `WorldActionModel` deals with files.

    Attributes:
        statistics: How actions and states were normalised in training; saved beside the weights.
        sampling: How the model is to be sampled; saved beside the weights.
        frozen_for_adapters: Names of parameters that train again once adapters are merged.
    """

    statistics: Statistics | None = None
    sampling: Sampling | None = None
    frozen_for_adapters: frozenset[str] = frozenset()
    action_proj_out: nn.Linear

    @classmethod
    def from_wan(
        cls,
        source: str | PathLike[str],
        *,
        action_width: int = 1024,
        action_ffn: int = 4096,
        action_dim: int = 14,
        state_dim: int = 14,
        layout: str = "full",
        objective: str = "velocity",
        state_token: str = "actions",
        action_axis: str = "frames",
        action_index: str = "sinusoid",
        modulated_action_head: bool = True,
        action_init: ActionInit | None = interpolate,
        torch_dtype: torch.dtype = torch.float32,
        device_map: DeviceMap = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Start from Wan's video transformer, of which one tensor at a time is read.

        Args:
            source: Hub id, or folder: diffusers' pipeline, its transformer alone, or the original release.
            action_width: Channels of an action token.
            action_ffn: Channels inside the action's feed-forward.
            action_dim: Numbers in one action.
            state_dim: Numbers in the robot's state; 0 for a model without state.
            layout: Value of an `AttentionLayout`.
            objective: Value of an `Objective`.
            state_token: Value of a `StateToken`.
            action_axis: Value of an `ActionAxis`.
            action_index: Value of an `ActionIndex`.
            modulated_action_head: Normalise and modulate action tokens before the last projection.
            action_init: Makes the action expert out of the video's parameters, but for its two ends, which are new:
                `interpolate`, `take_channels` or a function of yours. None draws everything anew.
            torch_dtype: Of the model; training keeps fp32 and computes in bf16.
            device_map: The one device to load onto.
            revision: Of a hub repository.
            token: For a private hub repository.
            cache_dir: Of hub files.
            local_files_only: Look for a hub id in the local cache only.

        Raises:
            WeightsError: There is no complete Wan checkpoint, or names are missing, unexpected or of another shape.
            ConfigurationError: `device_map` names several devices.
        """
        device = one_device(device_map)
        hub = Hub(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        sizes, video = open_wan(source, hub)
        model = cls._empty(
            asdict(sizes)
            | {
                "action_width": action_width,
                "action_ffn": action_ffn,
                "action_dim": action_dim,
                "state_dim": state_dim,
                "layout": layout,
                "objective": objective,
                "state_token": state_token,
                "action_axis": action_axis,
                "action_index": action_index,
                "modulated_action_head": modulated_action_head,
            }
        )
        advice = "the folder is no Wan text-to-video transformer (image and control variants have more parameters)."
        check_video(model, {name: tensor.shape for name, tensor in video.items()}, advice=advice)
        fill(model, video, torch_dtype, device)
        if action_init is not None:
            fill(model, action_weights(shapes_of(model), video, action_init), torch_dtype, device)
        draw_missing(model, torch_dtype)
        initialise_head(model.action_proj_out)
        return model.to(device).eval()

    @classmethod
    def from_fastwam(
        cls,
        checkpoint: str | PathLike[str],
        *,
        layout: str = "fastwam",
        statistics: str | PathLike[str] | None = None,
        scaling: Scaling = Scaling.MOMENTS,
        head_dim: int = 128,
        eps: float = 1e-6,
        torch_dtype: torch.dtype = torch.float32,
        device_map: DeviceMap = None,
    ) -> Self:
        """Load a released Fast-WAM policy, which then predicts what Fast-WAM's own code predicts.

        Args:
            checkpoint: File that Fast-WAM's trainer wrote.
            layout: `fastwam`, or `joint` for Fast-WAM-Joint and Fast-WAM-IDM. The latter cleans the video before the
                actions: give `denoise` an `ImagineFirst(video_steps=n, shift=5.0)` and its `clock`.
            statistics: Its `dataset_stats.json`.
            scaling: Which of these statistics it was trained with.
            head_dim: Channels of one head.
            eps: Added to variances.
            torch_dtype: Of the model.
            device_map: The one device to load onto.

        Raises:
            WeightsError: The file holds no such policy, or names are missing, unexpected or of another shape.

        References:
            Fast-WAM, arXiv 2603.16666.
        """
        device = one_device(device_map)
        found = open_fastwam(Path(checkpoint), head_dim=head_dim, eps=eps)
        model = cls._empty(
            asdict(found.video)
            | asdict(found.actions)
            | {"layout": layout, "state_token": "text", "action_axis": "own", "action_index": "none"}
            | {"modulated_action_head": False}
        )
        check_fit(
            shapes_of(model),
            {name: tensor.shape for name, tensor in found.tensors.items()},
            target="a Fast-WAM policy",
            advice="pass `head_dim` as it was in training; variants with further parameters cannot be loaded.",
        )
        fill(model, found.tensors, torch_dtype, device)
        if statistics is not None:
            model.statistics = Statistics.load_fastwam(Path(statistics), scaling)
            model.check_statistics()
        return model.to(device).eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        device_map: DeviceMap = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load what `save_pretrained` wrote, bit by bit.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            subfolder: Folder of the model below that.
            torch_dtype: Of the model; None keeps what is stored.
            device_map: The one device to load onto.
            revision: Of a hub repository.
            token: For a private hub repository.
            cache_dir: Of hub files.
            local_files_only: Look for a hub id in the local cache only.

        Raises:
            WeightsError: Files are missing, or names are missing, unexpected or of another shape.
            ConfigurationError: `device_map` names several devices.
        """
        device = one_device(device_map)
        hub = Hub(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        saved = open_saved(pretrained_model_name_or_path, subfolder, hub)
        # A folder that does not name `action_index` was written before tokens carried their number.
        model = saved.build(lambda config: cls._empty({"action_index": ActionIndex.NONE.value} | config))
        fill(model, saved.tensors, torch_dtype, device)
        folder = saved.folder
        if (folder / STATISTICS_FILE).is_file():
            model.statistics = Statistics.load(folder / STATISTICS_FILE)
        if (folder / SAMPLING_FILE).is_file():
            model.sampling = Sampling.load(folder / SAMPLING_FILE)
        return model.to(device).eval()

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        is_main_process: bool = True,
        safe_serialization: bool = True,
        variant: None = None,
    ) -> None:
        """Write configuration, weights (safetensors), statistics and sampling; `push_to_hub` uploads the same files.

        Of a sharded model, called by all processes: the weights are gathered in process 0, which writes.

        Args:
            save_directory: Folder; what was saved there before is replaced.
            max_shard_size: Bytes, or a number with a unit, above which weights are split into several files.
            is_main_process: Whether this process writes configuration and statistics.
            safe_serialization: There is no other.
            variant: There is none.

        Raises:
            ConfigurationError: Statistics and model differ in size, or pickled weights were asked for.
            AdapterError: Adapters are attached.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            raise AdapterError(
                "adapters are attached; write them with `save_adapters`, or `merge_adapters` before saving the model."
            )
        if not safe_serialization or variant is not None:
            raise ConfigurationError("weights are saved as safetensors without variants; leave both arguments alone.")
        self.check_statistics()
        folder = Path(save_directory)
        if any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            weights = whole(dict(self.named_parameters()))
            if weights is not None:
                plain = self._empty(dict(self.config))
                plain.load_state_dict(weights, assign=True)
                plain.statistics, plain.sampling = self.statistics, self.sampling
                plain.save_pretrained(folder, max_shard_size=max_shard_size)
            return
        if is_main_process:
            for stale in (*folder.glob("*.safetensors.index.json"), folder / STATISTICS_FILE, folder / SAMPLING_FILE):
                stale.unlink(missing_ok=True)
        super().save_pretrained(folder, max_shard_size=max_shard_size, is_main_process=is_main_process)
        if is_main_process and self.statistics is not None:
            self.statistics.save(folder)
        if is_main_process and self.sampling is not None:
            self.sampling.save(folder)

    def enable_layerwise_casting(
        self,
        storage_dtype: torch.dtype = torch.float8_e4m3fn,
        compute_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        """Store weights in few bits and compute in the model's own type, as diffusers does.

        Args:
            storage_dtype: Of the weights of linear layers between their uses.
            compute_dtype: The model's own type; no other.
            options: As in diffusers: which modules to leave out, and whether copies may overlap.

        Raises:
            ConfigurationError: `compute_dtype` is not the model's type.
        """
        own = next(self.parameters()).dtype
        if compute_dtype not in (None, own):
            raise ConfigurationError(
                f"`compute_dtype` is {compute_dtype} and the model {own}; load the model in {compute_dtype} first."
            )
        super().enable_layerwise_casting(storage_dtype, own, **options)

    def enable_group_offload(
        self, onload_device: torch.device, offload_type: str = "leaf_level", **options: Any
    ) -> None:
        """Keep weights elsewhere between their uses, leaf by leaf.

        Args:
            onload_device: Where they are used.
            offload_type: `leaf_level`; whole layers are entered by more than their `forward` here.
            options: As in diffusers.

        Raises:
            ConfigurationError: Groups of layers were asked for.
        """
        if offload_type != "leaf_level":
            raise ConfigurationError(
                f"`offload_type` is `{offload_type}`; text and observation are encoded layer by layer outside of the "
                "layers' `forward`, so use `leaf_level`."
            )
        super().enable_group_offload(onload_device, offload_type=offload_type, **options)

    @classmethod
    def _empty(cls, config: dict[str, Any]) -> Self:
        """A model without memory."""
        with torch.device("meta"):
            return cls.from_config(config)

    def check_statistics(self) -> None:
        """Refuse statistics of another size than the model.

        Raises:
            ConfigurationError: They are of other numbers of actions or states.
        """
        if self.statistics is None:
            return
        states = self.statistics.states
        found = (self.statistics.actions.dim, None if states is None else states.dim)
        needed = (self.config.action_dim, self.config.state_dim or None)
        if found[0] != needed[0] or (states is not None and found[1] != needed[1]):
            raise ConfigurationError(
                f"the statistics are of {found[0]} action and {found[1]} state numbers; the model has {needed[0]} and "
                f"{needed[1]}: measure them on the data that the model is for."
            )

"""A policy trained under Wan's codec and text encoder: what its folder says, and how it is put together again."""

from __future__ import annotations

from pathlib import Path

import torch

from noisegate_apps.data.transitions import Transitions
from noisegate_apps.policy.world import PolicySettings, WorldPolicy
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import JsonValue
from wam_backbone import WorldActionModel, WorldActionPipeline
from wam_backbone.presets import CameraTiling, ChunkTiming
from wam_backbone.sampling import Sampling


def wan_sampling(record: JsonValue) -> Sampling:
    """How such a policy is sampled.

    Args:
        record: Its `policy.json`.
    """
    timing, tiling = ChunkTiming(**record["timing"]), CameraTiling(**record["tiling"])
    return Sampling(
        action_steps=timing.action_steps,
        future_latents=timing.future_latents,
        shift=record["video_shift"],
        steps=record.get("denoising_steps", 10),
        head_start=record.get("head_start", 0.0),
        codec=record["wan"],
        text=record["wan"],
        text_length=record["text_length"],
        template=record["template"],
        tiling=(tiling.rows, tiling.columns, tiling.head_rows),
    )


def wan_policy(
    folder: Path, record: JsonValue, *, device: torch.device, digest: str, transitions: Transitions
) -> WorldPolicy:
    """Load everything, on a GPU in bf16.

    Args:
        folder: Of the policy.
        record: Its `policy.json`; calls per chunk and head start may differ from it.
        device: Where it plans.
        digest: Of all files that it is made of.
        transitions: What it brings along of its demonstrations.

    Raises:
        RunError: If the weights come without the statistics of their training data.
    """
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = WorldActionModel.from_pretrained(folder / "backbone", torch_dtype=precision, device_map=device)
    statistics = backbone.statistics
    if statistics is None or statistics.states is None:
        raise RunError(f"`{folder / 'backbone'}` holds no `statistics.json`; train the policy with `apps/stage1.py`.")
    sampling = backbone.sampling = wan_sampling(record)
    pipeline = WorldActionPipeline.around(backbone, folder / "backbone", torch_dtype=precision)
    settings = PolicySettings(
        states=statistics.states,
        actions=statistics.actions,
        action_steps=sampling.action_steps,
        future_latents=sampling.future_latents,
        frame_stride=ChunkTiming(**record["timing"]).frame_stride,
        denoising_steps=sampling.steps,
        head_start=sampling.head_start,
        text_dim=pipeline.text.dim,
        text_length=pipeline.text.length,
    )
    return WorldPolicy(pipeline, settings, transitions=transitions, digest=digest)

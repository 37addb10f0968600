"""Policy folders: written once, and turned into something that acts.

A folder holds `backbone/` and `codec/` (safetensors with their configurations) and `policy.json`; a policy under Wan's
codec and text encoder names their repository there instead of holding them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path

from noisegate_apps.data.transitions import load_transitions
from noisegate_apps.policy.wan import wan_policy
from noisegate_apps.policy.world import PolicySettings, WorldPolicy
from noisegate_apps.runs.command_line import require
from noisegate_apps.runs.devices import DeviceName, device_of
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.files import TRANSITIONS, JsonValue, read_json, write_json
from wam_backbone import ConvCodec, Normalizer, Statistics, WorldActionModel, WorldActionPipeline
from wam_backbone.data import digest_of, folder_digest
from wam_backbone.errors import ConfigurationError
from wam_backbone.sampling import Sampling
from wam_backbone.weights import checkpoint_folder


def load_policy(
    folder: str | Path, *, steps: int | None = None, head_start: float | None = None, device: DeviceName = "auto"
) -> WorldPolicy:
    """Load a policy folder.

    Args:
        folder: As Stage 1 leaves it.
        steps: Network calls per chunk, on the policy's own clock; its own number where None.
        head_start: Part of them that belong to imagination, before the actions start; its own where None.
        device: Where it plans; `auto` is the GPU where there is one.

    Raises:
        RunError: If a file is missing or damaged, or a weight is not finite.
    """
    folder = Path(folder)
    require(folder / "policy.json", "a Stage-1 policy", "train one with `uv run apps/stage1.py`")
    record = read_json(folder / "policy.json")
    sampled = read_json(folder / "policy.json")
    asked = {"denoising_steps": steps, "head_start": head_start}
    sampled.update((name, value) for name, value in asked.items() if value is not None)
    place = device_of(device)
    transitions, digest = load_transitions(folder), files_digest(folder, record)
    if "wan" in record:
        return wan_policy(folder, sampled, device=place, digest=digest, transitions=transitions)
    settings = _settings(folder / "policy.json", sampled)
    backbone = WorldActionModel.from_pretrained(folder / "backbone", device_map=place)
    with _described(folder / "policy.json"):
        prepare(backbone, settings)
    pipeline = WorldActionPipeline.around(backbone, folder / "backbone")
    return WorldPolicy(pipeline, settings, transitions=transitions, digest=digest)


def _settings(file: Path, record: JsonValue) -> PolicySettings:
    with _described(file):
        normalizers = {
            name: Normalizer(center=tuple(record[name]["center"]), scale=tuple(record[name]["scale"]))
            for name in ("states", "actions")
        }
        return PolicySettings(**{**record, **normalizers})


@contextmanager
def _described(file: Path) -> Iterator[None]:
    """Lay what cannot be made of a description on its file."""
    try:
        yield
    except (TypeError, ConfigurationError) as error:
        raise RunError(f"`{file}` does not describe a policy ({error}); restore it as Stage 1 left it.") from error


def prepare(backbone: WorldActionModel, settings: PolicySettings) -> None:
    """Tell a model of the tabletop how it is sampled, in the words of a pipeline: linear clocks, codec next door."""
    backbone.statistics = Statistics(actions=settings.actions, states=settings.states)
    backbone.sampling = Sampling(
        action_steps=settings.action_steps,
        future_latents=settings.future_latents,
        shift=1.0,
        steps=settings.denoising_steps,
        head_start=settings.head_start,
        codec="../codec",
        text_length=settings.text_length,
    )


def files_digest(folder: Path, record: JsonValue) -> str:
    """Digest of everything that a policy is made of, Wan's codec and text encoder included; curves and notes are not.

    Args:
        folder: Of the policy.
        record: Its `policy.json`.
    """
    parts = [folder_digest(folder / name) for name in ("backbone", "codec") if (folder / name).exists()]
    parts += [digest_of(record)]
    if (folder / TRANSITIONS).exists():
        with (folder / TRANSITIONS).open("rb") as file:
            parts.append(file_digest(file, "blake2b").hexdigest())
    if "wan" in record:
        wan = ("vae", "text_encoder", "tokenizer")
        parts += [folder_digest(checkpoint_folder(record["wan"], name)) for name in wan]
    return digest_of(parts)


def save_policy(folder: Path, backbone: WorldActionModel, codec: ConvCodec, settings: PolicySettings) -> None:
    """Write the folder of a policy that has a codec of its own; its `backbone/` is a pipeline's folder, too."""
    prepare(backbone, settings)
    backbone.save_pretrained(folder / "backbone")
    codec.save_pretrained(folder / "codec")
    write_json(folder / "policy.json", asdict(settings))

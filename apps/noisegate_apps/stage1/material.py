"""What Stage 1 needs around the model: training windows, text encoder, and how the trained policy is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from noisegate_apps.data.batches import Embed
from noisegate_apps.data.clips import ClipSource
from noisegate_apps.data.demonstrations import FRAMES_PER_LATENT, load_demonstrations, windows_of
from noisegate_apps.data.tabletop import TabletopClips, cached_windows, labelled_episodes
from noisegate_apps.data.transitions import save_transitions, some_transitions
from noisegate_apps.data.wan import Encoding, WanClips
from noisegate_apps.play.worlds import PICTURE_SIZE, SceneName
from noisegate_apps.policy.loading import save_policy
from noisegate_apps.policy.wan import wan_sampling
from noisegate_apps.policy.world import PolicySettings
from noisegate_apps.runs.command_line import require
from noisegate_apps.runs.files import JsonValue, derived, read_json, write_json
from noisegate_apps.stage1.config import Stage1Config, WanSettings
from noisegate_apps.stage1.parallel import Parallel
from robotwin_env.episodes import ColumnStatistics, Episodes, open_episodes
from robotwin_env.splits import check_recordings
from wam_backbone import (
    Codec,
    ConvCodec,
    HashTextEncoder,
    Normalizer,
    Statistics,
    UMT5TextEncoder,
    WanCodec,
    WorldActionModel,
)
from wam_backbone.data import TextCache, folder_digest, weights_digest
from wam_backbone.presets import CameraTiling, ChunkTiming
from wam_backbone.weights import checkpoint_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything but the model."""

    source: ClipSource
    embed: Embed
    text_dim: int
    """Channels of a text token."""
    digests: Mapping[str, JsonValue]
    """Of all that was read: the option that named it to a digest of its content."""
    keep: Callable[[WorldActionModel, Path], None]
    """Writes a trained model with all that it needs to act into a folder."""


def tabletop_material(config: Stage1Config, parallel: Parallel) -> Material:
    """Demonstrations of the embedded tabletop, or of RoboTwin at its size, under the tabletop's own small codec."""
    read = partial(load_demonstrations, config.data_folder)
    if config.env == "robotwin":
        stride = config.action_steps // (FRAMES_PER_LATENT * config.future_latents)
        read = partial(read, frame_stride=stride, picture_size=config.robotwin.image_size or PICTURE_SIZE)
    if parallel.main:
        read()  # packs them for all processes
    parallel.wait()
    demonstrations = read()
    codec = ConvCodec.from_pretrained(config.codec).eval()
    given = labelled_episodes(
        demonstrations, config.labelled, scarce=config.scarce, most_of_scarce=config.scarce_labelled
    )
    known = given.repeat_interleave(demonstrations.step_start.diff())  # nothing is measured on actions not given
    settings = PolicySettings(
        states=Normalizer.from_moments(demonstrations.states[known]),
        actions=Normalizer.from_moments(demonstrations.actions[known]),
        action_steps=config.action_steps,
        future_latents=config.future_latents,
        frame_stride=demonstrations.frame_stride,
        denoising_steps=config.denoising_steps,
        head_start=config.head_start,
        tasks=tuple(sorted(set(demonstrations.tasks))),
        scene=scene_of(config.data_folder),
    )
    windows = windows_of(demonstrations, action_steps=config.action_steps, future_latents=config.future_latents)
    latents = cached_windows(
        codec.to(parallel.device),
        demonstrations,
        config.data_folder,
        device=parallel.device,
        part=(parallel.rank, parallel.processes),
        wait=parallel.wait,
    )
    source = TabletopClips(
        demonstrations,
        windows,
        latents,
        states=settings.states,
        actions=settings.actions,
        given=given,
    )
    encoder = HashTextEncoder(dim=settings.text_dim, length=settings.text_length)
    texts = dict(zip(source.instructions, encoder.encode(source.instructions), strict=True))

    def embed(instructions: Sequence[str]) -> Tensor:
        return torch.stack([texts[instruction] for instruction in instructions])

    def keep(model: WorldActionModel, folder: Path) -> None:
        save_policy(folder, model, codec.cpu(), settings)
        save_transitions(folder, some_transitions(source, per_task=256, seed=config.seed))

    digests = {
        "data": demonstrations.digest,
        "codec": weights_digest(codec),
        "wan.start": start_digest(config.wan) if parallel.main else "",
    }
    return Material(source=source, embed=embed, text_dim=settings.text_dim, digests=digests, keep=keep)


def scene_of(data: Path) -> SceneName:
    """Return the scenes of a data set of the tabletop, as its collection recorded them."""
    record = data / "config.json"
    found = read_json(record)["config"].get("scene") if record.exists() else None
    return "clean" if found == "clean" else "random"


def wan_material(config: Stage1Config, parallel: Parallel) -> Material:
    """RoboTwin episodes under Wan's codec and text encoder, both on disk after the first run."""
    wan, precision = config.wan, torch.bfloat16 if parallel.device.type != "cpu" else torch.float32
    place = derived(config.data_folder)
    cache = wan.cache or place / ".latents"
    if parallel.main:
        episodes_of_training(config.data_folder, place / ".index")  # kept on disk for all processes
        digests = _digests(wan)
    parallel.wait()
    shared = [digests if parallel.main else None]
    broadcast_object_list(shared)
    codec_digest, text_digest, start_digest = shared[0] or ("", "", "")
    index = episodes_of_training(config.data_folder, place / ".index")
    timing = ChunkTiming(
        action_steps=config.action_steps,
        actions_per_frame=config.action_steps // (4 * config.future_latents),
        step_stride=wan.step_stride,
        future_latents=config.future_latents,
        executed_actions=wan.executed_actions,
    )
    tiling = CameraTiling(rows=wan.rows, columns=wan.columns, head_rows=wan.head_rows)
    statistics = statistics_of(wan, index)

    def codec() -> Codec:
        return WanCodec.from_pretrained(wan.source, torch_dtype=precision, device=parallel.device)

    assert statistics.states is not None
    source = WanClips(
        index,
        timing=timing,
        tiling=tiling,
        states=statistics.states,
        actions=statistics.actions,
        start_every=wan.start_every,
        encoding=Encoding(
            codec=codec,
            codec_digest=f"{codec_digest} {precision}",
            device=parallel.device,
            rows_per_shard=wan.rows_per_shard,
            part=(parallel.rank, parallel.processes),
            wait=parallel.wait,
        ),
        cache=cache,
    )
    text_dim = int(read_json(checkpoint_folder(wan.source, "text_encoder") / "config.json")["d_model"])

    def text_encoder() -> UMT5TextEncoder:
        return UMT5TextEncoder.from_pretrained(
            wan.source,
            length=wan.text_length,
            template=wan.template,
            torch_dtype=precision,
            device=parallel.device,
        )

    texts = TextCache(
        cache / "texts",
        {"encoder": text_digest, "template": wan.template},
        dim=text_dim,
        length=wan.text_length,
        load=text_encoder,
        dtype=precision,
    )
    if parallel.main:
        texts.add(source.instructions)
    parallel.wait()

    def keep(model: WorldActionModel, folder: Path) -> None:
        record: dict[str, JsonValue] = {
            "wan": wan.source,
            "template": wan.template,
            "text_length": wan.text_length,
            "tiling": asdict(tiling),
            "timing": asdict(timing),
            "video_shift": config.video_shift,
            "denoising_steps": config.denoising_steps,
            "head_start": config.head_start,
        }
        model.statistics, model.sampling = statistics, wan_sampling(record)
        model.save_pretrained(folder / "backbone")
        save_transitions(folder, some_transitions(source, per_task=16, seed=config.seed))
        write_json(folder / "policy.json", record)

    read: dict[str, JsonValue] = {
        "data": index.fingerprint,
        "wan.source": f"{codec_digest} {text_digest}",
        "wan.start": start_digest,
        "wan.statistics": asdict(statistics),
    }
    return Material(source=source, embed=texts.encode, text_dim=text_dim, digests=read, keep=keep)


def episodes_of_training(data: Path, cache: Path) -> Episodes:
    """Open a folder of RoboTwin's episodes, or of a LeRobot data set, that training may see.

    Raises:
        robotwin_env.errors.EpisodeError: There are none, or one is damaged.
        robotwin_env.errors.SplitError: One was recorded on a scene of an evaluation.
    """
    index = open_episodes(data, cache=cache)
    check_recordings({str(index.root / entry.path): entry.seed for entry in index.entries})
    return index


def statistics_of(wan: WanSettings, index: Episodes) -> Statistics:
    """Return the normalisation of the policy that training starts from, or else of the episodes.

    Raises:
        WeightsError: A file that was given holds no statistics.
    """
    beside = Path(wan.start) / "statistics.json"
    file = wan.statistics or (beside if wan.start and beside.is_file() else None)
    if file is not None:
        require(file, "normalisation statistics", "give the file that lies with the checkpoint")
        return Statistics.load(file) if "actions" in read_json(file) else Statistics.load_fastwam(file)
    if not wan.normalize:
        return Statistics(actions=Normalizer.identity(14), states=Normalizer.identity(14))
    return Statistics(
        actions=_normalizer(index.statistics.action, wan.limit),
        states=_normalizer(index.statistics.state, wan.limit),
    )


def _normalizer(column: ColumnStatistics, limit: float | None) -> Normalizer:
    return Normalizer.from_deviations(column.mean, column.std, limit=limit)


def _digests(wan: WanSettings) -> tuple[str, str, str]:
    """Of the codec, of text encoder and tokenizer, and of the first weights."""
    codec, text, tokenizer = (
        folder_digest(checkpoint_folder(wan.source, part)) for part in ("vae", "text_encoder", "tokenizer")
    )
    return codec, f"{text} {tokenizer}", start_digest(wan)


def start_digest(wan: WanSettings) -> str:
    """Return the digest of the weights that training starts from; nothing where it starts from none."""
    wan.check()
    if not wan.start:
        return ""
    path = checkpoint_folder(wan.source, "transformer") if wan.start == "wan" else Path(wan.start)
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()

"""A saved model as a policy and as a video model: one folder in, chunks of actions or films out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from wam_backbone._diffusers import flow_solver, progress_bar
from wam_backbone.cameras import CAMERAS, tile, tile_cameras, to_codec, to_pictures
from wam_backbone.clock import Clock
from wam_backbone.codec import Codec, ConvCodec, WanCodec
from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError
from wam_backbone.flow import velocity
from wam_backbone.hallucination import Hallucination
from wam_backbone.interface import DenoisingStep, Schedule
from wam_backbone.model import WorldActionModel
from wam_backbone.normalization import Statistics
from wam_backbone.presets import CameraTiling
from wam_backbone.sampler import Chunk, denoise
from wam_backbone.sampling import SAMPLING_FILE, Sampling
from wam_backbone.schedules import SharedSchedule
from wam_backbone.start import Observation, WarmStart
from wam_backbone.text import HashTextEncoder, TextEncoder, UMT5TextEncoder
from wam_backbone.weights import Hub, locate


class WorldActionPipeline:
    """Pictures, state and instruction in, an action chunk with its imagination out; or a picture and words to a film.

    Args:
        model: With `statistics` and `sampling`.
        codec: Its codec, on the same device.
        text: Its text encoder.

    Raises:
        ConfigurationError: The model does not say how its numbers were normalised or how it is sampled.
    """

    def __init__(self, model: WorldActionModel, codec: Codec, text: TextEncoder) -> None:
        self.sampling = _sampling_of(model)
        assert model.statistics is not None
        self.statistics: Statistics = model.statistics
        self.model, self.codec, self.text = model.eval(), codec, text
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load what `save_pretrained` wrote; Wan's codec and text encoder come from their own repository.

        Args:
            folder: Folder or hub id.
            device: Where to plan.
            torch_dtype: Of model, codec and text encoder; None keeps what is stored.
            revision: Of a hub repository.
            token: For a private hub repository.
            cache_dir: Of hub files.
            local_files_only: Look for a hub id in the local cache only.

        Raises:
            WeightsError: Files are missing or damaged.
        """
        patterns = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"]
        hub = Hub(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        root = locate(folder, patterns, hub)
        model = WorldActionModel.from_pretrained(root, torch_dtype=torch_dtype, device_map=device)
        if model.sampling is None:
            raise WeightsError(
                f"`{root}` has no `{SAMPLING_FILE}`; save it with `WorldActionPipeline.save_pretrained`."
            )
        return cls.around(model, root, torch_dtype=torch_dtype, hub=replace(hub, revision=None))

    @classmethod
    def around(
        cls, model: WorldActionModel, folder: Path, *, torch_dtype: torch.dtype | None = None, hub: Hub | None = None
    ) -> Self:
        """Load the codec and the text encoder that a model's `sampling` names, to where the model is.

        Args:
            model: With `statistics` and `sampling`.
            folder: What `sampling.codec` is relative to, where it names a folder.
            torch_dtype: Of codec and text encoder; None keeps what is stored.
            hub: How to reach Wan's repository.

        Raises:
            ConfigurationError: The model does not say how its numbers were normalised or how it is sampled.
            WeightsError: Files are missing or damaged.
        """
        sampling, options = _sampling_of(model), asdict(hub or Hub())
        codec: Codec
        text: TextEncoder
        own = folder / sampling.codec
        if own.is_dir() and not (own / "vae").is_dir():
            codec = ConvCodec.from_pretrained(own, torch_dtype=torch_dtype).to(model.device).eval()
        elif not own.exists() and (sampling.codec.startswith(".") or "/" not in sampling.codec):
            raise WeightsError(f"`{own}` does not exist: the model's codec; bring it back, or save the pipeline again.")
        else:
            codec = WanCodec.from_pretrained(sampling.codec, torch_dtype=torch_dtype, device=model.device, **options)
        if sampling.text == "hash":
            text = HashTextEncoder(dim=model.text_dim, length=sampling.text_length)
        else:
            text = UMT5TextEncoder.from_pretrained(
                sampling.text, length=sampling.text_length, template=sampling.template, torch_dtype=torch_dtype,
                device=model.device, **options,
            )  # fmt: skip
        return cls(model, codec, text)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write weights, statistics, sampling and a codec of its own into one folder.

        Raises:
            ConfigurationError: The codec lies neither in the folder nor in a repository that `sampling` names.
        """
        own = isinstance(self.codec, ConvCodec)
        if own and "/" in self.sampling.codec:
            raise ConfigurationError(
                f"`sampling.codec` is `{self.sampling.codec}`, and the codec a `ConvCodec`; name a folder for it."
            )
        self.model.save_pretrained(folder)
        if isinstance(self.codec, ConvCodec):
            self.codec.save_pretrained(Path(folder) / self.sampling.codec)

    @torch.no_grad()
    def act(
        self,
        images: Mapping[str, UInt8[np.ndarray, "*batch height width 3"]],
        state: Float[np.ndarray, "*batch state_dim"] | None,
        instruction: str | Sequence[str],
        *,
        schedule: Schedule | None = None,
        steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        previous: Chunk | None = None,
        previous_time: float = 0.5,
        executed: int = 0,
        prefix: Float[Tensor, "batch known action_dim"] | None = None,
        on_step: Callable[[DenoisingStep], None] | None = None,
        progress: bool = False,
        hallucination: Hallucination | None = None,
    ) -> Chunk:
        """Plan one chunk per row.

        Args:
            images: Camera to picture, RGB, with a batch in front or without.
            state: The robot's state in its own units; None for a model without.
            instruction: One for all rows, or one per row.
            schedule: Chooses the video times; the shared schedule unless told.
            steps: Network calls; as trained unless told.
            generator: Source of the initial noise: one for the batch, or one per row.
            previous: Plan of the last chunk to start from, instead of pure noise.
            previous_time: How much noise is added to it: 1 forgets it, near 0 keeps it.
            executed: How many of its actions were executed since: it is moved on by as many.
            prefix: First actions of the chunk, in the robot's units, that will be executed in any case.
            on_step: Sees every step.
            progress: Show a bar.
            hallucination: Latents that are made wrong, for stress tests.

        Returns:
            Actions in the robot's units, imagined latents and the path to them.
        """
        return self.plan(
            self.observe(images, state, instruction), schedule, clock=self.sampling.clock(steps),
            video_clock=self.sampling.video_clock(steps), generator=generator, previous=previous,
            previous_time=previous_time, executed=executed, prefix=prefix, on_step=on_step, progress=progress,
            hallucination=hallucination,
        )  # fmt: skip

    @torch.no_grad()
    def plan(
        self,
        observation: Observation,
        schedule: Schedule | None = None,
        *,
        clock: Clock | None = None,
        video_clock: Clock | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        previous: Chunk | None = None,
        previous_time: float = 0.5,
        executed: int = 0,
        prefix: Float[Tensor, "batch known action_dim"] | None = None,
        on_step: Callable[[DenoisingStep], None] | None = None,
        progress: bool = False,
        hallucination: Hallucination | None = None,
    ) -> Chunk:
        """Plan one chunk per row of an `observe`; arguments and result are those of `act`.

        Args:
            observation: What is known.
            schedule: Chooses the video times.
            clock: Path of the action time; as trained unless told.
            video_clock: Path of the shared video time; `clock` where that alone is told.
            generator: Source of the initial noise.
            previous: Plan of the last chunk.
            previous_time: How much noise is put on it.
            executed: How many of its actions were executed since.
            prefix: First actions that will be executed in any case.
            on_step: Sees every step.
            progress: Show a bar.
            hallucination: Latents that are made wrong.
        """
        if clock is None:
            clock, video_clock = self.sampling.clock(), video_clock or self.sampling.video_clock()
        warm = None
        if previous is not None:
            normal = self.statistics.actions.normalize(previous.actions)
            warm = WarmStart(actions=normal, latents=previous.estimates, time=previous_time).after(executed)
        with progress_bar(clock.num_steps, shown=progress) as advance:

            def watch(step: DenoisingStep) -> None:
                advance()
                if on_step is not None:
                    on_step(step)

            chunk = denoise(
                self.model,
                observation,
                schedule or SharedSchedule(),
                frames=self.sampling.future_latents,
                action_steps=self.sampling.action_steps,
                clock=clock,
                video_clock=video_clock,
                generator=generator,
                warm_start=warm,
                prefix=None if prefix is None else self.statistics.actions.normalize(prefix),
                on_step=watch,
                hallucination=hallucination,
            )
        return replace(chunk, actions=self.statistics.actions.restore(chunk.actions))

    @torch.no_grad()
    def observe(
        self,
        images: Mapping[str, UInt8[np.ndarray, "*batch height width 3"]],
        state: Float[np.ndarray, "*batch state_dim"] | None,
        instruction: str | Sequence[str],
    ) -> Observation:
        """What the model is given: the encoded cameras, the embedded instruction, the normalised state."""
        return self.observe_frames(self.frames(images), state, instruction)

    @torch.no_grad()
    def observe_frames(
        self,
        frames: Float[Tensor, "batch 3 rows columns"],
        state: Float[np.ndarray, "*batch state_dim"] | None,
        instruction: str | Sequence[str],
    ) -> Observation:
        """As `observe`, of cameras that are laid out already."""
        latent = self.codec.encode_observation(frames.to(self.model.device))
        rows = len(latent)
        states = None
        if state is not None and self.statistics.states is not None:
            values = torch.as_tensor(np.asarray(state), dtype=torch.float32).reshape(rows, -1)
            states = self.statistics.states.normalize(values).to(self.model.device)
        instructions = [instruction] * rows if isinstance(instruction, str) else list(instruction)
        if len(instructions) != rows:
            raise ShapeError(
                f"{len(instructions)} instructions came for {rows} rows; pass one per row, or one for all."
            )
        return Observation(latent=latent, context=self.embed(instructions), state=states)

    @torch.no_grad()
    def decode(self, chunk: Chunk, observation: Observation) -> NDArray[np.uint8]:
        """Pictures of what was imagined, free of remaining noise: `(batch, 1 + 4 F, rows, columns, 3)` RGB."""
        film = self.codec.decode(torch.cat((observation.latent, chunk.estimates), dim=2))
        return np.stack([to_pictures(one) for one in film])

    @torch.no_grad()
    def generate_video(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        prompt: str,
        *,
        future_latents: int | None = None,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        steps: int = 50,
        generator: torch.Generator | None = None,
        state: Float[Tensor, "1 state_dim"] | None = None,
        progress: bool = False,
    ) -> NDArray[np.uint8]:
        """Continue a picture by the video half alone, with classifier-free guidance and UniPC, as Wan is sampled.

        Args:
            image: First frame, RGB, of a size that the codec takes.
            prompt: What happens.
            future_latents: Latents to imagine, four frames each; as trained unless told.
            guidance_scale: How far from the negative prompt; 1 does not compute it.
            negative_prompt: What to stay away from.
            steps: Network calls (two each with guidance).
            generator: Source of the initial noise.
            state: Normalised, for a model that reads it as text.
            progress: Show a bar.

        Returns:
            Frames `(1 + 4 F, rows, columns, 3)` RGB.
        """
        device, model = self.model.device, self.model
        known = self.codec.encode_observation(
            rearrange(to_codec(torch.from_numpy(image[None])), "c 1 h w -> 1 c h w").to(device)
        ).float()
        future = self.sampling.future_latents if future_latents is None else future_latents
        prompts = [prompt, negative_prompt] if guidance_scale != 1 else [prompt]
        texts = [model.encode_context(self.embed([words]), state) for words in prompts]
        source = generator.device if generator is not None else device
        shape = (1, known.shape[1], future, *known.shape[3:])
        latents = torch.randn(shape, generator=generator, device=source).to(device)
        solver = flow_solver(steps, self.sampling.shift, device)
        with progress_bar(steps, shown=progress) as advance:
            for moment in solver.timesteps:
                times = torch.zeros(1, 1 + future, device=device)
                times[:, 1:] = moment / 1000
                video, now = torch.cat((known, latents), dim=2), times[:, None, 1:, None, None]
                drifts = [
                    velocity(
                        model(video, None, times, None, text).video[:, :, 1:].float(), latents, now, model.objective
                    )
                    for text in texts
                ]
                drift = drifts[0] if len(drifts) == 1 else drifts[1] + guidance_scale * (drifts[0] - drifts[1])
                latents = solver.step(drift, moment, latents).prev_sample
                advance()
        return to_pictures(self.codec.decode(torch.cat((known, latents), dim=2))[0])

    def to(self, device: torch.device | str) -> Self:
        """Move model and codec; the text encoder stays where it is."""
        self.model.to(device)
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)
        self._texts.clear()
        return self

    def embed(self, instructions: Sequence[str]) -> Float[Tensor, "batch text text_dim"]:
        """Embedded instructions; each is embedded once."""
        new = [instruction for instruction in dict.fromkeys(instructions) if instruction not in self._texts]
        if new:
            self._texts |= dict(zip(new, self.text.encode(new), strict=True))
        return torch.stack([self._texts[instruction] for instruction in instructions]).to(self.model.device)

    def frames(self, images: Mapping[str, UInt8[np.ndarray, "*batch height width 3"]]) -> Float[Tensor, "batch 3 h w"]:
        """The cameras in the frame that the codec takes.

        Raises:
            ShapeError: A camera is missing, or its pictures are no single ones.
        """
        images = {name: _batched(name, np.asarray(images[name])) for name in CAMERAS if name in images}
        if self.sampling.tiling is None:
            return rearrange(to_codec(tile(images)), "c b h w -> b c h w")
        rows, columns, head_rows = self.sampling.tiling
        tiling = CameraTiling(rows=rows, columns=columns, head_rows=head_rows)
        return rearrange(tile_cameras(images, tiling), "c b h w -> b c h w")


def _batched(camera: str, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pictures.ndim not in (3, 4):
        raise ShapeError(
            f"the pictures of `{camera}` are {pictures.shape}; pass the current one, (height, width, 3), with a batch "
            "in front or without: the model reads no history."
        )
    return pictures[None] if pictures.ndim == 3 else pictures


def _sampling_of(model: WorldActionModel) -> Sampling:
    if model.sampling is None or model.statistics is None:
        raise ConfigurationError(
            "the model lacks `sampling` or `statistics`; set both, as they were in training, and save it again."
        )
    model.check_statistics()
    return model.sampling

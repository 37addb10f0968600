import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from wam_backbone import ConvCodec, WanCodec
from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError


@pytest.fixture
def codec() -> ConvCodec:
    torch.manual_seed(0)
    return ConvCodec(latent_channels=6, base_width=8, image_size=(48, 32))


def tiny_autoencoder(**changes) -> AutoencoderKLWan:
    torch.manual_seed(0)
    sizes = {"base_dim": 4, "z_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    sizes |= {"latents_mean": [0.5, -0.5, 0.0], "latents_std": [2.0, 1.0, 0.5]}
    return AutoencoderKLWan(**(sizes | changes))


@pytest.fixture
def wan_codec() -> WanCodec:
    return WanCodec(tiny_autoencoder())


@pytest.fixture
def wan22_codec() -> WanCodec:
    """The structure of Wan 2.2's autoencoder: residual stages on 2x2 patches, 16 pixels per latent position."""
    changes = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "decoder_base_dim": 4}
    return WanCodec(tiny_autoencoder(**changes))


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(2, 3, 9, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", ["codec", "wan_codec", "wan22_codec"])
def test_nine_frames_become_one_observation_and_two_future_latents(name, frames, request):
    codec = request.getfixturevalue(name)
    latents = codec.encode(frames)
    pixels = codec.compression
    assert pixels == (8 if name == "wan_codec" else 16)
    assert latents.shape == (2, 6 if name == "codec" else 3, 3, 48 // pixels, 32 // pixels)
    assert codec.decode(latents).shape == frames.shape


@pytest.mark.parametrize("name", ["codec", "wan_codec", "wan22_codec"])
def test_the_observation_latent_depends_on_the_first_frame_alone(name, frames, request):
    codec = request.getfixturevalue(name)
    latents = codec.encode(frames)
    torch.testing.assert_close(codec.encode_observation(frames[:, :, 0]), latents[:, :, :1], rtol=0, atol=1e-5)
    changed = frames.clone()
    changed[:, :, 1:] *= -1
    torch.testing.assert_close(codec.encode(changed)[:, :, 0], latents[:, :, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["codec", "wan_codec", "wan22_codec"])
def test_the_future_does_not_leak_into_earlier_latents(name, frames, request):
    codec = request.getfixturevalue(name)
    changed = frames.clone()
    changed[:, :, 5:] *= -1
    before, after = codec.encode(frames), codec.encode(changed)
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2], rtol=0, atol=1e-5)
    assert (after[:, :, 2] - before[:, :, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("frame", range(1, 9))
def test_every_frame_of_a_group_is_in_its_latent(frame, codec, frames):
    changed = frames.clone()
    changed[:, :, frame] *= -1
    moved = (codec.encode(changed) - codec.encode(frames)).abs().amax(dim=(0, 1, 3, 4))
    group = (frame + 3) // 4
    assert moved[group] > 1e-3
    assert moved[[index for index in range(3) if index != group]].max() < 1e-5


@pytest.mark.parametrize("name", ["codec", "wan_codec", "wan22_codec"])
def test_rows_of_a_batch_are_encoded_and_decoded_independently(name, frames, request):
    codec = request.getfixturevalue(name)
    latents = codec.encode(frames)
    torch.testing.assert_close(codec.encode(frames[1:]), latents[1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents)[1:], codec.decode(latents[1:]), rtol=0, atol=1e-5)


def test_statistics_normalise_the_latents_and_decoding_undoes_them(codec, frames):
    raw = codec.encode_raw(frames).detach()
    codec.set_statistics(raw)
    latents = codec.encode(frames)
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-4
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(codec.decode(latents), codec.decode_raw(raw), rtol=0, atol=1e-4)
    with pytest.raises(ShapeError, match="does not vary"):
        codec.set_statistics(torch.zeros_like(raw))


def test_wan_latents_are_the_normalised_mode(wan_codec, frames):
    raw = wan_codec.autoencoder.encode(frames).latent_dist.mode()
    latents = wan_codec.encode(frames)
    torch.testing.assert_close(latents[:, 0], (raw[:, 0] - 0.5) / 2.0)
    torch.testing.assert_close(latents[:, 2], raw[:, 2] / 0.5)
    assert torch.equal(latents, wan_codec.encode(frames))


def test_wan_statistics_keep_their_precision_in_half_precision(frames):
    statistics = {"latents_mean": [0.1234567, 0.0, 0.0], "latents_std": [1.2345678, 1.0, 1.0]}
    codec = WanCodec(tiny_autoencoder(**statistics)).to(torch.bfloat16)
    raw = codec.autoencoder.encode(frames.bfloat16()).latent_dist.mode().float()
    assert torch.equal(codec.encode(frames)[:, 0], (raw[:, 0] - 0.1234567) / 1.2345678)


def test_a_batch_goes_through_the_autoencoder_at_once(wan_codec, frames):
    seen = []
    wan_codec.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:3]))
    wan_codec.encode(frames)
    assert seen == [(2, 3, 1), (2, 3, 4), (2, 3, 4)]  # first frame, then groups of four; both rows each time


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"temperal_downsample": [False, True, False]}, "halve the time"), ({"latents_mean": [0.0] * 16}, "latents_mean")],
)
def test_an_autoencoder_of_another_kind_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        WanCodec(tiny_autoencoder(**changes))


def test_frames_that_do_not_fill_latent_positions_are_refused(wan_codec):
    with pytest.raises(ShapeError, match="multiples of 8"):
        wan_codec.encode(torch.zeros(1, 3, 5, 48, 36))


def test_saving_and_loading_keeps_weights_and_statistics(codec, frames, tmp_path):
    codec.set_statistics(codec.encode_raw(frames))
    codec.save_pretrained(tmp_path)
    loaded = ConvCodec.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.encode(frames), codec.encode(frames))
        assert torch.equal(loaded.decode(codec.encode(frames)), codec.decode(codec.encode(frames)))


def drop_one(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "to_first.bias"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "no complete checkpoint"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "cut short"),
        (lambda file: save_file(drop_one(load_file(file)), file), "missing: `to_first.bias`"),
        (lambda file: save_file(load_file(file) | {"other": torch.zeros(1)}, file), "unexpected: `other`"),
        (lambda file: file.with_name("config.json").write_text("{"), "config.json` is no JSON"),
        (lambda file: file.with_name("config.json").unlink(), "config.json` does not exist"),
        (lambda file: file.with_name(f"{file.name}.index.json").write_text("{}"), "has no `weight_map`"),
    ],
)
def test_a_damaged_codec_is_named(damage, message, codec, tmp_path):
    codec.save_pretrained(tmp_path)
    damage(tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        ConvCodec.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_autoencoder_of_wan_is_named(wan_codec, tmp_path):
    wan_codec.autoencoder.save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cut short"):
        WanCodec.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_codec_keeps_the_precision_that_is_stored(dtype, codec, tmp_path):
    codec.to(dtype).save_pretrained(tmp_path)
    assert ConvCodec.from_pretrained(tmp_path).dtype == dtype
    assert ConvCodec.from_pretrained(tmp_path, torch_dtype=torch.float32).dtype == torch.float32


def in_hub_cache(folder, part=""):
    """Where a part of revision `v2` of a repository lies in a cache of the hub's."""
    repository = folder / "models--someone--Wan"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v2").write_text("1" * 40)
    return repository / "snapshots" / ("1" * 40) / part


def test_wans_codec_is_found_in_a_hub_cache_by_revision(wan_codec, frames, tmp_path):
    wan_codec.autoencoder.save_pretrained(in_hub_cache(tmp_path, "vae"))
    options = {"cache_dir": tmp_path, "local_files_only": True}
    loaded = WanCodec.from_pretrained("someone/Wan", revision="v2", device="cpu", token="t", **options)
    assert torch.equal(loaded.encode(frames), wan_codec.encode(frames))
    with pytest.raises(WeightsError, match="the hub gave no such repository"):
        WanCodec.from_pretrained("someone/Wan", revision="v3", **options)


def test_a_codec_takes_what_diffusers_models_take(codec, frames, tmp_path):
    codec.save_pretrained(in_hub_cache(tmp_path, "codec"))
    options = {"subfolder": "codec", "cache_dir": tmp_path, "local_files_only": True}
    loaded = ConvCodec.from_pretrained("someone/Wan", revision="v2", device_map="cpu", token="t", **options)
    assert torch.equal(loaded.encode(frames), codec.eval().encode(frames))
    with pytest.raises(WeightsError, match="the hub gave no such repository"):
        ConvCodec.from_pretrained("someone/Wan", revision="v3", **options)
    with pytest.raises(ConfigurationError, match="one device"):
        ConvCodec.from_pretrained("someone/Wan", revision="v2", device_map="auto", **options)


def test_a_gradient_reaches_every_parameter(codec, frames):
    latents, decoded = codec.reconstruct(frames, latent_noise=0.1)
    assert latents.shape == (2, 6, 3, 3, 2)
    (decoded - frames).square().mean().backward()
    without = [name for name, p in codec.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_training_lowers_the_reconstruction_error(codec):
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 32), indexing="ij")
    frames = torch.stack([rows, columns, rows * columns]).expand(9, 3, 48, 32).movedim(0, 1).unsqueeze(0)
    frames = frames * torch.linspace(-1, 1, 9)[None, None, :, None, None]
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error = (codec.reconstruct(frames)[1] - frames).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.2 * errors[0]


def test_a_tabletop_frame_costs_at_most_15_million_operations_to_encode():
    codec = ConvCodec()
    with FlopCounterMode(display=False) as counter:
        assert codec.encode_observation(torch.zeros(1, 3, 96, 64)).shape == (1, 16, 1, 6, 4)
    assert 0 < counter.get_total_flops() <= 15e6


@pytest.mark.parametrize("shape", [(2, 3, 8, 48, 32), (2, 3, 9, 32, 48), (2, 1, 9, 48, 32), (3, 9, 48, 32)])
def test_frames_of_another_shape_are_refused(shape, codec):
    with pytest.raises(ShapeError, match="`frames` are"):
        codec.encode(torch.zeros(shape))


def test_latents_of_another_shape_are_refused(codec):
    with pytest.raises(ShapeError, match="`latents` are"):
        codec.decode(torch.zeros(2, 5, 3, 3, 2))


@pytest.mark.parametrize("changes", [{"image_size": (90, 64)}, {"image_size": (0, 64)}, {"base_width": 12}])
def test_sizes_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigurationError):
        ConvCodec(**changes)


def test_encoding_a_video_at_once_gives_the_latents_of_all_its_clips(codec, frames):
    with torch.no_grad():
        video = frames[0].transpose(0, 1)
        single, group = codec.encode_every(video)
        for start in range(len(video)):
            clip = video[torch.arange(start, start + 5).clamp(max=len(video) - 1)].transpose(0, 1).unsqueeze(0)
            latents = codec.encode(clip)[0]
            torch.testing.assert_close(latents[:, 0], single[start], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(latents[:, 1], group[start], rtol=1e-4, atol=1e-5)

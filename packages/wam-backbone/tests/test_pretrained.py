import json
import re
from pathlib import Path

import diffusers.utils.hub_utils as hub
import huggingface_hub
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from wam_backbone import Normalizer, Statistics, WorldActionModel
from wam_backbone.errors import ConfigurationError, WeightsError
from wam_backbone.weights import (
    VideoSizes,
    action_weights,
    check_video,
    interpolate,
    load_wan_weights,
    shapes_of,
    take_channels,
    wan_weights,
)
from wam_backbone.weights.names import is_video, video_counterpart, video_name
from wam_backbone.weights.stored import StoredTensor

ACTION = {"action_width": 8, "action_ffn": 32, "action_dim": 7, "state_dim": 6}


@pytest.fixture
def wan() -> WanTransformer3DModel:
    """The video half of `make_model`, with every parameter away from its first value."""
    torch.manual_seed(2)
    wan = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10,
        freq_dim=16, ffn_dim=48, num_layers=2,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in wan.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return wan


@pytest.fixture
def diffusers_folder(wan, tmp_path) -> Path:
    """A pipeline's folder with a transformer in several shards, as diffusers writes it."""
    wan.save_pretrained(tmp_path / "Wan" / "transformer", max_shard_size="40KB")
    assert len(list((tmp_path / "Wan" / "transformer").glob("*.safetensors"))) > 2
    return tmp_path / "Wan"


@pytest.fixture
def original_folder(wan, original_name, tmp_path) -> Path:
    """The release of Wan's authors: their names and configuration, two shards and an index."""
    folder = tmp_path / "original"
    folder.mkdir()
    weights = {original_name(name): tensor for name, tensor in wan.state_dict().items()}
    half = len(weights) // 2
    parts = {
        "diffusion_pytorch_model-00001-of-00002.safetensors": dict(list(weights.items())[:half]),
        "diffusion_pytorch_model-00002-of-00002.safetensors": dict(list(weights.items())[half:]),
    }
    for file, part in parts.items():
        save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    sizes = {"dim": 24, "ffn_dim": 48, "freq_dim": 16, "in_dim": 4, "num_heads": 2, "num_layers": 2, "eps": 1e-6}
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "model_type": "ti2v"} | sizes))
    return folder


@pytest.mark.parametrize("kind", ["pipeline", "transformer", "original"])
def test_each_kind_of_wan_folder_gives_wans_predictions(kind, wan, diffusers_folder, original_folder, inputs):
    folder = {
        "pipeline": diffusers_folder, "transformer": diffusers_folder / "transformer", "original": original_folder
    }[kind]  # fmt: skip
    model = WorldActionModel.from_wan(folder, **ACTION)
    per_token = (inputs.video_times * 1000).repeat_interleave(6, dim=1)
    with torch.no_grad():
        theirs = wan(inputs.video, per_token, inputs.context).sample
        ours = model(inputs.video, None, inputs.video_times, None, inputs.context).video
        assert torch.isfinite(inputs.call(model).actions).all()
    assert theirs.abs().max() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_state_dict_may_have_the_original_names(wan, original_name, make_model):
    model = make_model()
    load_wan_weights(model, {original_name(name): tensor for name, tensor in wan.state_dict().items()})
    loaded = wan_weights(model)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in wan.state_dict().items())


def test_the_action_expert_is_interpolated_from_the_video(diffusers_folder):
    model = WorldActionModel.from_wan(diffusers_folder, **ACTION)
    weights = model.state_dict()
    made = [name for name in weights if not is_video(name) and video_counterpart(name)]
    assert len(made) == 2 * 27 + 10
    for name in made:
        source = weights[video_counterpart(name)]
        assert torch.equal(weights[name], interpolate(source, tuple(weights[name].shape)))


def test_interpolation_keeps_ends_and_the_size_of_sums():
    source = torch.tensor([[0.0, 3.0, 6.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    scale = 2**0.5
    assert torch.equal(interpolate(source, (2, 2)), torch.tensor([[0.0, 9.0], [1.0, 1.0]]) * scale)
    torch.testing.assert_close(interpolate(torch.tensor([0.0, 2.0]), (3,)), torch.tensor([0.0, 1.0, 2.0]))


def test_taken_channels_are_a_sub_network(diffusers_folder):
    model = WorldActionModel.from_wan(diffusers_folder, action_init=take_channels, **ACTION)
    weights, kept, scale = model.state_dict(), torch.arange(0, 24, 3), 3**0.5
    video, action = "blocks.1.video", "blocks.1.action"
    assert torch.equal(weights[f"{action}.attn1.to_q.weight"], weights[f"{video}.attn1.to_q.weight"][:, kept] * scale)
    assert torch.equal(weights[f"{action}.attn1.to_out.0.bias"], weights[f"{video}.attn1.to_out.0.bias"][kept])
    assert torch.equal(weights[f"{action}.scale_shift_table"], weights[f"{video}.scale_shift_table"][..., kept])
    six = weights["condition_embedder.time_proj.bias"].unflatten(0, (6, 24))[:, kept]
    assert torch.equal(weights["action_condition_embedder.time_proj.bias"].unflatten(0, (6, 8)), six)


@pytest.mark.parametrize("init", [interpolate, take_channels])
def test_an_expert_as_wide_as_the_video_is_a_copy_of_it(init, diffusers_folder):
    weights = WorldActionModel.from_wan(
        diffusers_folder, action_init=init, **(ACTION | {"action_width": 24, "action_ffn": 48})
    ).state_dict()
    for name in ("blocks.0.action.attn1.to_v.weight", "blocks.1.action.scale_shift_table"):
        assert torch.equal(weights[name], weights[name.replace("action", "video")])


def test_channels_that_do_not_exist_cannot_be_taken():
    with pytest.raises(ConfigurationError, match=r"no \(9,\) channels"):
        take_channels(torch.zeros(8), (9,))
    with pytest.raises(ConfigurationError, match="dimensions differ"):
        interpolate(torch.zeros(8), (2, 4))


def test_what_no_checkpoint_gives_is_drawn_as_in_a_new_model(diffusers_folder):
    sizes = ACTION | {"action_width": 256}
    torch.manual_seed(0)
    model = WorldActionModel.from_wan(diffusers_folder, action_init=None, **sizes)
    new = WorldActionModel(
        latent_channels=4, num_layers=2, num_heads=2, head_dim=12, video_ffn=48, text_dim=10, freq_dim=16, **sizes
    )
    drawn = [name for name in model.state_dict() if not is_video(name)]
    assert len(drawn) > 60
    for name in drawn:
        one, other = model.state_dict()[name], new.state_dict()[name]
        assert one.dtype == torch.float32
        if float(other.std()) == 0:
            assert torch.equal(one, other), name
        else:
            assert not torch.equal(one, other), name
            assert 0.75 < float(one.std() / other.std()) < 1.33, name


def test_a_model_of_another_dtype_is_of_that_dtype_throughout(diffusers_folder):
    model = WorldActionModel.from_wan(diffusers_folder, torch_dtype=torch.bfloat16, **ACTION)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {str(parameter.device) for parameter in model.parameters()} == {"cpu"}


def test_files_that_lose_or_gain_parameters_are_refused(diffusers_folder):
    folder = diffusers_folder / "transformer"
    shard = sorted(folder.glob("*.safetensors"))[0]
    weights = load_file(shard)
    name = sorted(weights)[0]
    for changed in ({k: v for k, v in weights.items() if k != name}, weights | {name: torch.zeros(1)}):
        save_file(changed, shard)
        with pytest.raises(WeightsError, match=re.escape(f"`{video_name(name)}" if name in changed else f"`{name}`")):
            WorldActionModel.from_wan(diffusers_folder, **ACTION)
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match="no complete checkpoint"):
        WorldActionModel.from_wan(diffusers_folder, **ACTION)


def test_a_download_that_stopped_is_recognised(diffusers_folder):
    shards = sorted((diffusers_folder / "transformer").glob("*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{shards[1].name}` cannot be read"):
        WorldActionModel.from_wan(diffusers_folder, **ACTION)
    shards[0].unlink()
    with pytest.raises(WeightsError, match=f"lists `{shards[0].name}`, which is not there"):
        WorldActionModel.from_wan(diffusers_folder, **ACTION)


def test_a_hub_id_is_found_in_the_local_cache(diffusers_folder, tmp_path, monkeypatch):
    repository = tmp_path / "cache" / "models--someone--Wan"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    diffusers_folder.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = WorldActionModel.from_wan("someone/Wan", local_files_only=True, **ACTION)
    assert len(model.blocks) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_variant_beside_the_weights_is_left_alone(whole, wan, tmp_path, make_model):
    (make_model() if whole else wan).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(
        {name: tensor.half() for name, tensor in load_file(file).items()},
        file.with_name("diffusion_pytorch_model.fp16.safetensors"),
    )
    model = WorldActionModel.from_pretrained(tmp_path) if whole else WorldActionModel.from_wan(tmp_path, **ACTION)
    loaded = model.state_dict() if whole else wan_weights(model)
    for name, tensor in (make_model() if whole else wan).state_dict().items():
        assert torch.equal(loaded[name], tensor)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no complete checkpoint"):
        WorldActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.diffusion_model.", "module._orig_mod."])
def test_what_trainers_put_in_front_of_names_is_taken_off(prefix, wan, make_model, tmp_path):
    wan.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    renamed = {prefix + name: tensor for name, tensor in wan.state_dict().items()}
    save_file(renamed, file)
    model = make_model()
    load_wan_weights(model, renamed)
    for loaded in (WorldActionModel.from_wan(tmp_path, **ACTION), model):
        assert all(torch.equal(wan_weights(loaded)[name], tensor) for name, tensor in wan.state_dict().items())
    compiled = {name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in wan.state_dict().items()}
    load_wan_weights(model, compiled)
    with pytest.raises(WeightsError, match=r"unexpected: `someone\."):
        load_wan_weights(model, {f"someone.{name}": tensor for name, tensor in renamed.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_in_half_precision_keep_what_it_can_hold(dtype, wan, tmp_path):
    half = WanTransformer3DModel.from_config(wan.config).to(dtype)
    half.load_state_dict(wan.state_dict())
    half.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = WorldActionModel.from_wan(tmp_path, **ACTION)
    for name, tensor in wan_weights(model).items():
        assert torch.equal(tensor, wan.state_dict()[name].to(dtype).float())


def test_a_model_is_loaded_onto_one_device(diffusers_folder, make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "ours")
    for device_map in ("meta", {"": "meta"}, torch.device("meta")):
        for model in (
            WorldActionModel.from_wan(diffusers_folder, device_map=device_map, **ACTION),
            WorldActionModel.from_pretrained(tmp_path / "ours", device_map=device_map),
        ):
            assert all(parameter.is_meta for parameter in model.parameters())
    for spread in ("auto", "balanced", {"blocks.0": "cpu", "blocks.1": "cpu"}):
        with pytest.raises(ConfigurationError, match="one device"):
            WorldActionModel.from_wan(diffusers_folder, device_map=spread, **ACTION)
        with pytest.raises(ConfigurationError, match="one device"):
            WorldActionModel.from_pretrained(tmp_path / "ours", device_map=spread)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "neither a folder nor a hub id"),
        (Path("no/where"), "neither a folder nor a hub id"),
    ],
)
def test_a_source_that_is_nothing_is_named(source, message):
    with pytest.raises(WeightsError, match=message):
        WorldActionModel.from_wan(source, local_files_only=True)


def test_a_folder_without_configuration_or_of_another_model_is_refused(diffusers_folder, tmp_path):
    config = diffusers_folder / "transformer" / "config.json"
    config.write_text("{}")
    with pytest.raises(WeightsError, match="names no size of a head"):
        WorldActionModel.from_wan(diffusers_folder)
    (tmp_path / "config.json").write_text(json.dumps({"attention_head_dim": 12}))
    save_file({"conv_in.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no Wan video transformer .*begins with `conv_in.weight`"):
        WorldActionModel.from_wan(tmp_path)


@pytest.mark.parametrize(
    "content", ["{}", '{"weig', "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 100_000]
)
def test_an_index_that_lists_no_files_is_named(content, make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors\.index\.json`"):
        WorldActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"num_layers": "two"}'])
def test_a_configuration_that_describes_no_model_is_named(content, make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json`"):
        WorldActionModel.from_pretrained(tmp_path)


def test_weights_in_whole_numbers_are_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"action_proj_out.bias": torch.zeros(7, dtype=torch.int8)}, file)
    with pytest.raises(WeightsError, match=r"`action_proj_out\.bias` is stored as torch\.int8"):
        WorldActionModel.from_pretrained(tmp_path)


def test_a_hub_that_cannot_be_reached_is_no_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"`someone/nothing` is no folder here, and the hub gave no such repository"):
        WorldActionModel.from_wan("someone/nothing", local_files_only=True, cache_dir=tmp_path)


def test_full_size_wan_fits_by_name_and_shape():
    with torch.device("meta"):
        wan = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48,
            text_dim=4096, freq_dim=256, ffn_dim=14336, num_layers=30,
        )  # fmt: skip
        ours = WorldActionModel()
    video = {video_name(name): StoredTensor.of(tensor) for name, tensor in wan.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in video.items()}
    check_video(ours, shapes)
    sizes = VideoSizes.of(shapes, head_dim=128, eps=1e-6)
    assert all(getattr(sizes, name) == ours.config[name] for name in sizes.__slots__)
    for init in (interpolate, take_channels):
        made = action_weights(shapes_of(ours), video, init)
        assert sum(tensor.read().numel() for tensor in made.values()) > 1_020_000_000
        assert all(tuple(tensor.read().shape) == tensor.shape for tensor in made.values())


# Our own folders


@pytest.fixture
def statistics() -> Statistics:
    return Statistics(
        actions=Normalizer(center=(0.1,) * 7, scale=(2.0,) * 7, limit=5.0),
        states=Normalizer(center=(0.3,) * 6, scale=(0.7,) * 6),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_a_saved_model_comes_back_bit_by_bit(dtype, max_shard_size, make_model, statistics, tmp_path):
    model = make_model("joint", "epsilon", state_token="text", action_axis="own", modulated_action_head=False).to(dtype)
    model.statistics = statistics
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (max_shard_size == "20KB")
    loaded = WorldActionModel.from_pretrained(tmp_path)
    assert loaded.statistics == statistics
    assert json.loads(loaded.to_json_string()) == json.loads(model.to_json_string())
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert weights[name].dtype == dtype
        assert torch.equal(weights[name], tensor)


def test_saving_again_leaves_nothing_of_the_earlier_model(make_model, statistics, tmp_path):
    earlier = make_model()
    earlier.statistics = statistics
    earlier.save_pretrained(tmp_path, max_shard_size="20KB")
    later = make_model(num_layers=1)
    later.save_pretrained(tmp_path)
    loaded = WorldActionModel.from_pretrained(tmp_path)
    assert loaded.statistics is None
    assert len(loaded.blocks) == 1


def test_a_model_saved_over_the_files_it_came_from_is_whole(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = WorldActionModel.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    after = WorldActionModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_statistics_of_another_size_are_not_saved(make_model, statistics, tmp_path):
    model = make_model(action_dim=5)
    model.statistics = statistics
    with pytest.raises(ConfigurationError, match="7 action and 6 state numbers; the model has 5 and 6"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_their_configuration_are_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "one")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(config | {"action_width": 20}))
    with pytest.raises(WeightsError, match=r"misshapen: `action_condition_embedder.* and \d+ more"):
        WorldActionModel.from_pretrained(tmp_path, subfolder="one")


def test_what_is_pushed_to_the_hub_can_be_loaded(make_model, statistics, tmp_path, monkeypatch):
    pushed = tmp_path / "hub"

    def upload(self, working_dir, repo_id, **_):
        Path(working_dir).rename(pushed)
        Path(working_dir).mkdir()
        return repo_id

    monkeypatch.setattr(hub, "create_repo", lambda repo_id, **_: type("Repo", (), {"repo_id": repo_id})())
    monkeypatch.setattr(hub, "load_or_create_model_card", lambda repo_id, **_: hub.ModelCard("# A model"))
    monkeypatch.setattr(WorldActionModel, "_upload_folder", upload)
    model = make_model()
    model.statistics = statistics
    assert model.push_to_hub("someone/model") == "someone/model"
    loaded = WorldActionModel.from_pretrained(pushed)
    assert loaded.statistics == statistics
    assert torch.equal(loaded.proj_out.weight, model.proj_out.weight)


# Fast-WAM's files; what they predict is compared with Fast-WAM's own code in test_fastwam_parity.py


def test_a_file_that_is_no_fastwam_policy_is_refused(tmp_path):
    file = tmp_path / "policy.pt"
    with pytest.raises(WeightsError, match="does not exist"):
        WorldActionModel.from_fastwam(file)
    file.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="cannot be read as plain weights"):
        WorldActionModel.from_fastwam(file)
    for payload, message in (
        ({"dit": {}}, "holds `dit`; a Fast-WAM policy holds `mot`"),
        ([1], "holds a list"),
        ({"mot": {"mixtures.video.a": 3}}, "something else than tensors by name"),
        ({"mot": {3: torch.zeros(1)}}, "something else than tensors by name"),
        ({"mot": {"mixtures.video.head.modulation": torch.zeros(1, 2, 4)}}, "has no action expert"),
    ):
        torch.save(payload, file)
        with pytest.raises(WeightsError, match=message):
            WorldActionModel.from_fastwam(file)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"mot": Payload()}, tmp_path / "policy.pt")
    with pytest.raises(WeightsError, match="cannot be read as plain weights"):
        WorldActionModel.from_fastwam(tmp_path / "policy.pt")
    assert not (tmp_path / "ran").exists()

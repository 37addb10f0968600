import json

import pytest
import torch

pytest.importorskip("peft", reason="adapters need the extra `lora`")

import peft

from wam_backbone import Stage1Batch, Stage1Recipe, stage1_loss
from wam_backbone.errors import AdapterError, ConfigurationError
from wam_backbone.training import (
    Adapter,
    WeightAverage,
    adapters_of,
    add_adapters,
    load_adapters,
    merge_adapters,
    save_adapters,
)

SMALL = Adapter(rank=2, alpha=4.0)


@pytest.fixture
def batch(inputs):
    return Stage1Batch(video=inputs.video, actions=inputs.actions, context=inputs.context, state=inputs.state)


def train(model, batch, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        stage1_loss(model, batch, Stage1Recipe(), generator=torch.Generator().manual_seed(step)).total.backward()
        optimizer.step()


def snapshot(model):
    return {name.replace(".base_layer.", "."): p.detach().clone() for name, p in model.named_parameters()}


def test_fresh_adapters_change_nothing(make_model, inputs):
    model = make_model()
    before = inputs.call(model)
    add_adapters(model, {"video": SMALL, "action": SMALL})
    after = inputs.call(model)
    assert torch.equal(after.video, before.video)
    assert torch.equal(after.actions, before.actions)
    assert adapters_of(model) == {"video": SMALL, "action": SMALL}


@pytest.mark.parametrize("expert", ["video", "action"])
def test_an_experts_weights_freeze_and_the_other_expert_trains(expert, make_model, batch):
    model = make_model()
    before = snapshot(model)
    add_adapters(model, {expert: SMALL})
    train(model, batch)
    after = snapshot(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    of_actions = {name for name in before if name.startswith(("action_", "state_")) or ".action." in name}
    interface = {name for name in before if name.startswith(("action_embedding", "state_embedding", "action_proj_out"))}
    free = of_actions if expert == "video" else (before.keys() - of_actions) | interface
    assert moved == free
    learned = [name for name in after.keys() - before.keys() if bool(after[name].abs().sum() > 0)]
    assert len(learned) == 2 * 2 * 10  # two factors, two layers, ten linear layers each
    assert all(f".{expert}." in name for name in learned)


def test_the_adapted_layers_can_be_chosen(make_model):
    model = make_model()
    add_adapters(model, {"video": Adapter(rank=1, self_attention=False, cross_attention=False)})
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {f"blocks.{layer}.video.ffn.net.{part}" for layer in (0, 1) for part in ("0.proj", "2")}
    assert adapters_of(model)["video"] == Adapter(rank=1, self_attention=False, cross_attention=False)


def test_merged_adapters_give_the_same_predictions_under_plain_names(make_model, inputs, batch):
    model = make_model()
    names = snapshot(model).keys()
    add_adapters(model, {"video": SMALL, "action": Adapter(rank=3)})
    train(model, batch)
    with torch.no_grad():
        adapted = inputs.call(model)
        merge_adapters(model)
        merged = inputs.call(model)
    torch.testing.assert_close(merged.video, adapted.video, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged.actions, adapted.actions, rtol=1e-4, atol=1e-5)
    assert dict(model.named_parameters()).keys() == names
    assert adapters_of(model) == {}
    add_adapters(model, {"video": SMALL})


def test_adapters_are_saved_apart_and_load_into_the_base_model(make_model, inputs, batch, tmp_path):
    model = make_model()
    add_adapters(model, {"video": SMALL, "action": Adapter(rank=3, feed_forward=False)})
    train(model, batch)
    save_adapters(model, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == 2 * ["adapter_config.json"] + 2 * [
        "adapter_model.safetensors"
    ]
    loaded = make_model()  # the weights that were frozen are those of the same seed
    load_adapters(loaded, tmp_path)
    assert adapters_of(loaded) == adapters_of(model)
    with torch.no_grad():
        assert torch.equal(inputs.call(loaded).video, inputs.call(model).video)
        assert torch.equal(inputs.call(loaded).actions, inputs.call(model).actions)
    (tmp_path / "action" / "adapter_model.safetensors").unlink()
    only_video = make_model()
    load_adapters(only_video, tmp_path)
    assert adapters_of(only_video) == {"video": SMALL}


@pytest.mark.parametrize("expert", ["video", "action"])
def test_what_trains_beside_an_adapter_is_saved_with_it(expert, make_model, inputs, batch, tmp_path):
    model = make_model()
    add_adapters(model, {expert: SMALL})
    train(model, batch)
    save_adapters(model, tmp_path)
    loaded = make_model()
    load_adapters(loaded, tmp_path)
    with torch.no_grad():
        assert torch.equal(inputs.call(loaded).video, inputs.call(model).video)
        assert torch.equal(inputs.call(loaded).actions, inputs.call(model).actions)
    if expert == "video":
        with pytest.raises(AdapterError, match=r"`.*beside\.safetensors` does not fit the model"):
            load_adapters(make_model(action_ffn=40), tmp_path)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    save_adapters(model, tmp_path)
    assert not (tmp_path / "beside.safetensors").exists()


@pytest.mark.parametrize("expert", ["video", "action"])
def test_peft_reads_what_is_saved(expert, make_model, inputs, batch, tmp_path):
    model = make_model()
    add_adapters(model, {expert: SMALL})
    saved = (".lora_", "action_embedding", "state_embedding", "action_proj_out")[: 1 if expert == "video" else 4]
    for name, parameter in model.named_parameters():  # what an adapter's file does not hold stays the base model's
        parameter.requires_grad_(any(part in name for part in saved))
    train(model, batch)
    save_adapters(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(make_model(), str(tmp_path / expert))
    with torch.no_grad():
        expected, found = inputs.call(model), inputs.call(theirs)
        base = inputs.call(make_model())
    torch.testing.assert_close(found.video, expected.video, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.actions, expected.actions, rtol=0, atol=1e-6)
    assert float((base.actions - found.actions).abs().max()) > 1e-3


def test_training_goes_on_with_all_weights_after_a_merge(make_model, batch):
    model = make_model()
    model.patch_embedding.bias.requires_grad_(False)  # frozen before, and by nobody's adapter
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    add_adapters(model, {"video": SMALL, "action": SMALL})
    merge_adapters(model)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable


def test_a_model_with_adapters_is_not_saved_as_one_without(make_model, tmp_path):
    model = make_model()
    add_adapters(model, {"video": SMALL})
    with pytest.raises(AdapterError, match="`merge_adapters` before saving"):
        model.save_pretrained(tmp_path)
    merge_adapters(model)
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path)


def test_only_what_is_trained_is_averaged(make_model, batch):
    model = make_model()
    add_adapters(model, {"video": SMALL})
    average = WeightAverage(model, decay=0.5)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert average.tensors.keys() == trained | {"updates"}
    assert not any(name.startswith("blocks.0.video") and ".lora_" not in name for name in trained)


def test_what_does_not_fit_is_refused(make_model, tmp_path):
    model = make_model()
    with pytest.raises(AdapterError, match="`video`, `action` or both"):
        add_adapters(model, {"text": SMALL})
    with pytest.raises(AdapterError, match="no adapters to merge"):
        merge_adapters(model)
    with pytest.raises(AdapterError, match="neither"):
        load_adapters(model, tmp_path)
    add_adapters(model, {"video": SMALL})
    with pytest.raises(AdapterError, match="merge them first"):
        add_adapters(model, {"action": SMALL})
    save_adapters(model, tmp_path)
    with pytest.raises(AdapterError, match="does not fit the model"):
        load_adapters(make_model(num_layers=3), tmp_path)
    config = tmp_path / "video" / "adapter_config.json"
    plain = config.read_text()
    config.write_text(json.dumps({**json.loads(plain), "use_rslora": True}))
    with pytest.raises(AdapterError, match="sets \\['use_rslora'\\]"):
        load_adapters(make_model(), tmp_path)
    config.write_text(plain)
    (tmp_path / "video" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(AdapterError, match="holds no adapter"):
        load_adapters(make_model(), tmp_path)
    with pytest.raises(ConfigurationError, match="adapts nothing"):
        Adapter(self_attention=False, cross_attention=False, feed_forward=False)

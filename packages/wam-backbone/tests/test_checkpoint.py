import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wam_backbone import checkpoint
from wam_backbone.errors import CheckpointError, ConfigurationError
from wam_backbone.training import TrainingCheckpoints, optimizer_tensors


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {"weight": torch.randn(5, 3), "bias": torch.randn(4).bfloat16(), "updates": torch.tensor(7)}


def test_a_state_comes_back_exactly_and_replaces_the_earlier_one(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "state")
    assert checkpoints.latest() == 0
    checkpoints.save(10, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    checkpoints.save(20, tensors)
    assert checkpoints.latest() == 20
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000020"]
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    checkpoints.load(20, found)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_state_of_unknown_shapes_is_read_whole_with_its_values(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    empty = {"none": torch.zeros(0, 3)}
    checkpoints.save(10, tensors | empty, values={"updates": [1, "two", None]})
    found, values = checkpoints.read(10)
    assert values == {"updates": [1, "two", None]}
    assert found.keys() == (tensors | empty).keys()
    assert all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in tensors.items()
    )
    (part,) = tmp_path.glob("*/part-*")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"part-00000\.safetensors` cannot be read"):
        checkpoints.read(10)


def test_a_step_can_be_saved_again(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    for content in (0, 1, None):
        state = tensors if content is None else {name: torch.full_like(t, content) for name, t in tensors.items()}
        checkpoints.save(10, state)
        assert len(list(tmp_path.iterdir())) == 1
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    checkpoints.load(checkpoints.latest(), found)
    assert torch.equal(found["weight"], tensors["weight"])


def test_the_last_states_are_kept_to_go_back_to(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        checkpoints.save(step, {name: torch.full_like(tensor, step) for name, tensor in tensors.items()})
    assert checkpoints.steps() == [20, 30]
    checkpoints.load(20, tensors)
    assert bool((tensors["weight"] == 20).all())
    with pytest.raises(CheckpointError, match=r"no state of step 10, only of \[20, 30\]"):
        checkpoints.load(10, tensors)
    with pytest.raises(ConfigurationError, match="`keep` is 0"):
        TrainingCheckpoints(tmp_path, keep=0)


def test_all_of_a_state_is_on_disk_before_it_has_its_name(tensors, tmp_path, monkeypatch):
    done, flush, rename = [], checkpoint._flush, Path.rename
    monkeypatch.setattr(checkpoint, "_flush", lambda path: done.append(path.name) or flush(path))
    monkeypatch.setattr(Path, "rename", lambda path, to: done.append("named") or rename(path, to))
    TrainingCheckpoints(tmp_path / "state").save(3, tensors)
    part, folder = "part-00000.safetensors", "step-00000003.partial"
    assert done == [part, "manifest.json", folder, "named", "state"]


@pytest.mark.parametrize("step", [10, 20])
@pytest.mark.parametrize(
    "moment", ["wam_backbone.checkpoint.save_file", "pathlib.Path.rename", "wam_backbone.checkpoint.shutil.rmtree"]
)
def test_a_kill_at_any_moment_leaves_a_whole_state(step, moment, tensors, tmp_path, monkeypatch):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(10, tensors)
    calls = []

    def killed(*_, **__):
        calls.append(1)
        if moment.endswith("rmtree") and len(calls) == 1:
            return  # of a partial state that is not there
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moment, killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(step, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    found = {name: torch.full_like(tensor, 9) for name, tensor in tensors.items()}
    survivors = TrainingCheckpoints(tmp_path)
    survivors.load(survivors.latest(), found)
    saved_anew = moment.endswith("rmtree")
    assert survivors.latest() == (step if saved_anew else 10)
    assert torch.equal(found["weight"], torch.zeros(5, 3) if saved_anew else tensors["weight"])
    checkpoints.save(20, tensors)
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["step-00000020"]


def test_another_state_is_refused_by_name(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(10, tensors)
    with pytest.raises(CheckpointError, match=r"`weight` \(5, 3\) there, \(5, 4\) here"):
        checkpoints.load(10, tensors | {"weight": torch.zeros(5, 4)})
    with pytest.raises(CheckpointError, match=r"`more` None there"):
        checkpoints.load(10, tensors | {"more": torch.zeros(1)})


def test_a_damaged_state_is_refused_by_name(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(10, tensors)
    part = tmp_path / "step-00000010" / "part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="part-00000"):
        checkpoints.load(10, tensors)


@pytest.mark.parametrize("content", ["", "[]", '{"parts": 1}', '{"parts": "x", "shapes": {}, "values": 0}'])
def test_a_damaged_manifest_is_named(content, tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(3, tensors)
    (tmp_path / "step-00000003" / "manifest.json").write_text(content)
    for take_up in (lambda: checkpoints.read(3), lambda: checkpoints.load(3, tensors)):
        with pytest.raises(CheckpointError, match=r"step-00000003/manifest\.json` is damaged"):
            take_up()


def test_what_somebody_keeps_beside_the_states_is_left_alone(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(3, tensors)
    copies = ("step-00000003 (copy)", "step-00000003.bak", "step-best")
    for name in copies:
        shutil.copytree(tmp_path / "step-00000003", tmp_path / name)
    (tmp_path / "step-notes").write_text("the third is best")
    assert checkpoints.steps() == [3]
    checkpoints.save(4, tensors)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000004", "step-notes", *copies}


def test_a_part_that_another_program_wrote_is_named(tensors, tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(3, tensors)
    save_file({"other": torch.zeros(1)}, tmp_path / "step-00000003" / "part-00000.safetensors")
    with pytest.raises(CheckpointError, match=r"part-00000\.safetensors` cannot be read"):
        checkpoints.read(3)


@pytest.mark.parametrize(
    "make", [torch.optim.SGD, torch.optim.Adafactor, torch.optim.RAdam, partial(torch.optim.AdamW, amsgrad=True)]
)
def test_no_state_is_invented_for_another_optimizer(make):
    module = torch.nn.Linear(3, 2)
    optimizer = make(module.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="`AdamW` without `amsgrad` alone"):
        optimizer_tensors(module, optimizer)
    assert not optimizer.state


def test_an_optimizer_goes_on_as_if_it_had_not_stopped(tmp_path):
    def step(module, optimizer, number):
        optimizer.zero_grad()
        module(torch.randn(8, 3, generator=torch.Generator().manual_seed(number))).square().mean().backward()
        optimizer.step()

    def make():
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        module.bias.requires_grad_(False)
        return module, torch.optim.AdamW([module.weight], lr=0.1)

    whole, optimizer = make()
    for number in range(3):
        step(whole, optimizer, number)
    state = {"weight": whole.weight.detach()} | optimizer_tensors(whole, optimizer)
    assert state.keys() == {"weight", "weight.step", "weight.exp_avg", "weight.exp_avg_sq"}
    TrainingCheckpoints(tmp_path).save(3, state)
    resumed, second = make()
    TrainingCheckpoints(tmp_path).load(3, {"weight": resumed.weight.detach()} | optimizer_tensors(resumed, second))
    step(whole, optimizer, 3)
    step(resumed, second, 3)
    assert torch.equal(resumed.weight, whole.weight)

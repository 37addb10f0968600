"""Training states and packs: what is written comes back, and what cannot be is refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from noisegate_apps.data.pack import read_pack, write_pack
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.seeds import seed_of
from noisegate_apps.runs.state import TrainingState
from wam_backbone.errors import CheckpointError


class Counter:
    """A part with a nested state, as the learner and the source of groups have one."""

    def __init__(self):
        self.state = {"tensors": {0: torch.zeros(2)}, "values": {"updates": 0, "rates": [1e-3, None]}}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def trained():
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    return {"module": module, "optimizer": optimizer, "counter": Counter()}


def step(parts):
    parts["optimizer"].zero_grad()
    parts["module"](torch.ones(3)).sum().backward()
    parts["optimizer"].step()
    parts["counter"].state["values"]["updates"] += 1


def test_a_state_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, first, second = trained(), trained(), trained()
    assert TrainingState(tmp_path, second).resume() == 0
    for _ in range(2):
        step(whole)
    step(first)
    TrainingState(tmp_path, first).save(1)
    with torch.no_grad():
        second["module"].weight.add_(1.0)
    assert TrainingState(tmp_path, second).resume() == 1
    assert second["counter"].state["values"] == {"updates": 1, "rates": [1e-3, None]}
    assert torch.equal(second["counter"].state["tensors"][0], torch.zeros(2))
    step(second)
    assert torch.equal(second["module"].weight, whole["module"].weight)


def test_a_damaged_state_is_refused_by_name(tmp_path):
    TrainingState(tmp_path, trained()).save(3)
    (part,) = tmp_path.glob("*/part-*")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="step-00000003"):
        TrainingState(tmp_path, trained()).resume()


@pytest.mark.parametrize("values", [None, {"__pairs__": [["other", 3]]}, 3])
def test_a_state_of_another_training_is_refused(tmp_path, values):
    TrainingState(tmp_path, trained()).save(3)
    (manifest,) = tmp_path.glob("*/manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"values": values}))
    with pytest.raises(RunError, match="the training state of step 3 is another one"):
        TrainingState(tmp_path, trained()).resume()


def test_a_pack_comes_back_exactly(tmp_path):
    state = {"step": 7, "names": ["a", None, True], "half": torch.ones(2).half(), 3: {"weights": torch.randn(3, 4)}}
    write_pack(tmp_path / "pack.safetensors", state)
    found = read_pack(tmp_path / "pack.safetensors")
    assert (found["step"], found["names"]) == (7, ["a", None, True])
    assert found["half"].dtype == torch.float16
    assert torch.equal(found[3]["weights"], state[3]["weights"])


def test_tensors_that_share_memory_are_stored_apart(tmp_path):
    weight = torch.randn(4)
    write_pack(tmp_path / "pack.safetensors", {"a": weight, "b": weight[:2]})
    assert torch.equal(read_pack(tmp_path / "pack.safetensors")["b"], weight[:2])


def test_a_damaged_pack_is_refused_by_name(tmp_path):
    path = tmp_path / "pack.safetensors"
    write_pack(path, {"weights": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"pack\.safetensors` cannot be read .* remove it"):
        read_pack(path)


def test_what_has_no_plain_form_is_refused(tmp_path):
    with pytest.raises(TypeError, match="object"):
        write_pack(tmp_path / "pack.safetensors", {"bad": object()})
    assert not list(tmp_path.iterdir())


def test_a_seed_depends_on_every_part():
    assert seed_of("noise", 1, 23) == seed_of("noise", 1, 23)
    assert len({seed_of("noise", 1, 23), seed_of("noise", 12, 3), seed_of("policy", 1, 23), seed_of("noise", 1)}) == 4

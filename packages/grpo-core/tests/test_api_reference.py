from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import grpo_core
import grpo_core.errors
import grpo_core.executors

PACKAGE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api", PACKAGE / "scripts" / "write_api_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_reference_is_up_to_date(script):
    written = (PACKAGE / "docs" / "api.md").read_text()
    assert written == script.reference(), "run `python packages/grpo-core/scripts/write_api_reference.py`"


def test_the_api_reference_covers_every_export_once(script):
    names = [name for _, name in script.exports(script.SOURCE)]
    assert sorted(names) == sorted(grpo_core.__all__)
    page = script.reference()
    for name in names:
        assert page.count(f"\n### `{name}`\n") == 1


def test_the_api_reference_covers_what_is_public_beside_the_exports(script):
    found = {(module, name) for module, _, name in script.further()}
    for module, name in found:
        assert hasattr(importlib.import_module(module), name)
    names = {name for _, name in found}
    assert not names & set(grpo_core.__all__)
    assert {"Replay", "Collected", "every_group", "VectorRollout", "gather", "FaultTolerance", "Executor"} <= names
    assert {"SurrogateLoss", "GroupSource"} <= names
    errors = {name for name, value in vars(grpo_core.errors).items() if isinstance(value, type)}
    assert errors <= names | {"RolloutError"}
    assert set(grpo_core.executors.__all__) <= names | set(grpo_core.__all__)
    page = script.reference()
    for name in names:
        assert page.count(f"\n### `{name}`\n") == 1


def test_fields_methods_arguments_and_errors_are_in_the_reference(script):
    page = script.reference()
    config = page.split("### `GRPOConfig`")[1].split("\n### ")[0]
    assert "- `inner_epochs: int = 4`  \n  Passes over the batch; at least 1." in config
    learner = page.split("### `Learner`")[1].split("\n### ")[0]
    assert "#### `update(batch: Batch[StatesT, ActionsT], advantages: Tensor | None=None, *, version" in learner
    assert "- `NonFiniteError`: A reward" in learner
    assert "#### `updates -> int`" in learner
    assert "_take_step" not in page


def test_an_export_without_docstring_or_definition_is_found_out(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SOURCE", tmp_path)
    file = tmp_path / "silent.py"
    file.write_text("def quiet(): pass\n")
    with pytest.raises(LookupError, match=r"`quiet` .* has no docstring"):
        script.definition(file, "quiet")
    with pytest.raises(LookupError, match="exports `loud`"):
        script.definition(file, "loud")

"""What the documents name exists: links, paths and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

import noisegate_apps
from noisegate_apps.codec.config import CodecConfig
from noisegate_apps.data.config import CollectConfig
from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.report.config import ReportConfig
from noisegate_apps.runs.command_line import parse
from noisegate_apps.serving.config import ServeConfig
from noisegate_apps.stage1 import presets as stage1
from noisegate_apps.stage1.config import Stage1Config
from noisegate_apps.stage2 import config as stage2

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*/*.md", "*s/*.md", "packages/*/*.md") for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PATH = re.compile(r"`((?:packages|apps|tests|docs|checkpoints|configs|scripts|integrations|benchmarks)/[\w./-]+)`")
COMMAND = re.compile(r"uv run (apps/\w+\.py)([^`#\n]*)")
LAUNCHED = re.compile(r"uv run accelerate launch (.*?) (apps/\w+\.py)(.*)")


def test_there_are_documents():
    assert len(DOCUMENTS) >= 12


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document):
    text = document.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        assert (document.parent / target).exists(), f"link to {target}"
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), f"path {path}"
    for script, _ in COMMAND.findall(text):
        assert (ROOT / script).exists(), f"command {script}"


CONFIGS = {
    "apps/collect.py": (CollectConfig, ()),
    "apps/train_codec.py": (CodecConfig, ()),
    "apps/stage1.py": (Stage1Config, stage1.PRESETS),
    "apps/stage2.py": (stage2.Stage2Config, stage2.PRESETS),
    "apps/eval.py": (EvalConfig, ()),
    "apps/report.py": (ReportConfig, ()),
    "apps/serve.py": (ServeConfig, ()),
}


def test_the_commands_of_all_documents_parse():
    texts = [document.read_text(encoding="utf-8").replace("\\\n", " ") for document in DOCUMENTS]
    found = [command for text in texts for command in COMMAND.findall(text)]
    assert {script for script, _ in found} == set(CONFIGS)
    for script, rest in found:
        config, presets = CONFIGS[script]
        arguments = rest.replace("$RT", "--robotwin.root somewhere --robotwin.python somewhere").split()
        parse(config, arguments, presets=presets)


def test_the_architecture_has_a_paragraph_for_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    library = ROOT / "apps" / "noisegate_apps"
    rooms = [path.parent.name for path in library.glob("*/__init__.py")]
    assert len(rooms) >= 9
    assert not [room for room in rooms if f"- **`{room}/`**" not in text]


def test_the_launch_commands_of_training_parse():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    commands = LAUNCHED.findall(text)
    assert len(commands) >= 6
    for launcher, script, rest in commands:
        assert script == "apps/stage1.py"
        known = launch_command_parser().parse_args([*launcher.replace("$RANK", "0").split(), script])
        assert known.config_file is None or (ROOT / known.config_file).exists(), known.config_file
        parse(Stage1Config, rest.split(), presets=stage1.PRESETS)


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The programs of the composed library's page, in a folder where they find the checkpoints."""
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return re.findall(r"```python\n(.*?)```", (ROOT / "apps" / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_the_composed_library_acts(examples):
    acting, _ = examples
    names: dict[str, object] = {}
    exec(acting, names)
    assert names["plan"].actions.shape == (1, 16, 14)
    assert 0 < names["outcome"].executed <= 16


@pytest.mark.slow
@pytest.mark.sim
def test_the_example_of_the_composed_library_trains_a_gate_and_compares_it(examples):
    _, training = examples
    names: dict[str, object] = {}
    exec(training, names)
    assert names["gate"].config.sees == "content"
    assert {name: len(found["grab_roller"]) for name, found in names["outcomes"].items()} == {"shared": 1, "learned": 1}


def test_every_exported_name_of_the_composed_library_is_there():
    assert len(noisegate_apps.__all__) > 10
    assert all(getattr(noisegate_apps, name).__name__ for name in noisegate_apps.__all__)

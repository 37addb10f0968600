"""Presets are subcommands: other defaults of the same options, chosen by the first word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from noisegate_apps.evaluation.schedules import ROWS
from noisegate_apps.runs.command_line import parse
from noisegate_apps.stage1 import presets as stage1
from noisegate_apps.stage1.config import Stage1Config
from noisegate_apps.stage2 import config as stage2
from noisegate_apps.stage2.config import Stage2Config, paper
from wam_backbone.presets import fastwam, motus


def parse_stage2(*arguments):
    return parse(Stage2Config, arguments, presets=stage2.PRESETS)


def test_the_first_preset_runs_where_none_is_named():
    assert parse_stage2() == parse_stage2("main") == Stage2Config()
    assert parse_stage2("--epochs", "3", "--gate.width", "16").epochs == 3


def test_a_preset_gives_defaults_that_options_change():
    assert paper() != Stage2Config()
    assert parse_stage2("paper") == paper()
    found = parse_stage2("paper", "--epochs", "3", "--gate.width", "16")
    assert found == replace(paper(), epochs=3, gate=replace(paper().gate, width=16))


@pytest.mark.parametrize("name", ["fastwam", "motus"])
def test_stage_1_has_the_papers_two_configurations(name):
    preset = {"fastwam": fastwam, "motus": motus}[name]()
    found = parse(Stage1Config, [name, "--seed", "1"], presets=stage1.PRESETS)
    assert found == replace(stage1.from_preset(name, preset), seed=1)
    assert found != Stage1Config(seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "main, paper"),
        (("--epochs", "3", "paper"), "Move 'paper' earlier"),
        (("paper", "--group-size", "3"), "multiple of `group_size`"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_with_what_can(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse_stage2(*arguments)
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_help_names_the_presets_and_shows_the_defaults_of_the_chosen_one(app):
    assert "{main,paper}" in app("stage2", "--help").output
    chosen = " ".join(app("stage2", "paper", "--help").output.replace("│", " ").split())
    assert "How many updates the gate gets. (default: 50)" in chosen
    assert "{tabletop,fastwam,motus}" in app("stage1", "--help").output


def test_help_names_every_schedule_that_can_be_compared(app):
    shown = " ".join(app("eval", "--help").output.replace("│", " ").split())
    text = shown[shown.index("--schedules") : shown.index("--lattice")]
    assert [row.name for row in ROWS if f"`{row.name}`" not in text] == []


def test_defaults_are_made_only_when_their_preset_is_chosen():
    def slow():
        raise AssertionError("made for a command line that does not need it")

    first = stage2.PRESETS[0]
    unused = replace(stage2.PRESETS[1], make=slow)
    assert parse(Stage2Config, ["--seed", "3"], presets=(first, unused)).seed == 3

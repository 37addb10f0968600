"""The registry of schedules: one row for each, complete, and cheap to name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from noisegate_apps.evaluation.config import SCHEDULES, EvalConfig
from noisegate_apps.evaluation.schedules import BY_NAME, ROWS, FixedRow, LearnedRow
from noisegate_apps.evaluation.statistics import Mean
from noisegate_apps.evaluation.tabletop import label_of, print_rows, summarise
from noisegate_apps.evaluation.variants import scheduled
from noisegate_apps.runs.errors import RunError
from noisegate_apps.stage2.config import GateSettings, Stage2Config
from noisegate_apps.stage2.gate import new_gate, sampled
from noisegate_gpn import LearnedSchedule, StoppingLearnedSchedule
from wam_backbone import Clock, DenoisingStep
from wam_backbone.clock import in_turn

GATES = {"global": "chunk", "stop": "none", "priced": "latent"}


class Standin:
    """Of a policy, what rows ask for."""

    device = torch.device("cpu")
    settings = SimpleNamespace(future_latents=2, text_dim=4, states=SimpleNamespace(dim=14))
    backbone = SimpleNamespace(latent_channels=3)
    pipeline = SimpleNamespace(sampling=SimpleNamespace(shift=5.0))

    def __init__(self, clock=None, video_clock=None):
        self.clock = clock or Clock.linear(6)
        self.video_clock = video_clock or self.clock

    def under(self, clock, video_clock=None):
        return Standin(clock, video_clock)

    def together(self):
        return self.under(Clock.linear(6))

    def in_steps(self, steps):
        return self.under(Clock.linear(steps))


def first_step(policy, batch=2):
    latents = torch.randn(batch, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return DenoisingStep(
        index=0,
        num_steps=policy.clock.num_steps,
        latents=latents,
        times=torch.ones(batch, 2),
        estimates=latents,
        noise=latents,
        observation=latents[:, :, :1],
        nominal_time=1.0,
        decrement=1 - policy.clock.times[1],
        action_time=1.0,
    )


def test_every_row_has_a_name_and_a_label_of_its_own():
    assert len(BY_NAME) == len(ROWS) == len({row.label for row in ROWS})
    assert set(BY_NAME) >= {"shared", "monotone", "blind", "imagine-first", "learned"}
    assert set(BY_NAME) >= {"fewer-steps", "ddim", "edm", "global", "stop", "priced"}
    assert set(BY_NAME) == set(SCHEDULES)
    assert label_of("priced") == "NoiseGate, priced steps"


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row, FixedRow)], ids=lambda row: row.name)
def test_a_fixed_row_plays(row):
    policy, choose, digest = scheduled(row.name, Standin(), gate=None)
    times = choose([None]).next_times(first_step(policy))
    assert times.shape == (2, 2)
    assert digest is None
    assert policy.clock.num_steps == (3 if row.name == "fewer-steps" else 6)


def test_imagination_that_comes_first_keeps_the_spacing_of_the_training():
    policy, choose, _ = scheduled("imagine-first", Standin(), gate=None)
    assert policy.clock.times == (1.0,) * 3 + Clock.shifted(5.0, 3).times
    assert choose([None]).next_times(first_step(policy))[0, 0] == pytest.approx(Clock.shifted(5.0, 3).times[1])


def test_spacings_move_the_actions_too_and_differ():
    clocks = {name: scheduled(name, Standin(), gate=None).policy.clock for name in ("shared", "ddim", "edm")}
    assert clocks["ddim"] == Clock.ddim(6)
    assert clocks["edm"] == Clock.edm(6)
    assert len(set(clocks.values())) == 3


def test_a_head_start_is_kept_under_other_spacings_and_left_out_where_nothing_waits():
    waiting = Standin(*in_turn(Clock.linear, 6, 2))
    spaced = scheduled("ddim", waiting, gate=None).policy
    assert (spaced.clock, spaced.video_clock) == (Clock.ddim(4).delayed(2), Clock.ddim(2).held(4))
    together = scheduled("together", waiting, gate=None).policy
    assert (together.clock, together.video_clock) == (Clock.linear(6), Clock.linear(6))


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row, LearnedRow)], ids=lambda row: row.name)
def test_a_learned_row_plays_the_gate_that_its_training_builds(row, tmp_path):
    stops = row.name in ("stop", "priced")
    kind = {"scales": GATES.get(row.name, "latent"), "stops": stops}
    settings = GateSettings(width=8, sight=None, start_scales=(0.6,), **kind)
    words = row.training.split()
    assert ("--gate.stops" in words, "--step-price" in words) == (stops, stops)
    assert f"--gate.scales {settings.scales}" in row.training or settings.scales == "latent"
    new_gate(settings, Standin()).save_pretrained(row.folder(tmp_path / "gate"))
    _, choose, digest = scheduled(row.name, Standin(), gate=tmp_path / "gate")
    schedule = choose([SimpleNamespace(instruction="", observation={})] * 2)
    assert isinstance(schedule, StoppingLearnedSchedule if stops else LearnedSchedule)
    scale = 1.0 if settings.scales == "none" else 0.6  # untrained: where training starts
    assert torch.allclose(schedule.next_times(first_step(Standin())), torch.tensor(1 - scale / 6))
    assert digest
    with pytest.raises(RunError, match="--gate FOLDER"):
        scheduled(row.name, Standin(), gate=None)


def test_a_stop_is_tried_anew_in_every_step_while_scales_last_the_episode():
    gate = new_gate(GateSettings(width=8, stops=True), Standin())
    rows = [SimpleNamespace(instruction="", observation={}, chunks=0)] * 2
    drawn = sampled(gate, Standin(), Stage2Config().exploration, rows, [(1, 1), (1, -1)])._noise
    assert drawn.shape == (2, 6, 3)
    assert torch.equal(drawn[0], -drawn[1])
    assert torch.equal(drawn[0, :1, :2].expand(6, 2), drawn[0, :, :2])
    assert len(drawn[0, :, 2].unique()) == 6


def test_the_ablation_leaves_out_rows_without_a_gate_and_names_what_trains_them(tmp_path):
    for name in ("gate", "gate-stop"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    config = EvalConfig(comparison="ablation", gate=tmp_path / "gate")
    assert {row.name for row in config.missing} == {"global", "priced"}
    assert "stop" in config.compared
    assert not {"global", "priced"} & set(config.compared)
    for head_start in (0.0, 0.4):
        (tmp_path / "policy.json").write_text(f'{{"head_start": {head_start}}}')
        assert ("together" in EvalConfig(comparison="ablation", policy=tmp_path).compared) == bool(head_start)
    asked = EvalConfig(schedules=("global",), gate=tmp_path / "gate", policy=Path("checkpoints/tabletop-independent"))
    with pytest.raises(RunError, match=r"stage2\.py --gate\.scales chunk"):
        asked.check()


def test_settings_that_decide_nothing_are_refused():
    for wrong in (
        {"scales": "none"},
        {"stops": True, "sigma": "state"},
        {"scales": "chunk", "sigma": "state"},
        {"sight": 1.0},
    ):
        with pytest.raises(ValueError):
            GateSettings(**wrong)


def test_calls_are_reported_with_their_interval(capsys):
    results = {"shared": {"a": [True, False]}, "stop": {"a": [True, True]}}
    calls = {"shared": [5.0, 5.0], "stop": [2.0, 3.0]}
    summary = summarise(results, baseline="shared", calls=calls)
    assert summary["calls_per_chunk"]["shared"] == {"mean": 5.0, "interval95": [5.0, 5.0], "episodes": 2}
    assert summary["calls_per_chunk"]["stop"]["mean"] == 2.5
    print_rows(results, baseline="shared", title="t", label=label_of, calls=calls)
    shown = capsys.readouterr().out
    assert "2.50 [2.00, 3.00] (n = 2)" in shown
    assert "learned stop" in shown
    low, high = Mean.of([0.0, 1.0] * 200).interval
    assert 0.44 < low < 0.46
    assert 0.54 < high < 0.56

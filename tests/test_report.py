"""The report of a run: one page that needs nothing else, each figure by its name, opened in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import get_args

import imageio.v3 as imageio
import numpy as np
import pytest
from matplotlib.figure import Figure

from noisegate_apps.evaluation.tabletop import LABELS
from noisegate_apps.report.config import FigureName
from noisegate_apps.report.figures import color_of, residual_times
from noisegate_apps.report.films import gates
from noisegate_apps.report.page import page_of, write_report
from noisegate_apps.report.records import read_run, read_runs
from noisegate_apps.report.sections import SECTIONS, section_of
from noisegate_apps.runs.errors import RunError

TASKS = ("click_bell", "lift_pot")
STEPS, LATENTS, LAYERS, BINS = 4, 2, 3, 10
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "br", "img", "input", "link", "hr"}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def played(solved, clock, *, end):
    fall = np.linspace(1, end, STEPS + 1)[:, None].repeat(LATENTS, axis=1)
    times = {"mean": fall.tolist(), "chunks": 12, "deviation": (0 * fall + 0.02).tolist()}
    times |= {"low": (fall - 0.02).tolist(), "high": (fall + 0.02).tolist()}
    outcomes = [place < solved for place in range(20)]
    return {"identity": {"clock": clock}, "outcomes": outcomes, "times": times}


def stage2(folder, *, seed=42, command="stage2.py", gain=8):
    """A run folder as Stage 2 leaves one, without playing."""
    clock = np.linspace(1, 0, STEPS + 1).tolist()
    write(
        folder / "config.json",
        {
            "app": "stage2",
            "command": command,
            "commit": "f" * 40,
            "dirty": False,
            "identity": {"seed": seed, "gate": {"width": 64}},
            "versions": {"torch": "2.x"},
            "machine": {"processor": "a processor", "gpus": [], "threads": 1, "torch": {"cuda": None}},
        },
    )
    for name, solved, end in (("shared", 4, 0.0), ("monotone", 3, 0.0), ("learned", 4 + gain, 0.9)):
        for task in TASKS:
            write(folder / "outcomes" / name / f"{task}.json", played(solved, clock, end=end))
    lines = [
        {
            "step": step,
            "groups": 4,
            "mixed_groups": step % 3,
            "acceptance": 1.0,
            "reward_mean": step / 10,
            "entropy": 1.0,
        }
        | {"scale_1": 1.0, "residual_time_1": 0.5, "approx_kl": 0.01, "failed_trajectories": int(step == 2)}
        for step in range(1, 6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = np.ones((LATENTS, BINS))
    counts[:, 0] = 0
    mass = counts[..., None] * np.linspace(0.3, 0.1, BINS)[None, :, None].repeat(LAYERS, axis=2)
    record = {"centres": ((np.arange(BINS) + 0.5) / BINS).tolist(), "mass": mass.tolist(), "counts": counts.tolist()}
    path = np.linspace(1, 0.9, STEPS + 1)[:, None].repeat(LATENTS, axis=1).tolist()
    film = {"success": True, "seed": 100_000, "times": [path, path]}
    spent = {"world model": [10.0, 12.0], "schedule": [1.0, 1.0], "simulator": [5.0, 6.0]}
    write(
        folder / "illustrations.json",
        {
            "attention": {"random speeds": record, "learned": record},
            "probed": list(TASKS),
            "latency": {"shared": spent, "learned": spent},
            "films": {"click_bell": {"shared": film | {"success": False}, "learned": film}},
        },
    )
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 96, 3), dtype=np.uint8)
    (folder / "videos").mkdir()
    imageio.imwrite(folder / "videos" / "click_bell.mp4", frames, fps=12.5, codec="libx264", macro_block_size=1)
    imageio.imwrite(folder / "videos" / "click_bell.png", frames[0])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stage2(tmp_path_factory.mktemp("runs") / "stage2")


def test_the_shared_schedule_is_drawn_where_it_does_not_follow_the_actions(tmp_path):
    folder = stage2(tmp_path / "run")
    shifted = [1.0, 0.9, 0.7, 0.4, 0.0]
    for video, drawn in ((None, False), (shifted, False), ([1.0, 0.5, 0.0, 0.0, 0.0], True)):
        for path in (folder / "outcomes").glob("*/*.json"):
            record = json.loads(path.read_text())
            record["identity"] = {"clock": shifted} | ({} if video is None else {"video_clock": video})
            write(path, record)
        axes = section_of("time-trajectories", read_runs([folder])).figure.axes[0]
        lines = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
        assert lines["actions (fixed clock)"] == shifted
        assert lines.get("shared schedule") == (video if drawn else None)


def test_every_schedule_with_a_label_has_a_colour_of_its_own_in_all_figures():
    colours = [{color_of(name, place) for place in range(5)} for name in LABELS]
    assert all(len(own) == 1 for own in colours)
    points = {color_of("hold+shared", place) for place in range(4)}
    assert len(set.union(points, *colours)) == 4 + len(LABELS)


def test_an_ablation_of_every_schedule_with_a_label_keeps_its_figures(tmp_path):
    folder = stage2(tmp_path / "run")
    for name in LABELS:
        for task in TASKS:
            write(folder / "outcomes" / name / f"{task}.json", played(9, [1.0, 0.0], end=0.5))
    names = ("success", "differences", "time-trajectories", "residual-times")
    assert all(SECTIONS[name](read_run(folder)) is not None for name in names)


def test_the_legend_of_the_trajectories_hides_no_curve(run):
    figure = section_of("time-trajectories", read_runs([run])).figure
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"actions (fixed clock)", "latent 1"}


class Page(HTMLParser):
    """What a page holds, and whether it is well formed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_everything_and_asks_for_nothing(run):
    out = write_report([run])
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert out == run / "report.html"
    assert len(text) < 10_000_000
    assert "<script" not in text
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    drawings = [found for tag, found in page.tags if tag in ("svg", "video")]
    assert len(drawings) == 9
    assert all(len(found["aria-label"]) > 20 for found in drawings)
    assert sum(tag == "video" for tag, _ in page.tags) == 1
    assert sum(tag == "table" for tag, _ in page.tags) == 9 + 2  # one under each, and two of text
    assert "episode failed" in text
    assert "f" * 40 in text


def test_what_a_run_says_of_itself_is_no_markup(tmp_path):
    text = page_of([read_run(stage2(tmp_path / "<i>run", command="stage2.py <b>bold</b>"))])
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;bold" in text


def test_a_run_whose_folder_has_a_name_of_another_encoding_is_reported(tmp_path):
    folder = stage2(tmp_path / os.fsdecode(b"ann\xe9e"))
    assert r"ann\udce9e" in write_report([folder]).read_text(encoding="utf-8")


def test_every_figure_has_a_name_and_is_a_figure(run, tmp_path):
    assert {*SECTIONS, "seeds"} == set(get_args(FigureName))
    drawn = {name: draw(read_run(run)) for name, draw in SECTIONS.items()}
    assert {name for name, one in drawn.items() if one is None} == {"lattice", "demonstrations"}
    for one in drawn.values():
        if one is not None:
            assert isinstance(one.figure, Figure)
            assert one.table.rows
            assert all(len(row) == len(one.table.header) for row in one.table.rows)


def test_a_figure_is_a_command(app, run, tmp_path):
    for name in ("success", "residual-times"):
        app("report", run, "--figure", name, "--out", tmp_path / f"{name}.svg")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    refused = app("report", run, "--figure", "lattice", "--out", tmp_path / "no.svg", status=1)
    assert "has what the figure `lattice` needs" in refused.errors


@pytest.mark.parametrize("name", ["figure", "figure.foo"])
def test_a_figure_in_no_known_format_is_refused(app, run, tmp_path, name):
    refused = app("report", run, "--figure", "success", "--out", tmp_path / name, status=2)
    assert "ends with .svg, .pdf" in " ".join(refused.errors.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_command_prints_where_the_page_is(app, run, tmp_path):
    assert str(tmp_path / "page.html") in app("report", run, "--out", tmp_path / "page.html").output
    assert (tmp_path / "page.html").exists()
    assert "holds no run" in app("report", tmp_path, status=1).errors
    assert "no run is named" in app("report", status=1).errors


def test_films_that_do_not_fit_are_left_out_and_named(run):
    small = page_of([read_run(run)], most_megabytes=0.001)
    assert "<video" not in small
    assert "Left out for the page" in small


def test_training_seeds_are_summarised_together(tmp_path):
    stage2(tmp_path / "runs" / "a", seed=1, gain=8)
    stage2(tmp_path / "runs" / "b", seed=2, gain=4)
    runs = read_runs([tmp_path / "runs"])
    assert len(runs) == 2
    rows = {row[0]: row for row in section_of("seeds", runs).table.rows}
    assert rows["NoiseGate"][1] == "2"
    assert rows["NoiseGate"][2].startswith("50.0%")  # 12 and 8 of 20
    assert rows["NoiseGate"][3].startswith("+30.0")
    with pytest.raises(RunError, match="seeds"):
        section_of("seeds", runs[:1])


def test_a_folder_stands_for_all_runs_below_it(tmp_path):
    first, second = stage2(tmp_path / "runs" / "a", seed=1), stage2(tmp_path / "runs" / "more" / "b", seed=2)
    stage2(tmp_path / "runs" / "a" / "inside", seed=3)  # belongs to the run around it
    assert [run.folder for run in read_runs([tmp_path / "runs"])] == [first, second]


def test_the_same_seed_twice_is_one_training_seed(tmp_path):
    stage2(tmp_path / "a", seed=1)
    stage2(tmp_path / "copy", seed=1)
    stage2(tmp_path / "b", seed=2)
    with pytest.raises(RunError, match="seeds"):
        section_of("seeds", read_runs([tmp_path / name for name in ("a", "a", "copy")]))
    rows = section_of("seeds", read_runs([tmp_path / name for name in ("a", "copy", "b", "b")])).table.rows
    assert {row[1] for row in rows} == {"2"}


@pytest.mark.parametrize("played", [(), TASKS[:1]])
def test_a_run_that_has_not_played_all_is_no_training_seed_of_those_that_have(tmp_path, played):
    folders = [stage2(tmp_path / str(seed), seed=seed) for seed in range(3)]
    for path in (folders[0] / "outcomes").glob("*/*.json"):
        if path.stem not in played:
            path.unlink()
    runs = read_runs(folders)
    assert {row[1] for row in section_of("seeds", runs).table.rows} == {"2"}
    page_of(runs[:2])


def test_two_gates_without_a_baseline_share_a_page_and_no_difference(tmp_path):
    for gate in ("one", "two"):
        write(tmp_path / gate / "config.json", {"app": "eval", "identity": {"gate": gate, "policy": "same"}})
        for task in TASKS:
            write(tmp_path / gate / "outcomes" / "learned" / f"{task}.json", played(8, [1.0, 0.0], end=0.5))
    runs = read_runs([tmp_path / "one", tmp_path / "two"])
    assert "training seeds" not in page_of(runs)
    with pytest.raises(RunError, match="seeds"):
        section_of("seeds", runs)


def test_a_lost_method_or_half_an_evaluation_is_no_result(tmp_path):
    folder = stage2(tmp_path / "run")
    (folder / "outcomes" / "monotone" / "lift_pot.json").unlink()
    assert list(read_run(folder).outcomes) == ["shared", "learned"]


def test_what_robotwin_discards_is_listed(tmp_path):
    write(tmp_path / "config.json", {"app": "eval", "identity": {}})
    measured = {
        "outcomes": [True, False],
        "seeds": [100_000, 100_002],
        "seeds_dropped": {"expert_failed": 1},
        "env_failures": [{"failure": "timeout"}],
    }
    other = measured | {"seeds": [100_000, 100_003]}
    names = {"shared": measured, "learned": other}
    write(tmp_path / "results.json", {"measured": {name: {"tasks": {"a": one}} for name, one in names.items()}})
    run = read_run(tmp_path)
    found = {(one.where, one.reason, one.number) for one in run.discarded}
    assert ("shared, a", "scene dropped: expert_failed", 1) in found
    assert ("learned, a", "counted as failed: timeout", 1) in found
    assert SECTIONS["success"](run) is not None
    assert SECTIONS["differences"](run) is None  # not the same scenes


def test_demonstrations_are_counted_with_what_failed(tmp_path):
    write(tmp_path / "config.json", {"app": "collect", "identity": {}})
    for name in ("episode0.hdf5", "episode1.hdf5"):
        write(tmp_path / "click_bell" / name, {})
    (tmp_path / "click_bell" / "episode2.failed").write_text("expert failed on seed 2\n")
    pool = {"seeds": {"3": "ok", "4": "unstable"}}
    write(tmp_path / "lift_pot" / "lift_pot-demo_clean-abc.json", pool)
    run = read_run(tmp_path)
    assert {(one.where, one.reason) for one in run.discarded} == {
        ("click_bell", "expert failed"),
        ("lift_pot", "expert: unstable"),
    }
    assert SECTIONS["demonstrations"](run).table.rows[0][:3] == ["click_bell", "2", "1"]


def test_the_gates_under_a_film_move_with_its_chunks():
    falling = np.linspace(1, 0, 5)[:, None]
    drawn = gates(np.stack([falling, np.ones_like(falling)]), [0, 0, 1], width=128)
    assert drawn.shape == (3, 56, 128, 3)
    assert (drawn[0] == drawn[1]).all()
    lower = slice(30, 52)
    assert (drawn[0][lower] < 100).any()
    assert not (drawn[2][lower] < 100).any()  # a latent that stays noise stays on top


@pytest.mark.slow
def test_a_browser_shows_the_page_wide_and_narrow_without_a_complaint(needs, run, tmp_path):
    """The page in a frame of each width: what it measures there, and what the console says."""
    needs(CHROMIUM, "a Chromium or Chrome")
    page = write_report([run], tmp_path / "report.html")
    for width in (360, 1280):
        frame = tmp_path / f"{width}.html"
        frame.write_text(
            f'<body style="margin:0"><iframe src="{page.name}" style="border:0;width:{width}px;height:2000px"></iframe>'
            "<script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
            "document.body.dataset.measured = [page.documentElement.scrollWidth, "
            "[...page.querySelectorAll('svg')].filter(one => one.getBoundingClientRect().height > 50).length,"
            "[...page.querySelectorAll('video')].filter(one => one.error === null).length].join(' ') }</script>"
        )
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
        ]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-dev-shm-usage"]
        shot = ["--screenshot=" + str(tmp_path / f"{width}.png"), f"--window-size={width},2000"]
        done = subprocess.run(
            [CHROMIUM, *options, "--dump-dom", *shot, frame.as_uri()], capture_output=True, text=True, timeout=300
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        (measured,) = re.findall(r'data-measured="(\d+) (\d+) (\d+)"', done.stdout)
        assert int(measured[0]) <= width, "the page is wider than its window"
        assert int(measured[1]) == 8
        assert int(measured[2]) == 1


def test_residual_bars_end_where_times_do():
    found = {"a": ([0.1, 1.0], [0.3, 0.2]), "b": ([0.5, 1.0 + 1e-7], [0.1, 0.0])}
    (axes,) = residual_times(found, {}).axes
    bars = np.concatenate([np.array(bar.get_segments())[..., 0] for bar in axes.collections])
    assert bars == pytest.approx(np.array([[0.0, 0.4], [0.4, 0.6], [0.8, 1.0], [1.0, 1.0]]), abs=1e-6)

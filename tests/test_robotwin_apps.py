"""The apps on RoboTwin: the official protocol around a real policy, tables beside the published numbers, collection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import h5py
import numpy as np
import pytest
import tyro

from noisegate_apps.data import collection
from noisegate_apps.data.config import CollectConfig
from noisegate_apps.evaluation.config import EvalConfig
from noisegate_apps.evaluation.robotwin import MeasuredTask, RoboTwinScenes, evaluate_on_robotwin, outcomes_of
from noisegate_apps.evaluation.tables import PUBLISHED, Published, write_tables
from noisegate_apps.evaluation.tabletop import Variant, shared
from noisegate_apps.play.worlds import at_policy_size, executed_actions
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.runs.command_line import RoboTwinOptions, parse, require_checkout
from noisegate_apps.runs.errors import RunError
from noisegate_apps.runs.identity import differences, identity_of
from noisegate_apps.stage2.config import PRESETS, Stage2Config
from noisegate_apps.stage2.training import digests_of, training_seeds
from robotwin_env.episodes import Episode, episode_path, read_episode, write_episode
from robotwin_env.errors import SeedPoolError, SplitError
from robotwin_env.robotwin import RoboTwinConfig
from robotwin_env.robotwin.collection import collect_task, usable_seeds
from robotwin_env.robotwin.evaluation import OfficialProtocol, SeedRecord, TaskResult
from robotwin_env.robotwin50 import STEP_LIMITS
from robotwin_env.splits import EVALUATION_SEEDS
from robotwin_env.vector import BatchingReport

ROOT = Path(__file__).parents[1]
FAKE = ROOT / "packages/robotwin-env/tests/fake_simulator.py"
SCRIPT = {
    "step_limit": 20,
    "when": {
        "reset 100001": "unstable",
        "expert 100002": "check_failure",
        "action 17 100003": "segfault",
        "reset 1": "unstable",
        "expert 2": "check_failure",
    },
}


@pytest.fixture(scope="module")
def policy():
    return load_policy(ROOT / "checkpoints" / "tabletop-independent", steps=2)


@pytest.fixture
def config(tmp_path):
    variables = {"FAKE_SIMULATOR": json.dumps(SCRIPT)}
    return RoboTwinConfig(root=tmp_path, simulator=FAKE, image_size=(64, 64), variables=variables)


def scenes(config, **changes):
    protocol = OfficialProtocol(episodes=2)
    return replace(RoboTwinScenes(config=replace(config, split="eval"), protocol=protocol), **changes)


# Evaluation


def test_a_policy_plays_the_official_protocol_whatever_the_number_of_simulators(policy, config, tmp_path):
    variants = [Variant(name="shared", policy=policy, choose=shared)]
    known = []
    one = evaluate_on_robotwin(
        variants,
        ["click_bell", "lift_pot"],
        scenes(config),
        tmp_path / "one",
        on_task=lambda measured: known.append(sum(map(len, measured.values()))),
    )
    assert known == [1, 2]
    for task in ("click_bell", "lift_pot"):
        result = one["shared"][task].result
        assert [episode.seed for episode in result.episodes] == [100_000, 100_003]
        assert result.rejected == {"check_failure": 1, "unstable": 1}
        (lost,) = result.env_failures
        assert (lost.seed, lost.failure) == (100_003, "signal")
        record = one["shared"][task].record()
        assert record["identity"]["control"] == "step"
        assert record["identity"]["simulator"]["commit"] == "fake"
        assert record["episodes"] == 2
    records = tmp_path / "one" / "shared" / "click_bell.json"
    before = records.read_text()
    two = evaluate_on_robotwin(
        variants, ["click_bell"], scenes(config, simulators=2), tmp_path / "two", on_task=lambda measured: None
    )
    assert two["shared"]["click_bell"].result == one["shared"]["click_bell"].result
    assert outcomes_of(two) == {"shared": {"click_bell": one["shared"]["click_bell"].result.outcomes}}
    chunks = one["shared"]["click_bell"].record()["times"]
    assert chunks["mean"] == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert chunks["chunks"] >= 3
    assert one["shared"]["click_bell"].record()["calls"] == [2.0, 2.0]
    assert two["shared"]["click_bell"].chunks == one["shared"]["click_bell"].chunks
    with records.with_suffix(".chunks.jsonl").open("a") as file:
        file.write('\n{"seed": 100000, "chu')  # cut off by a crash
    again = evaluate_on_robotwin(
        variants, ["click_bell"], scenes(config), tmp_path / "one", on_task=lambda measured: None
    )
    assert again["shared"]["click_bell"].batching.calls == 0  # nothing was played again
    assert again["shared"]["click_bell"].chunks == one["shared"]["click_bell"].chunks
    assert records.read_text() == before


def test_a_chunk_is_cut_where_the_policy_plans_again(policy, config, tmp_path):
    plans = []

    def counting(rows):
        plans.append(rows[0].steps)
        return shared(rows)

    variants = [Variant(name="shared", policy=policy, choose=counting)]
    short = scenes(config, replan_after=2, protocol=OfficialProtocol(episodes=3))
    evaluate_on_robotwin(variants, ["click_bell"], short, tmp_path / "records", on_task=lambda measured: None)
    # Of 16 planned actions two are played, up to the limit of 20 or until an episode is solved.
    assert plans.count(0) >= 3
    assert 2 in plans
    assert set(plans) <= set(range(0, 20, 2))


# Tables


def measured_task(outcomes, first=100_000):
    episodes = tuple(
        SeedRecord(seed=first + place, expert="ok", outcome="success" if outcome else "failure", steps=9)
        for place, outcome in enumerate(outcomes)
    )
    batching = BatchingReport(
        calls=1, requests=1, mean_batch=1.0, largest_batch=1, mean_wait=0.0, longest_wait=0.0, busy=0.0
    )
    result = TaskResult(episodes=episodes, tried=len(episodes), rejected={}, env_failures=())
    return MeasuredTask(result=result, identity={"simulator": {"commit": "abc"}}, batching=batching)


def rows_of(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return {
        cells[0].strip("`"): cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    }


def test_the_published_numbers_are_all_there_and_average_as_published():
    published = Published.load()
    assert set(published.tasks) == set(STEP_LIMITS)
    assert len(published.table_1_tasks) == 30
    assert published.average["NoiseGate"] == 94.28
    assert published.average["Stage-1 WAM"] == 92.58
    for column, average in published.average.items():
        assert fmean(row[column] for row in published.tasks.values()) == pytest.approx(average, abs=0.005)


def test_a_published_number_that_was_changed_is_noticed(tmp_path):
    record = json.loads(PUBLISHED.read_text())
    record["main"]["tasks"]["turn_switch"]["Motus"] += 1
    (tmp_path / "robotwin50.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"column `Motus` averages 87\.040, not 87\.02"):
        Published.load(tmp_path / "robotwin50.json")
    del record["main"]["tasks"]["turn_switch"]
    (tmp_path / "robotwin50.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="other tasks"):
        Published.load(tmp_path / "robotwin50.json")


def test_the_tables_show_what_is_measured_so_far_beside_what_is_published(tmp_path):
    measured = {
        "shared": {"hanging_mug": measured_task([True, False, False, False])},
        "learned": {"hanging_mug": measured_task([True, True, True, False])},
    }
    write_tables(tmp_path, measured, {"episodes": 4})
    first, fifth = rows_of(tmp_path / "table_1.md"), rows_of(tmp_path / "table_5.md")
    assert first["task"][-3:] == [
        "Stage-1 WAM, measured",
        "NoiseGate, measured",
        "gain, measured (NoiseGate - Stage-1 WAM)",
    ]
    assert first["hanging_mug"][:6] == ["62", "28", "17", "38", "60", "69"]
    assert first["hanging_mug"][6:8] == ["25 [4.6, 69.9] (4)", "75 [30.1, 95.4] (4)"]
    assert first["hanging_mug"][8].startswith("+50 [")
    assert first["turn_switch"][6:] == ["\N{EN DASH}"] * 3
    assert "click_bell" not in first  # the paper's Table 1 leaves it to Table 5
    assert len(fifth) == len(STEP_LIMITS) + 4  # header, rule, average of the measured, average of all
    assert fifth["hanging_mug"][:8] == ["62", "56", "62", "28", "17", "38", "60", "69"]
    assert fifth["average of the 1 tasks measured"][:2] == ["62", "56"]
    assert fifth["average of all 50 tasks"][7] == "94.28"
    assert fifth["average of all 50 tasks"][8:] == ["\N{EN DASH}"] * 3
    results = json.loads((tmp_path / "results.json").read_text())
    task = results["measured"]["learned"]["tasks"]["hanging_mug"]
    assert (task["seeds"], task["outcomes"]) == ([100_000, 100_001, 100_002, 100_003], [True, True, True, False])
    assert results["measured"]["learned"]["all"]["success"] == 0.75
    assert task["identity"]["simulator"]["commit"] == "abc"
    assert {"commit", "command", "versions", "settings", "published"} <= set(results)


def test_all_fifty_measured_tasks_give_an_average_and_a_paired_gain(tmp_path):
    half = {task: measured_task([place % 2 == 0, True]) for place, task in enumerate(sorted(STEP_LIMITS))}
    full = {task: measured_task([True, True]) for task in STEP_LIMITS}
    write_tables(tmp_path, {"shared": half, "learned": full}, {})
    average = rows_of(tmp_path / "table_5.md")["average of all 50 tasks"]
    assert average[8].startswith("75 [")
    assert average[8].endswith("(100)")
    assert average[9].startswith("100 [")
    assert average[10].startswith("+25 [")
    write_tables(tmp_path, {"shared": half, "learned": {**full, "click_bell": measured_task([True, True], 7)}}, {})
    table = rows_of(tmp_path / "table_5.md")
    assert table["click_bell"][-1] == "\N{EN DASH}"  # other scenes make no pairs
    assert table["average of all 50 tasks"][-1] == "\N{EN DASH}"


# Collection

RECORDER = """
import sys
sys.path.insert(0, {tests!r})
from fake_simulator import FakeSimulator, Mapping, Any, json, os


class Recording(FakeSimulator):
    def expert(self, seed, *, record):
        info = super().expert(seed, record=record)
        if record and info["status"] == "ok":
            with open({log!r}, "a") as log:
                log.write(f"{{seed}}\\n")
            open(record, "wb").write(open({episode!r}, "rb").read())
        return info


def make_simulator(settings):
    return Recording(settings, json.loads(os.environ["FAKE_SIMULATOR"]))
"""


@pytest.fixture
def recording(config, tmp_path):
    """A simulator whose expert leaves the same short demonstration for every seed it solves."""
    joints = np.zeros((4, 14), np.float32)
    images = {name: np.zeros((3, 8, 8, 3), np.uint8) for name in ("head", "left_wrist", "right_wrist")}
    whole = Episode(states=joints[:-1], actions=joints[1:], instructions=("go",), frequency=15, images=images)
    write_episode(tmp_path / "demonstration.hdf5", whole)
    simulator = tmp_path / "recording.py"
    names = {"tests": str(FAKE.parent), "log": str(tmp_path / "log"), "episode": str(tmp_path / "demonstration.hdf5")}
    simulator.write_text(RECORDER.format(**names))
    return replace(config, simulator=simulator)


def recorded_seeds(tmp_path):
    return [int(line) for line in (tmp_path / "log").read_text().split()]


@pytest.mark.parametrize("simulators", [1, 3])
def test_as_many_scenes_are_recorded_as_are_asked_for_and_only_once(recording, tmp_path, simulators):
    folder = tmp_path / "data" / "click_bell"

    def collect(episodes):
        return collect_task(recording, folder, episodes=episodes, first_seed=0, simulators=simulators)

    assert collect(2)["ok"] == 2
    files = [episode_path(folder, seed) for seed in (0, 3)]  # 1 and 2 fail
    assert sorted(folder.glob("*.hdf5")) == files
    assert read_episode(files[0]).steps == 3
    done = recorded_seeds(tmp_path)
    collect(2)
    assert recorded_seeds(tmp_path) == done
    collect(3)
    assert sorted(folder.glob("*.hdf5")) == [*files, episode_path(folder, 4)]
    files[1].unlink()
    collect(3)
    assert files[1].exists()
    assert len(list(folder.glob("*.hdf5"))) == 3


def test_a_collection_goes_on_with_the_code_that_it_began_with(recording, tmp_path):
    options = RoboTwinOptions(
        root=tmp_path, simulator=recording.simulator, variables=recording.variables, image_size=recording.image_size
    )
    few = CollectConfig(env="robotwin", robotwin=options, tasks=("click_bell",), episodes=1, out=tmp_path / "data")
    collection.run(few)
    more = replace(few, episodes=2)
    collection.run(more)
    assert len(list((tmp_path / "data" / "click_bell").glob("*.hdf5"))) == 2
    with recording.simulator.open("a") as file:
        file.write("Recording.hello = lambda self: FakeSimulator.hello(self) | {'commit': 'edited'}\n")
    with pytest.raises(RunError, match=r"`simulator\.commit` = 'fake' there, 'edited' here"):
        collection.run(replace(few, episodes=3))


def test_a_demonstration_that_was_recorded_badly_stops_the_collection(recording, tmp_path):
    with h5py.File(tmp_path / "demonstration.hdf5", "r+") as file:
        file["vision/cam_head/colors"][2] = b"\xff\xd8 cut"
    with pytest.raises(ValueError, match=r"episode_0000000\.hdf5.*`head`, frame 2"):
        collect_task(recording, tmp_path / "data", episodes=1, first_seed=0, simulators=1)


def test_training_takes_the_seeds_of_a_pool_or_says_how_to_get_them(config, tmp_path, recording):
    with pytest.raises(
        SeedPoolError, match=r"no usable seed of `click_bell`; run `python -m robotwin_env scan-seeds --split train`"
    ):
        usable_seeds(config, tmp_path / "data")
    collect_task(recording, tmp_path / "data", episodes=2, first_seed=0, simulators=1)
    assert usable_seeds(config, tmp_path / "data") == (0, 3)
    with pytest.raises(SeedPoolError, match="no usable seed of `lift_pot`"):
        usable_seeds(replace(config, task="lift_pot"), tmp_path / "data")


def test_nothing_of_an_evaluation_is_recorded_or_trained_on(config, policy, tmp_path, recording):
    played = evaluate_on_robotwin(
        [Variant(name="shared", policy=policy, choose=shared)],
        ["click_bell"],
        scenes(config, seed_pools=tmp_path / "pools"),
        tmp_path / "records",
        on_task=lambda measured: None,
    )
    assert played["shared"]["click_bell"].record()["identity"]["simulator"]["split"] == "eval"
    with pytest.raises(SeedPoolError, match="no usable seed"):  # the pool that the evaluation has just filled
        usable_seeds(config, tmp_path / "pools")
    with pytest.raises(SplitError, match="`split` is `eval`"):
        usable_seeds(replace(config, split="eval"), tmp_path / "pools")
    with pytest.raises(SplitError, match="`split` is `eval`"):
        collect_task(replace(recording, split="eval"), tmp_path / "data", episodes=1, first_seed=100_000, simulators=1)
    with pytest.raises(SplitError, match="seed 100000"):
        collect_task(recording, tmp_path / "data", episodes=1, first_seed=100_000, simulators=1)
    with pytest.raises(SplitError, match="seed 100000"):
        CollectConfig(first_seed=99_990, episodes=20)
    assert not set(training_seeds(Stage2Config(tasks=("lift_pot",)))["lift_pot"]) & set(EVALUATION_SEEDS)


# Options


def test_robotwin_is_chosen_on_the_command_line():
    arguments = [
        "--env",
        "robotwin",
        "--robotwin.root",
        "R",
        "--task",
        "lift_pot",
        "turn_switch",
        "--task-config",
        "demo_clean",
    ]
    parsed = tyro.cli(EvalConfig, args=[*arguments, "--robotwin.embodiment", "piper", "piper"])
    assert parsed.tasks == ("lift_pot", "turn_switch")
    assert (parsed.robotwin.root, parsed.robotwin.task_config) == (Path("R"), "demo_clean")
    assert parsed.robotwin.embodiment == ("piper", "piper")


@pytest.mark.parametrize("words", ["seen", "unseen"])
def test_an_evaluation_on_robotwin_may_choose_its_words(words):
    chosen = parse(EvalConfig, ["--env", "robotwin", "--robotwin.instructions", words]).robotwin
    assert (chosen.split, chosen.instructions) == ("eval", words)
    assert parse(Stage2Config, ["--env", "robotwin"], presets=PRESETS).robotwin.split == "train"


def test_pictures_and_chunks_are_as_the_policy_was_trained(tmp_path):
    tabletop, options = ROOT / "checkpoints" / "tabletop-independent", RoboTwinOptions()
    assert at_policy_size(options, tabletop).image_size == (64, 64)
    assert at_policy_size(replace(options, image_size=(240, 320)), tabletop).image_size == (240, 320)
    assert executed_actions(tabletop) is None
    (tmp_path / "policy.json").write_text(json.dumps({"wan": "a folder", "timing": {"executed_actions": 24}}))
    assert at_policy_size(options, tmp_path).image_size is None  # Wan's frames are cut from RoboTwin's own pictures
    assert executed_actions(tmp_path) == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comparison": "robotwin50"}, "--env robotwin"),
        ({"env": "robotwin", "first_seed": 5}, "100000, 200000"),
        ({"env": "robotwin", "comparison": "lattice"}, "for the tabletop"),
        ({"schedules": ("shared", "blind+quick")}, "blind\\+quick"),
        ({"paces": ("blind",)}, "`shared` among them"),
    ],
)
def test_evaluations_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(**changes)


def test_robotwin_is_not_evaluated_under_the_tabletops_gate(tmp_path):
    plain = EvalConfig(env="robotwin", robotwin=RoboTwinOptions(root=tmp_path), out=tmp_path / "runs")
    with pytest.raises(RunError, match=r"learned on the tabletop; name the gate .* `--schedules shared`"):
        plain.check()
    replace(plain, schedules=("shared",)).check()
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "config.json").write_text("{}")
    replace(plain, gate=tmp_path / "gate").check()
    replace(plain, env="tabletop").check()


def test_a_run_on_the_tabletop_knows_nothing_of_robotwin_and_one_on_robotwin_not_where_it_lies():
    tabletop = identity_of(EvalConfig())
    assert not {"env", "robotwin", "expert_check"} & set(tabletop)
    one = identity_of(EvalConfig(env="robotwin", robotwin=RoboTwinOptions(root=Path("a"), step_timeout=1.0)))
    two = identity_of(EvalConfig(env="robotwin", robotwin=RoboTwinOptions(root=Path("b"), step_timeout=2.0)))
    assert one == two
    assert one != identity_of(EvalConfig(env="robotwin", robotwin=RoboTwinOptions(control="chunk")))


def test_a_task_configuration_of_ones_own_may_move_and_may_not_change(tmp_path):
    def identity(folder, content):
        file = tmp_path / folder / "mine.yml"
        file.parent.mkdir()
        file.write_text(content)
        return identity_of(EvalConfig(env="robotwin", robotwin=RoboTwinOptions(task_config=str(file))))

    known = identity("here", "embodiment: [arms]")
    assert identity("there", "embodiment: [arms]") == known
    assert differences(known, identity("changed", "embodiment: [legs]"))[0].startswith(
        "`robotwin.task_config` = 'mine "
    )
    with pytest.raises(RunError, match=r"gone\.yml` does not exist: a task configuration is needed"):
        require_checkout(RoboTwinOptions(root=tmp_path, task_config="gone.yml"))


def test_stage_2_on_robotwin_belongs_to_the_code_and_the_seeds_that_it_plays(policy, recording, tmp_path):
    def identity(pools):
        options = RoboTwinOptions(root=tmp_path, simulator=recording.simulator, variables=recording.variables)
        config = Stage2Config(env="robotwin", robotwin=options, seed_pools=pools, tasks=("click_bell",))
        return identity_of(config, digests_of(config, policy, training_seeds(config)))

    collect_task(recording, tmp_path / "data", episodes=2, first_seed=0, simulators=1)
    known, alone = identity(tmp_path / "data"), identity(None)
    assert known["simulator"]["commit"] == "fake"
    (tmp_path / "data").rename(tmp_path / "moved")
    assert identity(tmp_path / "moved") == known
    collect_task(recording, tmp_path / "moved", episodes=3, first_seed=0, simulators=1)
    (grown,) = differences(known, identity(tmp_path / "moved"))
    assert grown.startswith("`seed_pools` = ")
    with recording.simulator.open("a") as file:
        file.write("Recording.hello = lambda self: FakeSimulator.hello(self) | {'commit': 'edited'}\n")
    assert differences(alone, identity(None)) == ["`simulator.commit` = 'fake' there, 'edited' here"]

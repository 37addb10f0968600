from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from robotwin_env.__main__ import main
from robotwin_env.robotwin import RoboTwinConfig
from robotwin_env.robotwin.doctor import examination as doctor
from robotwin_env.robotwin.simulator import probe

PACKAGES = {
    **dict.fromkeys(probe.DISTRIBUTIONS, "1.0"),
    "numpy": "1.26.4",
    "sapien": "3.0.0b1",
    "mplib": "0.2.1",
    "nvidia_curobo": "0.7.8",
}
HEALTHY = {
    "versions": {"python": "3.10.14", "executable": "/opt/robotwin/bin/python", "packages": PACKAGES},
    "patches": {"sapien": True, "mplib": True},
    "gpu": {"devices": ["NVIDIA L40S"], "cuda": "12.1"},
    "import sapien": {"file": "sapien/__init__.py"},
    "import mplib": {"file": "mplib/__init__.py"},
    "import curobo": {"file": "curobo/__init__.py"},
    "import panda3d.core": {"file": "panda3d/core.so"},
    "render default": {"red": 0.6},
    "render rt": {"red": 0.6},
}
INTERPRETER = """#!{python}
import json, os, signal, sys, time
answer = json.loads(open({answers!r}).read())[" ".join(sys.argv[2:])]
if answer == "crash":
    print("GPU lost", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if answer == "hang":
    time.sleep(60)
print("a library's banner")
print(json.dumps(answer))
"""


@pytest.fixture
def machine(tmp_path, make_checkout):
    """A checkout with all assets and an interpreter with given answers: `machine(answers)` configures both."""
    root = make_checkout("current")
    for name in ("objaverse/list.json", "same.json", "020_hammer/model_data.json"):
        path = root / "assets" / "objects" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for kind in ("seen", "unseen"):
        folder = root / "assets" / "background_texture" / kind
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"")
    (root / "assets" / "embodiments" / "aloha-agilex" / "curobo_left.yml").write_text(
        f"urdf: {root}/assets/\nscale: 1/2\n"
    )
    driver = tmp_path / "icd.json"
    driver.write_text("{}")

    def make(answers):
        file = tmp_path / "answers.json"
        file.write_text(json.dumps({**HEALTHY, **answers}))
        python = tmp_path / "python"
        python.write_text(INTERPRETER.format(python=sys.executable, answers=str(file)))
        python.chmod(0o755)
        return RoboTwinConfig(
            root=root,
            python=python,
            task="lift_pot",
            task_config="demo_clean",
            variables={"VK_ICD_FILENAMES": str(driver)},
        )

    return make


def examined(config):
    """Findings by subject."""
    findings = list(doctor.examine(config, start=False))
    assert len({finding.subject for finding in findings}) == len(findings)
    return {finding.subject: finding for finding in findings}


def test_a_healthy_machine_passes_every_check(machine):
    findings = examined(machine({}))
    assert len(findings) >= 16
    unwell = {subject: str(finding) for subject, finding in findings.items() if finding.level != "ok"}
    assert set(unwell) == {"commit"}  # the folder is no repository
    assert "aloha-agilex" in findings["robots"].found
    assert "1 kinds" in findings["objects"].found


@pytest.mark.parametrize(
    ("answers", "subject", "level", "told"),
    [
        ({"versions": {**HEALTHY["versions"], "python": "3.8.19"}}, "interpreter", "fail", "3.10 or later"),
        ({"versions": "crash"}, "interpreter", "fail", "status -9: GPU lost"),
        (
            {"versions": {**HEALTHY["versions"], "packages": {**PACKAGES, "toppra": None, "scipy": None}}},
            "packages",
            "fail",
            "no toppra, scipy",
        ),
        (
            {"versions": {**HEALTHY["versions"], "packages": {**PACKAGES, "numpy": "2.1.0"}}},
            "numpy",
            "fail",
            "2.1.0 -> mplib needs",
        ),
        (
            {"versions": {**HEALTHY["versions"], "packages": {**PACKAGES, "sapien": "3.1.0"}}},
            "sapien",
            "note",
            "3.1.0 -> tested are 3.0.0b1 and 3.0.3",
        ),
        (
            {"versions": {**HEALTHY["versions"], "packages": {**PACKAGES, "torch": None}}},
            "GPU",
            "note",
            "no torch",
        ),
        ({"patches": {"sapien": False, "mplib": True}}, "sapien's patch", "note", "urdf_loader.py"),
        ({"patches": {"sapien": True, "mplib": False}}, "mplib's patch", "note", "plan_screw"),
        ({"import mplib": {"error": "ImportError: numpy"}}, "import mplib", "fail", "numpy < 2"),
        ({"gpu": {"devices": [], "cuda": None}}, "GPU", "note", "sees none"),
        ({"import curobo": {"error": "RuntimeError: no driver"}}, "cuRobo", "note", "0.7.8"),
        ({"render rt": "crash"}, "renderer `rt`", "note", "status -9"),
        ({"render default": {"error": "RuntimeError: no device"}}, "renderer `default`", "note", "no device"),
        (
            {"versions": {**HEALTHY["versions"], "packages": {**PACKAGES, "panda3d": None}}},
            "renderer `panda3d`",
            "note",
            "not installed -> tasks of boxes are drawn without a driver",
        ),
        ({"import panda3d.core": {"error": "ImportError: libGL"}}, "renderer `panda3d`", "note", "libGL"),
    ],
)
def test_what_the_interpreter_lacks_is_told_with_a_remedy(machine, answers, subject, level, told):
    finding = examined(machine(answers))[subject]
    assert finding.level == level
    assert told in str(finding)
    assert finding.remedy


def test_a_renderer_that_hangs_does_not_hang_the_doctor(machine, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 2.0)
    finding = examined(machine({"render rt": "hang"}))["renderer `rt`"]
    assert "no answer within 2 s" in finding.found


def test_missing_assets_are_told_with_the_command_that_gets_them(machine):
    config = machine({})
    assets = config.root / "assets"
    (assets / "objects" / "same.json").unlink()
    (assets / "background_texture" / "seen" / "0.png").unlink()
    (assets / "embodiments" / "aloha-agilex" / "config.yml").unlink()
    findings = examined(config)
    assert [findings[subject].level for subject in ("robots", "objects", "background textures")] == [
        "fail",
        "fail",
        "note",
    ]
    assert "same.json" in findings["objects"].found
    assert "0 seen, 1 unseen" in findings["background textures"].found
    assert "scripts/_download_assets.sh" in findings["robots"].remedy


def test_paths_of_another_place_in_curobos_files_are_found(machine):
    config = machine({})
    folder = config.root / "assets" / "embodiments" / "aloha-agilex"
    assert examined(config)["cuRobo's files"].level == "ok"
    (folder / "curobo_right.yml").write_text('robot:\n  urdf_path: "/home/someone/RoboTwin/arm.urdf"\n')
    finding = examined(config)["cuRobo's files"]
    assert finding.level == "note"
    assert "`/home/someone/RoboTwin/arm.urdf`, which does not exist" in finding.found
    (folder / "curobo_extra_tmp.yml").write_text("urdf_path: ${ASSETS_PATH}/arm.urdf\n")
    finding = examined(config)["cuRobo's files"]
    assert "never filled in" in finding.found
    assert "update_embodiment_config_path.py" in finding.remedy


def test_a_missing_driver_and_a_container_without_graphics_are_told(machine, tmp_path):
    config = machine({})
    variables = {"VK_ICD_FILENAMES": str(tmp_path / "gone.json"), "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    findings = examined(replace(config, variables=variables))
    assert findings["Vulkan driver"].level == "note"
    assert "gone.json" in findings["Vulkan driver"].found
    assert "leaves graphics out" in findings["container"].found


def test_a_broken_configuration_fails(machine):
    config = machine({})
    (config.root / "env_cfg" / "task_config" / "demo_mine.yml").write_text("camera: {}\n")
    assert examined(config)["task configurations"].level == "fail"


def test_the_task_can_be_started(machine, fake_simulator):
    config = replace(machine({}), simulator=fake_simulator, python=None)
    finding = doctor.start_task(config)
    assert finding.level == "ok"
    assert "started in" in finding.found
    script = json.dumps({"when": {"start": "exception"}})
    config = replace(config, variables={**config.variables, "FAKE_SIMULATOR": script})
    finding = doctor.start_task(config)
    assert finding.level == "fail"
    assert "ZeroDivisionError" in finding.found


def test_the_command_prints_every_finding_and_fails_where_one_does(machine, capsys, tmp_path):
    config = machine({})
    arguments = ["doctor", "--root", str(config.root), "--python", str(config.python)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "ready"
    assert all(line.startswith(("ok    ", "note  ")) for line in printed[:-1])
    machine({"import sapien": {"error": "ImportError: libvulkan"}})
    assert main(arguments) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 failed"
    assert main(["doctor", "--root", str(tmp_path / "nowhere")]) == 1
    assert main([*arguments[:-1], "/nowhere/python"]) == 1
    assert "/nowhere/python" in capsys.readouterr().out


def probed(*question, path=""):
    done = subprocess.run(
        [sys.executable, probe.__file__, *question],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_probe_tells_the_versions_of_its_own_interpreter():
    told = probed("versions")
    assert told["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert set(told["packages"]) == set(probe.DISTRIBUTIONS)
    assert told["executable"] == sys.executable


@pytest.mark.parametrize("patched", [True, False])
def test_the_probe_sees_whether_the_packages_are_edited(tmp_path, patched):
    encoding = ', encoding="utf-8"' if patched else ""
    collide = "" if patched else "or collide "
    for file, text in {
        "sapien/__init__.py": "",
        "sapien/wrapper/urdf_loader.py": f'with open(urdf_file, "r"{encoding}) as f:\n    pass\n',
        "mplib/__init__.py": "",
        "mplib/planner.py": f"if np.linalg.norm(delta_twist) < 1e-4 {collide}or not within_joint_limit:\n    pass\n",
    }.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert probed("patches", path=str(tmp_path)) == {"sapien": patched, "mplib": patched}


def test_the_probe_reports_what_it_cannot_import():
    assert probed("import", "no_such_planner") == {"error": "ModuleNotFoundError: No module named 'no_such_planner'"}
    assert probed("import", "json")["file"].endswith("json/__init__.py")

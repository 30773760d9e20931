"""`doctor`: what is well is said so, what is not is named with its remedy, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tesla_at_home.adapters import probe
from tesla_at_home.adapters.confinement import MEASURES
from tesla_at_home.cli_doctor_checks import Finding, _compare_clocks, examine
from tests.acceptance.test_client_cli import Car
from tests.support.fake_project import fake_project
from tests.support.models import IR_VERSION, OPSET
from workunits import graphs
from workunits.values import Milliseconds

WICKED = Path(__file__).parent.parent / "support" / "wicked"


@pytest.fixture
def car(tmp_path: Path) -> Iterator[Car]:
    now = Milliseconds(int(datetime.now(UTC).timestamp() * 1000))
    with fake_project(now) as project:
        yield Car(tmp_path / "car", project)


def found(car: Car, *, code: int) -> dict[str, dict[str, str]]:
    done = car.does("doctor", "--json", code=code)
    return {each["what"]: each for each in json.loads(done.stdout)}


def named(findings: list[Finding], what: str) -> Finding:
    return next(each for each in findings if each.what == what)


def test_all_is_well(car: Car) -> None:
    car.joins()
    before = {path.name for path in car.directory.iterdir()}
    checks = found(car, code=0)
    assert {each["state"] for each in checks.values()} <= {"ok", "warning"}
    assert {f"sandbox: {name}" for name in MEASURES} <= checks.keys()
    assert {"project", "consent", "key", "settings", "database", "disk", "metadata", "server",
            "clock", "temperature c", "computing", "telemetry"} <= checks.keys()  # fmt: skip
    assert "ONNX Runtime" in checks["computing"]["detail"]
    assert {path.name for path in car.directory.iterdir()} == before


def test_what_is_wrong_is_named_with_its_remedy(car: Car, monkeypatch: pytest.MonkeyPatch) -> None:
    car.joins()
    (car.directory / "key.pem").chmod(0o644)
    script = car.directory.parent / "cold.toml"
    script.write_text('[start]\nparked = true\ntemperature_c = "unknown"\n')
    car.does("config", "set", "vehicle.sources", f"scripted:{script}")
    car.project.is_gone = True
    monkeypatch.setenv("PYTHONPATH", str(WICKED))
    monkeypatch.setenv("PYTHONFAULT", "no_start")
    findings = list(examine(car.directory))
    assert named(findings, "key").state == "fault"
    assert "chmod 600" in named(findings, "key").mend
    assert "gate.temperature none" in named(findings, "temperature c").mend
    assert named(findings, "plugged in").state == "fault"
    computing = named(findings, "computing")
    assert (computing.state, "a library is missing" in computing.detail) == ("fault", True)
    # One thing that is wrong hides none of the others.
    assert named(findings, "database").state == "ok"


def test_a_damaged_database_is_a_fault(car: Car) -> None:
    car.joins()
    database = car.directory / "agent.sqlite3"
    raw = bytearray(database.read_bytes())
    raw[4096:8192] = bytes(4096)
    database.write_bytes(raw)
    findings = list(examine(car.directory))
    assert named(findings, "database").state == "fault"
    assert named(findings, "computing").state == "ok"


def test_a_directory_that_never_joined_is_one_fault(tmp_path: Path) -> None:
    faults = [each for each in examine(tmp_path / "none") if each.state == "fault"]
    assert [each.what for each in faults] == ["project"]
    assert "join" in faults[0].detail


def test_clocks_are_compared() -> None:
    here = datetime(2026, 1, 1, tzinfo=UTC)
    assert _compare_clocks(here + timedelta(seconds=200), here).state == "ok"
    assert _compare_clocks(here + timedelta(hours=1), here).state == "fault"
    assert _compare_clocks(here - timedelta(hours=1), here).state == "fault"
    assert _compare_clocks(None, here).state == "warning"


def test_the_command_loads_nothing_that_computes(tmp_path: Path) -> None:
    looking = (
        "import sys; from tesla_at_home.cli import carry_out; "
        f"carry_out(['--dir', {str(tmp_path)!r}, 'doctor']); "
        "print([name for name in ('numpy', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", looking],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_graph_that_is_tried_is_one_that_vehicles_run(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 1]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "probe", ends[:1], ends[1:]
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="",
    )
    assert onnx.ModelProto.FromString(probe.GRAPH) == model
    path = tmp_path / "probe.onnx"
    path.write_bytes(probe.GRAPH)
    assert graphs.vet(path, name="probe").name == "probe"

"""The recomputing process for real: what it answers, and what becomes of one that does not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from server import ports
from server.adapters import recompute
from server.adapters.recompute import Recompute
from server.errors import Outage
from tests.support import faulty_child, models
from workunits import agreement, arrays, execution
from workunits.errors import (
    ContractError,
    ExecutionError,
    GraphRefused,
    MalformedMessage,
    RuntimeOutOfRange,
    TensorsRefused,
)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def payload(sample: models.Sample, rows: int) -> bytes:
    drawn = sample.draw(rows)
    return arrays.to_payload({s.name: drawn[s.name] for s in sample.inputs if s.scope == "row"})


def shared_payload(sample: models.Sample) -> bytes:
    drawn = sample.draw(1)
    return arrays.to_payload({s.name: drawn[s.name] for s in sample.inputs if s.scope == "unit"})


# --- what it answers --------------------------------------------------------------------------------


def test_it_is_the_port() -> None:
    port: ports.Recompute = Recompute()
    assert port.runtime_version() == execution.runtime_version()


def test_a_good_model_is_vetted(tmp_path: Path) -> None:
    sample = models.mlp()
    facts = Recompute().vet(sample.write(tmp_path / "m.onnx"), name="digits")
    assert (facts.name, facts.inputs, facts.outputs) == ("digits", sample.inputs, sample.outputs)
    assert facts.calibration is None


@pytest.mark.parametrize("raw", [b"", b"junk"])
def test_what_vetting_refuses_comes_back_as_the_same_exception(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(GraphRefused) as caught:
        Recompute().vet(path, name="digits")
    assert "\n" not in str(caught.value)


def test_calibration_gives_the_rules_that_agreement_gives_here(tmp_path: Path) -> None:
    sample = models.mlp()
    path = sample.write(tmp_path / "m.onnx")
    loaded = execution.Loaded.open(path, sample.program(), provider=execution.CPU)
    here = execution.run(loaded, sample.draw(20), 20)
    rules = Recompute().calibrate(
        path, sample.program(), payload(sample, 20), None, 20, is_portable_exact=False
    )
    assert rules == agreement.calibrate(here, sample.outputs)
    assert [rule.rule for rule in rules] == ["tolerance", "label"]


def test_portable_exact_models_are_compared_bitwise(tmp_path: Path) -> None:
    sample = models.identity()
    path = sample.write(tmp_path / "m.onnx")
    rules = Recompute().calibrate(
        path, sample.program(), payload(sample, 5), None, 5, is_portable_exact=True
    )
    assert [rule.rule for rule in rules] == ["bitwise"]


def test_a_model_that_gives_no_number_is_refused(tmp_path: Path) -> None:
    sample = models.logarithm()
    path = sample.write(tmp_path / "m.onnx")
    raw = arrays.to_payload({"x": np.full((3, 3), -1, np.float32)})
    with pytest.raises(GraphRefused, match="'y' is not a number on calibration row 0"):
        Recompute().calibrate(path, sample.program(), raw, None, 3, is_portable_exact=False)


def test_rows_are_computed_again_bit_for_bit(tmp_path: Path) -> None:
    sample = models.shared()
    path = sample.write(tmp_path / "m.onnx")
    raw = Recompute().run(path, sample.program(), payload(sample, 7), shared_payload(sample), 7)
    inputs = sample.draw(7) | {"bank": sample.draw(1)["bank"]}
    loaded = execution.Loaded.open(path, sample.program(), provider=execution.CPU)
    assert raw == arrays.to_payload(execution.run(loaded, inputs, 7))


def test_relative_paths_mean_the_same_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = models.identity()
    sample.write(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    assert Recompute().run(Path("m.onnx"), sample.program(), payload(sample, 2), None, 2)


def test_what_does_not_fit_comes_back_as_raised(tmp_path: Path) -> None:
    sample = models.mlp()
    path = sample.write(tmp_path / "m.onnx")
    good, asked = payload(sample, 4), Recompute()
    with pytest.raises(TensorsRefused, match=r"'x' has shape \[4, 8\], not \[5, 8\]"):
        asked.run(path, sample.program(), good, None, 5)
    with pytest.raises(MalformedMessage, match="tensor payload"):
        asked.run(path, sample.program(), good[:-1], None, 4)
    shared = models.shared()
    with pytest.raises(TensorsRefused, match="'bank' is missing"):
        asked.run(shared.write(path), shared.program(), payload(shared, 4), None, 4)


def test_a_run_that_fails_is_no_outage(tmp_path: Path) -> None:
    sample = models.gather(table=4)
    path = sample.write(tmp_path / "m.onnx")
    raw = arrays.to_payload({"i": np.array([0, 9])})
    with pytest.raises(ExecutionError, match="out of data bounds"):
        Recompute().calibrate(path, sample.program(), raw, None, 2, is_portable_exact=False)
    other = msgspec.structs.replace(sample.program(), runtime_below="1.20")
    with pytest.raises(RuntimeOutOfRange):
        Recompute().run(path, other, raw, None, 2)


def test_nothing_is_written_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ONNX Runtime writes an identifier below ~/.cache and phones home, unless it is told not to.
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    sample = models.mlp()
    path = sample.write(tmp_path / "m.onnx")
    Recompute().run(path, sample.program(4), payload(sample, 8), None, 8)
    assert list(home.rglob("*")) == []


def test_the_server_itself_loads_none_of_it() -> None:
    heavy = "{'numpy', 'onnx', 'onnxruntime'}"
    code = f"import sys, server.adapters.recompute; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- what becomes of one that does not --------------------------------------------------------------


def test_memory_is_limited(tmp_path: Path) -> None:
    sample = models.memory_hog()
    path = sample.write(tmp_path / "m.onnx")
    asked = Recompute(memory_limit_bytes=2 * 2**30)
    with pytest.raises(Outage) as caught:
        asked.run(path, sample.program(), payload(sample, 4), None, 4)
    assert str(caught.value) == "running the model needs more memory than the 2 GiB it is given"


def test_a_bug_in_the_process_is_one_line_here_and_whole_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Outage) as caught:
        Recompute().vet(tmp_path / "no\0file", name="digits")
    assert str(caught.value) == "vetting the model failed: ValueError: embedded null byte"
    assert "Traceback" in caplog.records[0].__dict__["tail"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("crash", "vetting the model failed: its process crashed (SIGSEGV)"),
        ("killed", "vetting the model failed: its process was killed; the computer may be out of memory"),
        ("silent", "vetting the model failed: its process ended with status 3"),
        ("garbage", "vetting the model failed: its process gave no answer that can be read"),
        ("flood", "vetting the model failed: its process gave no answer that can be read"),
        ("other answer", "vetting the model failed: the process answered another question"),
    ],
)  # fmt: skip
def test_no_answer_is_an_outage_in_one_line(
    fault: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_faulty(fault, monkeypatch)
    with pytest.raises(Outage) as caught:
        Recompute().vet(tmp_path / "m.onnx", name="digits")
    assert str(caught.value) == says


def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_faulty("hang", monkeypatch)
    with pytest.raises(Outage) as caught:
        Recompute(time_limit_s=0.5).vet(tmp_path / "m.onnx", name="digits")
    assert str(caught.value) == "vetting the model took longer than 0.5 s and was stopped"


def test_a_refusal_of_an_unknown_kind_is_still_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_faulty("unknown refusal", monkeypatch)
    with pytest.raises(ContractError, match=r"^no$"):
        Recompute().vet(tmp_path / "m.onnx", name="digits")


def test_what_the_process_prints_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    be_faulty("silent", monkeypatch)
    with pytest.raises(Outage):
        Recompute().vet(tmp_path / "m.onnx", name="digits")
    assert [record.__dict__["tail"] for record in caplog.records] == ["about to say nothing\n"]


def test_no_interpreter_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(Outage, match="no process could be started: No such file or directory"):
        Recompute().runtime_version()


def be_faulty(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "_CHILD", faulty_child.__name__)
    monkeypatch.setenv(faulty_child.VARIABLE, fault)

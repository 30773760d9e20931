"""Rows made by an enemy: refused in one line that says where, memory stays flat, no batch appears."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from server.cli import run
from tests.support import bounded, models
from tests.support.hostile_data import HOSTILE, read_all
from tests.support.project_state import changed, files, tables
from workunits.errors import DataRefused
from workunits.kinds.base import KindOptions
from workunits.kinds.registry import kind
from workunits.wire.messages import TensorSpec


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return bounded.refusals("data")


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_rows_are_refused_within_memory_and_time(name: str, said: dict[str, str]) -> None:
    line = said[name]
    assert HOSTILE[name].words in line
    assert line.isprintable()
    assert len(line) <= 500


def test_a_pickle_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a pickle as .npy", "a pickle in .npz"):
        hostile = HOSTILE[name]
        hostile.make(tmp_path / hostile.file)
        with pytest.raises(DataRefused):
            read_all(tmp_path / hostile.file, hostile.specs)
    assert not (tmp_path / "a-pickle-was-loaded").exists()
    # It would have been noticed.
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert (tmp_path / "a-pickle-was-loaded").exists()


# --- `batch submit` -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the model `mlp`: eight numbers a row, four classes."""
    folder = tmp_path_factory.mktemp("founded")
    file = models.mlp().write(folder / "mlp.onnx")
    project = ["--dir", str(folder / "project")]
    assert run([*project, "init", "--name", "Test"]) == 0
    assert run([*project, "model", "add", str(file), "--name", "mlp", "--public-data"]) == 0
    return folder / "project"


@pytest.fixture
def project(founded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(founded, tmp_path / "project")


@dataclass(frozen=True)
class Refusal:
    line: str
    changed: set[str]  # tables
    new_files: set[str]


Submit = Callable[..., Refusal]


@pytest.fixture
def submit(project: Path, capsys: pytest.CaptureFixture[str]) -> Submit:
    """`batch submit` that fails with 1 and one line; what it left in the project."""
    database = project / "server.sqlite3"

    def ask(data: Path, *more: str) -> Refusal:
        before = files(project), tables(database)
        capsys.readouterr()
        code = run(["--dir", str(project), *_submission(data), "--public-data", *more])
        out, err = capsys.readouterr()
        assert (code, out) == (1, "")
        line = err.strip()
        assert line.startswith("error: ")
        assert line.isprintable()
        after = files(project), tables(database)
        return Refusal(line, changed(before[1], after[1]), set(after[0]) - set(before[0]))

    return ask


def _submission(data: Path) -> list[str]:
    return ["batch", "submit", "--model", "mlp", "--input", str(data), "--rows-per-unit", "20"]


ROW = "[1, 2, 3, 4, 5, 6, 7, 8]\n"


@pytest.mark.parametrize(
    ("file", "raw", "words"),
    [
        ("x.npy", b"\x80\x04\x95\x00.", "not in .npy format"),
        ("x.npz", b"PK\x05\x06" + bytes(18), "missing 'x'"),
        ("x.jsonl", b"\n\n", "there are no rows"),
        ("x.safetensors", b"\xff" * 40, "damaged"),
        ("x.parquet", b"PAR1PAR1", "damaged, or not a .parquet file"),
        ("x.csv", b"1,2\n", "the name must end in one of"),
    ],
)
def test_what_is_refused_at_once_leaves_nothing(
    file: str, raw: bytes, words: str, submit: Submit, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(raw)
    found = submit(tmp_path / file)
    assert words in found.line
    # That the submitter agreed was said, and holds.
    assert found.changed <= {"meta"}
    assert found.new_files == set()


def test_a_pipe_is_not_waited_for(submit: Submit, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    assert "no ordinary file" in submit(tmp_path / "x.jsonl").line


def test_inputs_of_different_length_are_refused(submit: Submit, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8), np.float32), y=np.zeros(4, np.float32))
    found = submit(tmp_path / "x.npz")
    assert "not an input 'y'" in found.line
    assert found.new_files == set()


def late_line(path: Path) -> None:
    path.write_text(ROW * 49 + ROW.replace("8", "1e999"))


def late_null(path: Path) -> None:
    rows = [[1.0] * 8] * 49 + [[None, *[1.0] * 7]]
    pq.write_table(pa.table({"x": pa.array(rows, pa.list_(pa.float32()))}), path, row_group_size=10)


@pytest.mark.parametrize(
    ("file", "make", "words"),
    [("x.jsonl", late_line, "line 50"), ("x.parquet", late_null, "null in row 49")],
)
def test_what_is_refused_late_leaves_no_batch(
    file: str, make: Callable[[Path], None], words: str, submit: Submit, tmp_path: Path
) -> None:
    """Two units' payloads were stored by then; they wait for `purge`, and nobody can see them."""
    make(tmp_path / file)
    found = submit(tmp_path / file)
    assert words in found.line
    assert found.changed <= {"meta", "payloads"}
    assert found.new_files == set()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"a\nb\nc\n\x1b]0;owned\x07\n", "line 4 holds U+001B"),
        (b"a\nb\n", "there are 2 class names"),
        (b"a" * 70_000_000, "too long for a list of class names"),
        (b"a\n\xff\n", "not a text file"),
    ],
    ids=["escape", "too few", "70 MB", "no text"],
)
def test_hostile_class_names_are_refused(
    raw: bytes, words: str, submit: Submit, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(ROW)
    (tmp_path / "classes").write_bytes(raw)
    found = submit(
        tmp_path / "x.jsonl", "--kind", "classify", "--classes", str(tmp_path / "classes")
    )
    assert words in found.line
    assert found.changed <= {"meta"}
    assert found.new_files == set()


# --- names that pass ----------------------------------------------------------------------------


def test_a_line_may_begin_as_windows_writes_it(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf[1, 2]\r\n[3, 4]")
    assert read_all(tmp_path / "x.jsonl", (HOSTILE["NaN"].specs)) == 2


def test_letters_that_must_be_joined_or_parted_are_letters(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("می\u200cخواهم\n👩\u200d🔬\nn01440764\ttench\n")
    assert read_all(tmp_path / "c", ()) == 3


# --- where answers are written ------------------------------------------------------------------

Y = TensorSpec(name="y", dtype="float32", shape=())


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".parquet", ".jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_a_pipe_or_device_is_not_replaced_by_an_answer(
    suffix: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / f"answer{suffix}"
    make(path)
    with pytest.raises(DataRefused, match="cannot be written: it is a pipe or a device"):
        kind("tensor").open_answer(path, [Y], KindOptions(), 1)
    assert not path.is_file()
    assert os.listdir(tmp_path) == [path.name]


def test_keys_that_stand_once_may_hold_quotation_marks(tmp_path: Path) -> None:
    odd = TensorSpec(name='an "input"', dtype="float32", shape=())
    (tmp_path / "x.jsonl").write_text(json.dumps({odd.name: 1}))
    source = kind("tensor").read(tmp_path / "x.jsonl", [odd], KindOptions())
    assert [block[odd.name].tolist() for block in source.blocks(1)] == [[1.0]]

"""Answers in every format, read back by the libraries that other people use."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isnan, nan
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from workunits.arrays import Array
from workunits.errors import DataRefused
from workunits.kinds.base import (
    ROW_EXPIRED,
    ROW_NOT_A_NUMBER,
    ROW_OK,
    ROW_STATUS,
    ROW_UNIT_FAILED,
    STATUS_WORDS,
    AnswerWriter,
    KindOptions,
)
from workunits.kinds.registry import kind
from workunits.wire.messages import Dtype, TensorSpec

SUFFIXES = (".npz", ".npy", ".safetensors", ".parquet", ".jsonl")
SEVERAL = (".npz", ".safetensors", ".parquet", ".jsonl")


def spec(name: str, dtype: Dtype = "float32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


SPECS = (spec("y", "float32", 2, 2), spec("n", "int64"), spec("ok", "bool", 1))
OUTPUTS: dict[str, Array] = {
    "y": np.arange(20, dtype="float32").reshape(5, 2, 2) / 3,
    "n": np.array([1, -2, 2**62, 4, 5]),
    "ok": np.array([[True], [False], [True], [True], [True]]),
}


def opened(path: Path, rows: int = 5, *specs: TensorSpec) -> AnswerWriter:
    return kind("tensor").open_answer(path, specs or SPECS, KindOptions(), rows)


def cut(outputs: Mapping[str, Array], first: int, end: int) -> dict[str, Array]:
    return {name: array[first:end] for name, array in outputs.items()}


def load(path: Path) -> dict[str, list[object]]:
    """Columns as plain lists, by another library than the writer's own code."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name].tolist() for name in archive.files}
    if path.suffix == ".npy":
        status = np.load(path.with_name(f"{path.stem}.status.npy"))
        return {"y": np.load(path).tolist(), ROW_STATUS: status.tolist()}
    if path.suffix == ".safetensors":
        return {name: array.tolist() for name, array in load_file(path).items()}
    if path.suffix == ".parquet":
        found: dict[str, list[object]] = pq.read_table(path).to_pydict()
        return found
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("suffix", SEVERAL)
class TestSeveralOutputs:
    def test_columns_stand_in_input_order(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"answer{suffix}"
        with opened(path) as answer:
            for first, end in ((0, 2), (2, 2), (2, 5)):
                answer.append(cut(OUTPUTS, first, end), end - first, ROW_OK)
            answer.finish()
        found = load(path)
        assert {name: found[name] for name in OUTPUTS} == {
            n: a.tolist() for n, a in OUTPUTS.items()
        }
        is_text = suffix in (".parquet", ".jsonl")
        assert found[ROW_STATUS] == (["ok"] * 5 if is_text else [0] * 5)

    def test_failed_rows_hold_nothing_and_say_why(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"answer{suffix}"
        outputs = dict(OUTPUTS, y=OUTPUTS["y"].copy())
        outputs["y"][1, 0, 0] = nan
        with opened(path) as answer:
            status = np.array([ROW_OK, ROW_NOT_A_NUMBER], "uint8")
            answer.append(cut(outputs, 0, 2), 2, status)
            answer.append(None, 2, ROW_UNIT_FAILED)
            answer.append(cut(outputs, 4, 5), 1, ROW_OK)
            answer.finish()
        found = load(path)
        codes = [0, ROW_NOT_A_NUMBER, ROW_UNIT_FAILED, ROW_UNIT_FAILED, 0]
        is_text = suffix in (".parquet", ".jsonl")
        assert found[ROW_STATUS] == ([STATUS_WORDS[code] for code in codes] if is_text else codes)
        assert found["n"] == [1, 0, 0, 0, 5]
        assert found["ok"] == [[True], [False], [False], [False], [True]]
        for row in (1, 2, 3):
            value = found["y"][row]
            assert value is None if suffix == ".jsonl" else _is_all_nan(value)
        assert found["y"][4] == outputs["y"][4].tolist()
        assert np.isfinite(outputs["y"][1, 1]).all()  # the caller's arrays stay as they were


def _is_all_nan(value: object) -> bool:
    return bool(np.isnan(np.array(value, "float64")).all())


class TestOneOutput:
    def test_npy_has_its_status_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "answer.npy"
        with opened(path, 3, spec("y")) as answer:
            answer.append({"y": np.array([1, 2], "float32")}, 2, ROW_OK)
            answer.append(None, 1, ROW_EXPIRED)
            answer.finish()
        assert sorted(os.listdir(tmp_path)) == ["answer.npy", "answer.status.npy"]
        found = load(path)
        assert found["y"][:2] == [1, 2]
        assert isnan(float(str(found["y"][2])))
        assert found[ROW_STATUS] == [0, 0, ROW_EXPIRED]

    def test_npy_is_refused_for_several_outputs(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match=r"the answer has 'y', 'n', 'ok'; choose \.npz"):
            opened(tmp_path / "answer.npy")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestNoHalfAnswer:
    def test_nothing_stands_under_the_name_before_the_end(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = tmp_path / f"answer{suffix}"
        path.write_text("what was there")
        with opened(path, 2, spec("y")) as answer:
            answer.append({"y": np.zeros(2, "float32")}, 2, ROW_OK)
            assert path.read_text() == "what was there"
            answer.finish()
        assert path.read_bytes() != b"what was there"

    def test_what_is_not_finished_is_removed(self, tmp_path: Path, suffix: str) -> None:
        with opened(tmp_path / f"answer{suffix}", 2, spec("y")) as answer:
            answer.append({"y": np.zeros(1, "float32")}, 1, ROW_OK)
        assert os.listdir(tmp_path) == []

    def test_rows_must_be_those_that_were_promised(self, tmp_path: Path, suffix: str) -> None:
        with opened(tmp_path / f"answer{suffix}", 2, spec("y")) as answer:
            with pytest.raises(ValueError, match="0 of 2 rows written"):
                answer.finish()
            with pytest.raises(ValueError, match="3 more"):
                answer.append({"y": np.zeros(3, "float32")}, 3, ROW_OK)

    @pytest.mark.parametrize("array", [np.zeros(2), np.zeros((2, 1), "float32")])
    def test_outputs_of_another_form_are_never_written(
        self, tmp_path: Path, suffix: str, array: Array
    ) -> None:
        with (
            opened(tmp_path / f"answer{suffix}", 2, spec("y")) as answer,
            pytest.raises(ValueError, match="column 'y' is"),
        ):
            answer.append({"y": array}, 2, ROW_OK)

    def test_rows_that_are_ok_need_outputs(self, tmp_path: Path, suffix: str) -> None:
        with (
            opened(tmp_path / f"answer{suffix}", 2, spec("y")) as answer,
            pytest.raises(ValueError, match="have outputs"),
        ):
            answer.append(None, 2, np.array([ROW_OK, ROW_EXPIRED], "uint8"))

    def test_folder_that_is_not_there_is_one_line(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(DataRefused, match="cannot be written: No such file or directory"):
            opened(tmp_path / "nowhere" / f"answer{suffix}", 2, spec("y"))

    def test_folder_in_its_place_is_one_line(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"answer{suffix}").mkdir()
        with pytest.raises(DataRefused, match="cannot be written: it is a directory"):
            opened(tmp_path / f"answer{suffix}", 2, spec("y"))
        assert os.listdir(tmp_path) == [f"answer{suffix}"]

    def test_full_disk_leaves_nothing(self, tmp_path: Path, suffix: str) -> None:
        with (
            _largest_file(100_000),
            pytest.raises(DataRefused, match=os.strerror(errno.EFBIG)),
        ):
            write_a_million(tmp_path / f"answer{suffix}")
        assert os.listdir(tmp_path) == []


def write_a_million(path: Path) -> None:
    rows = 1_000_000
    values = np.random.default_rng(1).random(rows).astype("float32")
    with opened(path, rows, spec("y")) as answer:
        answer.append({"y": values}, rows, ROW_OK)
        answer.finish()


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    """The kernel refuses longer files, as a full disk would (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestNames:
    @pytest.mark.parametrize(
        ("suffix", "name"), [(".npz", "a\0b"), (".safetensors", "__metadata__")]
    )
    def test_name_that_the_format_cannot_hold_is_refused(
        self, tmp_path: Path, suffix: str, name: str
    ) -> None:
        with pytest.raises(DataRefused, match="cannot be a name"):
            opened(tmp_path / f"answer{suffix}", 1, spec(name))
        assert os.listdir(tmp_path) == []

    def test_output_named_as_the_status_is_refused(self) -> None:
        with pytest.raises(DataRefused, match="rename it"):
            kind("tensor").check(KindOptions(), [spec(ROW_STATUS)])

    def test_plain_options_are_kept(self) -> None:
        assert kind("tensor").check(KindOptions(), SPECS) == KindOptions()

    def test_options_of_another_kind_are_refused(self) -> None:
        with pytest.raises(DataRefused, match="--kind classify"):
            kind("tensor").check(KindOptions(top=3), [spec("y")])

    def test_unknown_suffix_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match="must end in one of"):
            opened(tmp_path / "answer.csv")


class TestLongAnswers:
    def test_parquet_gathers_units_into_row_groups(self, tmp_path: Path) -> None:
        path = tmp_path / "answer.parquet"
        with opened(path, 512 * 256, spec("y")) as answer:
            for _ in range(512):
                answer.append({"y": np.zeros(256, "float32")}, 256, ROW_OK)
            answer.finish()
        assert pq.ParquetFile(path).metadata.num_row_groups == 2

"""Labels from scores: names, ties, failed rows, and the options that a submitter may give."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from workunits.arrays import Array
from workunits.errors import DataRefused
from workunits.kinds.base import ROW_NOT_A_NUMBER, ROW_UNIT_FAILED, AnswerWriter, KindOptions
from workunits.kinds.classify import best, read_class_names
from workunits.kinds.registry import kind
from workunits.wire.messages import Dtype, TensorSpec

COLOURS = ("red", "green", "blue")


def spec(name: str = "p", dtype: Dtype = "float32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


SPECS = (spec("label", "int64"), spec("p", "float32", 3))
SCORES = np.array([[0.25, 0.5, 0.25], [0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [nan, 1, 1]], "float32")
CODES = np.array([0, 0, 0, ROW_NOT_A_NUMBER], "uint8")


def write(path: Path, options: KindOptions) -> AnswerWriter:
    filled = kind("classify").check(options, SPECS)
    outputs: dict[str, Array] = {"label": np.zeros(4, "int64"), "p": SCORES}
    with kind("classify").open_answer(path, SPECS, filled, 5) as answer:
        answer.append(outputs, 4, CODES)
        answer.append(None, 1, ROW_UNIT_FAILED)
        answer.finish()
    return answer


class TestAnswer:
    def test_lines_carry_names_and_null_for_failed_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "answer.jsonl"
        write(path, KindOptions(class_names=COLOURS, top=2))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[0] == {
            "label": "green",
            "score": 0.5,
            "top_labels": ["green", "red"],
            "top_scores": [0.5, 0.25],
            "row_status": "ok",
        }
        assert rows[3:] == [
            {
                "label": None,
                "score": None,
                "top_labels": None,
                "top_scores": None,
                "row_status": word,
            }
            for word in ("not_a_number", "unit_failed")
        ]

    def test_parquet_carries_names(self, tmp_path: Path) -> None:
        path = tmp_path / "answer.parquet"
        write(path, KindOptions(class_names=COLOURS, top=2))
        found = pq.read_table(path).to_pydict()
        assert found["label"] == ["green", "blue", "red", None, None]
        assert found["top_labels"][:3] == [["green", "red"], ["blue", "green"], ["red", "green"]]
        assert found["top_labels"][3:] == [[None, None], [None, None]]
        assert found["score"][:3] == [0.5, 0.75, 1.0]
        assert np.isnan(found["score"][3:]).all()
        assert np.isnan(found["top_scores"][3:]).all()
        assert found["row_status"] == ["ok", "ok", "ok", "not_a_number", "unit_failed"]

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    def test_arrays_carry_class_numbers(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"answer{suffix}"
        write(path, KindOptions(class_names=COLOURS, top=2))
        found = dict(np.load(path)) if suffix == ".npz" else load_file(path)
        assert set(found) == {"label", "score", "top_labels", "top_scores", "row_status"}
        assert found["label"].tolist() == [1, 2, 0, 0, 0]
        assert found["label"].dtype == np.int64
        assert found["score"].dtype == np.float32
        assert found["top_labels"].tolist()[:3] == [[1, 0], [2, 1], [0, 1]]
        assert found["top_labels"].tolist()[3:] == [[0, 0], [0, 0]]
        assert np.isnan(found["top_scores"][3:]).all()
        assert found["row_status"].tolist() == [0, 0, 0, ROW_NOT_A_NUMBER, ROW_UNIT_FAILED]

    def test_npy_is_refused_with_advice(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match=r"holds one array, .*choose \.npz"):
            write(tmp_path / "answer.npy", KindOptions())

    def test_rows_per_class_are_counted_without_failed_ones(self, tmp_path: Path) -> None:
        answer = write(tmp_path / "answer.npz", KindOptions(class_names=COLOURS))
        assert answer.counts() == {"red": 1, "green": 1, "blue": 1}

    def test_equal_scores_go_to_the_lower_class(self) -> None:
        found = best(np.array([[1, 2, 2, 1]], "float16"), 3)
        assert found["top_labels"].tolist() == [[1, 2, 0]]
        assert found["top_scores"].tolist() == [[2, 2, 1]]


class TestOptions:
    def test_what_is_left_out_is_filled_in(self) -> None:
        filled = kind("classify").check(KindOptions(), SPECS)
        assert filled == KindOptions(class_names=("0", "1", "2"), scores="p", top=3)
        assert kind("classify").check(filled, SPECS) == filled
        wide = kind("classify").check(KindOptions(), [spec("p", "float32", 9)])
        assert wide.top == 5

    def test_options_survive_json(self) -> None:
        filled = kind("classify").check(KindOptions(class_names=COLOURS), SPECS)
        assert msgspec.json.decode(msgspec.json.encode(filled), type=KindOptions) == filled

    @pytest.mark.parametrize("top", [0, 4, -1])
    def test_top_is_within_the_classes(self, top: int) -> None:
        with pytest.raises(DataRefused, match="choose 1 to 3"):
            kind("classify").check(KindOptions(top=top), SPECS)

    @pytest.mark.parametrize("names", [(), ("a", "b"), ("a", "b", "c", "d")])
    def test_every_class_has_a_name(self, names: tuple[str, ...]) -> None:
        with pytest.raises(DataRefused, match=f"{len(names)} class names, output 'p' has 3"):
            kind("classify").check(KindOptions(class_names=names), SPECS)

    def test_several_outputs_need_scores(self) -> None:
        outputs = [spec("a", "float32", 3), spec("b", "float64", 2)]
        with pytest.raises(DataRefused, match="say --scores with one of 'a', 'b'"):
            kind("classify").check(KindOptions(), outputs)
        assert kind("classify").check(KindOptions(scores="b"), outputs).top == 2
        with pytest.raises(DataRefused, match="'c' is not one of 'a', 'b'"):
            kind("classify").check(KindOptions(scores="c"), outputs)

    @pytest.mark.parametrize(
        "output",
        [spec("n", "int64", 3), spec("p"), spec("p", "float32", 2, 2), spec("p", "float32", 0)],
    )
    def test_model_without_scores_is_refused(self, output: TensorSpec) -> None:
        with pytest.raises(DataRefused, match="needs a model with a float output"):
            kind("classify").check(KindOptions(), [output])

    def test_rows_are_read_as_tensor_reads_them(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones(3, "float32"))
        source = kind("classify").read(tmp_path / "x.npy", [spec("x")], KindOptions())
        assert source.rows == 3

    def test_output_named_as_the_status_is_allowed(self) -> None:
        outputs = [spec("row_status", "int64"), spec("p", "float32", 3)]
        assert kind("classify").check(KindOptions(), outputs).scores == "p"


class TestClassNames:
    def save(self, tmp_path: Path, raw: bytes) -> Path:
        (tmp_path / "classes.txt").write_bytes(raw)
        return tmp_path / "classes.txt"

    @pytest.mark.parametrize(
        "raw", [b"red\ngr\xc3\xbcn", b"red\ngr\xc3\xbcn\n", b"\xef\xbb\xbfred\r\ngr\xc3\xbcn\r\n"]
    )
    def test_one_name_a_line(self, tmp_path: Path, raw: bytes) -> None:
        assert read_class_names(self.save(tmp_path, raw)) == ("red", "grün")

    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (b"", "line 1 is empty"),
            (b"a\n\nb\n", "line 2 is empty"),
            (b"a\nb\na\n", "lines 1 and 3 both say 'a'"),
            (b"a\n\xff\n", "damaged, or not a text file"),
        ],
    )
    def test_fault_names_its_line(self, tmp_path: Path, raw: bytes, text: str) -> None:
        with pytest.raises(DataRefused, match=text):
            read_class_names(self.save(tmp_path, raw))

    def test_missing_file_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match="there is no such file"):
            read_class_names(tmp_path / "classes.txt")

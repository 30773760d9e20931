"""What is written comes back: every format, every dtype, any values, any shapes, any blocks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workunits.arrays import NUMPY_DTYPES, Array, dtype_of
from workunits.kinds.base import ROW_OK, ROW_STATUS, KindOptions
from workunits.kinds.registry import kind
from workunits.program import FLOAT_DTYPES
from workunits.wire.messages import Dtype, TensorSpec

# Any text that has a UTF-8 form; a NUL cannot stand in a zip's names.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
ARRAYS = (".npz", ".safetensors")
TEXTS = (".parquet", ".jsonl")


@st.composite
def columns(draw: st.DrawFn, *, are_finite: bool) -> dict[str, Array]:
    rows = draw(st.integers(1, 9))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return {
        name: draw(_array(rows, draw(SHAPES), are_finite))
        for name in names
        if name not in (ROW_STATUS, "__metadata__")
    } or {"x": np.zeros(rows, "float32")}


@st.composite
def _array(draw: st.DrawFn, rows: int, shape: tuple[int, ...], are_finite: bool) -> Array:
    dtype: Dtype = draw(st.sampled_from(sorted(NUMPY_DTYPES)))
    elements = None
    if dtype in FLOAT_DTYPES:
        width = 8 * NUMPY_DTYPES[dtype].itemsize
        elements = st.floats(width=width, allow_nan=not are_finite, allow_infinity=not are_finite)  # type: ignore[arg-type]
    array: Array = draw(hnp.arrays(dtype, (rows, *shape), elements=elements))
    return array


def write(path: Path, arrays: Mapping[str, Array], rows_per_block: int) -> None:
    specs = specs_of(arrays)
    rows = len(next(iter(arrays.values())))
    with kind("tensor").open_answer(path, specs, KindOptions(), rows) as answer:
        for first in range(0, rows, rows_per_block):
            block = {name: array[first : first + rows_per_block] for name, array in arrays.items()}
            answer.append(block, len(next(iter(block.values()))), ROW_OK)
        answer.finish()


def read(path: Path, specs: list[TensorSpec], rows_per_block: int) -> dict[str, Array]:
    blocks = list(kind("tensor").read(path, specs, KindOptions()).blocks(rows_per_block))
    return {spec.name: np.concatenate([block[spec.name] for block in blocks]) for spec in specs}


def specs_of(arrays: Mapping[str, Array]) -> list[TensorSpec]:
    return [
        TensorSpec(name=name, dtype=dtype_of(array), shape=array.shape[1:])
        for name, array in arrays.items()
    ]


def assert_same(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        # Bit for bit, but for what NaN carries.
        assert np.array_equal(found[name], array, equal_nan=array.dtype.kind == "f")
        if array.dtype.kind == "f":
            assert (
                np.array_equal(np.signbit(found[name]), np.signbit(array)) or np.isnan(array).any()
            )


@pytest.mark.parametrize("suffix", ARRAYS)
@given(columns(are_finite=False), st.integers(1, 10), st.integers(1, 10))
def test_arrays_come_back(suffix: str, arrays: dict[str, Array], written: int, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path, arrays, written)
        rows = len(next(iter(arrays.values())))
        status: dict[str, Array] = {ROW_STATUS: np.zeros(rows, "uint8")}
        assert_same(read(path, specs_of(arrays | status), block), arrays | status)


@given(columns(are_finite=False), st.integers(1, 10), st.integers(1, 10))
def test_single_array_comes_back(arrays: dict[str, Array], written: int, block: int) -> None:
    name, array = next(iter(arrays.items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        write(path, {name: array}, written)
        assert_same(read(path, specs_of({name: array}), block), {name: array})


@given(columns(are_finite=False), st.integers(1, 10), st.integers(1, 10))
def test_parquet_comes_back(arrays: dict[str, Array], written: int, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        write(path, arrays, written)
        table = pq.read_table(path)
        assert set(table[ROW_STATUS].to_pylist()) == {"ok"}
        pq.write_table(table.drop_columns([ROW_STATUS]), path, row_group_size=4)
        assert_same(read(path, specs_of(arrays), block), arrays)


@given(columns(are_finite=True), st.integers(1, 10), st.integers(1, 10))
def test_lines_come_back(arrays: dict[str, Array], written: int, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        write(path, arrays, written)
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert {row.pop(ROW_STATUS) for row in rows} == {"ok"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert_same(read(path, specs_of(arrays), block), arrays)


@given(columns(are_finite=False))
def test_lines_are_strict_json_whatever_the_values(arrays: dict[str, Array]) -> None:
    def refuse(token: str) -> object:
        raise AssertionError(f"{token} is not JSON")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        write(path, arrays, 3)
        for line in path.read_bytes().splitlines():
            assert set(json.loads(line, parse_constant=refuse)) == {*arrays, ROW_STATUS}


@pytest.mark.parametrize("compressed", [False, True])
@given(arrays=columns(are_finite=False), block=st.integers(1, 10))
def test_what_numpy_saves_is_read(compressed: bool, arrays: dict[str, Array], block: int) -> None:
    renamed = {f"a{number}": array for number, array in enumerate(arrays.values())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        save = np.savez_compressed if compressed else np.savez
        save(path, **renamed)  # type: ignore[arg-type]
        assert_same(read(path, specs_of(renamed), block), renamed)

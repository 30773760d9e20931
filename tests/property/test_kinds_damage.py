"""Files from strangers: whatever they hold, rows come out or one line says why not."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from workunits.errors import DataRefused
from workunits.kinds.base import KindOptions
from workunits.kinds.classify import read_class_names
from workunits.kinds.registry import kind, read_shared
from workunits.wire.messages import TensorSpec

SPECS = (
    TensorSpec(name="x", dtype="float32", shape=(2,)),
    TensorSpec(name="n", dtype="int64", shape=()),
)
ONLY = SPECS[:1]
FILES = ("s.npz", "d.npz", "f.npz", "x.npy", "f.npy", "x.safetensors", "x.parquet", "x.jsonl")


@cache
def good(name: str) -> bytes:
    """A file that fits, as other people's libraries write it."""
    x, n = np.arange(12, dtype="float32").reshape(6, 2), np.arange(6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name == "d.npz":
            np.savez_compressed(path, x=x, n=n)
        elif path.suffix == ".npz":
            np.savez(path, x=np.asfortranarray(x) if name == "f.npz" else x, n=n)
        elif path.suffix == ".npy":
            np.save(path, np.asfortranarray(x) if name == "f.npy" else x)
        elif path.suffix == ".safetensors":
            save_file({"x": x, "n": n}, path)
        elif path.suffix == ".parquet":
            pq.write_table(pa.table({"x": x.tolist(), "n": n}, _SCHEMA), path, row_group_size=4)
        else:
            path.write_text("".join(f'{{"x": {r}, "n": 1}}\n' for r in x.tolist()))
        return path.read_bytes()


_SCHEMA = pa.schema({"x": pa.list_(pa.float32()), "n": pa.int64()})


def read_all(name: str, raw: bytes) -> int | None:
    """Rows read, or None if the file was refused; anything else that is raised is a bug."""
    specs = ONLY if name.endswith(".npy") else SPECS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            source = kind("tensor").read(path, specs, KindOptions())
            rows = 0
            for block in source.blocks(4):
                assert block["x"].shape[1:] == (2,)
                assert block["x"].dtype == np.float32
                rows += len(block["x"])
                if rows > 10_000:  # a damaged count of something that compresses well
                    return rows
        except DataRefused as refused:
            expect_one_line(refused)
            return None
        assert rows == source.rows
        return rows


def expect_one_line(refused: DataRefused) -> None:
    assert "\n" not in str(refused)


@pytest.mark.parametrize("name", FILES)
def test_good_file_is_read(name: str) -> None:
    assert read_all(name, good(name)) == 6


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_changed_bytes_never_break_the_reader(name: str, data: st.DataObject) -> None:
    raw = bytearray(good(name))
    # Half of the changes in what describes the numbers, which stands at either end.
    edge = st.integers(0, min(200, len(raw) - 1)) | st.integers(
        max(0, len(raw) - 200), len(raw) - 1
    )
    places = data.draw(st.lists(edge | st.integers(0, len(raw) - 1), min_size=1, max_size=4))
    for place in places:
        raw[place] = data.draw(st.integers(0, 255))
    read_all(name, bytes(raw))


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_cut_or_joined_files_never_break_the_reader(name: str, data: st.DataObject) -> None:
    raw = good(name)
    cut = data.draw(st.integers(0, len(raw)))
    again = data.draw(st.integers(0, len(raw)))
    read_all(name, raw[:cut] + raw[again:])


@pytest.mark.parametrize("name", FILES)
@given(raw=st.binary(max_size=200))
@example(raw=b"")
def test_noise_never_breaks_the_reader(name: str, raw: bytes) -> None:
    read_all(name, raw)
    start = good(name)[:16]
    read_all(name, start + raw)


@given(
    st.lists(
        st.text(max_size=20)
        | st.sampled_from(['{"x": [1, 2], "n": 1}', '{"x": [1e400, 2], "n": 1}', "[1, 2]", "null"]),
        max_size=4,
    )
)
def test_lines_of_any_text_never_break_the_reader(lines: list[str]) -> None:
    read_all("x.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xn"), inner),
        max_leaves=8,
    )
)
def test_any_json_never_breaks_the_reader(value: object) -> None:
    read_all("x.jsonl", json.dumps({"x": value, "n": 1}).encode())
    read_all("x.jsonl", json.dumps(value).encode())


@pytest.mark.parametrize("name", ["s.npz", "f.npz", "x.npy", "x.safetensors"])
@given(data=st.data())
def test_shared_arrays_never_break_the_reader(name: str, data: st.DataObject) -> None:
    raw = bytearray(good(name))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    specs = [TensorSpec(name="x", dtype="float32", shape=(6, 2), scope="unit")]
    if not name.endswith(".npy"):
        specs.append(TensorSpec(name="n", dtype="int64", shape=(6,), scope="unit"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            assert read_shared(path, specs)["x"].shape == (6, 2)
        except DataRefused as refused:
            expect_one_line(refused)


@given(st.binary(max_size=50))
def test_class_names_of_any_bytes(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.txt"
        path.write_bytes(raw)
        try:
            names = read_class_names(path)
        except DataRefused:
            return
        assert len(names) == len(set(names)) > 0

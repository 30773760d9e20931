"""Data sets of every format: what is read, and what is refused with which advice."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from workunits.arrays import Array
from workunits.errors import DataRefused
from workunits.kinds.base import KindOptions, RowSource
from workunits.kinds.formats.blocks import cut
from workunits.kinds.registry import kind, read_shared
from workunits.wire.messages import Dtype, TensorSpec


def spec(name: str = "x", dtype: Dtype = "float32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def read(path: Path, *specs: TensorSpec) -> RowSource:
    return kind("tensor").read(path, specs, KindOptions())


def everything(source: RowSource, rows_per_block: int = 3) -> dict[str, list[object]]:
    blocks = list(source.blocks(rows_per_block))
    assert all(len(a) == rows_per_block for block in blocks[:-1] for a in block.values())
    return {name: [row for block in blocks for row in block[name].tolist()] for name in blocks[0]}


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def save_compressed(path: Path, arrays: Mapping[str, Array]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def save_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    save_file(dict(arrays), path, metadata={"made": "by hand"})


def save_parquet(path: Path, arrays: Mapping[str, Array]) -> None:
    columns = {name: pa.array(array.tolist(), _arrow_type(array)) for name, array in arrays.items()}
    pq.write_table(pa.table(columns), path, row_group_size=4)


def _arrow_type(array: Array) -> pa.DataType:
    element = pa.from_numpy_dtype(array.dtype)
    for _ in array.shape[1:]:
        element = pa.list_(element)
    return element


def save_jsonl(path: Path, arrays: Mapping[str, Array]) -> None:
    rows = len(next(iter(arrays.values())))
    lines = [json.dumps({n: a[row].tolist() for n, a in arrays.items()}) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")


SAVERS: dict[str, Callable[[Path, Mapping[str, Array]], None]] = {
    "data.npz": save_npz,
    "deflated.npz": save_compressed,
    "data.safetensors": save_safetensors,
    "data.parquet": save_parquet,
    "data.jsonl": save_jsonl,
}
ARRAYS = {
    "x": np.arange(7 * 6, dtype="float32").reshape(7, 2, 3) / 8,
    "n": np.arange(7, dtype="int64") - 3,
    "ok": np.array([True, False, True, True, False, False, True]),
}
SPECS = (spec("x", "float32", 2, 3), spec("n", "int64"), spec("ok", "bool"))


@pytest.fixture(params=SAVERS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Mapping[str, Array]], Path]:
    def save(arrays: Mapping[str, Array]) -> Path:
        path: Path = tmp_path / request.param
        SAVERS[request.param](path, arrays)
        return path

    return save


Save = Callable[[Mapping[str, Array]], Path]


class TestEveryFormat:
    @pytest.mark.parametrize("rows_per_block", [1, 3, 7, 100])
    def test_rows_come_in_order_in_blocks_of_the_asked_length(
        self, saved: Save, rows_per_block: int
    ) -> None:
        source = read(saved(ARRAYS), *SPECS)
        assert source.rows == 7
        for _ in range(2):  # may be read again
            found = everything(source, rows_per_block)
            assert found == {name: array.tolist() for name, array in ARRAYS.items()}

    def test_blocks_have_the_dtypes_and_shapes_of_the_inputs(self, saved: Save) -> None:
        block = next(read(saved(ARRAYS), *SPECS).blocks(2))
        assert {n: (a.dtype.name, a.shape) for n, a in block.items()} == {
            "x": ("float32", (2, 2, 3)),
            "n": ("int64", (2,)),
            "ok": ("bool", (2,)),
        }

    def test_missing_and_extra_names_are_listed(self, saved: Save) -> None:
        path = saved({"x": ARRAYS["x"], "label": ARRAYS["n"]})
        with pytest.raises(DataRefused, match=r"missing 'n', 'ok'; not an input 'label'"):
            everything(read(path, *SPECS))

    def test_no_rows_are_refused(self, saved: Save) -> None:
        with pytest.raises(DataRefused, match="no rows"):
            read(saved({"x": np.zeros((0, 2), "float32")}), spec("x", "float32", 2))

    def test_missing_file_is_one_line(self, saved: Save) -> None:
        path = saved(ARRAYS)
        path.unlink()
        with pytest.raises(DataRefused, match="there is no such file"):
            read(path, *SPECS)

    def test_folder_is_one_line(self, saved: Save) -> None:
        path = saved(ARRAYS)
        path.unlink()
        path.mkdir()
        with pytest.raises(DataRefused, match="cannot be read"):
            read(path, *SPECS)


@pytest.mark.parametrize("name", [n for n in SAVERS if n != "data.jsonl"])
class TestTypedFormats:
    def test_other_dtype_is_refused_with_the_call_that_mends_it(
        self, name: str, tmp_path: Path
    ) -> None:
        SAVERS[name](tmp_path / name, {"x": np.zeros(3)})
        with pytest.raises(DataRefused, match=r"float64, .* float32; .*astype\('float32'\)"):
            read(tmp_path / name, spec("x"))


@pytest.mark.parametrize("name", ["data.npz", "deflated.npz", "data.safetensors"])
class TestArrayFormats:
    def test_other_shape_is_refused_with_the_call_that_mends_it(
        self, name: str, tmp_path: Path
    ) -> None:
        SAVERS[name](tmp_path / name, {"x": np.zeros((3, 6), "float32")})
        with pytest.raises(DataRefused, match=r"\[rows, 2, 3\]; .*x\.reshape\(-1, 2, 3\)"):
            read(tmp_path / name, spec("x", "float32", 2, 3))
        with pytest.raises(DataRefused, match=r"the model wants \[rows, 5\]$"):
            read(tmp_path / name, spec("x", "float32", 5))

    def test_inputs_of_different_length_are_refused(self, name: str, tmp_path: Path) -> None:
        SAVERS[name](tmp_path / name, {"x": np.zeros(3, "float32"), "y": np.zeros(4, "float32")})
        with pytest.raises(DataRefused, match="'x' has 3, 'y' has 4"):
            read(tmp_path / name, spec("x"), spec("y"))

    def test_shared_arrays_are_read_whole(self, name: str, tmp_path: Path) -> None:
        table = np.arange(6, dtype="float32").reshape(2, 3)
        SAVERS[name](tmp_path / name, {"table": table, "scale": np.array(2.0, "float32")})
        specs = [
            TensorSpec(name="table", dtype="float32", shape=(2, 3), scope="unit"),
            TensorSpec(name="scale", dtype="float32", shape=(), scope="unit"),
        ]
        found = read_shared(tmp_path / name, specs)
        assert found["table"].tolist() == table.tolist()
        assert (found["scale"].shape, float(found["scale"])) == ((), 2.0)
        with pytest.raises(DataRefused, match="not an input 'scale'"):
            read_shared(tmp_path / name, specs[:1])
        wrong = [TensorSpec(name="table", dtype="float32", shape=(3, 2), scope="unit"), specs[1]]
        with pytest.raises(DataRefused, match=r"\[2, 3\], the model wants \[3, 2\]"):
            read_shared(tmp_path / name, wrong)

    def test_bool_that_is_neither_is_refused(self, name: str, tmp_path: Path) -> None:
        SAVERS[name](tmp_path / name, {"x": np.array([0, 1, 2], "uint8").view("bool")})
        with pytest.raises(DataRefused, match="neither 0 nor 1"):
            everything(read(tmp_path / name, spec("x", "bool")))


class TestNumpyFiles:
    def save(self, tmp_path: Path, array: np.ndarray) -> Path:
        np.save(tmp_path / "x.npy", array)
        return tmp_path / "x.npy"

    def test_array_goes_to_the_only_input(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, ARRAYS["x"])
        assert (
            everything(read(path, spec("image", "float32", 2, 3)))["image"] == ARRAYS["x"].tolist()
        )

    def test_several_inputs_are_refused_with_advice(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match=r"'a', 'b'; save them as \.npz"):
            read(self.save(tmp_path, np.zeros(3, "float32")), spec("a"), spec("b"))

    @pytest.mark.parametrize("member", [True, False])
    def test_fortran_order_is_read_where_it_lies_open(self, tmp_path: Path, member: bool) -> None:
        array = np.asfortranarray(np.arange(12, dtype="float32").reshape(4, 3))
        path = self.save(tmp_path, array)
        if member:
            path = tmp_path / "x.npz"
            np.savez(path, other=np.zeros(4, "float32"), x=array)
            specs = [spec("x", "float32", 3), spec("other")]
        else:
            specs = [spec("x", "float32", 3)]
        assert everything(read(path, *specs))["x"] == array.tolist()

    def test_compressed_fortran_order_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez_compressed(path, x=np.asfortranarray(np.ones((4, 3), "float32")))
        with pytest.raises(DataRefused, match="ascontiguousarray"):
            read(path, spec("x", "float32", 3))

    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (np.zeros(3, ">f4"), r"big-endian; save it as x\.astype\('float32'\)"),
            (np.array([None, {}]), "Python objects, which are never loaded"),
            (np.array(["a", "b"]), "dtype '<U1'; use one of bool, int8"),
            (np.zeros(3, "complex64"), "dtype '<c8'"),
            (np.zeros(3, [("a", "f4")]), "holds records"),
            (np.zeros((), "float32"), r"shape \[\], the model wants \[rows\]"),
        ],
    )
    def test_what_is_not_plain_numbers_is_refused(
        self, tmp_path: Path, array: np.ndarray, text: str
    ) -> None:
        with pytest.raises(DataRefused, match=text):
            read(self.save(tmp_path, array), spec())

    def test_shape_beyond_every_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match=r"has shape \[1, 1, 1, 1, 1, 1, 1, 1, 1, 1\]"):
            read(self.save(tmp_path, np.zeros((1,) * 10, "float32")), spec())

    def test_pickle_is_never_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        np.array([_Bomb()], dtype=object).dump(path)
        with pytest.raises(DataRefused, match=r"not in \.npy format"):
            read(path, spec())
        np.save(path, np.array([_Bomb()], dtype=object), allow_pickle=True)
        with pytest.raises(DataRefused, match="never loaded"):
            read(path, spec())

    @pytest.mark.parametrize("cut", [-4, 4])
    def test_length_that_is_not_the_headers_is_refused(self, tmp_path: Path, cut: int) -> None:
        path = self.save(tmp_path, np.zeros(3, "float32"))
        raw = path.read_bytes()
        path.write_bytes(raw[:cut] if cut < 0 else raw + bytes(cut))
        with pytest.raises(DataRefused, match="damaged"):
            read(path, spec())

    def test_header_that_promises_more_than_the_archive_holds_is_refused(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.npz"
        np.save(tmp_path / "x.npy", np.zeros(3, "float32"))
        raw = (tmp_path / "x.npy").read_bytes().replace(b"(3,)", b"(9,)")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", raw)
        with pytest.raises(DataRefused, match="wrong length"):
            read(path, spec())


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("a pickle was loaded",)


class TestArchives:
    def test_name_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros(3, "float32"))
        raw = (tmp_path / "x.npy").read_bytes()
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("x.npy", raw)
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("x.npy", raw)
        with pytest.raises(DataRefused, match="twice 'x'"):
            read(tmp_path / "x.npz", spec())

    def test_damaged_numbers_of_a_compressed_member_are_found(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez_compressed(path, x=np.random.default_rng(1).random(4096))
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        with pytest.raises(DataRefused, match="damaged"):
            everything(read(path, spec("x", "float64")), 512)

    def test_far_more_members_than_inputs_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for number in range(1025):
                archive.writestr(f"{number}.npy", b"")
        with pytest.raises(DataRefused, match="1025 members"):
            read(tmp_path / "x.npz", spec())


class TestSafetensors:
    def test_dtype_that_numpy_lacks_is_refused(self, tmp_path: Path) -> None:
        header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(DataRefused, match="dtype 'BF16'; use one of"):
            read(path, spec())

    @pytest.mark.parametrize("offsets", [[0, 4], [0, 12], [4, 12], [2**40, 2**40 + 8]])
    def test_place_that_does_not_fit_is_refused(self, tmp_path: Path, offsets: list[int]) -> None:
        header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(DataRefused, match="damaged"):
            read(path, spec())


class TestParquet:
    def save(self, tmp_path: Path, **columns: pa.Array) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return tmp_path / "x.parquet"

    @pytest.mark.parametrize(
        "kind_of_list",
        [
            pa.list_(pa.float32()),
            pa.large_list(pa.float32()),
            pa.list_(pa.float32(), 4),
        ],
    )
    def test_flat_lists_of_any_kind_are_reshaped(
        self, tmp_path: Path, kind_of_list: pa.DataType
    ) -> None:
        path = self.save(tmp_path, x=pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], kind_of_list))
        found = everything(read(path, spec("x", "float32", 2, 2)))
        assert found["x"] == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]

    def test_nested_fixed_lists_are_read(self, tmp_path: Path) -> None:
        nested = pa.list_(pa.list_(pa.float32(), 2), 2)
        path = self.save(tmp_path, x=pa.array([[[1, 2], [3, 4]]], nested))
        assert everything(read(path, spec("x", "float32", 2, 2)))["x"] == [[[1, 2], [3, 4]]]

    def test_nulls_are_refused_with_their_row(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, x=pa.array([1, 2, None, 4], pa.float32()))
        with pytest.raises(DataRefused, match="'x' has a null in row 2"):
            everything(read(path, spec()), 1)
        path = self.save(tmp_path, x=pa.array([[1, 2], None], pa.list_(pa.float32())))
        with pytest.raises(DataRefused, match="null in row 1"):
            everything(read(path, spec("x", "float32", 2)))
        path = self.save(tmp_path, x=pa.array([[1, 2], [3, 4], [5, None]], pa.list_(pa.float32())))
        with pytest.raises(DataRefused, match="null in row 2"):
            everything(read(path, spec("x", "float32", 2)))

    def test_list_of_another_length_is_refused_with_its_row(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, x=pa.array([[1, 2], [3]], pa.list_(pa.float32())))
        with pytest.raises(DataRefused, match=r"a list of 1 in row 1 .* wants 2"):
            everything(read(path, spec("x", "float32", 2)))
        nested = pa.list_(pa.list_(pa.float32()))
        path = self.save(tmp_path, x=pa.array([[[1, 2], [3, 4]], [[1], [2, 3, 4]]], nested))
        with pytest.raises(DataRefused, match=r"a list of 1 in row 1 .* wants 2"):
            everything(read(path, spec("x", "float32", 2, 2)))

    @pytest.mark.parametrize("shape", [(), (2, 2)])
    def test_lists_of_another_depth_are_refused(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        deep = pa.list_(pa.list_(pa.list_(pa.float32())))
        path = self.save(tmp_path, x=pa.array([[[[1]]]], deep))
        with pytest.raises(DataRefused, match="lists 3 deep, the model wants"):
            read(path, spec("x", "float32", *shape))

    def test_plain_columns_are_not_put_together(self, tmp_path: Path) -> None:
        one = pa.array([1.0], pa.float32())
        path = self.save(tmp_path, x0=one, x1=one)
        with pytest.raises(DataRefused, match="missing 'x'; not an input 'x0', 'x1'"):
            read(path, spec("x", "float32", 2))
        path = self.save(tmp_path, x=one)
        with pytest.raises(DataRefused, match="plain numbers, the model wants lists"):
            read(path, spec("x", "float32", 2))

    def test_text_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataRefused, match="'x' is string, the model wants float32"):
            read(self.save(tmp_path, x=pa.array(["a"])), spec())


class TestLines:
    def save(self, tmp_path: Path, *lines: str) -> Path:
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        return tmp_path / "x.jsonl"

    def test_bare_values_go_to_the_only_input(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, "[1, 2.5]", "", " [3, 4] ")
        assert everything(read(path, spec("x", "float32", 2)))["x"] == [[1, 2.5], [3, 4]]
        assert everything(read(self.save(tmp_path, "1", "2"), spec()))["x"] == [1, 2]

    def test_bare_values_are_refused_where_there_are_several_inputs(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, '{"x": 1, "y": 2}', "[1, 2]")
        with pytest.raises(DataRefused, match="write line 2 as an object"):
            everything(read(path, spec("x"), spec("y")))

    def test_flat_and_nested_values_are_read(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, "[1, 2, 3, 4]", "[[1, 2], [3, 4]]", "[ [1, 2], [3, 4]]")
        assert everything(read(path, spec("x", "float32", 2, 2)))["x"] == [[[1, 2], [3, 4]]] * 3

    @pytest.mark.parametrize(
        ("dtype", "line", "text"),
        [
            ("float32", "NaN", "malformed"),
            ("float32", "Infinity", "malformed"),
            ("float32", "-Infinity", "malformed"),
            ("float32", "null", "got `null`"),
            ("float32", "true", "got `bool`"),
            ("float32", '"1"', "got `str`"),
            ("float32", "[1]", "got `array`"),
            ("float32", "1e39", "too large for float32"),
            ("float16", "70000", "too large for float16"),
            ("float64", "1e999", "out of range"),
            ("int64", "1.0", "got `float`"),
            ("int64", "9223372036854775808", "out of bounds|too large|out of range"),
            ("uint8", "256", "out of bounds|out of range"),
            ("uint64", "-1", "out of bounds|out of range|convert negative"),
            ("int8", "true", "got `bool`"),
            ("bool", "1", "got `int`"),
            ("float32", "1 2", "trailing"),
            ("float32", "[" * 50_000, "line 2"),
            ("float32", "1" + " " * 70_000 + "2", "longer than any row"),
        ],
    )
    def test_fault_names_its_line(self, tmp_path: Path, dtype: Dtype, line: str, text: str) -> None:
        good = "true" if dtype == "bool" else "1"
        with pytest.raises(DataRefused, match=text) as refused:
            everything(read(self.save(tmp_path, good, line, good), spec("x", dtype)))
        assert "line 2" in str(refused.value)

    def test_keys_of_a_later_line_are_checked(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, '{"x": 1}', '{"y": 1}')
        with pytest.raises(DataRefused, match=r"line 2: keys .*missing 'x'; not an input 'y'"):
            everything(read(path, spec()))

    @pytest.mark.parametrize("line", ["[1]", "[1, 2, 3]", "[[1, 2]]", "[[1], [2]]"])
    def test_list_of_another_length_is_refused(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(DataRefused, match="line 1: 'x': Expected"):
            everything(read(self.save(tmp_path, line), spec("x", "float32", 2)))

    def test_extremes_of_64_bits_are_exact(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, "18446744073709551615", "9007199254740993")
        assert everything(read(path, spec("x", "uint64")))["x"] == [2**64 - 1, 2**53 + 1]

    def test_lines_that_go_while_they_are_read_are_noticed(self, tmp_path: Path) -> None:
        source = read(self.save(tmp_path, "1", "2", "3"), spec())
        self.save(tmp_path, "1")
        with pytest.raises(DataRefused, match="became shorter"):
            everything(source)


class TestBlocks:
    @pytest.mark.parametrize("rows_per_block", [1, 2, 3, 4, 9, 10])
    @pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 5], [2, 0, 7], [3, 3, 3]])
    def test_pieces_of_any_length_become_blocks_of_one(
        self, pieces: list[int], rows_per_block: int
    ) -> None:
        ends = np.cumsum(pieces).tolist()
        parts = [{"x": np.arange(end - size, end)} for size, end in zip(pieces, ends, strict=True)]
        found = [block["x"].tolist() for block in cut(parts, rows_per_block)]
        assert [row for block in found for row in block] == list(range(9))
        assert {len(block) for block in found[:-1]} <= {rows_per_block}


class TestNames:
    @pytest.mark.parametrize("name", ["data.csv", "data", "data.npz.gz"])
    def test_unknown_suffix_lists_the_known_ones(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataRefused, match=r"\.npz, \.npy, \.safetensors, \.parquet, \.jsonl"):
            read(tmp_path / name, spec())

    def test_missing_pyarrow_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "workunits.kinds.formats.parquet", raising=False)
        monkeypatch.delattr("workunits.kinds.formats.parquet", raising=False)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataRefused, match=r"install tesla-at-home\[server\]"):
            read(tmp_path / "x.parquet", spec())

    def test_unknown_kind_lists_the_known_ones(self) -> None:
        with pytest.raises(DataRefused, match="choose one of tensor, classify"):
            kind("transcribe")

    @pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
    def test_shared_arrays_need_a_format_of_arrays(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataRefused, match=r"as \.npz"):
            read_shared(tmp_path / name, [spec()])

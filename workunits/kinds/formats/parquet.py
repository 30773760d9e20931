"""Parquet: a column per input or output, row group by row group.

A row of shape () is a plain column; any other is a list column, flat or nested as the shape. Columns
are never put together: a model with one input [k] is not fed from k plain columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import ROW_OK, ROW_STATUS, STATUS_WORDS, RowSource, Status
from workunits.kinds.formats import refusals
from workunits.kinds.formats.blocks import cut
from workunits.kinds.formats.table import Column, TableWriter
from workunits.wire.messages import Dtype, TensorSpec

FORM: Final = ".parquet"
# What is gathered before it becomes a row group: enough for readers to be quick, little for memory.
_GROUP_ROWS: Final = 65_536
_GROUP_BYTES: Final = 32 << 20
# What is decoded at a time while reading, unless fewer rows are asked for.
_BATCH_BYTES: Final = 16 << 20

_TYPES: Final[dict[Dtype, pa.DataType]] = {
    name: pa.from_numpy_dtype(dtype) for name, dtype in NUMPY_DTYPES.items()
}
_NAMES: Final[dict[pa.DataType, Dtype]] = {kind: name for name, kind in _TYPES.items()}


class _Rows:
    """A `RowSource` over a Parquet file."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        self._path = path
        self._specs = tuple(specs)
        with _reading(path), pq.ParquetFile(path) as file:
            self._rows: int = file.metadata.num_rows
            schema: pa.Schema = file.schema_arrow
            refusals.check_names(path, schema.names, specs, "column")
            for spec in specs:
                _check_type(path, spec, schema.field(spec.name).type)
            _check_counts(path, file.metadata, schema.names, specs)
        refusals.check_rows(path, {spec.name: self._rows for spec in specs})

    @property
    def rows(self) -> int:
        return self._rows

    def blocks(self, rows_per_block: int) -> Iterator[Arrays]:
        yield from cut(self._batches(rows_per_block), rows_per_block)

    def _batches(self, rows_per_block: int) -> Iterator[Arrays]:
        first = 0
        with _reading(self._path), pq.ParquetFile(self._path, pre_buffer=False) as file:
            names = [spec.name for spec in self._specs]
            for batch in file.iter_batches(
                batch_size=self._batch_rows(rows_per_block), columns=names
            ):
                yield {
                    spec.name: _numbers(self._path, batch.column(spec.name), spec, first)
                    for spec in self._specs
                }
                first += batch.num_rows
        if first != self._rows:
            raise DataRefused(f"{self._path}: damaged: {first} rows, its footer says {self._rows}")

    def _batch_rows(self, rows_per_block: int) -> int:
        row_bytes = sum(prod(s.shape) * NUMPY_DTYPES[s.dtype].itemsize for s in self._specs)
        return max(1, min(_GROUP_ROWS, _BATCH_BYTES // max(1, row_bytes), 64 * rows_per_block))


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """Rows of columns named as the inputs."""
    return _Rows(path, specs)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with refusals.reading(path, FORM):
            yield
    except (pa.ArrowException, MemoryError) as error:
        raise DataRefused(
            f"{path}: damaged, or not a .parquet file ({refusals.brief(error)})"
        ) from None


def _check_type(path: Path, spec: TensorSpec, kind: pa.DataType) -> None:
    element, depth = kind, 0
    while _is_list(element):
        element, depth = element.value_type, depth + 1
    what = f"column {spec.name!r}"
    if element not in _NAMES:
        raise DataRefused(
            f"{path}: {what} is {refusals.printable(refusals.shortened(str(kind)))}, "
            f"the model wants {spec.dtype}"
        )
    refusals.check_dtype(path, what, _NAMES[element], spec)
    if depth == len(spec.shape) or (depth == 1 and spec.shape):
        return
    wanted = "plain numbers" if not spec.shape else f"lists, each row {list(spec.shape)} or flat"
    found = "plain numbers" if depth == 0 else f"lists {depth} deep"
    raise DataRefused(f"{path}: {what} holds {found}, the model wants {wanted}")


def _check_counts(
    path: Path, metadata: pq.FileMetaData, names: Sequence[str], specs: Sequence[TensorSpec]
) -> None:
    """Refuse lists so long that they must not be decoded; a little file may hold one of gigabytes.

    Shorter ones of a wrong length are met while reading, where their row is known.
    """
    by_name = {spec.name: spec for spec in specs}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for place, name in enumerate(names):
            spec, found = by_name[name], group.column(place).num_values
            wanted = group.num_rows * prod(spec.shape)
            is_much = found * NUMPY_DTYPES[spec.dtype].itemsize > _BATCH_BYTES
            if found > wanted and is_much:
                raise DataRefused(
                    f"{path}: column {name!r} has {found:,} numbers in {group.num_rows:,} rows, "
                    f"the model wants {prod(spec.shape):,} a row"
                )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _numbers(path: Path, column: pa.Array, spec: TensorSpec, first: int) -> Array:
    """The rows of one column as [rows, *shape]; `first` is the number of its first row."""
    rows, per_list = len(column), 1
    values = column
    for length in _lengths(column.type, spec):
        _refuse_nulls(path, values, spec, first, per_list)
        _check_lengths(path, values, length, spec, first, per_list)
        values, per_list = values.flatten(), per_list * length
    _refuse_nulls(path, values, spec, first, per_list)
    numbers: Array = values.to_numpy(zero_copy_only=False)
    return numbers.reshape(rows, *spec.shape)


def _lengths(kind: pa.DataType, spec: TensorSpec) -> tuple[int, ...]:
    """How long lists must be on each level: the shape, or all of it at once."""
    if not spec.shape:
        return ()
    return spec.shape if _is_list(kind.value_type) else (prod(spec.shape),)


def _refuse_nulls(path: Path, values: pa.Array, spec: TensorSpec, first: int, per_row: int) -> None:
    if values.null_count:
        row = first + pc.index(values.is_null(), True).as_py() // max(1, per_row)
        raise DataRefused(
            f"{path}: column {spec.name!r} has a null in row {row} (the first is 0); "
            "fill it or leave the row out"
        )


def _check_lengths(
    path: Path, lists: pa.Array, length: int, spec: TensorSpec, first: int, per_row: int
) -> None:
    found = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(found != length)
    if wrong.size:
        row = first + int(wrong[0]) // max(1, per_row)
        raise DataRefused(
            f"{path}: column {spec.name!r} has a list of {int(found[wrong[0]])} in row {row} "
            f"(the first is 0), the model wants {length}"
        )


class Writer(TableWriter):
    """Columns with words are text; the values of failed rows are null only where they are text."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        self._closing = ExitStack()
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_rows = 0
        self._gathered_bytes = 0
        super().__init__(path, columns, rows)

    def _begin(self, file: BinaryIO) -> None:
        fields = [pa.field(column.name, _column_type(column)) for column in self._columns]
        self._schema = pa.schema([*fields, pa.field(ROW_STATUS, pa.string())])
        self._writer = pq.ParquetWriter(file, self._schema)
        self._closing.callback(self._writer.close)

    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        failed = status != ROW_OK
        columns = [_column(column, arrays[column.name], failed) for column in self._columns]
        columns.append(_texts(status, STATUS_WORDS, np.zeros(len(status), np.bool_)))
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._gathered.append(batch)
        self._gathered_rows += batch.num_rows
        self._gathered_bytes += batch.nbytes
        if self._gathered_rows >= _GROUP_ROWS or self._gathered_bytes >= _GROUP_BYTES:
            self._write_group()

    def _end(self, file: BinaryIO) -> None:
        self._write_group()
        self._closing.close()

    def _drop(self) -> None:
        # What it still holds would otherwise be written when it is collected, to a closed file.
        with suppress(OSError, ValueError, pa.ArrowException):
            self._closing.close()
        super()._drop()

    def _write_group(self) -> None:
        if self._gathered:
            table = pa.Table.from_batches(self._gathered, self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._gathered, self._gathered_rows, self._gathered_bytes = [], 0, 0


def _column_type(column: Column) -> pa.DataType:
    kind = pa.string() if column.words is not None else _TYPES[column.dtype]
    for _ in column.shape:
        kind = pa.list_(kind)
    return kind


def _column(column: Column, array: Array, failed: npt.NDArray[np.bool_]) -> pa.Array:
    flat = array.reshape(-1)
    if column.words is not None:
        per_row = prod(column.shape)
        values = _texts(flat, column.words, np.repeat(failed, per_row))
    else:
        values = pa.array(flat, _TYPES[column.dtype])
    for axis in range(len(column.shape), 0, -1):
        lists = len(array) * prod(column.shape[: axis - 1])
        ends = np.arange(lists + 1, dtype=np.int32) * np.int32(column.shape[axis - 1])
        values = pa.ListArray.from_arrays(pa.array(ends), values)
    return values


def _texts(numbers: Array, words: tuple[str, ...], is_null: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(numbers, pa.int64(), mask=is_null))

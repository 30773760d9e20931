"""JSON Lines: one object per line, keyed by the inputs' names; or a bare value for the only input.

JSON has one number type, so integers may stand where floats are wanted; fractions never where
integers are. It has no NaN and no infinity: they are refused, and a failed row's floats are null.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
import numpy as np
import numpy.typing as npt

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import ROW_OK, ROW_STATUS, STATUS_WORDS, RowSource, Status
from workunits.kinds.formats import refusals
from workunits.kinds.formats.table import Column, TableWriter
from workunits.program import FLOAT_DTYPES
from workunits.wire import limits
from workunits.wire.messages import Dtype, TensorSpec

FORM: Final = ".jsonl"
# The longest float64 has 24 characters; this leaves room for commas, spaces and indentation.
_NUMBER_BYTES: Final = 64
_LINE_BYTES: Final = 64 * limits.KIB


class _Rows:
    """A `RowSource` over lines; lines of white space alone do not count."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        self._path = path
        self._specs = tuple(specs)
        elements = sum(prod(spec.shape) for spec in specs)
        names = sum(len(spec.name) for spec in specs)
        self._line_bytes = _LINE_BYTES + 8 * names + _NUMBER_BYTES * elements
        self._values = {spec.name: _Value(spec) for spec in specs}
        self._rows = sum(1 for _ in self._lines())
        refusals.check_rows(path, {spec.name: self._rows for spec in specs})

    @property
    def rows(self) -> int:
        return self._rows

    def blocks(self, rows_per_block: int) -> Iterator[Arrays]:
        lines, first = self._lines(), 0
        while first < self._rows:
            rows = min(rows_per_block, self._rows - first)
            block: Arrays = {
                s.name: np.empty((rows, *s.shape), NUMPY_DTYPES[s.dtype]) for s in self._specs
            }
            for row in range(rows):
                number, line = next(lines, (0, b""))
                if not line:
                    raise DataRefused(f"{self._path}: became shorter while it was read")
                self._fill(block, row, number, line)
            yield block
            first += rows

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number, from 1, and text of each line that holds something."""
        with refusals.reading(self._path, FORM), self._path.open("rb") as file:
            number = 0
            while line := file.readline(self._line_bytes + 1):
                number += 1
                if len(line) > self._line_bytes:
                    raise self._refusal(number, "longer than any row of this model")
                # Windows' editors put it before the first line.
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line := line.strip():
                    yield number, line

    def _fill(self, block: Arrays, row: int, number: int, line: bytes) -> None:
        for name, raw in self._fields(number, line).items():
            try:
                block[name][row] = self._values[name].decode(raw)
            except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
                raise self._refusal(number, f"{name!r}: {refusals.brief(error)}") from None

    def _fields(self, number: int, line: bytes) -> dict[str, bytes]:
        if not line.startswith(b"{"):
            spec = refusals.only(
                self._path, self._specs, f"write line {number} as an object with these keys"
            )
            return {spec.name: line}
        try:
            fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise self._refusal(number, refusals.brief(error)) from None
        names = list(fields)
        # Of two equal keys decoding keeps the last. Values are numbers, so quotation marks are keys'.
        if line.count(b'"') != 2 * len(names):
            names = refusals.keys_of(line)
        refusals.check_names(self._path, names, self._specs, f"line {number}: key")
        return {name: bytes(raw) for name, raw in fields.items()}

    def _refusal(self, number: int, text: str) -> DataRefused:
        return DataRefused(f"{self._path}: line {number}: {text}")


class _Value:
    """One input's value in one line, nested as its shape or flat."""

    def __init__(self, spec: TensorSpec) -> None:
        self._dtype = spec.dtype
        self._shape = spec.shape
        element = _element(spec.dtype)
        self._nested = msgspec.json.Decoder(_lists(element, spec.shape))
        self._flat = msgspec.json.Decoder(_lists(element, (prod(spec.shape),)))

    def decode(self, raw: bytes) -> Array:
        is_flat = len(self._shape) > 1 and not raw[1:].lstrip().startswith(b"[")
        values = (self._flat if is_flat else self._nested).decode(raw)
        return self._numbers(values).reshape(self._shape)

    def _numbers(self, values: object) -> Array:
        # An integer past the dtype raises OverflowError; a float becomes infinite, with a warning.
        with np.errstate(over="ignore"):
            array: Array = np.array(values, NUMPY_DTYPES[self._dtype])
        if self._dtype in FLOAT_DTYPES and np.isinf(array).any():
            raise ValueError(f"a number is too large for {self._dtype}")
        # numpy 1 wraps an integer around where numpy 2 raises.
        if self._dtype not in FLOAT_DTYPES and array.tolist() != values:
            raise ValueError(f"a number is out of range for {self._dtype}")
        return array


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """Rows of objects with the inputs' names as keys."""
    return _Rows(path, specs)


def _element(dtype: Dtype) -> type[float] | type[int] | type[bool]:
    if dtype == "bool":
        return bool
    return float if dtype in FLOAT_DTYPES else int


def _lists(element: type[object], shape: Sequence[int]) -> type[object]:
    """A type that says how long the lists are on every level."""
    kind: type[object] = element
    for length in reversed(shape):
        kind = Annotated[list[kind], msgspec.Meta(min_length=length, max_length=length)]  # type: ignore[valid-type,assignment]
    return kind


class Writer(TableWriter):
    """One object per row; in a failed row what is a float or a word is null."""

    def _begin(self, file: BinaryIO) -> None:
        self._encoder = msgspec.json.Encoder()
        self._keys = [*(column.name for column in self._columns), ROW_STATUS]

    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        failed = np.flatnonzero(status != ROW_OK)
        values = [_values(column, arrays[column.name], failed) for column in self._columns]
        values.append([STATUS_WORDS[code] for code in status.tolist()])
        rows = (dict(zip(self._keys, row, strict=True)) for row in zip(*values, strict=True))
        file.write(self._encoder.encode_lines(rows))

    def _end(self, file: BinaryIO) -> None:
        pass


def _values(column: Column, array: Array, failed: npt.NDArray[np.intp]) -> list[object]:
    if column.words is None:
        values: list[object] = array.tolist()
    else:
        values = np.array(column.words, np.object_)[array.astype(np.int64)].tolist()
    if column.words is not None or column.dtype in FLOAT_DTYPES:
        for row in failed.tolist():
            values[row] = None
    return values

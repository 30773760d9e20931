"""Named arrays as the safetensors library writes them, with metadata and in any order.

What vehicles exchange is one strict form of it (`workunits.wire.tensors`); people's files are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import RowSource, Status
from workunits.kinds.formats import refusals, stored
from workunits.kinds.formats.table import STATUS_COLUMN, Column, TableWriter, raw
from workunits.wire import limits, tensors
from workunits.wire.messages import Count, Dtype, TensorSpec

FORM: Final = ".safetensors"
_METADATA: Final = "__metadata__"
_LENGTH_BYTES: Final = 8
# No data set has more tensors than a model has inputs; metadata are a few lines.
_HEADER_BYTES: Final = limits.MIB
# The format's words: F32, I64, U8, BOOL.
_DTYPES: Final[dict[str, Dtype]] = {
    "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}": name
    for name, dtype in NUMPY_DTYPES.items()
}


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=limits.DIMENSIONS + 1)]
    data_offsets: tuple[Count, Count]


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """Rows of tensors named as the inputs."""
    return stored.StoredRows(path, FORM, _stored(path), specs)


def read_whole(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """Tensors named as the shared inputs."""
    return stored.read_whole(path, FORM, _stored(path), specs)


def _stored(path: Path) -> list[stored.StoredArray]:
    with refusals.reading(path, FORM), path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        text = stream.read(length) if length <= _HEADER_BYTES else b""
        if len(text) != length or not text:
            raise DataRefused(f"{path}: damaged, or not a .safetensors file")
        # A DecodeError is a ValueError, and so is text that is not UTF-8.
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        _check_keys(path, text, len(entries))
        entries.pop(_METADATA, None)
        decode = msgspec.json.Decoder(_Entry).decode
        start = _LENGTH_BYTES + length
        arrays = [_array(path, start, name, decode(raw)) for name, raw in entries.items()]
    _check_places(path, start, arrays)
    return arrays


def _check_keys(path: Path, text: bytes, count: int) -> None:
    """Of two equal names decoding would keep the last, other readers the first."""
    names = refusals.keys_of(text)
    if len(names) != count:
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise DataRefused(f"{path}: damaged: its header has twice {refusals.listed(twice)}")


def _check_places(path: Path, start: int, arrays: Sequence[stored.StoredArray]) -> None:
    """The format's own rule: the numbers lie one after the other, and nothing else is there."""
    end = start
    for array in sorted(arrays, key=lambda array: (array.offset or 0, array.size)):
        if array.offset != end:
            what = f"tensor {refusals.shortened(array.name)!r}"
            raise DataRefused(f"{path}: damaged: {what} overlaps another, or a gap is before it")
        end += array.size
    if end != path.stat().st_size:
        raise DataRefused(f"{path}: damaged: bytes follow that belong to no tensor")


def _array(path: Path, start: int, name: str, entry: _Entry) -> stored.StoredArray:
    what = f"tensor {refusals.shortened(name)!r}"
    if entry.dtype not in _DTYPES:
        raise DataRefused(
            f"{path}: {what} has dtype {refusals.shortened(entry.dtype)!r}; "
            f"use one of {', '.join(NUMPY_DTYPES)}"
        )
    begin, end = entry.data_offsets
    place = start + begin
    array = stored.StoredArray(
        name, _DTYPES[entry.dtype], entry.shape, lambda: stored.opened_at(path, place), place
    )
    if end - begin != array.size or start + end > path.stat().st_size:
        raise DataRefused(f"{path}: {what} is damaged: its place is not as large as its shape")
    return array


class Writer(TableWriter):
    """The header says where each tensor lies, so every block goes to its place at once."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        for column in columns:
            if column.name == _METADATA:
                raise DataRefused(f"{path}: {_METADATA!r} cannot be a name in .safetensors")
        self._places: dict[str, int] = {}
        super().__init__(path, [*columns, STATUS_COLUMN], rows)

    def _begin(self, file: BinaryIO) -> None:
        forms = {c.name: tensors.Form(c.dtype, (self._rows, *c.shape)) for c in self._columns}
        place = file.write(tensors.encode_header(forms))
        for name in tensors.in_order(forms):
            self._places[name] = place
            place += forms[name].size
        file.truncate(place)

    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        for name, place in self._places.items():
            file.seek(place)
            self._places[name] += file.write(
                raw(status if name == STATUS_COLUMN.name else arrays[name])
            )

    def _end(self, file: BinaryIO) -> None:
        pass

"""One array in numpy's own format; also what the members of an .npz are made of.

The header is read with three patterns instead of Python's parser: it is text from a stranger. Pickled
objects are refused and never loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import RowSource, Status
from workunits.kinds.formats import refusals, stored
from workunits.kinds.formats.landing import Landing
from workunits.kinds.formats.table import Column, TableWriter, raw
from workunits.wire import limits
from workunits.wire.messages import Dtype, TensorSpec

FORM: Final = ".npy"
_MAGIC: Final = b"\x93NUMPY"
_ALIGNMENT: Final = 64
_HEADER_BYTES: Final = 64 * limits.KIB
_DTYPES: Final[dict[str, Dtype]] = {dtype.str: name for name, dtype in NUMPY_DTYPES.items()}
_DESCR: Final = re.compile(r"""['"]descr['"]\s*:\s*(?:'([^']*)'|"([^"]*)")""")
_ORDER: Final = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE: Final = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9,\sL]*)\)""")
_ADVICE: Final = "save them as .npz with one array per input"


class Header(NamedTuple):
    """What stands before the numbers; `length` is where they begin."""

    dtype: Dtype
    shape: tuple[int, ...]
    is_fortran: bool
    length: int


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """Rows of the model's only input."""
    return stored.StoredRows(path, FORM, [_stored(path, specs)], specs)


def read_whole(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """The model's only shared input."""
    return stored.read_whole(path, FORM, [_stored(path, specs)], specs)


def read_header(path: Path, what: str, stream: BinaryIO) -> Header:
    """The header at the beginning of `stream`; the stream is left at the first number.

    Raises:
        DataRefused: not .npy, or an array that is not plain numbers of the contract.
    """
    start = stream.read(8)
    if len(start) < 8 or start[:6] != _MAGIC or not 1 <= start[6] <= 3:
        raise DataRefused(f"{path}: {what} is not in .npy format")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(length) if length <= _HEADER_BYTES else b""
    if len(text) != length:
        raise DataRefused(f"{path}: {what} is damaged: its header ends early or is too long")
    return _parse(path, what, text.decode("latin-1"), 8 + width + length)


def encode_header(dtype: Dtype, shape: tuple[int, ...]) -> bytes:
    """The header of an array in C order, as numpy writes it."""
    descr = NUMPY_DTYPES[dtype].str
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}"
    padding = -(len(_MAGIC) + 4 + len(text) + 1) % _ALIGNMENT
    body = (text + " " * padding + "\n").encode("ascii")
    return _MAGIC + b"\x01\x00" + len(body).to_bytes(2, "little") + body


def _stored(path: Path, specs: Sequence[TensorSpec]) -> stored.StoredArray:
    spec = refusals.only(path, specs, _ADVICE)
    with refusals.reading(path, FORM), path.open("rb") as stream:
        header = read_header(path, "the file", stream)
    array = stored.StoredArray(
        spec.name,
        header.dtype,
        header.shape,
        lambda: stored.opened_at(path, header.length),
        header.length,
        header.is_fortran,
    )
    if path.stat().st_size != header.length + array.size:
        raise DataRefused(
            f"{path}: damaged: {path.stat().st_size - header.length} bytes of numbers, "
            f"its header says {array.size}"
        )
    return array


def _parse(path: Path, what: str, text: str, length: int) -> Header:
    descr, order, shape = (_only(pattern, text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if order is None or shape is None:
        raise DataRefused(f"{path}: {what} is damaged: not a header of numpy's")
    sizes = tuple(int(size.rstrip("L")) for size in shape[1].replace(" ", "").split(",") if size)
    if len(sizes) > limits.DIMENSIONS + 1 or prod(sizes) > limits.INTEGER:
        raise DataRefused(f"{path}: {what} has shape {refusals.shortened(str(list(sizes)))}")
    dtype = _dtype(path, what, (descr[1] or descr[2] or "") if descr else "")
    # With one axis, or no numbers, both orders are the same.
    is_fortran = order[1] == "True" and len(sizes) > 1 and prod(sizes) > 0
    return Header(dtype, sizes, is_fortran, length)


def _only(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The one place that fits; of two, readers would differ on which one counts."""
    found = list(islice(pattern.finditer(text), 2))
    return found[0] if len(found) == 1 else None


def _dtype(path: Path, what: str, descr: str) -> Dtype:
    if descr in _DTYPES:
        return _DTYPES[descr]
    if descr[:1] == ">" and (little := _DTYPES.get("<" + descr[1:])):
        raise DataRefused(f"{path}: {what} is big-endian; save it as x.astype({little!r})")
    if descr[-1:] == "O":
        raise DataRefused(
            f"{path}: {what} holds Python objects, which are never loaded; save it as numbers, "
            "for example x.astype('float32')"
        )
    if not descr:
        raise DataRefused(f"{path}: {what} holds records; save each field as an array of its own")
    raise DataRefused(
        f"{path}: {what} has dtype {refusals.shortened(descr)!r}; use one of {', '.join(NUMPY_DTYPES)}"
    )


class Writer(TableWriter):
    """One output as `FILE.npy`, the status of its rows as `FILE.status.npy` beside it."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        if len(columns) != 1:
            names = refusals.listed([column.name for column in columns])
            raise DataRefused(
                f"{path}: .npy holds one array, the answer has {names}; "
                "choose .npz, .safetensors, .parquet or .jsonl"
            )
        with refusals.writing(path):
            self._status = Landing(path.with_name(f"{path.stem}.status{path.suffix}"))
        try:
            super().__init__(path, columns, rows)
        except BaseException:
            self._status.drop()
            raise

    def _begin(self, file: BinaryIO) -> None:
        column = self._columns[0]
        file.write(encode_header(column.dtype, (self._rows, *column.shape)))
        self._status.file.write(encode_header("uint8", (self._rows,)))

    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        file.write(raw(arrays[self._columns[0].name]))
        self._status.file.write(raw(status))

    def _end(self, file: BinaryIO) -> None:
        pass

    def _keep(self) -> None:
        self._status.keep()
        self._landing.keep()

    def _drop(self) -> None:
        self._status.drop()
        self._landing.drop()

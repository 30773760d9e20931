"""Rows of arrays that lie in a file as plain numbers: what .npy, .npz and .safetensors share.

C order is read as a stream, block by block. Fortran order (as pandas often gives) is mapped into
memory where the bytes lie open in the file; where they are compressed it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.formats import refusals
from workunits.wire.messages import Dtype, TensorSpec

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Where one array lies.

    `open` gives a stream at its first number; `offset` is that place in the file, None where the
    bytes are compressed.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    open: Callable[[], AbstractContextManager[BinaryIO]]
    offset: int | None
    is_fortran: bool = False

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


@contextmanager
def opened_at(path: Path, offset: int) -> Iterator[BinaryIO]:
    """The file as a stream from `offset`."""
    with path.open("rb") as stream:
        stream.seek(offset)
        yield stream


class StoredRows:
    """A `RowSource` over stored arrays; refuses them at once if they do not fit the inputs."""

    def __init__(
        self, path: Path, form: str, stored: Sequence[StoredArray], specs: Sequence[TensorSpec]
    ) -> None:
        self._path = path
        self._form = form
        self._stored = _fitting(path, stored, specs)
        for spec in specs:
            refusals.check_row_shape(path, _word(spec.name), self._stored[spec.name].shape, spec)
        self._rows = refusals.check_rows(path, {n: a.shape[0] for n, a in self._stored.items()})

    @property
    def rows(self) -> int:
        return self._rows

    def blocks(self, rows_per_block: int) -> Iterator[Arrays]:
        with refusals.reading(self._path, self._form), ExitStack() as stack:
            take = {name: self._reader(array, stack) for name, array in self._stored.items()}
            for first in range(0, self._rows, rows_per_block):
                rows = min(rows_per_block, self._rows - first)
                yield {name: read(first, rows) for name, read in take.items()}

    def _reader(self, stored: StoredArray, stack: ExitStack) -> Callable[[int, int], Array]:
        if stored.is_fortran:
            mapped = _mapped(self._path, stored)
            return lambda first, rows: _checked(self._path, stored, mapped[first : first + rows])
        stream = stack.enter_context(stored.open())
        inner = stored.shape[1:]
        return lambda first, rows: _read(self._path, stored, stream, (rows, *inner))


def read_whole(
    path: Path, form: str, stored: Sequence[StoredArray], specs: Sequence[TensorSpec]
) -> Arrays:
    """Arrays of exactly the shapes of `specs` (scope unit)."""
    arrays = _fitting(path, stored, specs)
    whole = {}
    for spec in specs:
        array = arrays[spec.name]
        if array.shape != spec.shape:
            raise DataRefused(
                f"{path}: {_word(spec.name)} has shape {list(array.shape)}, "
                f"the model wants {list(spec.shape)}"
            )
        with refusals.reading(path, form), array.open() as stream:
            whole[spec.name] = (
                _checked(path, array, _mapped(path, array))
                if array.is_fortran
                else _read(path, array, stream, array.shape)
            )
    return whole


def _fitting(
    path: Path, stored: Sequence[StoredArray], specs: Sequence[TensorSpec]
) -> dict[str, StoredArray]:
    """The arrays by name in the order of the specs, of the right names and dtypes, and readable."""
    refusals.check_names(path, [array.name for array in stored], specs, "array")
    found = {array.name: array for array in stored}
    for spec in specs:
        array = found[spec.name]
        refusals.check_dtype(path, _word(spec.name), array.dtype, spec)
        if array.is_fortran and array.offset is None:
            raise DataRefused(
                f"{path}: {_word(spec.name)} is compressed in Fortran order; "
                "save it as np.ascontiguousarray(x)"
            )
    return {spec.name: found[spec.name] for spec in specs}


def _mapped(path: Path, stored: StoredArray) -> Array:
    dtype = NUMPY_DTYPES[stored.dtype]
    return np.memmap(path, dtype, "r", stored.offset or 0, stored.shape, order="F")


def _read(path: Path, stored: StoredArray, stream: BinaryIO, shape: tuple[int, ...]) -> Array:
    block: Array = np.empty(shape, NUMPY_DTYPES[stored.dtype])
    wanted = block.reshape(-1).view(np.uint8).data
    while len(wanted) > 0:
        chunk = stream.read(min(len(wanted), _CHUNK_BYTES))
        if not chunk:
            raise DataRefused(f"{path}: {_word(stored.name)} ends before its last row")
        wanted[: len(chunk)] = chunk
        wanted = wanted[len(chunk) :]
    return _checked(path, stored, block)


def _checked(path: Path, stored: StoredArray, block: Array) -> Array:
    """In C order, and no bool that is neither 0 nor 1: numpy may do anything with one."""
    block = np.ascontiguousarray(block).reshape(block.shape)
    if stored.dtype == "bool" and block.view(np.uint8).max(initial=0) > 1:
        raise DataRefused(f"{path}: {_word(stored.name)} has a bool that is neither 0 nor 1")
    return block


def _word(name: str) -> str:
    return f"array {refusals.shortened(name)!r}"

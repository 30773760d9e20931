"""Which format a path means: its suffix says so, nothing is guessed from the content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workunits.arrays import Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import RowSource
from workunits.kinds.formats import jsonl, npy, npz, refusals, safetensors
from workunits.kinds.formats.table import Column, TableWriter
from workunits.wire.messages import TensorSpec

Read = Callable[[Path, Sequence[TensorSpec]], RowSource]
Write = Callable[[Path, Sequence[Column], int], TableWriter]
ReadWhole = Callable[[Path, Sequence[TensorSpec]], Arrays]


@dataclass(frozen=True, slots=True)
class _Format:
    """`read_whole` is None where the format can only hold rows."""

    read: Read
    write: Write
    read_whole: ReadWhole | None = None


def _parquet() -> _Format:
    # pyarrow is large, and not part of the base install.
    try:
        from workunits.kinds.formats import parquet
    except ModuleNotFoundError:
        raise DataRefused(
            ".parquet needs pyarrow: install tesla-at-home[server], or use another format"
        ) from None
    return _Format(parquet.read, parquet.Writer)


_FORMATS: Final[dict[str, Callable[[], _Format]]] = {
    ".npz": lambda: _Format(npz.read, npz.Writer, npz.read_whole),
    ".npy": lambda: _Format(npy.read, npy.Writer, npy.read_whole),
    ".safetensors": lambda: _Format(safetensors.read, safetensors.Writer, safetensors.read_whole),
    ".parquet": _parquet,
    ".jsonl": lambda: _Format(jsonl.read, jsonl.Writer),
}


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """The rows in a file.

    Raises:
        DataRefused: what does not fit, where, and how to mend it.
    """
    found = _format(path)
    refusals.expect_file(path)
    return found.read(path, specs)


def read_whole(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """Arrays that are not rows, each of the shape of its spec.

    Raises:
        DataRefused: as `read`, and for a format that can only hold rows.
    """
    found = _format(path).read_whole
    if found is None:
        raise DataRefused(f"{path}: {path.suffix} holds rows; save what all rows share as .npz")
    refusals.expect_file(path)
    return found(path, specs)


def write(path: Path, columns: Sequence[Column], rows: int) -> TableWriter:
    """A writer of `rows` rows.

    Raises:
        DataRefused: the format cannot hold these columns, or the path cannot be written.
    """
    return _format(path).write(path, columns, rows)


def _format(path: Path) -> _Format:
    found = _FORMATS.get(path.suffix)
    if found is None:
        raise DataRefused(f"{path}: the name must end in one of {', '.join(_FORMATS)}")
    return found()

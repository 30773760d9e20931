"""What all formats write: columns of equal length, and a status for each row.

A writer keeps to three steps: rows are appended in order, `finish` makes the file appear, `discard`
leaves nothing. How bytes look is each format's own module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from workunits.arrays import Array
from workunits.kinds.base import ROW_STATUS, Status
from workunits.kinds.formats import refusals
from workunits.kinds.formats.landing import Landing
from workunits.wire.messages import Dtype


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer: [rows, *shape] of `dtype`.

    `words`: the numbers are indices of these words, which formats that know text write instead.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...] = ()
    words: tuple[str, ...] | None = None


# In formats that hold several arrays the status is one more of them.
STATUS_COLUMN: Final = Column(ROW_STATUS, "uint8")


class TableWriter(ABC):
    """Writes columns and the status of each row into one file.

    Whatever goes wrong while writing discards the file; a disk that fails is `DataRefused`.
    """

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._rows = rows
        self._appended = 0
        self._is_open = True
        with refusals.writing(path):
            self._landing = Landing(path)
        with self._guarded():
            self._begin(self._landing.file)

    def append(self, arrays: Mapping[str, Array], status: Status) -> None:
        """The next rows of every column, in native byte order."""
        if not self._is_open or self._appended + len(status) > self._rows:
            raise ValueError(f"{self._appended} of {self._rows} rows written, {len(status)} more")
        with self._guarded():
            self._write(self._landing.file, arrays, status)
        self._appended += len(status)

    def finish(self) -> None:
        """Complete the file and give it its name."""
        if not self._is_open or self._appended != self._rows:
            raise ValueError(f"{self._appended} of {self._rows} rows written")
        with self._guarded():
            self._end(self._landing.file)
            self._keep()
        self._is_open = False

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished."""
        if self._is_open:
            self._is_open = False
            self._drop()

    @abstractmethod
    def _begin(self, file: BinaryIO) -> None:
        """What comes before the first row."""

    @abstractmethod
    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        """Some rows."""

    @abstractmethod
    def _end(self, file: BinaryIO) -> None:
        """What comes after the last row."""

    def _keep(self) -> None:
        self._landing.keep()

    def _drop(self) -> None:
        self._landing.drop()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with refusals.writing(self._path):
                yield
        except BaseException:
            self.discard()
            raise


def raw(array: Array) -> bytes:
    """The numbers as they lie in a file: little-endian, C order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()

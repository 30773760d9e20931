"""Writing an answer: outputs become columns, failed rows lose their values, classes are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.kinds.base import ROW_OK, Status
from workunits.kinds.formats import suffixes
from workunits.kinds.formats.table import Column
from workunits.program import FLOAT_DTYPES

# The outputs of some rows as the columns of the answer; rows that failed may hold anything.
Arrange = Callable[[Mapping[str, Array]], Arrays]


class ColumnAnswer:
    """An `AnswerWriter` whose columns are made of the outputs by `arrange`.

    `counted` is the column, of words, whose values are counted.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[Column],
        rows: int,
        arrange: Arrange,
        counted: Column | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._arrange = arrange
        self._counted = counted
        self._words = (counted.words if counted else None) or ()
        self._counts = np.zeros(len(self._words), np.int64)
        self._table = suffixes.write(path, columns, rows)

    def append(self, outputs: Mapping[str, Array] | None, rows: int, status: Status | int) -> None:
        codes = np.broadcast_to(np.asarray(status, np.uint8), (rows,))
        failed = np.asarray(codes != ROW_OK)
        if outputs is None:
            arrays = {c.name: _blank(c, rows) for c in self._columns}
            if not failed.all():
                raise ValueError("rows that are ok have outputs")
        else:
            found = self._arrange(outputs)
            arrays = {c.name: _without(c, found[c.name], failed) for c in self._columns}
        if self._counted is not None:
            labels = arrays[self._counted.name][~failed].astype(np.int64)
            self._counts += np.bincount(labels, minlength=len(self._words))
        self._table.append(arrays, codes)

    def finish(self) -> None:
        self._table.finish()

    def discard(self) -> None:
        self._table.discard()

    def counts(self) -> dict[str, int]:
        return dict(zip(self._words, self._counts.tolist(), strict=True))

    def __enter__(self) -> ColumnAnswer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()


def _without(column: Column, array: Array, failed: npt.NDArray[np.bool_]) -> Array:
    """The column with nothing in failed rows."""
    wanted = (len(failed), *column.shape)
    if array.dtype != NUMPY_DTYPES[column.dtype] or array.shape != wanted:
        raise ValueError(f"column {column.name!r} is {array.dtype} {array.shape}, not {wanted}")
    if not failed.any():
        return array
    blanked = array.copy()
    blanked[failed] = _nothing(column)
    return blanked


def _blank(column: Column, rows: int) -> Array:
    return np.full((rows, *column.shape), _nothing(column), NUMPY_DTYPES[column.dtype])


def _nothing(column: Column) -> float:
    return float("nan") if column.dtype in FLOAT_DTYPES else 0

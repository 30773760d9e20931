"""Picking the calibration rows out of a data set while it streams past.

Decides which rows are tried; whether what a model gives on them will do is decided by
`workunits.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from workunits import arrays
from workunits.arrays import Arrays
from workunits.wire.messages import ModelFacts, TensorSpec


def row_specs(facts: ModelFacts) -> tuple[TensorSpec, ...]:
    """The inputs that a data set must bring for each row."""
    return tuple(spec for spec in facts.inputs if spec.scope == "row")


def rows_in(block: Arrays) -> int:
    """How many rows a block has."""
    return len(next(iter(block.values())))


class RowSample:
    """One row out of each stretch of a data set; the stretches begin at the rows `starts`.

    It is the first row of its stretch, or with `prefers_finite` the first whose floats are all
    finite, if there is one: a submitter's missing value is no reason to refuse the other rows.
    """

    def __init__(self, starts: Sequence[int], *, prefers_finite: bool = False) -> None:
        self._starts = starts
        self._prefers_finite = prefers_finite
        self._seen = 0
        self._open = 0  # the first stretch that a later row may still be taken for
        self._taken: dict[int, tuple[int, Arrays]] = {}  # row number and row, by stretch

    @property
    def rows(self) -> int:
        """How many rows were taken."""
        return len(self._taken)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number of each row in the data set."""
        return tuple(number for number, _ in self._taken.values())

    def take(self, block: Arrays) -> None:
        """Copy what is wanted of the next block."""
        end = self._seen + rows_in(block)
        while self._open < len(self._starts) and self._starts[self._open] < end:
            if not self._take_of_stretch(block, end):
                break
            self._open += 1
        self._seen = end

    def take_all(self, blocks: Iterable[Arrays]) -> None:
        """Copy what is wanted of all blocks."""
        for block in blocks:
            self.take(block)

    def payload(self) -> bytes:
        """The rows as one tensor payload."""
        return arrays.to_payload(arrays.join([row for _, row in self._taken.values()]))

    def _take_of_stretch(self, block: Arrays, end: int) -> bool:
        """Look for the open stretch's row in the block, which ends at `end`; whether it is settled."""
        stretch, start = self._open, self._starts[self._open]
        is_last = stretch + 1 == len(self._starts)
        after = None if is_last else self._starts[stretch + 1]
        first = max(start, self._seen) - self._seen
        until = (end if after is None else min(after, end)) - self._seen
        row = _first_finite(block, first, until) if self._prefers_finite else first
        if row is not None or stretch not in self._taken:
            at = first if row is None else row
            copied = {name: array[at : at + 1].copy() for name, array in block.items()}
            self._taken[stretch] = (self._seen + at, copied)
        return row is not None or (after is not None and after <= end)


def _first_finite(block: Arrays, first: int, end: int) -> int | None:
    """The first row from `first` to before `end` without a float that is no number."""
    for until in (first + 1, end):  # nearly always it is the first: look no further
        rows = np.ones(until - first, np.bool_)
        for array in block.values():
            if array.dtype.kind == "f":
                part = array[first:until]
                rows &= np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
        if rows.any():
            return first + int(np.argmax(rows))
    return None

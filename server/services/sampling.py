"""Picking the calibration rows out of a data set while it streams past."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

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
    """The rows with the numbers `wanted`, in ascending order."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self._wanted = wanted
        self._seen = 0
        self._parts: list[Arrays] = []

    @property
    def rows(self) -> int:
        """How many rows are wanted."""
        return len(self._wanted)

    def take(self, block: Arrays) -> None:
        """Copy what is wanted of the next block."""
        end = self._seen + rows_in(block)
        first, last = (bisect_left(self._wanted, row) for row in (self._seen, end))
        chosen = [row - self._seen for row in self._wanted[first:last]]
        if chosen:
            self._parts.append({name: array[chosen] for name, array in block.items()})
        self._seen = end

    def take_all(self, blocks: Iterable[Arrays]) -> None:
        """Copy what is wanted of all blocks."""
        for block in blocks:
            self.take(block)

    def payload(self) -> bytes:
        """The rows as one tensor payload."""
        return arrays.to_payload(arrays.join(self._parts))

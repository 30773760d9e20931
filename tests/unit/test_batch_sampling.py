"""Which rows of a data set calibrate: evenly drawn, around those that hold no numbers."""

from __future__ import annotations

import numpy as np
import pytest

from server.services.sampling import RowSample
from workunits import arrays
from workunits.arrays import Arrays

STARTS = [0, 4, 8, 12]


def rows_of(count: int, *bad: int) -> Arrays:
    x = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    x[list(bad), 1] = np.nan
    return {"x": x, "n": np.arange(count)}


def drawn(sample: RowSample, data: Arrays, block: int) -> tuple[int, ...]:
    count = len(data["n"])
    sample.take_all(
        {name: array[first : first + block] for name, array in data.items()}
        for first in range(0, count, block)
    )
    assert sample.rows == len(sample.numbers)
    raw = arrays.to_payload({"n": data["n"][list(sample.numbers)],
                             "x": data["x"][list(sample.numbers)]})  # fmt: skip
    assert sample.payload() == raw
    return sample.numbers


@pytest.mark.parametrize("block", [1, 3, 4, 5, 16, 100])
def test_rows_with_numbers_only_are_drawn_where_the_stretches_begin(block: int) -> None:
    assert drawn(RowSample(STARTS, prefers_finite=True), rows_of(16), block) == (0, 4, 8, 12)


@pytest.mark.parametrize("block", [1, 3, 4, 5, 16, 100])
def test_the_first_finite_row_stands_for_its_stretch(block: int) -> None:
    data = rows_of(16, 0, 4, 5, 8, 9, 10, 11, 12, 13, 14)
    # Nothing in the third stretch is finite: its first row is tried all the same.
    assert drawn(RowSample(STARTS, prefers_finite=True), data, block) == (1, 6, 8, 15)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_given_calibration_rows_are_taken_as_they_are(block: int) -> None:
    assert drawn(RowSample(STARTS), rows_of(16, 0, 4), block) == (0, 4, 8, 12)

"""How batches are cut into units and steps."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.cutting import Cut, Wishes, calibration_rows, cut, step_note
from server.errors import Refused
from workunits.values import KiloFlop
from workunits.wire.messages import ModelFacts, TensorSpec


def facts(floats_per_row: int = 64, batch_rows: int | None = None) -> ModelFacts:
    return ModelFacts(
        name="m",
        opset=17,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(floats_per_row,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(10,)),),
        kflop_per_row=KiloFlop(1),
        batch_rows=batch_rows,
        precision="fp32",
        is_portable_exact=False,
    )


@given(st.integers(1, 5000), st.integers(1, 700))
def test_units_hold_every_row_once(rows: int, per_unit: int) -> None:
    made = Cut(rows, 32, per_unit)
    covered = [made.first_row(i) + r for i in range(made.units) for r in range(made.rows_of(i))]
    assert covered == list(range(rows))


@given(st.integers(1, 100_000))
def test_calibration_rows_are_distinct_evenly_spaced_and_inside(rows: int) -> None:
    chosen = list(calibration_rows(facts(), rows))
    assert len(chosen) == min(rows, 256)
    assert sorted(set(chosen)) == chosen
    assert chosen[0] == 0
    assert chosen[-1] < rows
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_defaults() -> None:
    assert cut(facts(), 1000, Wishes(), 256) == Cut(1000, 32, 256)
    assert cut(facts(), 10, Wishes(), 256) == Cut(10, 32, 10)
    assert cut(facts(), 1000, Wishes(8, 90), 256) == Cut(1000, 8, 90)


def test_a_fixed_batch_axis_is_the_step() -> None:
    assert cut(facts(batch_rows=5), 100, Wishes(), 256).rows_per_step == 5
    assert cut(facts(batch_rows=5), 100, Wishes(5, None), 256).rows_per_step == 5
    with pytest.raises(Refused, match="takes exactly 5 rows"):
        cut(facts(batch_rows=5), 100, Wishes(8, None), 256)


def test_large_rows_lower_the_step_and_the_unit() -> None:
    made = cut(facts(floats_per_row=4 * 2**20), 1000, Wishes(), 256)
    assert made.rows_per_step == 3
    assert made.rows_per_unit == 15
    with pytest.raises(Refused, match="at most 15 rows"):
        cut(facts(floats_per_row=4 * 2**20), 1000, Wishes(None, 16), 256)
    with pytest.raises(Refused, match="smaller batch axis"):
        cut(facts(floats_per_row=4 * 2**20, batch_rows=4), 9, Wishes(), 256)
    with pytest.raises(Refused, match="too large"):
        cut(facts(floats_per_row=2**28), 1000, Wishes(), 256)


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(Refused, match="no rows"):
        cut(facts(), 0, Wishes(), 256)
    for wrong in (0, -1, 10**9):
        with pytest.raises(Refused, match="--rows-per-unit"):
            cut(facts(), 5, Wishes(None, wrong), 256)


def test_outputs_count_too() -> None:
    wide = msgspec.structs.replace(
        facts(), outputs=(TensorSpec(name="y", dtype="float32", shape=(4 * 2**20,)),)
    )
    assert cut(wide, 1000, Wishes(), 256).rows_per_unit == 15


def test_calibration_fits_in_one_payload() -> None:
    assert len(calibration_rows(facts(floats_per_row=4 * 2**20), 10_000)) == 15


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (None, None),
        (8, None),
        (20, "filled up"),
        (10**6, "is cut to"),
    ],
)
def test_a_step_that_is_not_as_wished_is_said(wanted: int | None, word: str | None) -> None:
    wishes = Wishes(wanted, 10)
    said = step_note(cut(facts(), 100, wishes, 1000), wishes)
    assert (said is None) if word is None else (said is not None and word in said)

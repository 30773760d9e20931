"""The arithmetic of steps and the range of runtimes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.wire_samples import PROGRAM
from workunits import program
from workunits.errors import RuntimeOutOfRange
from workunits.wire import limits
from workunits.wire.messages import TensorSpec


@given(st.integers(1, 5_000), st.integers(1, 300))
def test_steps_cover_every_row_once_and_in_order(rows: int, per_step: int) -> None:
    steps = [program.step(n, rows, per_step) for n in range(program.step_count(rows, per_step))]
    covered = [row for s in steps for row in range(s.first, s.first + s.rows)]
    assert covered == list(range(rows))
    assert all(s.rows == per_step for s in steps[:-1])


@pytest.mark.parametrize("number", [-1, 3])
def test_a_step_that_does_not_exist_is_a_bug(number: int) -> None:
    with pytest.raises(ValueError, match="step"):
        program.step(number, 20, 8)


def spec(*shape: int, scope: str = "row") -> TensorSpec:
    return msgspec.convert(
        {"name": "x", "dtype": "float32", "shape": shape, "scope": scope}, TensorSpec
    )


@given(st.integers(1, limits.ROWS_PER_STEP), st.integers(1, 10**9))
def test_a_step_fits_its_bytes_or_is_a_single_row(wanted: int, width: int) -> None:
    fitted = program.fit_rows_per_step(wanted, [spec(width)], [spec(1)])
    assert 1 <= fitted <= wanted
    assert fitted == 1 or fitted * 4 * (width + 1) < limits.STEP_BYTES


def test_what_all_rows_share_counts_once_and_not_per_row() -> None:
    assert program.row_bytes([spec(4), spec(1000, scope="unit")]) == 16


@pytest.mark.parametrize(
    ("version", "allowed"),
    [
        ("1.19.2", False),
        ("1.20.0", True),
        ("1.20", False),  # shorter than 1.20.0 and so before it
        ("1.32.0+cu13", True),
        ("1.33.0rc1", True),
        ("2.0.0", False),
        ("nonsense", False),
    ],
)
def test_only_runtimes_in_range_run(version: str, allowed: bool) -> None:
    if allowed:
        program.check_runtime(PROGRAM, version)
    else:
        with pytest.raises(RuntimeOutOfRange, match=r"ONNX Runtime"):
            program.check_runtime(PROGRAM, version)

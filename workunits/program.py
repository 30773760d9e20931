"""What a unit runs, as arithmetic: how many steps, which rows each, may this runtime run it.

The struct `Program` stands in `wire.messages`; here is what both sides must compute alike from it
(PROTOCOL 6.2). Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Final

from workunits.errors import LimitExceeded, RuntimeOutOfRange
from workunits.wire import limits
from workunits.wire.messages import Dtype, Program, TensorSpec
from workunits.wire.tensors import DTYPE_BYTES as DTYPE_BYTES
from workunits.wire.tensors import payload_bytes

# Rows in one call of the model, unless the model or the submitter fixes another number.
DEFAULT_ROWS_PER_STEP: Final = 32

FLOAT_DTYPES: Final[frozenset[Dtype]] = frozenset({"float16", "float32", "float64"})


@dataclass(frozen=True, slots=True)
class Step:
    """Rows `first` to `first + rows` of the unit; the call itself always has `rows_per_step` rows."""

    number: int
    first: int
    rows: int


def step_count(rows: int, rows_per_step: int) -> int:
    """How many calls of the model `rows` rows take."""
    return -(-rows // rows_per_step)


def step(number: int, rows: int, rows_per_step: int) -> Step:
    """Step `number`, from 0; the last one may have fewer rows than the call, and is padded."""
    if not 0 <= number < step_count(rows, rows_per_step):
        raise ValueError(f"step {number} of {rows} rows by {rows_per_step}")
    first = number * rows_per_step
    return Step(number, first, min(rows_per_step, rows - first))


def row_bytes(specs: Iterable[TensorSpec]) -> int:
    """Bytes of one row of these tensors; those of scope unit do not count."""
    return sum(prod(s.shape) * DTYPE_BYTES[s.dtype] for s in specs if s.scope == "row")


def fit_rows_per_step(
    wanted: int, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> int:
    """`wanted`, lowered until one step's inputs and outputs are below `limits.STEP_BYTES`."""
    one_row = max(1, row_bytes(inputs) + row_bytes(outputs))
    return max(1, min(wanted, limits.ROWS_PER_STEP, (limits.STEP_BYTES - 1) // one_row))


def check_size(program: Program, rows: int) -> int:
    """The bytes of the output of `rows` rows, once the unit is known to be one that may be computed.

    Raises:
        LimitExceeded: a row costs more, or a step or a payload is larger, than the contract allows
        (PROTOCOL 6.7); or an output that is not one value per row.
    """
    if program.kflop_per_row > limits.KFLOP_PER_ROW:
        raise LimitExceeded(f"one row costs {program.kflop_per_row} kFLOP, too many for one night")
    if any(spec.scope != "row" for spec in program.outputs):
        raise LimitExceeded("an output that all rows share")
    if program.rows_per_step > fit_rows_per_step(
        program.rows_per_step, program.inputs, program.outputs
    ):
        raise LimitExceeded(f"one step has more than {limits.STEP_BYTES} bytes")
    for what, specs in (("inputs", program.inputs), ("outputs", program.outputs)):
        # Before anything is made of them: these shapes may say any number.
        if row_bytes(specs) * rows > limits.TENSOR_PAYLOAD_BYTES:
            raise LimitExceeded(f"the unit's {what} are larger than any payload may be")
    size = payload_bytes(program.outputs, rows)
    if size > limits.TENSOR_PAYLOAD_BYTES:
        raise LimitExceeded("the unit's outputs are larger than any payload may be")
    return size


def check_runtime(program: Program, version: str) -> None:
    """Raise `RuntimeOutOfRange` unless this ONNX Runtime version may run the program."""
    if not _parts(program.runtime_from) <= _parts(version) < _parts(program.runtime_below):
        raise RuntimeOutOfRange(
            f"ONNX Runtime {version} is installed; this batch needs at least "
            f"{program.runtime_from} and less than {program.runtime_below}"
        )


def _parts(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: '1.31.1+cu13' is (1, 31, 1)."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = ""
        for char in part:
            if not char.isdigit():
                break
            digits += char
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)

"""How a batch is cut: rows per step, rows per unit, which rows calibrate it.

Decides numbers only; what the rows hold and where they lie is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.errors import Refused
from workunits.program import DEFAULT_ROWS_PER_STEP, fit_rows_per_step, row_bytes
from workunits.wire import limits
from workunits.wire.messages import ModelFacts, TensorSpec

# DECISIONS B.2: enough for a standard deviation, few enough to compute while the submitter waits.
CALIBRATION_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Cut:
    """A batch's rows as units of `rows_per_unit`, the last one with what is left."""

    rows: int
    rows_per_step: int
    rows_per_unit: int

    @property
    def units(self) -> int:
        """How many units there are."""
        return -(-self.rows // self.rows_per_unit)

    def first_row(self, index: int) -> int:
        """The batch's row at which unit `index` begins."""
        return index * self.rows_per_unit

    def rows_of(self, index: int) -> int:
        """How many rows unit `index` has."""
        return min(self.rows_per_unit, self.rows - self.first_row(index))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the submitter asked for; None leaves it to the project."""

    rows_per_step: int | None = None
    rows_per_unit: int | None = None


def cut(facts: ModelFacts, rows: int, wishes: Wishes, usual_rows_per_unit: int) -> Cut:
    """How `rows` rows are cut for this model.

    Raises:
        Refused: there is nothing to cut, or a wish does not fit the model or the limits.
    """
    if rows < 1:
        raise Refused("the data set has no rows")
    per_unit = _rows_per_unit(facts, wishes.rows_per_unit, usual_rows_per_unit)
    return Cut(rows, _rows_per_step(facts, wishes.rows_per_step), min(per_unit, rows))


def step_note(found: Cut, wishes: Wishes) -> str | None:
    """What to tell a submitter whose `--step` is not what calls will hold."""
    wanted = wishes.rows_per_step
    if wanted is None:
        return None
    if found.rows_per_step < wanted:
        return f"--step {wanted} is cut to {found.rows_per_step}: no more rows fit in one call"
    if found.rows_per_unit < wanted:
        return (
            f"--step {wanted} is more than the {found.rows_per_unit} rows of a unit: "
            "each call is filled up with rows that nobody needs"
        )
    return None


def calibration_rows(facts: ModelFacts, rows: int) -> Sequence[int]:
    """The evenly spaced rows that calibrate a model: enough, and no more than one payload holds."""
    count = max(1, min(rows, CALIBRATION_ROWS, _fitting(facts.inputs), _fitting(facts.outputs)))
    return [number * rows // count for number in range(count)]


def _rows_per_step(facts: ModelFacts, wanted: int | None) -> int:
    """DECISIONS A.8: the model's own fixed number, or the wish, or the default lowered to fit."""
    fixed = facts.batch_rows
    if fixed is not None and wanted not in (None, fixed):
        raise Refused(f"--step {wanted}: model {facts.name} takes exactly {fixed} rows at a time")
    asked = fixed or wanted or DEFAULT_ROWS_PER_STEP
    fitting = fit_rows_per_step(asked, facts.inputs, facts.outputs)
    if fixed is not None and fitting < fixed:
        raise Refused(
            f"model {facts.name} takes {fixed} rows at a time, and those are more than "
            f"{limits.STEP_BYTES} bytes; export it with a smaller batch axis"
        )
    return fitting


def _rows_per_unit(facts: ModelFacts, wanted: int | None, usual: int) -> int:
    if wanted is not None and not 1 <= wanted <= limits.ROWS_PER_UNIT:
        raise Refused(f"--rows-per-unit {wanted}: must be between 1 and {limits.ROWS_PER_UNIT}")
    fitting = min(_fitting(facts.inputs), _fitting(facts.outputs))
    if fitting < 1:
        raise Refused(f"one row of model {facts.name} is too large for a unit of work")
    if wanted is not None and wanted > fitting:
        raise Refused(
            f"--rows-per-unit {wanted}: at most {fitting} rows of this model fit in one unit"
        )
    return min(wanted or usual, fitting)


def _fitting(specs: Sequence[TensorSpec]) -> int:
    """How many rows of these tensors fit in one payload, with room for its header."""
    room = limits.TENSOR_PAYLOAD_BYTES - limits.MIB
    return room // max(1, row_bytes(specs))

"""What a kind of work is to those who publish and assemble batches; the kinds are its neighbours.

A kind decides which rows a data set has and what an answer looks like. It does not decide where
units begin and end, nor what a file format looks like (`formats`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from workunits.arrays import Array, Arrays
from workunits.wire.messages import TensorSpec

# Why a row of an answer holds no values (DECISIONS E.2): the codes stand in arrays, the words in text.
ROW_OK: Final = 0
ROW_NOT_A_NUMBER: Final = 1
ROW_UNIT_FAILED: Final = 2
ROW_EXPIRED: Final = 3
ROW_CANCELLED: Final = 4
ROW_PENDING: Final = 5  # asked for while the batch is running
STATUS_WORDS: Final = ("ok", "not_a_number", "unit_failed", "expired", "cancelled", "pending")
ROW_STATUS: Final = "row_status"

Status = npt.NDArray[np.uint8]


class KindOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a submitter may say about the answer; kept with the batch as JSON.

    `Kind.check` fills in what was left out.
    """

    class_names: tuple[str, ...] | None = None
    scores: str | None = None  # the float output [n, c] that holds the scores
    top: Annotated[int, Meta(ge=1)] | None = None


class RowSource(Protocol):
    """The rows of a data set, read as often as wanted, with memory for one block at a time."""

    @property
    def rows(self) -> int:
        """How many rows there are; at least one."""

    def blocks(self, rows_per_block: int) -> Iterator[Arrays]:
        """The inputs of `rows_per_block` rows each, in order; the last block may have fewer.

        Raises:
            DataRefused: a row cannot be read; blocks before it were given.
        """


class AnswerWriter(Protocol):
    """Writes an answer row by row; nothing stands under its name before `finish`.

    As a context manager it discards what was not finished. Every method raises `DataRefused` where
    the file cannot be written, and has then discarded it.
    """

    def append(self, outputs: Mapping[str, Array] | None, rows: int, status: Status | int) -> None:
        """The next `rows` rows: their outputs, and per row or for all a status code.

        Rows whose status is not `ROW_OK` are written without values. `outputs` may be None where no
        row has any.
        """

    def finish(self) -> None:
        """Make the file durable and give it its name. All rows must have been appended."""

    def discard(self) -> None:
        """Remove what was written; nothing happens if it is finished."""

    def counts(self) -> dict[str, int]:
        """Rows per class so far, without failed rows; empty for a kind that knows no classes."""

    def __enter__(self) -> AnswerWriter: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Kind(Protocol):
    """A recipe: data set to rows, outputs to answer."""

    @property
    def name(self) -> str:
        """As in `--kind`."""

    def check(self, options: KindOptions, outputs: Sequence[TensorSpec]) -> KindOptions:
        """The options with everything filled in.

        Raises:
            DataRefused: the model's outputs are not what this kind needs, or an option does not fit.
        """

    def read(self, path: Path, inputs: Sequence[TensorSpec], options: KindOptions) -> RowSource:
        """The rows in a file, for the model's inputs of scope row.

        Raises:
            DataRefused: what does not fit, where, and how to mend it.
        """

    def open_answer(
        self, path: Path, outputs: Sequence[TensorSpec], options: KindOptions, rows: int
    ) -> AnswerWriter:
        """A writer of `rows` rows; the format is that of the path's suffix.

        Raises:
            DataRefused: the format cannot hold this answer, or the path cannot be written.
        """

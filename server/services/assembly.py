"""A batch's canonical results become one answer in the order of its input.

Streams: memory holds one unit. Decides what a row's status is; how an answer file looks is the
kind's business, which result is canonical was decided by validation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.domain.names import output_blob
from server.domain.records import BatchRow, UnitOutcome
from server.errors import Conflict, Damaged, NotFound
from server.ports import Blobs, Database, Repositories
from server.services.manifests import Manifests
from workunits import agreement, arrays
from workunits.errors import BadDigest
from workunits.kinds import registry
from workunits.kinds.base import (
    ROW_CANCELLED,
    ROW_EXPIRED,
    ROW_NOT_A_NUMBER,
    ROW_OK,
    ROW_PENDING,
    ROW_UNIT_FAILED,
    STATUS_WORDS,
    AnswerWriter,
    KindOptions,
)
from workunits.trust import digests
from workunits.values import Digest, show
from workunits.wire import codec, limits
from workunits.wire.messages import TensorSpecs

# A unit that was not settled, by what became of its batch.
_OPEN: Final = {"running": ROW_PENDING, "cancelled": ROW_CANCELLED, "expired": ROW_EXPIRED}
# The failure that a unit is closed with when its batch passes its deadline.
_EXPIRED: Final = "expired"


@dataclass(frozen=True, slots=True)
class Assembled:
    """What the answer file holds."""

    output: Path
    rows: int
    statuses: dict[str, int]  # rows per status word, those that occur
    classes: dict[str, int]  # rows per class, of kinds that know classes

    @property
    def rows_failed(self) -> int:
        """Rows without values."""
        return self.rows - self.statuses.get(STATUS_WORDS[ROW_OK], 0)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Writes answers."""

    database: Database
    blobs: Blobs

    def assemble(self, batch: BatchRow, output: Path, *, is_partial: bool = False) -> Assembled:
        """Write the answer of `batch` to `output`; its suffix says in which format.

        Raises:
            Conflict: the batch is running and `is_partial` was not asked for.
            DataRefused: the format cannot hold the answer, or the file cannot be written.
        """
        if batch.state == "running" and not is_partial:
            raise Conflict(
                f"batch {show(batch.id)} is still running; wait for it with `batch watch`, or ask "
                "for what there is with --partial"
            )
        specs = Manifests(self.blobs).manifest(batch.manifest).program.outputs
        options = codec.from_json(batch.options, KindOptions, most=limits.PAYLOAD_BYTES)
        kind = registry.kind(batch.kind)
        with kind.open_answer(output, specs, options, batch.rows) as writer:
            statuses = self._write(batch, specs, writer)
            writer.finish()
            return Assembled(output, batch.rows, _in_words(statuses), writer.counts())

    def _write(self, batch: BatchRow, specs: TensorSpecs, writer: AnswerWriter) -> Counter[int]:
        statuses: Counter[int] = Counter()
        with self.database.reading() as storage:
            for unit in storage.units.canonical(batch.id):
                if unit.state == "done" and unit.output is not None:
                    raw = self._output(storage, unit.output)
                    statuses += _append(writer, unit, raw, specs)
                else:
                    status = _without_result(unit, batch.state)
                    writer.append(None, unit.rows, status)
                    statuses[status] += unit.rows
        return statuses

    def _output(self, storage: Repositories, digest: Digest) -> bytes:
        raw = storage.payloads.read([digest]).get(digest)
        try:
            found = self.blobs.read(output_blob(digest)) if raw is None else raw
            digests.expect_tensors(found, digest, "result")
        except (NotFound, BadDigest) as error:
            raise Damaged(
                f"result {show(digest)[:16]} is gone or damaged ({error}); `doctor` names all that "
                "are; bring the project back with: tesla-at-home-server restore FILE"
            ) from None
        return found


def _append(
    writer: AnswerWriter, unit: UnitOutcome, raw: bytes, specs: TensorSpecs
) -> Counter[int]:
    outputs = arrays.from_payload(raw, specs, unit.rows, most=limits.TENSOR_PAYLOAD_BYTES)
    failed, _ = agreement.failed_rows(outputs, specs)
    writer.append(outputs, unit.rows, failed.astype("uint8") * ROW_NOT_A_NUMBER)
    bad = int(failed.sum())
    return Counter({ROW_OK: unit.rows - bad, ROW_NOT_A_NUMBER: bad})


def _without_result(unit: UnitOutcome, batch_state: str) -> int:
    if unit.state == "failed" and unit.failure != _EXPIRED:
        return ROW_UNIT_FAILED
    if unit.state == "cancelled":
        return ROW_CANCELLED if batch_state == "cancelled" else ROW_EXPIRED
    return _OPEN.get(batch_state, ROW_EXPIRED)


def _in_words(statuses: Counter[int]) -> dict[str, int]:
    return {STATUS_WORDS[status]: rows for status, rows in sorted(statuses.items()) if rows}

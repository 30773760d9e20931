"""What follows for a unit and its batch when something ended: one more replica, a failure, the end.

The decisions are `domain.quorum`'s; here their rows are read and written, inside the transaction of
whoever ended something (intake, sweep, validation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from server import settings
from server.domain import lifecycle
from server.domain.quorum import Move, UnitLimits, batch_end, next_move
from server.domain.records import BatchRow
from server.domain.work import UnitChange, UnitCounts
from server.ports import Repositories
from workunits.values import BatchId, Milliseconds

UNIT_LIMITS: Final = UnitLimits(settings.REPLICAS_PER_UNIT, settings.ERRORS_PER_UNIT)


@dataclass(frozen=True, slots=True)
class Ended:
    """What happened to one unit's replicas in this transaction, as additions to its counts."""

    errors: int = 0
    returned: int = 0  # these, and repeated lapses, do not count as replicas


@dataclass(frozen=True, slots=True)
class Settled:
    """Units of one batch that are settled now."""

    done: int = 0
    failed: int = 0
    rows_failed: int = 0

    def plus(self, other: Settled) -> Settled:
        return Settled(
            self.done + other.done,
            self.failed + other.failed,
            self.rows_failed + other.rows_failed,
        )


def see_to_units(repos: Repositories, ended: Mapping[int, Ended], now: Milliseconds) -> None:
    """Give each open unit what it needs after its replicas ended; the ends are written already."""
    if not ended:
        return
    counts = repos.units.counts(sorted(ended))
    batches = repos.batches.by_ids(sorted({unit.batch_id for unit in counts.values()}))
    moves: dict[int, Move] = {}
    for unit in counts.values():
        after = _after(unit, ended[unit.id])
        moves[unit.id] = next_move(after, batches[unit.batch_id].quorum, UNIT_LIMITS)
    _write(repos, counts, ended, moves)
    failed = [counts[unit] for unit, move in moves.items() if move.failure]
    repos.replicas.close([unit.id for unit in failed], now)
    settle(repos, _settled_by_batch(failed), now)


def settle(repos: Repositories, settled: Mapping[BatchId, Settled], now: Milliseconds) -> None:
    """Count settled units, and end each batch that has no open ones left."""
    if not settled:
        return
    for batch_id, more in settled.items():
        repos.batches.count(batch_id, more.done, more.failed, more.rows_failed)
    for batch in repos.batches.by_ids(list(settled)).values():
        end_when_settled(repos, batch, now)


def end_when_settled(repos: Repositories, batch: BatchRow, now: Milliseconds) -> None:
    event = batch_end(batch.units, batch.units_done, batch.units_failed)
    if event is not None and batch.state == "running":
        repos.batches.end(batch.id, lifecycle.after(lifecycle.BATCH, batch.state, event), now)


def _after(unit: UnitCounts, ended: Ended) -> UnitCounts:
    return replace(unit, errors=unit.errors + ended.errors, replicas=unit.replicas - ended.returned)


def _write(
    repos: Repositories,
    counts: Mapping[int, UnitCounts],
    ended: Mapping[int, Ended],
    moves: Mapping[int, Move],
) -> None:
    changes = []
    more: list[tuple[int, BatchId]] = []
    for unit, move in moves.items():
        was = counts[unit].state
        changes.append(
            UnitChange(
                id=unit,
                old=was,
                new=lifecycle.after(lifecycle.UNIT, was, "fail") if move.failure else was,
                replicas=move.more - ended[unit].returned,
                errors=ended[unit].errors,
                failure=move.failure,
            )
        )
        more += [(unit, counts[unit].batch_id)] * move.more
    repos.units.change(changes)
    repos.replicas.make_ready(more)


def _settled_by_batch(failed: Sequence[UnitCounts]) -> dict[BatchId, Settled]:
    units: Counter[BatchId] = Counter(unit.batch_id for unit in failed)
    rows: Counter[BatchId] = Counter()
    for unit in failed:
        rows[unit.batch_id] += unit.rows
    return {batch: Settled(0, units[batch], rows[batch]) for batch in units}

"""Units in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, func, select, true, update

from server.domain.records import ReplicaRow, UnitOutcome, UnitRow, UnitStory
from server.domain.work import (
    ResultRow,
    Tally,
    UnitChange,
    UnitCounts,
    UnitToCheck,
)
from server.storage.repositories.statements import among, chosen, keys, words, write_each
from server.storage.tables import replicas, units
from workunits.values import BatchId

_BLOCK: Final = 4_096
# Those without a verdict; a set aside one has no voice.
_UNJUDGED: Final = words("reported", "inconclusive", "set_aside")

_OUTCOMES: Final = (
    chosen(UnitOutcome, units)
    .where(units.c.batch_id == bindparam("batch"), units.c.idx > bindparam("after"))
    .order_by(units.c.idx)
    .limit(_BLOCK)
)
_ONE: Final = chosen(UnitRow, units).where(
    units.c.batch_id == bindparam("batch"), units.c.idx == bindparam("idx")
)
_REPLICAS: Final = (
    chosen(ReplicaRow, replicas)
    .where(replicas.c.unit_id == bindparam("unit"))
    .order_by(replicas.c.id)
)
_TO_CHECK: Final = (
    select(
        units.c.id,
        units.c.batch_id,
        units.c.idx,
        units.c.rows,
        units.c.state,
        units.c.replicas,
        units.c.errors,
        units.c.output,
    )
    .where(units.c.needs_check == true())
    .order_by(units.c.id)
)
_RESULTS: Final = (
    chosen(ResultRow, replicas, also=(replicas.c.unit_id,))
    .where(replicas.c.unit_id.in_(keys()), replicas.c.state.in_(_UNJUDGED))
    .order_by(replicas.c.id)
)
_COUNTED: Final = select(
    units.c.id, units.c.batch_id, units.c.state, units.c.rows, units.c.replicas, units.c.errors
).where(units.c.id.in_(keys()))
_TALLIES: Final = (
    select(replicas.c.unit_id, replicas.c.state, func.count())
    .where(
        replicas.c.unit_id.in_(keys()),
        replicas.c.state.in_(words("ready", "leased", "reported", "inconclusive")),
    )
    .group_by(replicas.c.unit_id, replicas.c.state)
)
_CHANGE: Final = (
    update(units)
    .where(units.c.id == bindparam("key"), units.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        replicas=units.c.replicas + bindparam("more_replicas"),
        errors=units.c.errors + bindparam("more_errors"),
        failure=func.coalesce(bindparam("why"), units.c.failure),
        canonical_id=func.coalesce(bindparam("chosen"), units.c.canonical_id),
        output=func.coalesce(bindparam("chosen_output", type_=units.c.output.type), units.c.output),
    )
)
_ASK: Final = update(units).where(units.c.id == bindparam("key")).values(needs_check=True)
_CHECKED: Final = (
    update(units)
    .where(units.c.id == bindparam("key"), units.c.needs_check == true())
    .values(needs_check=False)
)


class SqlUnits:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def canonical(self, batch: BatchId) -> Iterator[UnitOutcome]:
        after = -1
        while True:
            rows = self._connection.execute(_OUTCOMES, {"batch": batch, "after": after}).all()
            if not rows:
                return
            yield from (UnitOutcome(*row) for row in rows)
            after = rows[-1].idx

    def story(self, batch: BatchId, idx: int) -> UnitStory | None:
        row = self._connection.execute(_ONE, {"batch": batch, "idx": idx}).first()
        if row is None:
            return None
        unit = UnitRow(*row)
        issued = self._connection.execute(_REPLICAS, {"unit": unit.id})
        return UnitStory(unit, tuple(ReplicaRow(*one) for one in issued))

    def to_check(self, limit: int, beside: Sequence[BatchId] = ()) -> list[UnitToCheck]:
        wanted = _TO_CHECK.where(units.c.batch_id.not_in(beside)) if beside else _TO_CHECK
        rows = self._connection.execute(wanted.limit(limit)).all()
        results = self.results([row.id for row in rows])
        return [UnitToCheck(*row, results=results.get(row.id, ())) for row in rows]

    def results(self, wanted: Sequence[int]) -> dict[int, tuple[ResultRow, ...]]:
        found: defaultdict[int, list[ResultRow]] = defaultdict(list)
        for unit, *fields in among(self._connection, _RESULTS, wanted):
            found[unit].append(ResultRow(*fields))
        return {unit: tuple(results) for unit, results in found.items()}

    def counts(self, wanted: Sequence[int]) -> dict[int, UnitCounts]:
        tallies: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for unit, state, count in among(self._connection, _TALLIES, wanted):
            tallies[unit][state] = count
        rows = among(self._connection, _COUNTED, wanted)
        return {
            row.id: UnitCounts(
                row.id,
                row.batch_id,
                row.state,
                row.rows,
                row.replicas,
                row.errors,
                Tally(**tallies[row.id]),
            )
            for row in rows
        }

    def change(self, changes: Sequence[UnitChange]) -> None:
        rows = [
            {
                "key": change.id,
                "old": change.old,
                "new": change.new,
                "more_replicas": change.replicas,
                "more_errors": change.errors,
                "why": change.failure,
                "chosen": change.canonical_id,
                "chosen_output": change.output,
            }
            for change in changes
        ]
        write_each(self._connection, _CHANGE, rows, "units")

    def ask_check(self, wanted: Sequence[int]) -> None:
        write_each(self._connection, _ASK, [{"key": unit} for unit in wanted], "units to check")

    def checked(self, done: Sequence[int]) -> None:
        write_each(self._connection, _CHECKED, [{"key": unit} for unit in done], "units checked")

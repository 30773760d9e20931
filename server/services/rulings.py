"""What validation found out, written: verdicts, credit, canonical results and what follows for the unit.

Decides only whether a ruling still fits its unit; how it came about is `server.services.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.domain import lifecycle
from server.domain.brake import Happened
from server.domain.credit import VALID_RESULT
from server.domain.quorum import has_voice, is_due
from server.domain.records import BatchRow
from server.domain.work import Crediting, ResultRow, UnitChange, UnitToCheck, VerdictGiven
from server.ports import Repositories
from server.services.conduct import brake
from server.services.settling import Ended, Settled, see_to_units, settle
from workunits.values import BatchId, KeyId, Milliseconds


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be written about one unit, if it is still as it was read."""

    unit: UnitToCheck
    verdicts: tuple[VerdictGiven, ...] = ()
    canonical: ResultRow | None = None
    rows_failed: int = 0
    needs_more: bool = False  # disagreement, or a payload that is gone


@dataclass(slots=True)
class _Writes:
    verdicts: list[VerdictGiven] = field(default_factory=list)
    credits: list[Crediting] = field(default_factory=list)
    changes: list[UnitChange] = field(default_factory=list)
    after: dict[int, Ended] = field(default_factory=dict)
    settled: dict[BatchId, Settled] = field(default_factory=dict)


def still_so(repos: Repositories, rulings: Sequence[Ruling]) -> list[Ruling]:
    """The rulings about units in which nothing has happened since they were read."""
    units = [ruling.unit.id for ruling in rulings]
    results = repos.units.results(units)
    counts = repos.units.counts(units)
    return [
        ruling
        for ruling in rulings
        if results.get(ruling.unit.id, ()) == ruling.unit.results
        and counts[ruling.unit.id].state == ruling.unit.state
    ]


def write(
    repos: Repositories,
    rulings: Sequence[Ruling],
    batches: Mapping[BatchId, BatchRow],
    now: Milliseconds,
) -> None:
    writes = _Writes()
    for ruling in rulings:
        _add(writes, ruling, now)
    repos.units.checked([ruling.unit.id for ruling in rulings])
    repos.replicas.judge(writes.verdicts)
    brake(repos, _happened(writes.verdicts), now)
    repos.credit.grant(writes.credits)
    repos.units.change(writes.changes)
    repos.replicas.cancel_ready([change.id for change in writes.changes])
    see_to_units(repos, writes.after, now)
    repos.units.ask_check(
        [one.unit.id for one in rulings if _is_due_again(one, batches[one.unit.batch_id])]
    )
    settle(repos, writes.settled, now)


def _is_due_again(ruling: Ruling, batch: BatchRow) -> bool:
    """Whether an open unit lost results to the disk, and those that are left are enough to compare."""
    dropped = {verdict.id for verdict in ruling.verdicts if verdict.new == "not_needed"}
    left = [result for result in ruling.unit.results if result.id not in dropped]
    voices = sum(has_voice(result.state) for result in left)
    is_open = ruling.unit.state == "open"
    return bool(dropped) and is_open and is_due(ruling.unit.state, voices, batch.quorum)


def _add(writes: _Writes, ruling: Ruling, now: Milliseconds) -> None:
    unit = ruling.unit
    writes.verdicts += ruling.verdicts
    by_id = {result.id: result for result in unit.results}
    writes.credits += [
        _credit(by_id[verdict.id], verdict.kflop, now)
        for verdict in ruling.verdicts
        if verdict.new == "valid"
    ]
    if ruling.needs_more:
        writes.after[unit.id] = Ended()
    if ruling.canonical is not None:
        writes.changes.append(_done(unit, ruling.canonical))
        settled = Settled(done=1, rows_failed=ruling.rows_failed)
        before = writes.settled.get(unit.batch_id, Settled())
        writes.settled[unit.batch_id] = before.plus(settled)


def _happened(verdicts: Sequence[VerdictGiven]) -> dict[KeyId, Happened]:
    found: dict[KeyId, Happened] = {}
    for verdict in verdicts:
        one = Happened(errors=verdict.new == "invalid", valid=verdict.new == "valid")
        found[verdict.vehicle_id] = found.get(verdict.vehicle_id, Happened()).plus(one)
    return found


def _done(unit: UnitToCheck, canonical: ResultRow) -> UnitChange:
    return UnitChange(
        id=unit.id,
        old=unit.state,
        new=lifecycle.after(lifecycle.UNIT, unit.state, "accept"),
        canonical_id=canonical.id,
        output=canonical.output,
    )


def _credit(result: ResultRow, kflop: int, now: Milliseconds) -> Crediting:
    return Crediting(
        replica_id=result.id,
        owner_id=result.owner_id,
        vehicle_id=result.vehicle_id,
        kflop=kflop,
        at_ms=now,
        reason=VALID_RESULT,
    )

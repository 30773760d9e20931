"""Which results are right: compares what was reported, chooses the canonical result, grants credit.

When two results are the same work is `workunits.agreement`; what follows for the unit is
`domain.quorum`. Comparing is done between a read and a write, so that nobody waits for it; a unit
that changed meanwhile is left for the next round.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from server import settings
from server.domain import lifecycle, names
from server.domain.credit import VALID_RESULT, worth_kflop
from server.domain.quorum import is_due
from server.domain.records import BatchRow
from server.domain.work import Crediting, ResultRow, UnitChange, UnitToCheck, VerdictGiven
from server.errors import NotFound
from server.ports import Blobs, Database, Repositories
from server.services.manifests import Manifests
from server.services.settling import Ended, Settled, see_to_units, settle
from workunits import agreement, arrays
from workunits.arrays import Arrays
from workunits.errors import ContractError
from workunits.values import BatchId, Digest, Milliseconds
from workunits.wire import limits
from workunits.wire.messages import Manifest


@dataclass(frozen=True, slots=True)
class _Ruling:
    """What is to be written about one unit, if it is still as it was read."""

    unit: UnitToCheck
    verdicts: tuple[VerdictGiven, ...] = ()
    canonical: ResultRow | None = None
    rows_failed: int = 0
    needs_more: bool = False  # disagreement, or a payload that is gone


@dataclass(frozen=True, slots=True)
class _Block:
    """Units to check with everything that comparing them takes."""

    units: Sequence[UnitToCheck]
    batches: Mapping[BatchId, BatchRow]
    small: Mapping[Digest, bytes]


@dataclass(slots=True)
class _Writes:
    verdicts: list[VerdictGiven] = field(default_factory=list)
    credits: list[Crediting] = field(default_factory=list)
    changes: list[UnitChange] = field(default_factory=list)
    after: dict[int, Ended] = field(default_factory=dict)
    settled: dict[BatchId, Settled] = field(default_factory=dict)


class Validation:
    def __init__(
        self, database: Database, blobs: Blobs, *, units_at_once: int = settings.UNITS_PER_CHECK
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._manifests = Manifests(blobs)
        self._units_at_once = units_at_once

    def check(self, now: Milliseconds) -> int:
        """Look at the next units that are due, in one transaction; how many were looked at."""
        block = self._load()
        if not block.units:
            return 0
        rulings = [self._rule(unit, block) for unit in block.units]
        with self._database.transaction() as repos:
            _write(repos, _still_so(repos, rulings), block.batches, now)
        return len(rulings)

    @cached_property
    def _tie_key(self) -> bytes:
        with self._database.reading() as repos:
            return repos.meta.secrets().tie_key

    def _load(self) -> _Block:
        with self._database.reading() as repos:
            units = _up_to_bytes(repos.units.to_check(self._units_at_once))
            batches = repos.batches.by_ids(sorted({unit.batch_id for unit in units}))
            wanted = {result.output for unit in units for result in unit.results}
            wanted |= {unit.output for unit in units if unit.output is not None}
            return _Block(units, batches, repos.payloads.read(sorted(wanted)))

    def _rule(self, unit: UnitToCheck, block: _Block) -> _Ruling:
        batch = block.batches[unit.batch_id]
        if not is_due(unit.state, len(unit.results), batch.quorum):
            return _Ruling(unit)
        manifest = self._manifests.manifest(batch.manifest)
        found, gone = self._outputs(unit, block, manifest)
        if gone:
            dropped = tuple(_verdict(result, "drop") for result in gone)
            return _Ruling(unit, dropped, needs_more=unit.state == "open")
        if unit.state == "done":
            return self._late(unit, batch, block, manifest, found)
        return self._choose(unit, batch, manifest, found)

    def _choose(
        self, unit: UnitToCheck, batch: BatchRow, manifest: Manifest, found: Sequence[Arrays]
    ) -> _Ruling:
        ties = [self._tie(result) for result in unit.results]
        choice = agreement.choose(found, manifest.agreement, batch.quorum, ties)
        if choice is None:
            doubted = tuple(_verdict(result, "doubt") for result in unit.results)
            return _Ruling(unit, doubted, needs_more=True)
        verdicts = tuple(
            _judged(result, place in choice.valid, choice.worst[place], unit, batch)
            for place, result in enumerate(unit.results)
        )
        failed, _ = agreement.failed_rows(found[choice.canonical], manifest.program.outputs)
        return _Ruling(unit, verdicts, unit.results[choice.canonical], int(failed.sum()))

    def _late(
        self,
        unit: UnitToCheck,
        batch: BatchRow,
        block: _Block,
        manifest: Manifest,
        found: Sequence[Arrays],
    ) -> _Ruling:
        """Results that came after the canonical one are measured against it."""
        assert unit.output is not None
        canonical = self._open(unit.output, unit, block, manifest)
        if canonical is None:
            raise NotFound(f"the canonical output of unit {unit.idx} is gone; run `doctor`")
        verdicts = []
        for result, arrays_ in zip(unit.results, found, strict=True):
            compared = agreement.compare(canonical, arrays_, manifest.agreement)
            verdicts.append(_judged(result, compared.agrees, compared.worst, unit, batch))
        return _Ruling(unit, tuple(verdicts))

    def _outputs(
        self, unit: UnitToCheck, block: _Block, manifest: Manifest
    ) -> tuple[list[Arrays], list[ResultRow]]:
        """The unit's results as arrays, and those whose payload is gone or damaged on this disk."""
        found = []
        gone = []
        for result in unit.results:
            output = self._open(result.output, unit, block, manifest)
            if output is None:
                gone.append(result)
            else:
                found.append(output)
        return found, gone

    def _open(
        self, digest: Digest, unit: UnitToCheck, block: _Block, manifest: Manifest
    ) -> Arrays | None:
        try:
            raw = block.small.get(digest) or self._blobs.view(names.output_blob(digest))
            return arrays.from_payload(
                raw, manifest.program.outputs, unit.rows, most=limits.TENSOR_PAYLOAD_BYTES
            )
        except (NotFound, ContractError):
            return None

    def _tie(self, result: ResultRow) -> bytes:
        about = result.output + result.id.to_bytes(8, "big")
        return hmac.new(self._tie_key, about, hashlib.sha256).digest()


def _up_to_bytes(units: Iterable[UnitToCheck]) -> list[UnitToCheck]:
    """As many units as fit into memory together, and at least one."""
    taken: list[UnitToCheck] = []
    room = settings.BYTES_PER_CHECK
    for unit in units:
        room -= sum(result.output_size for result in unit.results)
        if room < 0 and taken:
            break
        taken.append(unit)
    return taken


def _still_so(repos: Repositories, rulings: Sequence[_Ruling]) -> list[_Ruling]:
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


def _write(
    repos: Repositories,
    rulings: Sequence[_Ruling],
    batches: Mapping[BatchId, BatchRow],
    now: Milliseconds,
) -> None:
    writes = _Writes()
    for ruling in rulings:
        _add(writes, ruling, now)
    repos.units.checked([ruling.unit.id for ruling in rulings])
    repos.replicas.judge(writes.verdicts)
    repos.credit.grant(writes.credits)
    repos.units.change(writes.changes)
    repos.replicas.cancel_ready([change.id for change in writes.changes])
    see_to_units(repos, writes.after, now)
    settle(repos, writes.settled, now)


def _add(writes: _Writes, ruling: _Ruling, now: Milliseconds) -> None:
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


def _judged(
    result: ResultRow, is_valid: bool, worst: float, unit: UnitToCheck, batch: BatchRow
) -> VerdictGiven:
    kflop = worth_kflop(unit.rows, batch.kflop_per_row) if is_valid else 0
    return _verdict(result, "accept" if is_valid else "reject", worst, kflop)


def _verdict(
    result: ResultRow, event: str, worst: float | None = None, kflop: int = 0
) -> VerdictGiven:
    return VerdictGiven(
        id=result.id,
        vehicle_id=result.vehicle_id,
        old=result.state,
        new=lifecycle.after(lifecycle.REPLICA, result.state, event),
        residual=None if worst is None else f"{worst:.3g}",
        kflop=kflop,
        is_final=event != "doubt",
    )

"""Which results are right: compares what was reported, chooses the canonical result, grants credit.

When two results are the same work is `workunits.agreement`; what follows for the unit is
`domain.quorum`. Comparing is done between a read and a write, so that nobody waits for it; a unit
that changed meanwhile is left for the next round. What cannot be compared because something of it is
damaged on this disk stops nobody else: the batch is passed over until it is whole again, the unit put
aside.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from server import settings
from server.domain import lifecycle, names
from server.domain.credit import worth_kflop
from server.domain.quorum import has_voice, is_due
from server.domain.records import BatchRow
from server.domain.work import ResultRow, UnitToCheck, VerdictGiven
from server.errors import NotFound, Outage, ServerError
from server.ports import Blobs, Database
from server.services.manifests import Manifests
from server.services.rulings import Ruling, still_so, write
from workunits import agreement, arrays
from workunits.arrays import Arrays
from workunits.errors import ContractError
from workunits.trust import digests
from workunits.values import BatchId, Digest, Milliseconds, show
from workunits.wire import limits
from workunits.wire.messages import Manifest

# Why a late result was not judged.
DAMAGED: Final = "canonical_damaged"

_log = logging.getLogger("server.services.validation")


@dataclass(frozen=True, slots=True)
class _Block:
    """Units to check with everything that comparing them takes."""

    units: Sequence[UnitToCheck]
    batches: Mapping[BatchId, BatchRow]
    small: Mapping[Digest, bytes]


class Validation:
    def __init__(
        self, database: Database, blobs: Blobs, *, units_at_once: int = settings.UNITS_PER_CHECK
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._manifests = Manifests(blobs)
        self._units_at_once = units_at_once
        self._damaged: dict[BatchId, Digest] = {}  # passed over, with their manifests

    def check(self, now: Milliseconds) -> int:
        """Look at the next units that are due, in one transaction; how many were looked at."""
        block = self._load()
        if not block.units:
            return 0
        before = set(self._damaged)
        found = [self._rule_or_not(unit, block) for unit in block.units]
        rulings = [ruling for ruling in found if ruling is not None]
        if rulings:
            with self._database.transaction() as repos:
                write(repos, still_so(repos, rulings), block.batches, now)
        return len(rulings) + len(self._damaged.keys() - before)

    @cached_property
    def _tie_key(self) -> bytes:
        with self._database.reading() as repos:
            return repos.meta.secrets().tie_key

    def _load(self) -> _Block:
        self._damaged = {
            batch: manifest
            for batch, manifest in self._damaged.items()
            if self._manifests.find(manifest) is None
        }
        with self._database.reading() as repos:
            units = _up_to_bytes(repos.units.to_check(self._units_at_once, list(self._damaged)))
            batches = repos.batches.by_ids(sorted({unit.batch_id for unit in units}))
            wanted = {result.output for unit in units for result in unit.results}
            wanted |= {unit.output for unit in units if unit.output is not None}
            return _Block(units, batches, repos.payloads.read(sorted(wanted)))

    def _rule_or_not(self, unit: UnitToCheck, block: _Block) -> Ruling | None:
        """One unit's ruling, whatever is wrong with it; None: not now."""
        batch = block.batches[unit.batch_id]
        voices = sum(has_voice(result.state) for result in unit.results)
        if not is_due(unit.state, voices, batch.quorum):
            return Ruling(unit)
        manifest = self._manifests.find(batch.manifest)
        if manifest is None:
            self._damaged[batch.id] = batch.manifest
            return None
        try:
            return self._rule(unit, batch, block, manifest)
        except Outage as error:
            # The disk may be well again in the next round.
            _log.error(
                "unit_left_due batch=%s unit=%d detail=%r", show(batch.id), unit.idx, str(error)
            )
            return None
        except (ServerError, ContractError) as error:
            # Asked again, it would say the same and cost every round; what is due stays in the story.
            _log.error(
                "unit_put_aside batch=%s unit=%d detail=%r", show(batch.id), unit.idx, str(error)
            )
            return Ruling(unit)

    def _rule(
        self, unit: UnitToCheck, batch: BatchRow, block: _Block, manifest: Manifest
    ) -> Ruling:
        found, gone = self._outputs(unit, block, manifest)
        if gone:
            dropped = tuple(_verdict(result, "drop") for result in gone)
            return Ruling(unit, dropped, needs_more=unit.state == "open")
        if unit.state == "done":
            return self._late(unit, batch, block, manifest, found)
        return self._choose(unit, batch, manifest, found)

    def _choose(
        self, unit: UnitToCheck, batch: BatchRow, manifest: Manifest, found: Sequence[Arrays]
    ) -> Ruling:
        opened = list(zip(unit.results, found, strict=True))
        voices = [one for one in opened if has_voice(one[0].state)]
        ties = [self._tie(result) for result, _ in voices]
        choice = agreement.choose(
            [arrays_ for _, arrays_ in voices], manifest.agreement, batch.quorum, ties
        )
        if choice is None:
            doubted = tuple(_verdict(result, "doubt") for result, _ in voices)
            return Ruling(unit, doubted, needs_more=True)
        canonical, chosen = voices[choice.canonical]
        verdicts = [
            _judged(result, place in choice.valid, choice.worst[place], unit, batch)
            for place, (result, _) in enumerate(voices)
        ]
        without = [one for one in opened if not has_voice(one[0].state)]
        verdicts += _measured(without, chosen, manifest, unit, batch)
        failed, _ = agreement.failed_rows(chosen, manifest.program.outputs)
        return Ruling(unit, tuple(verdicts), canonical, int(failed.sum()))

    def _late(
        self,
        unit: UnitToCheck,
        batch: BatchRow,
        block: _Block,
        manifest: Manifest,
        found: Sequence[Arrays],
    ) -> Ruling:
        """Results that came after the canonical one are measured against it."""
        assert unit.output is not None
        canonical = self._open(unit.output, unit, block, manifest)
        if canonical is None:
            _log.error(
                "canonical_damaged batch=%s unit=%d output=%s; `doctor` names all of them",
                show(batch.id),
                unit.idx,
                show(unit.output),
            )
            dropped = (_verdict(result, "drop", code=DAMAGED) for result in unit.results)
            return Ruling(unit, tuple(dropped))
        opened = zip(unit.results, found, strict=True)
        return Ruling(unit, tuple(_measured(opened, canonical, manifest, unit, batch)))

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
            # A bit that changed on this disk must not speak for or against a vehicle.
            digests.expect_tensors(raw, digest, "output")
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


def _measured(
    opened: Iterable[tuple[ResultRow, Arrays]],
    canonical: Arrays,
    manifest: Manifest,
    unit: UnitToCheck,
    batch: BatchRow,
) -> list[VerdictGiven]:
    """Verdicts on results that had no part in the choice."""
    verdicts = []
    for result, arrays_ in opened:
        compared = agreement.compare(canonical, arrays_, manifest.agreement)
        verdicts.append(_judged(result, compared.agrees, compared.worst, unit, batch))
    return verdicts


def _judged(
    result: ResultRow, is_valid: bool, worst: float, unit: UnitToCheck, batch: BatchRow
) -> VerdictGiven:
    kflop = worth_kflop(unit.rows, batch.kflop_per_row) if is_valid else 0
    return _verdict(result, "accept" if is_valid else "reject", worst, kflop)


def _verdict(
    result: ResultRow,
    event: str,
    worst: float | None = None,
    kflop: int = 0,
    code: str | None = None,
) -> VerdictGiven:
    return VerdictGiven(
        id=result.id,
        vehicle_id=result.vehicle_id,
        old=result.state,
        new=lifecycle.after(lifecycle.REPLICA, result.state, event),
        residual=None if worst is None else f"{worst:.3g}",
        kflop=kflop,
        is_final=event != "doubt",
        code=code,
    )

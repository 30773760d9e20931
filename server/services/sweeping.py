"""What time alone brings about: leases, batches, uploads and records that are past their end.

Each piece of work is a bounded block in a transaction of its own, so that requests wait for none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from server import settings
from server.domain import lifecycle
from server.domain.assignment import is_cut_short
from server.domain.brake import Happened
from server.domain.records import BatchRow
from server.domain.work import HeldRow, ReplicaEnd, UnitChange
from server.ports import Blobs, Database, Repositories, UploadFiles
from server.services.conduct import brake
from server.services.settling import Ended, see_to_units
from server.services.uploaded import forget_unnamed
from workunits.values import BatchId, KeyId, Milliseconds, OwnerId

# How the open units of an ended batch end; a completed or failed batch has none.
_UNIT_EVENT = {"cancelled": "cancel", "expired": "fail"}


class Sweeping:
    def __init__(self, database: Database, uploads: UploadFiles, blobs: Blobs) -> None:
        self._database = database
        self._uploads = uploads
        self._blobs = blobs

    def end_leases(self, now: Milliseconds) -> int:
        """Leases past their deadline are lost; their units get another replica."""
        with self._database.transaction() as repos:
            late = repos.replicas.past_deadline(now, settings.LEASES_PER_SWEEP)
            before = repos.replicas.lapsed(sorted({held.unit_id for held in late}))
            ends = [_lost(held, now, before) for held in late]
            repos.replicas.end(ends)
            ended = zip(late, ends, strict=True)
            see_to_units(repos, _lapses(ended), now)
            lost = _lost_by(late, repos.batches.by_ids(sorted({held.batch_id for held in late})))
            brake(repos, {key: Happened(lost=count) for key, count in lost.items()}, now)
        return len(late)

    def end_batches(self, now: Milliseconds) -> int:
        """Batches past their deadline expire."""
        with self._database.transaction() as repos:
            overdue = repos.batches.overdue(now)
            for batch in overdue:
                expired = lifecycle.after(lifecycle.BATCH, batch.state, "expire")
                repos.batches.end(batch.id, expired, now)
        return len(overdue)

    def close_units(self, now: Milliseconds) -> int:
        """The open units of ended batches end too, a block at a time; how many were closed."""
        with self._database.transaction() as repos:
            ended = repos.batches.unsettled(1)
            return sum(_close_block(repos, batch, now) for batch in ended)

    def drop_uploads(self, now: Milliseconds) -> int:
        """Uploads that nobody has touched for long, and those that no report can name any more."""
        before = Milliseconds(now - settings.UPLOADS_KEPT_MS)
        with self._database.transaction() as repos:
            found = repos.uploads.untouched(before, settings.LEASES_PER_SWEEP)
            found += repos.uploads.not_awaited(settings.LEASES_PER_SWEEP)
            left = {upload.lease_id: upload for upload in found}
            repos.uploads.delete(sorted(left))
            forget_unnamed(repos, self._blobs, [upload.digest for upload in left.values()])
        for lease in left:
            self._uploads.discard(lease)
        return len(left)

    def forget(self, now: Milliseconds) -> int:
        """Sessions, attempts, signs and confirmations that have served their time."""
        with self._database.transaction() as repos:
            gone = repos.housekeeping.forget_sessions(
                Milliseconds(now - settings.RETIRED_SESSIONS_KEPT_MS)
            )
            gone += repos.housekeeping.forget_attempts(Milliseconds(now - settings.HOUR_MS))
            gone += repos.housekeeping.forget_clone_signs(
                Milliseconds(now - settings.CLONE_SIGNS_KEPT_MS)
            )
            gone += repos.housekeeping.forget_departures(
                Milliseconds(now - settings.DEPARTURES_KEPT_MS)
            )
        return gone


def _lost(held: HeldRow, now: Milliseconds, before: AbstractSet[tuple[int, OwnerId]]) -> ReplicaEnd:
    """An owner who lets lease after lease of a unit lapse counts once, or could end it alone."""
    assert held.owner_id is not None
    return ReplicaEnd(
        id=held.id,
        old=held.state,
        new=lifecycle.after(lifecycle.REPLICA, held.state, "end"),
        code="lease_ended",
        detail=None,
        ended_ms=now,
        frees_owner=True,
        is_repeat=(held.unit_id, held.owner_id) in before,
    )


def _lost_by(late: Iterable[HeldRow], batches: Mapping[BatchId, BatchRow]) -> Counter[KeyId]:
    """How many leases each vehicle let lapse; one cut short by its batch's end is nobody's lapse."""
    return Counter(
        held.vehicle_id
        for held in late
        if not is_cut_short(held.deadline_ms, batches[held.batch_id].deadline_ms)
    )


def _lapses(ended: Iterable[tuple[HeldRow, ReplicaEnd]]) -> dict[int, Ended]:
    found: dict[int, Ended] = {}
    for held, end in ended:
        before = found.get(held.unit_id, Ended())
        found[held.unit_id] = Ended(returned=before.returned + end.is_repeat)
    return found


def _close_block(repos: Repositories, batch: BatchRow, now: Milliseconds) -> int:
    units, end = repos.batches.open_units(batch.id, settings.UNITS_PER_SWEEP)
    event = _UNIT_EVENT.get(batch.state)
    if event is not None and units:
        new = lifecycle.after(lifecycle.UNIT, "open", event)
        failure = "expired" if event == "fail" else None
        repos.units.change(
            [UnitChange(id=unit, old="open", new=new, failure=failure) for unit, _ in units]
        )
        repos.replicas.close([unit for unit, _ in units], now)
        if event == "fail":
            repos.batches.count(batch.id, 0, len(units), sum(rows for _, rows in units))
    repos.batches.settled_to(batch.id, end)
    return max(1, len(units))

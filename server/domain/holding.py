"""What the two sides believe to be leased, compared (PROTOCOL 8.4 and 8.5). Pure.

Every request says what the vehicle holds; what the server does not know so is aborted. Only in the
first request of a session does the server also look for what the vehicle has lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.domain import lifecycle
from server.domain.records import BatchRow
from server.domain.reports import taken_until
from server.domain.work import HeldRow, ReplicaEnd
from workunits.values import BatchId, KeyId, LeaseId, Milliseconds
from workunits.wire.messages import Abort, WorkRequest


def unknown_to_server(
    request: WorkRequest,
    held: Mapping[LeaseId, HeldRow],
    vehicle: KeyId,
    now: Milliseconds,
    late_share: float,
) -> tuple[Abort, ...]:
    """Aborts for leases that the vehicle holds and need not compute; reported ones get receipts."""
    reported = {report.lease for report in request.reports}
    found = []
    for lease in request.holding:
        if lease in reported:
            continue
        code = _reason_to_stop(held.get(lease), vehicle, now, late_share)
        if code is not None:
            found.append(Abort(lease=lease, code=code))
    return tuple(found)


def lost_by_client(
    held: Iterable[HeldRow],
    request: WorkRequest,
    batches: Mapping[BatchId, BatchRow],
    now: Milliseconds,
) -> tuple[list[HeldRow], list[ReplicaEnd]]:
    """Of the leases that only the server has: those to send again, and those to end.

    A lease whose time is over is left to the sweep, which also sees to its unit.
    """
    named = set(request.holding) | {report.lease for report in request.reports}
    offered: list[HeldRow] = []
    closed: list[ReplicaEnd] = []
    for row in held:
        if row.lease_id in named or row.deadline_ms - now < 1000:
            continue
        if row.unit_state == "open" and batches[row.batch_id].state == "running":
            offered.append(row)
        elif row.unit_state != "open":
            closed.append(_closed(row, now))
    return offered, closed


def _reason_to_stop(
    held: HeldRow | None, vehicle: KeyId, now: Milliseconds, late_share: float
) -> str | None:
    if held is None or held.vehicle_id != vehicle:
        return "unknown_lease"
    if held.state in ("leased", "lost"):
        if held.unit_state in ("failed", "cancelled"):
            return "unit_" + held.unit_state
        return "too_late" if now > taken_until(held, late_share) else None
    if held.state == "cancelled":
        return "unit_" + held.unit_state
    return "already_ended"


def _closed(row: HeldRow, now: Milliseconds) -> ReplicaEnd:
    return ReplicaEnd(
        id=row.id,
        old=row.state,
        new=lifecycle.after(lifecycle.REPLICA, row.state, "end"),
        code="not_held",
        detail=None,
        ended_ms=now,
        frees_owner=True,
    )

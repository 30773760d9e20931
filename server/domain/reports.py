"""What a report about a lease leads to, given how the lease stands (PROTOCOL 8.6). Pure.

The payload itself is judged by `server.services.intake`; here the question is only whether it is
still wanted. Asked twice, the same report gets the same receipt.
"""

from __future__ import annotations

from enum import Enum

from server.domain.work import HeldRow
from workunits.values import KeyId, Milliseconds
from workunits.wire.messages import Receipt, Report


class Step(Enum):
    TAKE = "take"  # a result that is still wanted, once its payload is found good
    FAIL = "fail"
    RETURN = "return"


def step_or_receipt(
    report: Report, held: HeldRow | None, vehicle: KeyId, now: Milliseconds, late_share: float
) -> Step | Receipt:
    """What to do about a report, or the receipt when nothing is to be done."""
    if held is None or held.vehicle_id != vehicle:
        return Receipt(
            lease=report.lease,
            outcome="refused",
            code="unknown_lease",
            detail="this project never gave this lease to this vehicle",
        )
    if held.state == "leased":
        return _of_leased(report, held, now, late_share)
    if held.state == "lost":
        return _of_lost(report, held, now, late_share)
    return _again(report, held)


def taken_until(held: HeldRow, late_share: float) -> Milliseconds:
    """Until when a result of this lease is taken: some time past its end."""
    return Milliseconds(held.deadline_ms + int((held.deadline_ms - held.leased_ms) * late_share))


def not_needed(report: Report, code: str) -> Receipt:
    return Receipt(lease=report.lease, outcome="not_needed", code=code)


def _of_leased(
    report: Report, held: HeldRow, now: Milliseconds, late_share: float
) -> Step | Receipt:
    if report.outcome == "failed":
        return Step.FAIL
    if report.outcome == "returned":
        return Step.RETURN
    # The sweep may not have ended this lease yet.
    return Step.TAKE if now <= taken_until(held, late_share) else not_needed(report, "too_late")


def _of_lost(report: Report, held: HeldRow, now: Milliseconds, late_share: float) -> Step | Receipt:
    if report.outcome != "done" or now > taken_until(held, late_share):
        return not_needed(report, "too_late")
    if held.unit_state not in ("open", "done"):
        return not_needed(report, "unit_" + held.unit_state)
    return Step.TAKE


def _again(report: Report, held: HeldRow) -> Receipt:
    """The lease ended before; a repeated report hears what the first one heard."""
    if held.state == "cancelled":
        return not_needed(report, "unit_" + held.unit_state)
    if held.state == "failed" and report.outcome == "done":
        return Receipt(lease=report.lease, outcome="refused", code=held.code, detail=held.detail)
    return Receipt(lease=report.lease, outcome="taken")

"""Who hands back too much within an hour, and what counts as handing back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.domain.returns import Returns, handed_back
from server.domain.work import HeldRow
from tests.support.server_rows import HOUR_MS, NOW
from workunits.values import BatchId, KeyId, LeaseId, Milliseconds, OwnerId
from workunits.wire.messages import Report

ME = KeyId(b"m" * 32)
LEASE = LeaseId(b"L" * 16)
HELD = HeldRow(
    id=1, unit_id=2, batch_id=BatchId(bytes(16)), state="leased", owner_id=OwnerId(bytes(16)),
    vehicle_id=ME, lease_id=LEASE, leased_ms=NOW, deadline_ms=Milliseconds(NOW + HOUR_MS),
    code=None, detail=None, unit_state="open", idx=0, rows=4, body=b"",
)  # fmt: skip
RETURNED = Report(lease=LEASE, outcome="returned")


def later(ms: int) -> Milliseconds:
    return Milliseconds(NOW + ms)


def test_returns_within_the_hour_add_up_and_later_ones_begin_anew() -> None:
    first = Returns(0, Milliseconds(0)).plus(3, later(HOUR_MS), HOUR_MS)
    assert first == Returns(3, later(HOUR_MS))
    assert first.plus(2, later(HOUR_MS + 5), HOUR_MS) == Returns(5, later(HOUR_MS))
    assert first.plus(2, later(2 * HOUR_MS), HOUR_MS) == Returns(2, later(2 * HOUR_MS))
    assert first.plus(0, later(9 * HOUR_MS), HOUR_MS) is first


@pytest.mark.parametrize(
    ("count", "after_ms", "rests"),
    [(100, 0, False), (101, 0, True), (101, HOUR_MS - 1, True), (101, HOUR_MS, False)],
)
def test_who_handed_back_too_much_rests_until_the_hour_is_over(
    count: int, after_ms: int, rests: bool
) -> None:
    until = Returns(count, NOW).rests_until(100, later(after_ms), HOUR_MS)
    assert until == (later(HOUR_MS) if rests else None)


@pytest.mark.parametrize(
    ("held", "reports", "count"),
    [
        (HELD, (RETURNED, RETURNED), 1),
        (HELD, (Report(lease=LEASE, outcome="failed", code="oom"),), 0),
        (replace(HELD, state="returned"), (RETURNED,), 0),
        (replace(HELD, vehicle_id=KeyId(b"o" * 32)), (RETURNED,), 0),
        (HELD, (Report(lease=LeaseId(b"x" * 16), outcome="returned"),), 0),
    ],
)
def test_a_lease_is_handed_back_once_and_by_who_has_it(
    held: HeldRow, reports: tuple[Report, ...], count: int
) -> None:
    assert handed_back(reports, {LEASE: held}, ME) == count

"""Where a request stands in its session, what its reports lead to, what both sides hold."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from server.domain import holding
from server.domain.records import VehicleRow
from server.domain.reports import Step, step_or_receipt, taken_until
from server.domain.sessions import Course, Spoken, course, may_be_retired
from server.domain.work import HeldRow
from tests.support.server_rows import BATCH, HOUR_MS, NOW
from workunits.trust import digests
from workunits.values import (
    BatchId,
    Digest,
    KeyId,
    LeaseId,
    Milliseconds,
    Nonce,
    OwnerId,
    SessionId,
)
from workunits.wire.messages import Receipt, Report, WorkRequest

HERE = SessionId(b"h" * 16)
THERE = SessionId(b"t" * 16)
NONCE = Nonce(b"n" * 16)
LAST = Digest(b"l" * 32)
NEW = Digest(b"d" * 32)
ME = KeyId(b"m" * 32)
OTHER = KeyId(b"o" * 32)
LEASE = LeaseId(b"L" * 16)

VEHICLE = VehicleRow(
    id=ME, owner_id=OwnerId(bytes(16)), public_key=bytes(32), name="car", state="active",
    state_reason=None, client="1", created_ms=NOW, seen_ms=NOW, session=HERE, seq=4,
    last_digest=LAST, last_reply=b"reply", nonce=NONCE,
)  # fmt: skip
NEXT = WorkRequest(
    protocol=1, key=bytes(32), epoch=3, session=HERE, seq=5, previous=LAST, client="1"
)
FIRST = msgspec.structs.replace(NEXT, session=THERE, seq=1, previous=digests.ZERO, nonce=NONCE)
HELD = HeldRow(
    id=1, unit_id=2, batch_id=BatchId(bytes(16)), state="leased", owner_id=OwnerId(bytes(16)),
    vehicle_id=ME, lease_id=LEASE, leased_ms=NOW, deadline_ms=Milliseconds(NOW + HOUR_MS),
    code=None, detail=None, unit_state="open", idx=0, rows=4, body=b"",
)  # fmt: skip
DONE = Report(lease=LEASE, outcome="done", output=NEW, output_size=1)
FAILED = Report(lease=LEASE, outcome="failed", code="oom")
RETURNED = Report(lease=LEASE, outcome="returned")


SPOKEN = Spoken(oldest=1, newest=1)


def course_of(
    vehicle: VehicleRow | None,
    request: WorkRequest,
    digest: Digest,
    *,
    is_retired: bool = False,
    spoken: Spoken = SPOKEN,
) -> Course:
    return course(vehicle, request, digest, 3, is_retired=is_retired, spoken=spoken, now=NOW)


@pytest.mark.parametrize(
    ("request_", "digest", "expected"),
    [
        (NEXT, NEW, Course.PROCESS),
        (NEXT, LAST, Course.REPEAT),
        (msgspec.structs.replace(NEXT, seq=6), NEW, Course.RESYNC),
        (msgspec.structs.replace(NEXT, seq=4), NEW, Course.RESYNC),
        (msgspec.structs.replace(NEXT, previous=NEW), NEW, Course.RESYNC),
        (msgspec.structs.replace(NEXT, epoch=2), NEW, Course.RESYNC),
        (msgspec.structs.replace(NEXT, protocol=2), NEW, Course.UPGRADE),
        (FIRST, NEW, Course.BEGIN),
        (msgspec.structs.replace(FIRST, seq=2), NEW, Course.RESYNC),
        (msgspec.structs.replace(FIRST, previous=LAST), NEW, Course.RESYNC),
        (msgspec.structs.replace(FIRST, nonce=None), NEW, Course.RESYNC),
        (msgspec.structs.replace(FIRST, nonce=Nonce(bytes(16))), NEW, Course.RESYNC),
        (msgspec.structs.replace(FIRST, epoch=4), NEW, Course.RESYNC),
    ],
)
def test_the_course_of_a_request(request_: WorkRequest, digest: Digest, expected: Course) -> None:
    assert course_of(VEHICLE, request_, digest) is expected


def test_a_retired_session_is_a_clone_even_with_the_right_nonce() -> None:
    assert course_of(VEHICLE, FIRST, NEW, is_retired=True) is Course.CLONE


def test_nobody_answers_for_an_unknown_key() -> None:
    assert course_of(None, NEXT, NEW) is Course.UNKNOWN_VEHICLE


def test_without_an_offered_nonce_no_session_begins() -> None:
    vehicle = replace(VEHICLE, nonce=None)
    request = msgspec.structs.replace(FIRST, nonce=None)
    assert course_of(vehicle, request, NEW) is Course.RESYNC


def test_before_the_first_reply_there_is_nothing_to_repeat() -> None:
    vehicle = replace(VEHICLE, last_reply=None)
    assert course_of(vehicle, NEXT, LAST) is Course.PROCESS


def test_two_versions_are_spoken() -> None:
    both = Spoken(oldest=1, newest=2)
    assert course_of(VEHICLE, NEXT, NEW, spoken=both) is Course.PROCESS
    newer = msgspec.structs.replace(NEXT, protocol=2)
    assert course_of(VEHICLE, newer, NEW, spoken=both) is Course.PROCESS
    newest = msgspec.structs.replace(NEXT, protocol=3)
    assert course_of(VEHICLE, newest, NEW, spoken=both) is Course.UPGRADE


def test_old_reports_are_taken_for_a_while_and_in_their_session_only() -> None:
    until = Spoken(oldest=2, newest=3, old_reports_until_ms=Milliseconds(NOW + 1))
    over = Spoken(oldest=2, newest=3, old_reports_until_ms=NOW)
    assert course_of(VEHICLE, NEXT, NEW, spoken=until) is Course.REPORT
    assert course_of(VEHICLE, NEXT, NEW, spoken=over) is Course.UPGRADE
    for other in (FIRST, msgspec.structs.replace(NEXT, seq=6)):
        assert course_of(VEHICLE, other, NEW, spoken=until) is Course.UPGRADE
    too_new = msgspec.structs.replace(NEXT, protocol=4)
    assert course_of(VEHICLE, too_new, NEW, spoken=until) is Course.UPGRADE


def test_only_another_session_can_be_retired() -> None:
    assert may_be_retired(VEHICLE, FIRST)
    assert not may_be_retired(VEHICLE, NEXT)
    assert not may_be_retired(None, NEXT)


def after(minutes: int) -> Milliseconds:
    return Milliseconds(NOW + minutes * 60_000)


@pytest.mark.parametrize(
    ("report", "held", "minutes", "expected"),
    [
        (DONE, HELD, 10, Step.TAKE),
        (DONE, HELD, 89, Step.TAKE),
        (DONE, HELD, 91, "too_late"),
        (FAILED, HELD, 10, Step.FAIL),
        (RETURNED, HELD, 10, Step.RETURN),
        (DONE, replace(HELD, state="lost"), 70, Step.TAKE),
        (DONE, replace(HELD, state="lost", unit_state="done"), 70, Step.TAKE),
        (DONE, replace(HELD, state="lost", unit_state="failed"), 70, "unit_failed"),
        (DONE, replace(HELD, state="lost", unit_state="cancelled"), 70, "unit_cancelled"),
        (DONE, replace(HELD, state="lost"), 91, "too_late"),
        (FAILED, replace(HELD, state="lost"), 70, "too_late"),
        (RETURNED, replace(HELD, state="lost"), 70, "too_late"),
        (DONE, replace(HELD, state="cancelled", unit_state="cancelled"), 10, "unit_cancelled"),
    ],
)
def test_what_a_report_leads_to(
    report: Report, held: HeldRow, minutes: int, expected: Step | str
) -> None:
    found = step_or_receipt(report, held, ME, after(minutes), 0.5)
    if isinstance(found, Receipt):
        assert (found.outcome, found.code) == ("not_needed", expected)
    else:
        assert found is expected


@pytest.mark.parametrize(
    "state", ["reported", "valid", "invalid", "inconclusive", "not_needed", "returned"]
)
def test_a_report_that_was_taken_hears_so_again(state: str) -> None:
    found = step_or_receipt(DONE, replace(HELD, state=state), ME, NOW, 0.5)
    assert found == Receipt(lease=LEASE, outcome="taken")


def test_a_refused_result_hears_why_again_and_a_failure_that_it_was_taken() -> None:
    held = replace(HELD, state="failed", code="tensors_refused", detail="shape")
    refused = Receipt(lease=LEASE, outcome="refused", code="tensors_refused", detail="shape")
    assert step_or_receipt(DONE, held, ME, NOW, 0.5) == refused
    taken = Receipt(lease=LEASE, outcome="taken")
    assert step_or_receipt(FAILED, held, ME, NOW, 0.5) == taken


@pytest.mark.parametrize("held", [None, replace(HELD, vehicle_id=OTHER)])
def test_a_lease_of_nobody_or_of_another_is_refused(held: HeldRow | None) -> None:
    found = step_or_receipt(DONE, held, ME, NOW, 0.5)
    assert isinstance(found, Receipt)
    assert (found.outcome, found.code) == ("refused", "unknown_lease")


def test_results_are_taken_for_half_the_lease_after_its_end() -> None:
    assert taken_until(HELD, 0.5) == NOW + HOUR_MS * 3 // 2


@pytest.mark.parametrize(
    ("held", "minutes", "code"),
    [
        (HELD, 10, None),
        (replace(HELD, unit_state="done"), 10, None),
        (replace(HELD, state="lost"), 70, None),
        (replace(HELD, state="lost"), 91, "too_late"),
        (replace(HELD, state="lost", unit_state="failed"), 70, "unit_failed"),
        (replace(HELD, state="cancelled", unit_state="cancelled"), 10, "unit_cancelled"),
        (replace(HELD, state="reported"), 10, "already_ended"),
        (replace(HELD, vehicle_id=OTHER), 10, "unknown_lease"),
        (None, 10, "unknown_lease"),
    ],
)
def test_which_held_leases_are_aborted(
    held: HeldRow | None, minutes: int, code: str | None
) -> None:
    request = msgspec.structs.replace(NEXT, holding=(LEASE,))
    known = {} if held is None else {LEASE: held}
    aborts = holding.unknown_to_server(request, known, ME, after(minutes), 0.5)
    assert [abort.code for abort in aborts] == ([] if code is None else [code])


def test_a_lease_that_is_reported_gets_a_receipt_and_no_abort() -> None:
    request = msgspec.structs.replace(NEXT, holding=(LEASE,), reports=(DONE,))
    assert holding.unknown_to_server(request, {}, ME, NOW, 0.5) == ()


@pytest.mark.parametrize(
    ("held", "batch_state", "minutes", "offered", "closed"),
    [
        (HELD, "running", 10, 1, 0),
        (HELD, "cancelled", 10, 0, 0),
        (replace(HELD, unit_state="done"), "running", 10, 0, 1),
        (HELD, "running", 60, 0, 0),
    ],
)
def test_what_becomes_of_leases_that_the_vehicle_lost(
    held: HeldRow, batch_state: str, minutes: int, offered: int, closed: int
) -> None:
    batches = {BATCH.id: replace(BATCH, state=batch_state)}
    found = holding.lost_by_client([held], FIRST, batches, after(minutes))
    assert (len(found[0]), len(found[1])) == (offered, closed)


@pytest.mark.parametrize("named", [{"holding": (LEASE,)}, {"reports": (DONE,)}])
def test_what_the_vehicle_names_it_has_not_lost(named: dict[str, object]) -> None:
    request = msgspec.structs.replace(FIRST, **named)
    assert holding.lost_by_client([HELD], request, {BATCH.id: BATCH}, NOW) == ([], [])

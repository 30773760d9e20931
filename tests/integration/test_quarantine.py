"""Vehicles in quarantine over real storage: no work, no voice, and nothing lost for who is honest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server import settings
from server.errors import Conflict
from server.services.quarantine import quarantine, release
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import KFLOP_PER_ROW, LEASE_S, ROWS, WorkServer, work_server
from tests.support.work_talk import join, report, result, rows, talk, work
from workunits.trust import digests
from workunits.wire import limits

UNIT_CREDIT = ROWS * KFLOP_PER_ROW


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def put_aside(server: WorkServer, vehicle: ModelVehicle, reason: str = "it overheats") -> None:
    with server.database.transaction() as repos:
        row = server.vehicle(vehicle.public_key)
        quarantine(repos, row, reason, server.clock.now_ms())


def set_free(server: WorkServer, vehicle: ModelVehicle) -> None:
    with server.database.transaction() as repos:
        release(repos, server.vehicle(vehicle.public_key))


def states(server: WorkServer, vehicle: ModelVehicle) -> list[object]:
    key = digests.of_key(vehicle.public_key)
    query = "SELECT state FROM replicas WHERE vehicle_id = ? ORDER BY id"
    return [state for (state,) in rows(server, query, key)]


def verdicts(server: WorkServer, vehicle: ModelVehicle) -> list[str]:
    talk(server, vehicle)
    return [verdict.verdict for verdict in vehicle.verdicts]


def test_it_gets_no_work_and_its_owner_is_told_why(server: WorkServer) -> None:
    server.publish(3)
    vehicle = join(server, 1)
    put_aside(server, vehicle, "its results differ every night")
    reply = talk(server, vehicle, 3)
    assert reply.leases == ()
    assert reply.notice == (
        "this vehicle is quarantined and gets no work: its results differ every night"
    )
    set_free(server, vehicle)
    reply = talk(server, vehicle, 3)
    assert (len(reply.leases), reply.notice) == (3, None)


def test_a_reason_of_any_length_fits_the_reply(server: WorkServer) -> None:
    vehicle = join(server, 1)
    put_aside(server, vehicle, "x" * 1000)
    notice = talk(server, vehicle, 1).notice
    assert notice is not None
    assert len(notice) == limits.TEXT_CHARS


def test_its_reports_are_taken_and_judged_by_what_others_agree_on(server: WorkServer) -> None:
    batch = server.publish(2)
    held = join(server, 1)
    talk(server, held, 2)
    put_aside(server, held)
    held.compute()
    assert [receipt.outcome for receipt in talk(server, held).receipts] == ["taken"] * 2
    server.settle()
    assert states(server, held) == ["set_aside"] * 2
    work(server, join(server, 2), units=2)
    server.settle()
    # Two results are here and they agree, but only one of them has a voice.
    assert server.batch(batch).units_done == 0
    work(server, join(server, 3), units=2)
    server.settle()
    assert server.batch(batch).state == "completed"
    assert verdicts(server, held) == ["valid", "valid"]
    assert server.vehicle(held.public_key).credit_kflop == 2 * UNIT_CREDIT


def test_a_quorum_of_vehicles_in_quarantine_decides_nothing(server: WorkServer) -> None:
    """Two who lie alike are found out before their results are compared."""
    batch = server.publish(1)
    liars = [join(server, 1, wrong_by=5.0), join(server, 2, wrong_by=5.0)]
    work(server, *liars)
    for liar in liars:
        put_aside(server, liar)
    server.settle()
    assert server.batch(batch).units_done == 0
    honest = [join(server, 3), join(server, 4)]
    work(server, *honest)
    server.settle()
    assert [verdicts(server, vehicle) for vehicle in (*liars, *honest)] == [
        ["invalid"], ["invalid"], ["valid"], ["valid"],
    ]  # fmt: skip
    assert rows(server, "SELECT count(*) FROM ledger") == [(2,)]


def test_what_was_doubted_is_set_aside_too_and_two_others_settle_it(server: WorkServer) -> None:
    batch = server.publish(1)
    liar, honest = join(server, 1, wrong_by=5.0), join(server, 2)
    work(server, liar, honest)
    server.settle()
    put_aside(server, liar)
    assert states(server, liar) == ["set_aside"]
    work(server, join(server, 3))
    server.settle()
    assert server.batch(batch).state == "completed"
    assert (verdicts(server, liar), verdicts(server, honest)) == (["invalid"], ["valid"])


def test_released_its_results_have_their_voice_again(server: WorkServer) -> None:
    batch = server.publish(2)
    paused, other = join(server, 1), join(server, 2)
    work(server, paused, units=2)
    put_aside(server, paused)
    work(server, other, units=2)
    server.settle()
    assert server.batch(batch).units_done == 0
    set_free(server, paused)
    assert states(server, paused) == ["reported"] * 2
    server.settle()
    assert server.batch(batch).state == "completed"
    assert verdicts(server, paused) == ["valid"] * 2


def test_a_late_result_of_a_settled_unit_is_measured_as_anybodys(server: WorkServer) -> None:
    server.publish(1)
    late = join(server, 1)
    talk(server, late, 1)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    work(server, join(server, 2), join(server, 3))
    server.settle()
    put_aside(server, late)
    late.compute()
    talk(server, late)
    server.settle()
    assert verdicts(server, late) == ["valid"]


def test_a_unit_that_fails_drops_what_was_set_aside(server: WorkServer) -> None:
    server.publish(1)
    paused = join(server, 1)
    work(server, paused)
    put_aside(server, paused)
    for seed in range(2, 2 + settings.ERRORS_PER_UNIT):
        vehicle = join(server, seed)
        talk(server, vehicle, 1)
        vehicle.fail()
        talk(server, vehicle)
    assert server.counts(1).state == "failed"
    assert verdicts(server, paused) == ["inconclusive"]


@pytest.mark.parametrize("is_refused", [False, True])
def test_what_fails_in_quarantine_ends_no_unit(server: WorkServer, is_refused: bool) -> None:
    """It is an error of the vehicle, none of the unit."""
    batch = server.publish(1)
    bad = b"no tensors at all"
    for seed in range(settings.ERRORS_PER_UNIT + 1):
        vehicle = join(server, seed)
        [lease] = talk(server, vehicle, 1).leases
        put_aside(server, vehicle)
        if is_refused:
            report(server, vehicle, [result(lease.lease, bad)], bad)
        else:
            vehicle.fail()
            talk(server, vehicle)
        assert server.vehicle(vehicle.public_key).halvings == 1
    honest = [join(server, 20), join(server, 21)]
    work(server, *honest)
    server.settle()
    assert server.batch(batch).state == "completed"


def test_who_leaves_from_quarantine_leaves_no_result_behind(server: WorkServer) -> None:
    server.publish(1)
    paused = join(server, 1)
    work(server, paused)
    put_aside(server, paused)
    server.enrolments().leave(paused.departure(erase=True), digests.plain(b"leave"))
    assert rows(server, "SELECT state FROM replicas WHERE lease_id NOT NULL") == [("returned",)]
    assert server.counts(1).replicas == 2


def test_a_cloned_key_loses_its_voice_at_the_third_sign(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    talk(server, vehicle, 1)
    clone = vehicle.copy()
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    vehicle.compute()
    talk(server, vehicle)
    for sign in range(9):
        stale = clone.copy()
        stale.seq += sign
        server.answer([stale.request()])
    assert states(server, vehicle) == ["set_aside"]
    signs = rows(server, "SELECT count(*) FROM clone_signs")
    assert signs == [(settings.CLONE_SIGNS_TO_QUARANTINE,)]
    set_free(server, vehicle)
    assert rows(server, "SELECT count(*) FROM clone_signs") == [(0,)]
    server.answer([clone.request()])
    assert server.vehicle(vehicle.public_key).state == "active"


def test_release_lifts_the_brake_and_both_say_when_there_is_nothing_to_do(
    server: WorkServer,
) -> None:
    server.publish(6)
    vehicle = join(server, 1)
    with pytest.raises(Conflict, match="nothing holds"):
        set_free(server, vehicle)
    talk(server, vehicle, 6)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    assert talk(server, vehicle, 6).leases == ()
    set_free(server, vehicle)
    assert len(talk(server, vehicle, 6).leases) == 6
    put_aside(server, vehicle)
    with pytest.raises(Conflict, match="is quarantined"):
        put_aside(server, vehicle)
    server.enrolments().leave(vehicle.departure(), digests.plain(b"leave"))
    for act in (put_aside, set_free):
        with pytest.raises(Conflict, match="is retired"):
            act(server, vehicle)

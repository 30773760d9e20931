"""The failure brake where it is fed and felt: leases, reports, verdicts, lapses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server import settings
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import DAY_S, LEASE_S, WorkServer, work_server
from tests.support.work_talk import join, report, result, rows, talk, work
from workunits.trust import digests
from workunits.wire.messages import Reply

MOST = settings.HELD_LEASES


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def take(server: WorkServer, vehicle: ModelVehicle) -> int:
    """How many leases it gets when it wants all there are."""
    return len(talk(server, vehicle, MOST).leases)


def fail_one(server: WorkServer, vehicle: ModelVehicle) -> Reply:
    talk(server, vehicle, 1)
    vehicle.fail()
    return talk(server, vehicle)


def lapse(server: WorkServer, vehicle: ModelVehicle, units: int) -> None:
    talk(server, vehicle, units)
    vehicle.holds.clear()
    server.clock.pass_s(LEASE_S + 1)
    server.settle()


def test_a_new_vehicle_gets_all_it_can_hold(server: WorkServer) -> None:
    server.publish(2 * MOST)
    assert take(server, join(server, 1)) == MOST


def test_each_failed_report_halves_what_comes_next_and_the_owner_is_told(
    server: WorkServer,
) -> None:
    server.publish(2 * MOST)
    vehicle = join(server, 1)
    fail_one(server, vehicle)
    reply = fail_one(server, vehicle)
    assert reply.notice is not None
    assert "holds 12 at most" in reply.notice
    assert take(server, vehicle) == 12
    assert take(server, vehicle) == 0


def test_a_refused_output_is_an_error_and_the_same_report_again_is_none(
    server: WorkServer,
) -> None:
    server.publish(2 * MOST)
    vehicle = join(server, 1)
    [lease] = talk(server, vehicle, 1).leases
    bad = b"no tensors at all"
    for _ in range(3):
        assert report(server, vehicle, [result(lease.lease, bad)], bad).receipts[0].outcome == (
            "refused"
        )
    assert server.vehicle(vehicle.public_key).halvings == 1


def test_a_false_result_is_an_error_and_true_ones_double(server: WorkServer) -> None:
    server.publish(4)
    liar, *honest = (join(server, seed, wrong_by=5.0 * (seed == 1)) for seed in (1, 2, 3))
    work(server, liar, *honest, units=4)
    work(server, *honest, units=4)
    server.settle()
    work(server, *honest, units=4)
    server.settle()
    assert server.vehicle(liar.public_key).invalid == 4
    assert server.vehicle(liar.public_key).halvings == 4
    liar.wrong_by = 0.0
    server.publish(2 * MOST)
    assert take(server, liar) == MOST >> 4
    liar.compute()
    talk(server, liar)
    # Taken, but nobody has confirmed them: nothing is doubled yet.
    assert server.vehicle(liar.public_key).halvings == 4
    work(server, honest[0], units=MOST)
    server.settle()
    assert server.vehicle(liar.public_key).halvings == 4 - (MOST >> 4)


def test_who_fails_everything_costs_a_few_errors_an_hour(server: WorkServer) -> None:
    server.publish(100)
    vehicle = join(server, 1)
    for _ in range(60):
        talk(server, vehicle, MOST)
        vehicle.fail()
        reply = talk(server, vehicle)
    assert reply.notice is not None
    assert "gets new ones in" in reply.notice
    [(errors,)] = rows(server, "SELECT sum(errors) FROM units")
    server.clock.pass_s(settings.ERROR_REST_MS // 1000)
    for _ in range(10):
        fail_one(server, vehicle)
    assert rows(server, "SELECT sum(errors) FROM units") == [(int(str(errors)) + 1,)]


def test_five_lost_in_a_row_pause_it_for_a_day_and_then_one_at_a_time(server: WorkServer) -> None:
    server.publish(30)
    vehicle = join(server, 1)
    lapse(server, vehicle, settings.LOST_IN_ROW_TO_PAUSE)
    reply = talk(server, vehicle, 9)
    assert reply.leases == ()
    assert reply.notice == (
        "this vehicle let 5 units in a row run out of time; it gets new ones in 24 h"
    )
    server.clock.pass_s(DAY_S)
    assert take(server, vehicle) == 1
    vehicle.compute()
    talk(server, vehicle)
    assert take(server, vehicle) == 29


def test_a_car_that_comes_home_late_brings_its_results_and_goes_on(server: WorkServer) -> None:
    server.publish(20)
    vehicle = join(server, 1)
    talk(server, vehicle, 10)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    assert server.vehicle(vehicle.public_key).lost_in_row == 10
    vehicle.compute()
    reply = talk(server, vehicle, 5)
    assert {receipt.outcome for receipt in reply.receipts} == {"taken"}
    assert len(reply.leases) == 5


def test_leases_that_ended_with_their_batch_are_nobodys_lapse(server: WorkServer) -> None:
    batch = server.publish(6, deadline_s=1800)
    vehicle = join(server, 1)
    server.clock.pass_s(0.5)
    assert take(server, vehicle) == 6
    server.clock.pass_s(1801)
    server.settle()
    assert server.batch(batch).state == "expired"
    assert server.vehicle(vehicle.public_key).lost_in_row == 0
    server.publish(6)
    vehicle.compute()
    reply = talk(server, vehicle, 6)
    assert (len(reply.leases), reply.notice) == (6, None)


def test_a_paused_vehicle_still_reports_what_it_holds(server: WorkServer) -> None:
    server.publish(10, lease_s=LEASE_S)
    vehicle = join(server, 1)
    for _ in range(settings.LOST_IN_ROW_TO_PAUSE):
        talk(server, vehicle, 1)
    kept = dict(list(vehicle.holds.items())[-1:])
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    vehicle.holds = kept
    vehicle.compute()
    assert [receipt.outcome for receipt in talk(server, vehicle).receipts] == ["taken"]


# --- lapses of one owner -----------------------------------------------------------------------------


def test_one_owner_who_lets_leases_lapse_ends_no_unit_alone(server: WorkServer) -> None:
    """With many vehicles, so that no brake stops them."""
    batch = server.publish(1)
    join(server, 0)
    for number in range(12):
        lapse(server, join(server, 100 + number, owner=0), 1)
    assert rows(server, "SELECT count(*) FROM replicas WHERE state = 'lost'") == [(12,)]
    assert (server.counts(1).state, server.counts(1).replicas) == ("open", 3)
    work(server, join(server, 1), join(server, 2))
    server.settle()
    assert server.batch(batch).state == "completed"


def test_lapses_of_many_owners_still_end_a_unit(server: WorkServer) -> None:
    server.publish(1)
    for seed in range(settings.REPLICAS_PER_UNIT):
        lapse(server, join(server, seed), 1)
    assert server.counts(1).state == "failed"


def test_a_repeated_lapse_that_is_reported_late_counts_and_leaves_like_any(
    server: WorkServer,
) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    lapse(server, vehicle, 1)
    talk(server, vehicle, 1)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    assert server.counts(1).replicas == 3
    vehicle.compute()
    assert talk(server, vehicle).receipts[0].outcome == "taken"
    check_invariants(server.path)
    server.enrolments().leave(vehicle.departure(), digests.plain(b"leave"))
    assert server.counts(1).replicas == 3

"""What a cheat tried with real keys, over real storage: two voices, rolled-back sessions, churn."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from server import settings
from server.errors import Conflict
from server.services.departing import KeyHasLeft, UnknownKey
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import DAY_S, WorkServer, work_server
from workunits.trust import digests
from workunits.wire import codec
from workunits.wire.messages import Departed, Departure, Enrolment, Reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def enrol(server: WorkServer, request: Enrolment) -> None:
    digest = digests.of_request(codec.pack(request))
    server.enrolments().enrol(request, digest, None)


def leave(server: WorkServer, request: Departure) -> Departed:
    digest = digests.of_request(codec.pack(request))
    sealed = server.enrolments().leave(request, digest)
    return codec.unpack(sealed.payload, Departed, most=2**20)


def join(server: WorkServer, seed: int, wrong_by: float = 0.0, how: str = "new") -> ModelVehicle:
    vehicle = ModelVehicle(seed, seed, wrong_by)
    enrol(server, vehicle.enrolment(how=how))
    return vehicle


def talk(server: WorkServer, vehicle: ModelVehicle, units: int = 0) -> Reply:
    reply = vehicle.hear(server.answer([vehicle.request(units)])[0])
    assert isinstance(reply, Reply)
    return reply


def work(server: WorkServer, vehicle: ModelVehicle, units: int = 1) -> None:
    talk(server, vehicle, units)
    vehicle.compute()
    talk(server, vehicle)


def rows(server: WorkServer, query: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(server.path)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


# --- one key, two voices ---------------------------------------------------------------------------


@pytest.mark.parametrize("erase", [False, True])
def test_who_leaves_takes_what_has_no_verdict_along(server: WorkServer, erase: bool) -> None:
    server.publish(3)
    liar = join(server, 1, wrong_by=5.0)
    work(server, liar, 2)
    talk(server, liar, 1)
    leave(server, liar.departure(erase=erase))
    assert (
        rows(server, "SELECT state, code, owner_id FROM replicas WHERE lease_id NOT NULL")
        == [("returned", "vehicle_left", None)] * 3
    )
    for unit in (1, 2, 3):
        assert (server.counts(unit).tally.ready, server.counts(unit).replicas) == (2, 2)
    for seed in (2, 3):
        work(server, join(server, seed), 3)
    server.settle()
    assert {server.counts(unit).state for unit in (1, 2, 3)} == {"done"}


def test_doubted_results_are_withdrawn_too_and_the_unit_goes_on(server: WorkServer) -> None:
    batch = server.publish(1)
    liar, honest = join(server, 1, wrong_by=5.0), join(server, 2)
    for vehicle in (liar, honest):
        work(server, vehicle)
    server.settle()
    assert server.counts(1).tally.inconclusive == 2
    leave(server, liar.departure(erase=True))
    work(server, join(server, 3))
    server.settle()
    assert server.batch(batch).state == "completed"


def test_a_result_that_was_withdrawn_is_not_compared(server: WorkServer) -> None:
    server.publish(1)
    one, two = join(server, 1), join(server, 2)
    for vehicle in (one, two):
        work(server, vehicle)
    leave(server, one.departure(erase=True))
    server.settle()
    assert server.counts(1).state == "open"


@pytest.mark.parametrize("erase", [False, True])
def test_a_key_that_has_left_does_not_come_back(server: WorkServer, erase: bool) -> None:
    vehicle = join(server, 1)
    first = vehicle.enrolment()
    leave(server, vehicle.departure(erase=erase))
    owners = server.owners()
    again = ModelVehicle(1, 7)
    again.begin_session()
    for request in (first, vehicle.enrolment(how="existing"), again.enrolment()):
        with pytest.raises(KeyHasLeft, match="new directory"):
            enrol(server, request)
    assert server.owners() == owners


def test_the_other_vehicles_of_an_erased_owner_do_not_come_back_either(server: WorkServer) -> None:
    first = join(server, 1)
    second = ModelVehicle(2, 1)
    enrol(server, second.enrolment(how="existing"))
    leave(server, first.departure(erase=True))
    with pytest.raises(KeyHasLeft):
        enrol(server, second.enrolment(how="new"))
    assert leave(server, second.departure()).erased


def test_after_erasing_nothing_names_the_key(server: WorkServer) -> None:
    server.publish(5)
    leaver, liar, other = join(server, 1), join(server, 3, wrong_by=5.0), join(server, 2)
    for vehicle in (leaver, liar):
        work(server, vehicle, 1)
    server.settle()
    work(server, other, 5)
    server.settle()
    credit = server.vehicle(leaver.public_key).credit_kflop
    assert server.vehicle(liar.public_key).invalid == 1
    for vehicle in (leaver, liar):
        work(server, vehicle, 1)
        talk(server, vehicle, 1)
        leave(server, vehicle.departure(erase=True))
    dump = sqlite3.connect(server.path)
    for vehicle in (leaver, liar):
        key = digests.of_key(vehicle.public_key).hex().upper()
        assert not [line for line in dump.iterdump() if key in line.upper()]
    dump.close()
    check_invariants(server.path)
    erased = [owner for owner in server.owners() if owner.state == "erased"]
    assert sorted(owner.credit_kflop for owner in erased) == [0, credit]
    assert credit > 0


# --- signs of a clone ------------------------------------------------------------------------------


def _resynced(server: WorkServer) -> tuple[ModelVehicle, ModelVehicle]:
    """A vehicle in its second session, and its copy that is still in the first."""
    vehicle = join(server, 1)
    talk(server, vehicle)
    copy = vehicle.copy()
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    talk(server, vehicle)
    return vehicle, copy


def test_the_same_request_repeated_is_one_sign(server: WorkServer) -> None:
    vehicle, copy = _resynced(server)
    raw = copy.request()
    for _ in range(2 * settings.CLONE_SIGNS_TO_QUARANTINE):
        server.answer([raw, raw])
    assert server.vehicle(vehicle.public_key).state == "active"
    assert rows(server, "SELECT count(*) FROM clone_signs") == [(1,)]


# --- enrolments replayed ---------------------------------------------------------------------------


def test_an_older_enrolment_never_brings_its_session_back(server: WorkServer) -> None:
    vehicle = join(server, 1)
    first = vehicle.enrolment()
    vehicle.begin_session()
    second = vehicle.enrolment()
    enrol(server, second)
    server.clock.pass_s(2 * DAY_S)
    server.settle()
    with pytest.raises(Conflict, match="session has ended"):
        enrol(server, first)
    enrol(server, second)
    assert server.vehicle(vehicle.public_key).session == vehicle.session


def test_the_last_enrolment_again_leaves_a_later_session_alone(server: WorkServer) -> None:
    vehicle, copy = _resynced(server)
    server.clock.pass_s(2 * DAY_S)
    server.settle()
    enrol(server, copy.enrolment())
    assert server.vehicle(vehicle.public_key).session == vehicle.session != copy.session


# --- taking and returning --------------------------------------------------------------------------


def _churn(server: WorkServer, vehicle: ModelVehicle, times: int) -> list[Reply]:
    replies = []
    for _ in range(times):
        vehicle.give_back()
        replies.append(talk(server, vehicle, settings.HELD_LEASES))
    return replies


def test_who_only_takes_and_returns_rests_for_the_hour(server: WorkServer) -> None:
    server.publish(80)
    vehicle = join(server, 1)
    replies = _churn(server, vehicle, 9)
    most = settings.RETURNS_PER_HOUR + settings.HELD_LEASES
    [(returned,)] = rows(server, "SELECT count(*) FROM replicas WHERE state = 'returned'")
    assert isinstance(returned, int)
    assert settings.RETURNS_PER_HOUR < returned <= most
    assert replies[-1].leases == ()
    assert replies[-1].notice is not None
    assert "handed back" in replies[-1].notice
    assert replies[0].notice is None
    server.clock.pass_s(3601)
    assert len(talk(server, vehicle, 3).leases) == 3
    assert talk(server, vehicle).notice is None


def test_a_return_that_is_repeated_counts_once(server: WorkServer) -> None:
    server.publish(5)
    vehicle = join(server, 1)
    talk(server, vehicle, 1)
    vehicle.give_back()
    done = dict(vehicle.done)
    for _ in range(3):
        vehicle.done = dict(done)
        talk(server, vehicle)
    assert server.vehicle(vehicle.public_key).returns == 1


def test_with_two_owners_a_car_that_drives_off_and_comes_back_completes(
    server: WorkServer,
) -> None:
    batch = server.publish(6)
    one, two = join(server, 1), join(server, 2)
    for _ in range(4):
        talk(server, one, 6)
        one.give_back()
        talk(server, one)
    for vehicle in (one, two):
        work(server, vehicle, 6)
    server.settle()
    assert server.batch(batch).state == "completed"


# --- leaving without being there -------------------------------------------------------------------


def test_a_stranger_who_leaves_is_told_so_and_not_written_down(server: WorkServer) -> None:
    with pytest.raises(UnknownKey, match="does not know"):
        leave(server, ModelVehicle(9, 9).departure())
    assert UnknownKey.code == "unknown_vehicle"
    assert rows(server, "SELECT count(*) FROM departures") == [(0,)]


def test_who_has_left_may_say_so_often_and_it_is_kept_once_and_for_a_month(
    server: WorkServer,
) -> None:
    vehicle = join(server, 1)
    kept = vehicle.departure()
    first = leave(server, kept)
    for number in range(3):
        more = msgspec.structs.replace(kept, nonce=bytes([number]) * 16)
        assert not leave(server, more).erased
    assert rows(server, "SELECT count(*) FROM departures") == [(1,)]
    server.clock.pass_s(29 * DAY_S)
    server.settle()
    assert leave(server, kept) == first
    server.clock.pass_s(2 * DAY_S)
    server.settle()
    assert rows(server, "SELECT count(*) FROM departures") == [(0,)]

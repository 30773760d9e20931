"""Dispatch over a window that is smaller than what is ready."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.domain.names import public_blob
from server.domain.records import VehicleRow
from server.domain.work import UnitChange
from server.errors import Damaged, Outage
from server.services.leasing import Ask, Granted, Leasing
from server.services.manifests import Manifests
from server.services.ready import ReadyReplicas
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import WorkServer, work_server
from workunits.trust import digests
from workunits.wire.messages import Reply, Wish

UNITS = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


@pytest.fixture
def leasing(server: WorkServer) -> Leasing:
    return small(server)


def small(server: WorkServer) -> Leasing:
    """Blocks of 6 rows, at most 12 of them in memory."""
    return Leasing(Manifests(server.blobs), server.randomness, ReadyReplicas(block=6, most=12))


def vehicle_of(server: WorkServer, owner: int) -> VehicleRow:
    """The vehicle of a new owner."""
    vehicle = ModelVehicle(owner, owner)
    server.enrolments().enrol(vehicle.enrolment(), digests.plain(b"e"), None)
    return server.vehicle(vehicle.public_key)


def lease(
    server: WorkServer, leasing: Leasing, *asks: tuple[VehicleRow, int]
) -> list[tuple[Granted, ...]]:
    asked = [
        Ask(vehicle, Wish(seconds=9999, units=units, free_disk=10**9)) for vehicle, units in asks
    ]
    with server.database.transaction() as repos:
        granted = leasing.lease(repos, asked, server.clock.now_ms())
    leasing.committed()
    return granted


def drain(server: WorkServer, leasing: Leasing, vehicle: VehicleRow, units: int) -> list[int]:
    found: list[int] = []
    while granted := lease(server, leasing, (vehicle, units))[0]:
        found += [one.replica.idx for one in granted]
    return found


@pytest.mark.parametrize("units", [1, 3, 7])
def test_every_owner_gets_every_unit_once_in_order(
    server: WorkServer, leasing: Leasing, units: int
) -> None:
    server.publish(UNITS)
    for owner in range(2):
        vehicle = vehicle_of(server, owner)
        assert drain(server, leasing, vehicle, units) == list(range(UNITS))
    third = vehicle_of(server, 2)
    assert drain(server, leasing, third, units) == []


def test_owners_in_turn_share_what_is_there(server: WorkServer, leasing: Leasing) -> None:
    server.publish(UNITS)
    fleet = [vehicle_of(server, owner) for owner in range(5)]
    found: list[int] = []
    for _ in range(2 * UNITS):
        for granted in lease(server, leasing, *((vehicle, 2) for vehicle in fleet)):
            found += [one.replica.idx for one in granted]
    assert sorted(found) == sorted(2 * list(range(UNITS)))


def test_an_owner_who_comes_late_finds_what_the_window_has_dropped(
    server: WorkServer, leasing: Leasing
) -> None:
    """One owner alone leaves the second replica of each unit behind."""
    server.publish(UNITS)
    first, second = vehicle_of(server, 0), vehicle_of(server, 1)
    drain(server, leasing, first, 3)
    assert sorted(drain(server, leasing, second, 3)) == list(range(UNITS))


def test_after_a_restart_places_are_found_again(server: WorkServer) -> None:
    server.publish(UNITS)
    first, second = vehicle_of(server, 0), vehicle_of(server, 1)
    got = [one.replica.idx for one in lease(server, small(server), (first, 9))[0]]
    again = small(server)
    got += drain(server, again, first, 9)
    assert got == list(range(UNITS))
    assert sorted(drain(server, again, second, 9)) == list(range(UNITS))


def test_what_was_rolled_back_is_given_again(server: WorkServer, leasing: Leasing) -> None:
    server.publish(UNITS)
    vehicle = vehicle_of(server, 0)
    first = [one.replica.idx for one in lease(server, leasing, (vehicle, 5))[0]]
    with pytest.raises(Outage):
        _lease_in_vain(server, leasing, vehicle)
    leasing.rolled_back()
    assert first + drain(server, leasing, vehicle, 5) == list(range(UNITS))


def _lease_in_vain(server: WorkServer, leasing: Leasing, vehicle: VehicleRow) -> None:
    ask = Ask(vehicle, Wish(seconds=9999, units=5, free_disk=10**9))
    with server.database.transaction() as repos:
        assert leasing.lease(repos, [ask], server.clock.now_ms())[0]
        raise Outage("the disk is full")


def test_units_that_were_settled_behind_the_window_are_not_given(
    server: WorkServer, leasing: Leasing
) -> None:
    batch = server.publish(UNITS)
    vehicle = vehicle_of(server, 0)
    lease(server, leasing, (vehicle, 1))
    with server.database.transaction() as repos:
        units, _ = repos.batches.open_units(batch.id, 5)
        settled = [unit for unit, _ in units][1:]
        repos.units.change([UnitChange(unit, "open", "cancelled") for unit in settled])
        repos.replicas.close(settled, server.clock.now_ms())
    found: list[int] = []
    for _ in range(UNITS):
        found += [one.replica.idx for one in lease(server, leasing, (vehicle, 1))[0]]
    assert found == list(range(5, UNITS))


def test_older_batches_come_first(server: WorkServer, leasing: Leasing) -> None:
    old = server.publish(2)
    server.clock.pass_s(1)
    new = server.publish(2)
    vehicle = vehicle_of(server, 0)
    granted = lease(server, leasing, (vehicle, 3))[0]
    assert [one.batch.id for one in granted] == [old.id, old.id, new.id]


@pytest.mark.parametrize("damage", [None, b"", b"0123456789", "longer", "another root"])
@pytest.mark.parametrize("what", ["manifest", "tree"])
def test_a_batch_with_a_damaged_blob_is_passed_over_until_it_is_mended(
    server: WorkServer, leasing: Leasing, what: str, damage: bytes | str | None
) -> None:
    broken, sound = server.publish(3), server.publish(3)
    name = broken.tree if what == "tree" else public_blob(broken.manifest)
    whole = server.blobs.read(name)
    if damage is None:
        server.blobs.delete(name)
    else:
        changed = {"longer": whole + bytes(32), "another root": whole[:-1] + bytes([whole[-1] ^ 1])}
        server.blobs.put(name, damage if isinstance(damage, bytes) else changed[damage])
    vehicle = vehicle_of(server, 1)
    granted = lease(server, leasing, (vehicle, 9))[0]
    assert [one.batch.id for one in granted] == [sound.id] * 3
    server.blobs.put(name, whole)
    granted = lease(server, leasing, (vehicle, 9))[0]
    assert [one.batch.id for one in granted] == [broken.id] * 3


def test_what_the_server_stored_is_never_the_vehicles_fault(server: WorkServer) -> None:
    server.publish(1)
    vehicle = ModelVehicle(1, 1)
    server.enrolments().enrol(vehicle.enrolment(), digests.plain(b"e"), None)
    with closing(sqlite3.connect(server.path)) as connection, connection:
        connection.execute("UPDATE units SET body = x'00'")
    with pytest.raises(Damaged):
        server.answer([vehicle.request(1)])


def test_a_lease_of_a_damaged_batch_is_not_sent_again_before_it_is_mended(
    server: WorkServer,
) -> None:
    batch = server.publish(1)
    vehicle = ModelVehicle(1, 1)
    server.enrolments().enrol(vehicle.enrolment(), digests.plain(b"e"), None)
    vehicle.hear(server.answer([vehicle.request(1)])[0])
    assert vehicle.holds
    tree = server.blobs.read(batch.tree)
    server.blobs.put(batch.tree, tree + tree)
    server.start()
    for whole, leases in ((tree + tree, 0), (tree, 1)):
        server.blobs.put(batch.tree, whole)
        vehicle.holds.clear()
        vehicle.begin_session()
        vehicle.hear(server.answer([vehicle.request()])[0])
        reply = vehicle.hear(server.answer([vehicle.request()])[0])
        assert isinstance(reply, Reply)
        assert len(reply.leases) == leases

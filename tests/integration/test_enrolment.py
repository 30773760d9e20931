"""Joining, recovering, leaving and erasing over real storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from server import settings
from server.domain.pseudonyms import BadName
from server.errors import Conflict, Forbidden, TooMany
from server.services.enrolment import Enrolments, TermsChanged, TooOften, UpgradeNeeded
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import WorkServer, work_server
from workunits.trust import digests
from workunits.wire import codec
from workunits.wire.messages import Departed, Enrolled, Enrolment, Envelope, Reply

ASKED = digests.plain(b"the request")
NETWORK = "203.0.113.0/24"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


@pytest.fixture
def door(server: WorkServer) -> Enrolments:
    return server.enrolments()


def enrolled(sealed: Envelope) -> Enrolled:
    return codec.unpack(sealed.payload, Enrolled, most=2**20)


def departed(sealed: Envelope) -> Departed:
    return codec.unpack(sealed.payload, Departed, most=2**20)


def enrol(door: Enrolments, request: Enrolment, network: str | None = None) -> Enrolled:
    return enrolled(door.enrol(request, digests.of_request(codec.pack(request)), network))


def work(server: WorkServer, vehicle: ModelVehicle, units: int = 2) -> Reply:
    reply = vehicle.hear(server.answer([vehicle.request(units)])[0])
    assert isinstance(reply, Reply)
    return reply


def test_joining_makes_an_owner_with_a_pseudonym(server: WorkServer, door: Enrolments) -> None:
    vehicle = ModelVehicle(1, 1)
    answer = enrolled(door.enrol(vehicle.enrolment(), ASKED, None))
    assert answer.in_reply_to == ASKED
    assert answer.vehicle == digests.of_key(vehicle.public_key)
    assert answer.epoch == 1
    [owner] = server.owners()
    assert (owner.id, owner.name, owner.is_public) == (answer.owner, answer.owner_name, False)


def test_joining_again_gives_the_same_answer_and_keeps_the_session(
    server: WorkServer, door: Enrolments
) -> None:
    server.publish(2)
    vehicle = ModelVehicle(1, 1)
    first = enrol(door, vehicle.enrolment())
    work(server, vehicle)
    assert enrol(door, vehicle.enrolment()) == first
    assert server.vehicle(vehicle.public_key).seq == 1


def test_a_new_session_at_the_door_begins_anew_and_keeps_the_leases(
    server: WorkServer, door: Enrolments
) -> None:
    server.publish(2)
    vehicle = ModelVehicle(1, 1)
    enrol(door, vehicle.enrolment())
    work(server, vehicle)
    leases = set(vehicle.holds)
    fresh = ModelVehicle(1, 1)
    fresh.begin_session()
    enrol(door, fresh.enrolment())
    assert {lease.lease for lease in work(server, fresh, 0).leases} == leases
    with pytest.raises(Conflict, match="session has ended"):
        enrol(door, vehicle.enrolment())


def test_a_second_vehicle_joins_its_owner_by_the_code(server: WorkServer, door: Enrolments) -> None:
    first = enrol(door, ModelVehicle(1, 1).enrolment(name="Amber Lynx"))
    second = enrol(door, ModelVehicle(2, 1).enrolment(how="existing"))
    assert second.owner == first.owner
    assert second.owner_name == "Amber Lynx"
    with pytest.raises(Forbidden, match="recovery code"):
        enrol(door, ModelVehicle(3, 9).enrolment(how="existing"))
    with pytest.raises(Conflict, match="--owner"):
        enrol(door, ModelVehicle(4, 1).enrolment())
    with pytest.raises(Forbidden, match="another owner"):
        enrol(door, ModelVehicle(2, 5).enrolment())


def test_names_that_look_alike_are_one_name(door: Enrolments) -> None:
    enrol(door, ModelVehicle(1, 1).enrolment(name="Amber"))
    for name in ("amber", "Ａmber", " AMBER "):
        with pytest.raises(Conflict, match="taken"):
            enrol(door, ModelVehicle(2, 2).enrolment(name=name))
    with pytest.raises(BadName):
        enrol(door, ModelVehicle(2, 2).enrolment(name="Am\u202eber"))


def test_with_invitations_each_is_good_for_one_vehicle(server: WorkServer) -> None:
    door = server.enrolments("invite")
    with server.database.transaction() as repos:
        repos.joining.add_invite(digests.of_invite("come"), server.clock.now_ms())
    for invite in (None, "wrong"):
        with pytest.raises(Forbidden, match="invitation"):
            enrol(door, ModelVehicle(1, 1).enrolment(invite=invite))
    enrol(door, ModelVehicle(1, 1).enrolment(invite="come"))
    with pytest.raises(Forbidden, match="used already"):
        enrol(door, ModelVehicle(2, 2).enrolment(invite="come"))
    enrol(door, ModelVehicle(3, 1).enrolment(how="existing"))


def test_a_network_joins_so_often_an_hour_and_loopback_as_often_as_it_likes(
    server: WorkServer, door: Enrolments
) -> None:
    for seed in range(settings.ENROLMENTS_PER_HOUR):
        enrol(door, ModelVehicle(seed, seed).enrolment(), NETWORK)
    with pytest.raises(TooMany):
        enrol(door, ModelVehicle(50, 50).enrolment(), NETWORK)
    enrol(door, ModelVehicle(1, 1).enrolment(), NETWORK)
    enrol(door, ModelVehicle(51, 51).enrolment(), "198.51.100.0/24")
    enrol(door, ModelVehicle(52, 52).enrolment(), None)
    server.clock.pass_s(3601)
    enrol(door, ModelVehicle(50, 50).enrolment(), NETWORK)


def test_refused_attempts_count_too(door: Enrolments) -> None:
    for seed in range(settings.ENROLMENTS_PER_HOUR):
        with pytest.raises(Forbidden):
            enrol(door, ModelVehicle(seed, seed).enrolment(how="existing"), NETWORK)
    with pytest.raises(TooMany):
        enrol(door, ModelVehicle(50, 50).enrolment(), NETWORK)


def test_other_terms_or_another_protocol_are_refused(door: Enrolments) -> None:
    request = ModelVehicle(1, 1).enrolment()
    consent = msgspec.structs.replace(request.consent, terms=digests.plain(b"older"))
    with pytest.raises(TermsChanged):
        enrol(door, msgspec.structs.replace(request, consent=consent))
    with pytest.raises(UpgradeNeeded):
        enrol(door, msgspec.structs.replace(request, protocol=9))


def test_recovering_retires_the_lost_vehicle_and_frees_its_leases(
    server: WorkServer, door: Enrolments
) -> None:
    server.publish(2, quorum=1)
    lost, new = ModelVehicle(1, 1), ModelVehicle(2, 1)
    owner = enrol(door, lost.enrolment()).owner
    work(server, lost)
    assert enrol(door, new.enrolment(how="recovering")).owner == owner
    assert server.vehicle(lost.public_key).state == "retired"
    assert len(work(server, new).leases) == 2
    reply = work(server, lost)
    assert reply.leases == ()
    assert reply.notice is not None
    with pytest.raises(Forbidden, match="retired"):
        enrol(door, lost.enrolment(how="existing"))


def test_recovering_asks_which_of_several_was_lost(door: Enrolments, server: WorkServer) -> None:
    enrol(door, ModelVehicle(1, 1).enrolment())
    enrol(door, ModelVehicle(2, 1).enrolment(how="existing"))
    with pytest.raises(Conflict, match="car 1"):
        enrol(door, ModelVehicle(3, 1).enrolment(how="recovering"))
    with pytest.raises(Conflict, match="say which"):
        enrol(door, ModelVehicle(3, 1).enrolment(how="recovering", lost="car 7"))
    enrol(door, ModelVehicle(3, 1).enrolment(how="recovering", lost="CAR 2"))
    key = digests.of_key(ModelVehicle(1, 1).public_key).hex()[:10]
    enrol(door, ModelVehicle(4, 1).enrolment(how="recovering", lost=key))
    states = {seed: server.vehicle(ModelVehicle(seed, 1).public_key).state for seed in (1, 2, 3, 4)}
    assert states == {1: "retired", 2: "retired", 3: "active", 4: "active"}


def test_leaving_gives_back_what_was_leased_and_says_so_again(
    server: WorkServer, door: Enrolments
) -> None:
    server.publish(1, quorum=1)
    one, two = ModelVehicle(1, 1), ModelVehicle(2, 2)
    for vehicle in (one, two):
        enrol(door, vehicle.enrolment())
    work(server, one)
    first = door.leave(one.departure(), ASKED)
    server.clock.pass_s(9)
    assert door.leave(one.departure(), ASKED) == first
    assert not departed(first).erased
    assert len(work(server, two).leases) == 1
    again = door.leave(one.departure(), digests.plain(b"another"))
    assert departed(again).in_reply_to == digests.plain(b"another")


def test_erasing_leaves_credit_and_results_but_nobody(server: WorkServer, door: Enrolments) -> None:
    batch = server.publish(1)
    fleet = [ModelVehicle(1, 1), ModelVehicle(2, 2), ModelVehicle(3, 1)]
    for vehicle, how in zip(fleet, ("new", "new", "existing"), strict=True):
        name = f"secret {vehicle.owner}" if how == "new" else None
        enrol(door, vehicle.enrolment(name=name, is_public=True, how=how))
    for vehicle in fleet[:2]:
        work(server, vehicle)
        vehicle.compute()
        work(server, vehicle, 0)
    server.settle()
    before = sum(owner.credit_kflop for owner in server.owners())
    assert departed(door.leave(fleet[0].departure(erase=True), ASKED)).erased
    assert sum(owner.credit_kflop for owner in server.owners()) == before > 0
    assert server.batch(batch).state == "completed"
    assert b"secret 1" not in _everything(server.path)
    assert fleet[2].public_key not in _everything(server.path)
    [erased] = [owner for owner in server.owners() if owner.state == "erased"]
    assert (erased.is_public, erased.code_digest) == (False, None)
    gone = departed(door.leave(fleet[2].departure(erase=True), digests.plain(b"other")))
    assert gone.erased
    # The name and the code are free again, the key is not.
    newcomer = ModelVehicle(9, 1)
    assert enrol(door, newcomer.enrolment(name="secret 1")).owner != erased.id


def test_a_draw_that_is_taken_is_drawn_again(server: WorkServer, door: Enrolments) -> None:
    """The same random bytes again and again: then the owner is asked for a name."""

    class Stuck:
        def token(self, size: int) -> bytes:
            return bytes(size)

    door._randomness = Stuck()
    enrol(door, ModelVehicle(1, 1).enrolment())
    with pytest.raises(Conflict, match="pseudonym"):
        enrol(door, ModelVehicle(2, 2).enrolment())


def _everything(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    rows = []
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    ).fetchall():
        rows += connection.execute(f"SELECT * FROM {table}").fetchall()
    connection.close()
    values = (value for row in rows for value in row)
    return b" ".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


# --- many who join -----------------------------------------------------------------------------------


def attempts(server: WorkServer) -> int:
    connection = sqlite3.connect(server.path)
    found = connection.execute("SELECT count(*) FROM enrolment_attempts").fetchone()
    connection.close()
    return int(found[0])


def test_many_networks_of_one_provider_share_its_limit(
    server: WorkServer, door: Enrolments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENROLMENTS_PER_HOUR_OF_PROVIDER", 5)
    networks = [f"2001:db8:0:{number:x}00::/56" for number in range(6)]
    for seed, network in enumerate(networks[:5]):
        enrol(door, ModelVehicle(seed, seed).enrolment(), network)
    with pytest.raises(TooMany):
        enrol(door, ModelVehicle(5, 5).enrolment(), networks[5])
    enrol(door, ModelVehicle(6, 6).enrolment(), "2001:db9::/56")
    server.clock.pass_s(3601)
    enrol(door, ModelVehicle(5, 5).enrolment(), networks[5])


def test_a_storm_from_everywhere_is_bounded_in_owners_vehicles_and_attempts(
    server: WorkServer, door: Enrolments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a million would be: each from a network and a provider of its own."""
    monkeypatch.setattr(settings, "ENROLMENTS_PER_HOUR_IN_ALL", 20)
    refused = 0
    for seed in range(200):
        network = f"{seed % 200 + 1}.{seed}.0.0/24"
        try:
            enrol(door, ModelVehicle(seed, seed).enrolment(), network)
        except TooMany:
            refused += 1
    assert refused == 180
    assert len(server.owners()) == 20
    # One for the network, one for its provider, one for everybody.
    assert attempts(server) == 3 * 20
    server.clock.pass_s(3601)
    server.settle()
    assert attempts(server) == 0


def test_one_key_enrols_so_often_and_no_more(
    server: WorkServer, door: Enrolments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with another session and a record of consent; the last one still works."""
    monkeypatch.setattr(settings, "ENROLMENTS_PER_VEHICLE", 4)
    vehicle = ModelVehicle(1, 1)
    for _ in range(4):
        enrol(door, vehicle.enrolment())
        last = vehicle.enrolment()
        vehicle.begin_session()
    with pytest.raises(TooOften, match="new directory"):
        enrol(door, vehicle.enrolment())
    assert enrol(door, last).owner
    connection = sqlite3.connect(server.path)
    assert connection.execute("SELECT count(*) FROM consents").fetchone() == (4,)
    connection.close()

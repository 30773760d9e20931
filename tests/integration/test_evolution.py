"""A vehicle of one version of the protocol and a project of others (DESIGN 4, "Evolution")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server import settings
from server.services.enrolment import Enrolments, UpgradeNeeded
from server.services.exchange import Exchange
from server.services.versions import spoken
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import TERMS, FixedSealer, WorkServer, work_server
from workunits.trust import digests, roles
from workunits.wire import codec, limits
from workunits.wire.messages import Message, UpgradeRequired


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def speak(server: WorkServer, oldest: int, newest: int) -> None:
    """As after a start of a program that speaks these versions."""
    server.exchange = Exchange(
        server.database,
        server.blobs,
        FixedSealer(),
        server.clock,
        server.randomness,
        spoken=spoken(server.database, server.clock.now_ms(), oldest, newest),
    )


def two_cars(server: WorkServer) -> list[ModelVehicle]:
    """Both speak version 1 and hold a lease on the only unit, computed."""
    speak(server, 1, 1)
    # The longest there is: with the time its result may be late, it outlives the version.
    server.publish(1, lease_s=limits.LEASE_SECONDS, deadline_s=2 * limits.LEASE_SECONDS)
    cars = [ModelVehicle(seed, seed) for seed in (0, 1)]
    for car in cars:
        server.enrolments().enrol(car.enrolment(), digests.plain(b"e"), None)
        exchange(server, car)
        car.compute()
        assert car.done
    return cars


def exchange(server: WorkServer, car: ModelVehicle) -> Message:
    [answer] = server.answer([car.request()])
    if answer.envelope.payload_type != roles.UPGRADE_REQUIRED:
        car.hear(answer)
    return answer


def units_done(server: WorkServer) -> int:
    server.settle()
    with server.database.reading() as repos:
        return sum(batch.units_done for batch in repos.batches.list())


def test_the_version_before_is_served(server: WorkServer) -> None:
    cars = two_cars(server)
    speak(server, 1, 2)
    for car in cars:
        exchange(server, car)
        assert not car.done
    assert units_done(server) == 1


def test_an_older_one_is_told_to_upgrade_and_its_work_is_taken(server: WorkServer) -> None:
    cars = two_cars(server)
    speak(server, 2, 3)
    for car in cars:
        # It is not heard and sent again, and again: still one result.
        for _ in range(3):
            answer = exchange(server, car)
        told = codec.unpack(answer.envelope.payload, UpgradeRequired, most=2**20)
        assert (told.oldest, told.newest) == (2, 3)
        assert server.vehicle(car.public_key).seq == 1
        assert not answer.attachments
    assert units_done(server) == 1
    # Updated, it hears what became of them; here, by a project that speaks its version again.
    speak(server, 1, 3)
    for car in cars:
        exchange(server, car)
        assert not car.done
        assert [one.verdict for one in car.verdicts] == ["valid"]


def test_after_thirty_days_nothing_is_taken(server: WorkServer) -> None:
    cars = two_cars(server)
    speak(server, 2, 3)
    server.clock.pass_s(settings.OLD_REPORTS_TAKEN_MS / 1000)
    speak(server, 2, 3)  # a start in between begins no new time
    for car in cars:
        assert exchange(server, car).envelope.payload_type == roles.UPGRADE_REQUIRED
    with server.database.reading() as repos:
        held = repos.replicas.by_leases([lease for car in cars for lease in car.holds])
    assert {row.state for row in held.values()} == {"leased"}


def test_a_newer_one_is_told_what_is_spoken(server: WorkServer) -> None:
    speak(server, 1, 2)
    enrolments = Enrolments(
        server.database, FixedSealer(), server.clock, server.randomness,
        sign_up="open", terms=TERMS, spoken=spoken(server.database, server.clock.now_ms(), 2, 3),
    )  # fmt: skip
    with pytest.raises(UpgradeNeeded, match="speaks protocol 2 to 3, the client 1"):
        enrolments.enrol(ModelVehicle(0, 0).enrolment(), digests.plain(b"e"), None)

"""Uploads that are begun and never finished: bounded for one vehicle and for all, and swept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server import settings
from server.domain.records import UploadRow
from server.errors import Busy
from server.http import problems
from server.http.partials import Partials
from server.http.uploads import Offer, QuotaUsed, Uploads
from server.services.standings import Standings
from server.services.sweeping import Sweeping
from server.workers.sweep import Sweep
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import ROWS, TICKET_KEY, WorkServer, output_of, work_server
from tests.support.work_talk import dump, join, report, result, rows, talk
from workunits.trust import digests
from workunits.values import LeaseId

WIDTH = 5_000
SIZE = len(output_of(0, ROWS, width=WIDTH))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


@pytest.fixture
def parts(server: WorkServer) -> Partials:
    folder = server.folder / "uploads"
    folder.mkdir()
    found = Partials(folder)
    server.sweep = Sweep(Sweeping(server.database, found, server.blobs), Standings(server.database))
    return found


@pytest.fixture
def uploads(server: WorkServer, parts: Partials) -> Uploads:
    return Uploads(server.database, server.blobs, parts, server.clock, TICKET_KEY)


@pytest.fixture
def room_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "UPLOAD_BYTES_PER_VEHICLE", 2 * SIZE)


def leased(server: WorkServer, vehicle: ModelVehicle, units: int) -> list[LeaseId]:
    return [lease.lease for lease in talk(server, vehicle, units).leases]


def offer(vehicle: ModelVehicle, lease: LeaseId, raw: bytes) -> Offer:
    key = digests.of_key(vehicle.public_key)
    return Offer(lease, 0, len(raw), digests.of_tensors(raw), key)


def begin(uploads: Uploads, vehicle: ModelVehicle, lease: LeaseId, salt: float = 0.0) -> None:
    """Announce a payload and send its first bytes."""
    raw = output_of(0, ROWS, salt, WIDTH)
    assert not uploads.begin(offer(vehicle, lease, raw)).complete
    uploads.append(lease, raw[:100])


@pytest.mark.usefixtures("room_for_two")
def test_a_vehicle_that_finishes_nothing_is_stopped_and_others_go_on(
    server: WorkServer, uploads: Uploads
) -> None:
    server.publish(9, width=WIDTH)
    hostile, other = join(server, 1), join(server, 2)
    leases = leased(server, hostile, 9)
    for lease in leases[:2]:
        begin(uploads, hostile, lease)
    before = dump(server)
    for lease in leases[2:]:
        with pytest.raises(QuotaUsed, match="report what is complete"):
            begin(uploads, hostile, lease)
    assert dump(server) == before
    begin(uploads, other, leased(server, other, 1)[0])
    # Beginning anew what it has begun takes no more room, and keeps nothing of the former.
    begin(uploads, hostile, leases[0], salt=1.0)
    assert uploads.standing(leases[0]).received == 100


def test_it_is_told_so_as_a_problem_that_says_when_to_come_again() -> None:
    problem = problems.of_error(QuotaUsed("9 bytes of this vehicle wait for their reports"))
    assert (problem.status, problem.code) == (429, "upload_quota_used")
    assert int(problem.headers()["Retry-After"]) > 0


@pytest.mark.usefixtures("room_for_two")
def test_what_a_result_names_takes_no_quota(server: WorkServer, uploads: Uploads) -> None:
    server.publish(5, width=WIDTH)
    honest = join(server, 1)
    for lease in leased(server, honest, 5):
        raw = output_of(0, ROWS, width=WIDTH)
        whole = offer(honest, lease, raw)
        uploads.begin(whole)
        uploads.append(lease, raw)
        assert uploads.finish(whole).complete
        assert report(server, honest, [result(lease, raw)]).receipts[0].outcome == "taken"


def test_all_vehicles_together_have_a_bound_and_the_sweep_frees_it(
    server: WorkServer, uploads: Uploads, parts: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "UPLOAD_BYTES_IN_ALL", 3 * SIZE)
    server.publish(4, width=WIDTH, lease_s=30 * settings.DAY_S, deadline_s=60 * settings.DAY_S)
    fleet = [join(server, seed) for seed in range(4)]
    held = [leased(server, vehicle, 1)[0] for vehicle in fleet]
    for vehicle, lease in zip(fleet[:3], held[:3], strict=True):
        begin(uploads, vehicle, lease)
    with pytest.raises(Busy):
        begin(uploads, fleet[3], held[3])
    assert parts.received(held[3]) == 0
    server.clock.pass_s(settings.UPLOADS_KEPT_MS // 1000 + 1)
    server.settle()
    assert rows(server, "SELECT count(*) FROM uploads") == [(0,)]
    assert [parts.received(lease) for lease in held] == [0] * 4
    begin(uploads, fleet[3], held[3])


def test_an_upload_that_goes_on_after_a_crash_keeps_its_owner(
    server: WorkServer, uploads: Uploads
) -> None:
    server.publish(1, width=WIDTH)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle, 1)
    raw = output_of(0, ROWS, width=WIDTH)
    uploads.begin(offer(vehicle, lease, raw))
    uploads.append(lease, raw)
    assert uploads.standing(lease).complete
    [(whose,)] = rows(server, "SELECT vehicle_id FROM uploads")
    assert whose == digests.of_key(vehicle.public_key)


def test_erasing_takes_the_key_out_of_uploads_too(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle, 1)
    key = digests.of_key(vehicle.public_key)
    row = UploadRow(lease, digests.plain(b"x"), 9, False, server.clock.now_ms(), key)
    with server.database.transaction() as repos:
        repos.uploads.put(row)
    server.enrolments().leave(vehicle.departure(erase=True), digests.plain(b"leave"))
    assert not [line for line in dump(server) if key.hex().upper() in line.upper()]

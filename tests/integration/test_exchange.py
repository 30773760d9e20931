"""Requests and answers over real storage: once and only once, with a way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from server import settings
from server.domain.names import output_blob
from server.domain.records import UploadRow
from server.errors import Outage
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import LEASE_S, ROWS, WorkServer, output_of, work_server
from workunits.trust import digests, merkle, roles
from workunits.trust import envelope as dsse
from workunits.values import Digest, LeaseId
from workunits.wire import codec
from workunits.wire.messages import (
    Envelope,
    Manifest,
    Message,
    Reply,
    Report,
    Resync,
    Unit,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def join(server: WorkServer, seed: int, owner: int | None = None) -> ModelVehicle:
    vehicle = ModelVehicle(seed, seed if owner is None else owner)
    how = "new" if owner is None else "existing"
    server.enrolments().enrol(vehicle.enrolment(how=how), digests.plain(b"e"), None)
    return vehicle


def talk(server: WorkServer, vehicle: ModelVehicle, units: int = 1) -> Reply:
    answer = vehicle.hear(server.answer([vehicle.request(units)])[0])
    assert isinstance(answer, Reply)
    return answer


def edited(vehicle: ModelVehicle, **changes: object) -> bytes:
    """The vehicle's next request with other fields, signed; the vehicle forgets it."""
    raw = vehicle.request(0)
    vehicle.saved = None
    request = roles.accept_request(dsse.unpack_message(raw).envelope)
    sealed = dsse.seal(msgspec.structs.replace(request, **changes), roles.WORK_REQUEST, vehicle.key)
    return dsse.pack_message(sealed)


def kind(message: Message) -> str:
    return message.envelope.payload_type


def test_a_lease_proves_into_its_manifest_and_its_input_rides_along(server: WorkServer) -> None:
    batch = server.publish(5)
    vehicle = join(server, 1)
    [message] = server.answer([vehicle.request(3)])
    reply = vehicle.hear(message)
    assert isinstance(reply, Reply)
    manifests = dsse.by_digest(message, digests.of_manifest)
    inputs = dsse.by_digest(message, digests.of_tensors)
    assert len(reply.leases) == 3
    for lease in reply.leases:
        sealed = codec.unpack(manifests[lease.manifest], Envelope, most=2**20)
        manifest = codec.unpack(sealed.payload, Manifest, most=2**20)
        unit = codec.unpack(lease.unit, Unit, most=4096)
        merkle.verify(lease.unit, unit.index, batch.units, lease.proof, manifest.root)
        assert unit.inputs[0].digest in inputs
        assert lease.duration_s == LEASE_S
    assert len({lease.ticket for lease in reply.leases}) == 3


def test_a_manifest_that_the_vehicle_has_is_not_sent_again(server: WorkServer) -> None:
    batch = server.publish(1)
    vehicle = join(server, 1)
    request = roles.accept_request(dsse.unpack_message(vehicle.request(1)).envelope)
    assert request.wish is not None
    wish = msgspec.structs.replace(request.wish, manifests=(batch.manifest,))
    sealed = dsse.seal(msgspec.structs.replace(request, wish=wish), roles.WORK_REQUEST, vehicle.key)
    [message] = server.answer([dsse.pack_message(sealed)])
    assert len(message.attachments) == 1


def test_the_same_request_gets_the_same_reply_even_after_a_restart(server: WorkServer) -> None:
    server.publish(2)
    vehicle = join(server, 1)
    raw = vehicle.request(2)
    first = server.answer([raw])
    server.clock.pass_s(600)
    assert server.answer([raw, raw]) == first + first
    server.start()
    assert server.answer([raw]) == first


def test_requests_of_one_vehicle_that_arrive_together_are_heard_in_order(
    server: WorkServer,
) -> None:
    server.publish(4)
    vehicle = join(server, 1)
    first, second = vehicle.request(1), edited(vehicle, seq=7)
    answers = server.answer([first, second, first])
    assert [kind(answer) for answer in answers] == [roles.REPLY, roles.RESYNC, roles.REPLY]
    assert answers[0] == answers[2]


def test_what_a_failed_commit_did_not_lease_is_leased_next_time(server: WorkServer) -> None:
    server.publish(1, quorum=1)
    vehicle = join(server, 1)
    raw = vehicle.request(1)
    server.faults.fail_at(10**6)
    server.answer([raw])
    statements = server.faults.seen
    server.publish(1, quorum=1)
    vehicle.hear(server.answer([raw])[0])
    raw = vehicle.request(1)
    server.faults.fail_at(statements)
    with pytest.raises(Outage):
        server.answer([raw])
    server.faults.work_again()
    assert len(talk(server, vehicle).leases) == 1


def test_an_unknown_key_is_told_so(server: WorkServer) -> None:
    assert kind(server.answer([ModelVehicle(9, 9).request()])[0]) == roles.UNKNOWN_VEHICLE


def test_another_protocol_is_told_which_ones_there_are(server: WorkServer) -> None:
    vehicle = join(server, 1)
    assert kind(server.answer([edited(vehicle, protocol=9)])[0]) == roles.UPGRADE_REQUIRED


def test_a_wrong_number_leads_to_a_new_session_and_back_to_work(server: WorkServer) -> None:
    server.publish(3)
    vehicle = join(server, 1)
    talk(server, vehicle, 2)
    held = set(vehicle.holds)
    vehicle.seq += 5
    resync = vehicle.hear(server.answer([vehicle.request()])[0])
    assert isinstance(resync, Resync)
    reply = talk(server, vehicle, 0)
    assert reply.aborts == ()
    assert reply.leases == ()
    assert set(vehicle.holds) == held


def test_a_resync_offers_one_nonce_until_it_is_used(server: WorkServer) -> None:
    vehicle = join(server, 1)
    answers = [server.answer([edited(vehicle, seq=seq)])[0] for seq in (8, 9)]
    nonces = {codec.unpack(answer.envelope.payload, Resync, most=2**20).nonce for answer in answers}
    assert len(nonces) == 1


def test_what_the_vehicle_lost_is_sent_again_under_the_same_lease(server: WorkServer) -> None:
    server.publish(3)
    vehicle = join(server, 1)
    old = vehicle.copy()
    talk(server, vehicle, 2)
    leases = set(vehicle.holds)
    server.clock.pass_s(1000)
    old.hear(server.answer([old.request(0)])[0])
    reply = talk(server, old, 0)
    assert {lease.lease for lease in reply.leases} == leases
    assert {lease.duration_s for lease in reply.leases} == {LEASE_S - 1000}


def test_a_result_that_was_taken_gets_the_same_receipt_again(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    talk(server, vehicle)
    vehicle.compute()
    old = vehicle.copy()
    first = talk(server, vehicle, 0).receipts
    talk(server, vehicle, 0)
    old.hear(server.answer([old.request(0)])[0])
    assert talk(server, old, 0).receipts == first
    assert first[0].outcome == "taken"


def test_a_lease_that_only_the_vehicle_has_is_aborted(server: WorkServer) -> None:
    vehicle = join(server, 1)
    raw = edited(vehicle, holding=(LeaseId(b"x" * 16),))
    reply = codec.unpack(server.answer([raw])[0].envelope.payload, Reply, most=2**20)
    assert [abort.code for abort in reply.aborts] == ["unknown_lease"]


def test_a_cloned_key_is_quarantined_at_the_third_sign_in_a_day(server: WorkServer) -> None:
    server.publish(9)
    vehicle = join(server, 1)
    talk(server, vehicle)
    clone = vehicle.copy()
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    talk(server, vehicle)
    for sign in range(settings.CLONE_SIGNS_TO_QUARANTINE):
        assert server.vehicle(vehicle.public_key).state == "active", sign
        stale = clone.copy()
        stale.seq += sign
        assert kind(server.answer([stale.request()])[0]) == roles.RESYNC
    assert server.vehicle(vehicle.public_key).state == "quarantined"
    vehicle.compute()
    reply = talk(server, vehicle, 5)
    assert reply.leases == ()
    assert reply.notice is not None
    assert {receipt.outcome for receipt in reply.receipts} == {"taken"}


def test_signs_of_a_clone_are_forgotten_after_a_day(server: WorkServer) -> None:
    vehicle = join(server, 1)
    talk(server, vehicle)
    clone = vehicle.copy()
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    talk(server, vehicle)
    for _ in range(4):
        server.answer([clone.request()])
        server.clock.pass_s(13 * 3600)
    assert server.vehicle(vehicle.public_key).state == "active"


def test_no_work_is_no_error(server: WorkServer) -> None:
    vehicle = join(server, 1)
    reply = talk(server, vehicle, 5)
    assert not reply.has_work
    assert reply.wait_s == settings.NO_WORK_WAIT_S
    assert talk(server, vehicle, 0).wait_s == 0


def test_one_owner_never_gets_a_unit_twice_however_many_vehicles(server: WorkServer) -> None:
    server.publish(3)
    fleet = [join(server, 1), join(server, 2, owner=1), join(server, 3, owner=1)]
    raws = [vehicle.request(5) for vehicle in fleet]
    for vehicle, answer in zip(fleet, server.answer(raws), strict=True):
        vehicle.hear(answer)
    held = [lease.unit for vehicle in fleet for lease in vehicle.holds.values()]
    assert len(held) == len(set(held)) == 3
    assert len(talk(server, join(server, 4), 5).leases) == 3


def test_a_vehicle_holds_no_more_than_the_limit(server: WorkServer) -> None:
    server.publish(80)
    vehicle = join(server, 1)
    assert len(talk(server, vehicle, 40).leases) == 40
    assert len(talk(server, vehicle, 40).leases) == settings.HELD_LEASES - 40
    assert talk(server, vehicle, 40).leases == ()


def test_a_returned_unit_goes_to_another_and_may_come_back(server: WorkServer) -> None:
    server.publish(1, quorum=1)
    one, two = join(server, 1), join(server, 2)
    talk(server, one)
    one.give_back()
    talk(server, one, 0)
    assert len(talk(server, one).leases) == 1
    one.give_back()
    talk(server, one, 0)
    assert len(talk(server, two).leases) == 1
    assert server.counts(1).replicas == 1


def test_a_unit_fails_after_four_errors_and_so_does_its_batch(server: WorkServer) -> None:
    batch = server.publish(1)
    for seed in range(settings.ERRORS_PER_UNIT):
        vehicle = join(server, seed)
        talk(server, vehicle)
        vehicle.fail()
        assert talk(server, vehicle, 0).receipts[0].outcome == "taken"
    assert server.counts(1).state == "failed"
    assert server.batch(batch).state == "failed"
    assert server.batch(batch).rows_failed == ROWS


def report(lease: LeaseId, raw: bytes) -> Report:
    return Report(lease=lease, outcome="done", output=digests.of_tensors(raw), output_size=len(raw))


def send(vehicle: ModelVehicle, reports: tuple[Report, ...], *carried: bytes) -> bytes:
    request = roles.accept_request(dsse.unpack_message(vehicle.request(0)).envelope)
    request = msgspec.structs.replace(request, reports=reports)
    vehicle.saved = dsse.pack_message(dsse.seal(request, roles.WORK_REQUEST, vehicle.key), carried)
    return vehicle.saved


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"no tensors at all", "limit_exceeded"),
        (output_of(0, ROWS + 1), "tensors_refused"),
        (output_of(0, ROWS)[:-1], "malformed_message"),
    ],
)
def test_a_malformed_output_costs_its_vehicle_that_item_only(
    server: WorkServer, raw: bytes, code: str
) -> None:
    server.publish(2)
    vehicle = join(server, 1)
    first, second = (lease.lease for lease in talk(server, vehicle, 2).leases)
    good = output_of(1, ROWS)
    reports = (report(first, raw), report(second, good))
    reply = vehicle.hear(server.answer([send(vehicle, reports, raw, good)])[0])
    assert isinstance(reply, Reply)
    assert [receipt.outcome for receipt in reply.receipts] == ["refused", "taken"]
    assert reply.receipts[0].code == code
    assert server.counts(1).errors == 1


def test_a_report_that_lies_about_its_size_or_has_no_output_is_refused(server: WorkServer) -> None:
    server.publish(2)
    vehicle = join(server, 1)
    first, second = (lease.lease for lease in talk(server, vehicle, 2).leases)
    good = output_of(0, ROWS)
    lie = msgspec.structs.replace(report(first, good), output_size=1)
    nothing = Report(lease=second, outcome="done")
    reply = vehicle.hear(server.answer([send(vehicle, (lie, nothing), good)])[0])
    assert isinstance(reply, Reply)
    assert [receipt.outcome for receipt in reply.receipts] == ["refused", "refused"]


def test_a_missing_payload_is_asked_for_until_its_upload_is_complete(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = (lease.lease for lease in talk(server, vehicle).leases)
    raw = output_of(0, ROWS)
    digest = digests.of_tensors(raw)

    def outcome() -> str:
        reply = vehicle.hear(server.answer([send(vehicle, (report(lease, raw),))])[0])
        assert isinstance(reply, Reply)
        return reply.receipts[0].outcome

    upload = UploadRow(lease, digest, len(raw), False, server.clock.now_ms())
    assert outcome() == "again"
    for row in (upload, replace(upload, is_complete=True, digest=Digest(bytes(32)))):
        with server.database.transaction() as repos:
            repos.uploads.put(row)
        assert outcome() == "again"
    with server.database.transaction() as repos:
        repos.uploads.put(replace(upload, is_complete=True))
    assert outcome() == "again"
    server.blobs.put(output_blob(digest), raw)
    assert outcome() == "taken"
    with server.database.reading() as repos:
        assert repos.uploads.get(lease) is None


def test_the_same_lease_reported_twice_in_one_request_counts_once(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = (lease.lease for lease in talk(server, vehicle).leases)
    raw = output_of(0, ROWS)
    twice = (report(lease, raw), report(lease, raw))
    reply = vehicle.hear(server.answer([send(vehicle, twice, raw)])[0])
    assert isinstance(reply, Reply)
    assert [receipt.outcome for receipt in reply.receipts] == ["taken", "taken"]


def test_a_lease_of_another_vehicle_is_refused(server: WorkServer) -> None:
    server.publish(1)
    one, two = join(server, 1), join(server, 2)
    [lease] = (lease.lease for lease in talk(server, one).leases)
    raw = output_of(0, ROWS)
    reply = two.hear(server.answer([send(two, (report(lease, raw),), raw)])[0])
    assert isinstance(reply, Reply)
    assert (reply.receipts[0].outcome, reply.receipts[0].code) == ("refused", "unknown_lease")


def test_a_batch_submitted_by_another_process_is_found(server: WorkServer) -> None:
    vehicle = join(server, 1)
    assert talk(server, vehicle).leases == ()
    server.publish(1)
    assert len(talk(server, vehicle).leases) == 1


def test_free_disk_decides_unless_the_model_is_there(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    request = roles.accept_request(dsse.unpack_message(vehicle.request(1)).envelope)
    assert request.wish is not None
    wish = msgspec.structs.replace(request.wish, free_disk=99)
    vehicle.saved = dsse.pack_message(
        dsse.seal(msgspec.structs.replace(request, wish=wish), roles.WORK_REQUEST, vehicle.key)
    )
    assert talk(server, vehicle).leases == ()

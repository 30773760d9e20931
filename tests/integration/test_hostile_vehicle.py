"""What one hostile vehicle can try with a real key, attack by attack, over real storage.

Each is refused or out-voted with one clear receipt or problem. Whatever is refused leaves the whole
database as it was, but for what says that somebody spoke: the vehicle's own session and brake.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from server import settings
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import (
    KFLOP_PER_ROW,
    LEASE_S,
    ROWS,
    WorkServer,
    arrival,
    output_of,
    work_server,
)
from tests.support.work_talk import (
    asked,
    dump,
    join,
    report,
    result,
    rows,
    signed,
    talk,
    work,
)
from workunits.errors import BadSignature, LimitExceeded, MalformedMessage, WrongPayloadType
from workunits.trust import digests, roles
from workunits.trust import envelope as dsse
from workunits.values import LeaseId, Nonce, SessionId
from workunits.wire import limits, tensors
from workunits.wire.messages import (
    Departure,
    Envelope,
    Message,
    Receipt,
    Report,
    Runtime,
    WorkRequest,
)

GOOD = output_of(0, ROWS)
UNIT_CREDIT = ROWS * KFLOP_PER_ROW


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def leased(server: WorkServer, vehicle: ModelVehicle, units: int = 1) -> list[LeaseId]:
    return [lease.lease for lease in talk(server, vehicle, units).leases]


def verdicts(server: WorkServer, vehicle: ModelVehicle) -> list[str]:
    talk(server, vehicle)
    return [verdict.verdict for verdict in vehicle.verdicts]


def said(receipts: tuple[Receipt, ...]) -> list[tuple[str, str | None]]:
    return [(receipt.outcome, receipt.code) for receipt in receipts]


def tensor(dtype: str, shape: tuple[int, ...], data: bytes, name: str = "y") -> bytes:
    return tensors.encode({name: tensors.RawTensor(dtype, shape, data)})  # type: ignore[arg-type]


# --- results that are wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong_by", [5.0, -5.0, 1e-3, math.nan, math.inf, 3e38], ids=lambda value: str(value)
)
def test_a_wrong_result_is_out_voted_and_earns_nothing(server: WorkServer, wrong_by: float) -> None:
    batch = server.publish(1)
    liar, one, two = join(server, 1, wrong_by=wrong_by), join(server, 2), join(server, 3)
    work(server, liar, one)
    server.settle()
    work(server, two)
    server.settle()
    assert [verdicts(server, vehicle) for vehicle in (liar, one, two)] == [
        ["invalid"], ["valid"], ["valid"],
    ]  # fmt: skip
    assert server.vehicle(liar.public_key).credit_kflop == 0
    with server.database.reading() as repos:
        [outcome] = repos.units.canonical(batch.id)
    assert outcome.output == digests.of_tensors(GOOD)


def test_one_wrong_row_of_many_is_enough_to_be_out_voted(server: WorkServer) -> None:
    server.publish(1)
    liar, one, two = join(server, 1), join(server, 2), join(server, 3)
    values = [0.0, 1.0, 2.0, 3.001]
    [lease] = leased(server, liar)
    raw = tensor("float32", (ROWS, 1), struct.pack("<4f", *values))
    report(server, liar, [result(lease, raw)], raw)
    work(server, one)
    server.settle()
    work(server, two)
    server.settle()
    assert verdicts(server, liar) == ["invalid"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (tensor("float64", (ROWS, 1), struct.pack("<4d", 0, 1, 2, 3)), "tensors_refused"),
        (tensor("int32", (ROWS, 1), struct.pack("<4i", 0, 1, 2, 3)), "tensors_refused"),
        (tensor("float32", (ROWS,), struct.pack("<4f", 0, 1, 2, 3)), "tensors_refused"),
        (tensor("float32", (1, ROWS), struct.pack("<4f", 0, 1, 2, 3)), "tensors_refused"),
        (tensor("float32", (ROWS, 1), struct.pack("<4f", 0, 1, 2, 3), "z"), "tensors_refused"),
        (output_of(0, ROWS - 1), "tensors_refused"),
        (output_of(0, 2 * ROWS), "tensors_refused"),
        (GOOD[:-1], "malformed_message"),
        (GOOD + b"\0", "malformed_message"),
        (GOOD[:20], "malformed_message"),
        (b"", "limit_exceeded"),
    ],
    ids=[
        "float64", "int32", "no column", "turned", "other name", "a row less", "rows twice",
        "truncated", "a byte more", "cut in the header", "empty",
    ],
)  # fmt: skip
def test_another_form_than_the_programs_is_refused_and_stores_no_payload(
    server: WorkServer, raw: bytes, code: str
) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    payloads = rows(server, "SELECT digest FROM payloads")
    reply = report(server, vehicle, [result(lease, raw)], raw)
    [receipt] = reply.receipts
    assert receipt.outcome == "refused"
    assert receipt.detail
    assert "\n" not in receipt.detail
    if raw:
        assert receipt.code == code
    assert rows(server, "SELECT digest FROM payloads") == payloads
    assert server.counts(1).errors == 1


# --- results of others -------------------------------------------------------------------------------


def test_a_digest_that_was_copied_without_its_bytes_is_not_taken(server: WorkServer) -> None:
    """Nobody is served another's output, so the digest is the most that anybody could have learned."""
    server.publish(1)
    honest, thief = join(server, 1), join(server, 2)
    work(server, honest)
    [lease] = leased(server, thief)
    before = dump(server, "vehicles")
    reply = report(server, thief, [result(lease, GOOD)])
    assert said(reply.receipts) == [("again", "payload_missing")]
    assert dump(server, "vehicles") == before


def test_the_outputs_of_a_unit_are_never_served(server: WorkServer) -> None:
    server.publish(2)
    for vehicle in (join(server, 1), join(server, 2)):
        work(server, vehicle, units=2)
    server.settle()
    nosy = join(server, 3)
    [message] = server.answer([nosy.request(50)])
    served = [digests.of_tensors(raw) for raw in message.attachments]
    outputs = {digest for (digest,) in rows(server, "SELECT output FROM units")}
    assert outputs
    assert not outputs & set(served)


def test_two_vehicles_of_one_owner_are_one_voice_even_with_the_same_bytes(
    server: WorkServer,
) -> None:
    batch = server.publish(1)
    one, two = join(server, 1, wrong_by=5.0), join(server, 2, owner=1, wrong_by=5.0)
    work(server, one)
    assert leased(server, two, 5) == []
    [own] = (lease for (lease,) in rows(server, "SELECT lease_id FROM replicas WHERE lease_id"
                                                " NOT NULL"))  # fmt: skip
    wrong = output_of(0, ROWS, 5.0)
    reply = report(server, two, [result(LeaseId(bytes(own)), wrong)], wrong)  # type: ignore[call-overload]
    assert said(reply.receipts) == [("refused", "unknown_lease")]
    server.settle()
    assert server.batch(batch).units_done == 0


def test_the_lease_of_another_changes_nothing_whatever_is_said_of_it(server: WorkServer) -> None:
    server.publish(1)
    honest, thief = join(server, 1), join(server, 2)
    [lease] = leased(server, honest)
    before = dump(server, "vehicles")
    for outcome in ("done", "failed", "returned"):
        said_of_it = msgspec.structs.replace(result(lease, GOOD), outcome=outcome)
        reply = report(server, thief, [said_of_it], GOOD)
        assert said(reply.receipts) == [("refused", "unknown_lease")]
        assert dump(server, "vehicles") == before
    assert server.vehicle(thief.public_key).halvings == 0


# --- too late, too often, too many -------------------------------------------------------------------


def test_a_result_that_comes_too_late_changes_nothing(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    server.clock.pass_s(LEASE_S * 3 // 2 + 1)
    server.settle()
    before = dump(server, "vehicles")
    reply = report(server, vehicle, [result(lease, GOOD)], GOOD)
    assert said(reply.receipts) == [("not_needed", "too_late")]
    assert dump(server, "vehicles") == before


def test_a_result_is_credited_once_however_often_it_is_reported(server: WorkServer) -> None:
    server.publish(1)
    vehicle, other = join(server, 1), join(server, 2)
    [lease] = leased(server, vehicle)
    work(server, other)
    same = [result(lease, GOOD)] * 3
    reply = report(server, vehicle, same, GOOD)
    assert said(reply.receipts) == [("taken", None)] * 3
    server.settle()
    before = dump(server, "vehicles", "replicas")
    for raw in (GOOD, output_of(0, ROWS, 5.0)):
        assert said(report(server, vehicle, [result(lease, raw)], raw).receipts) == [
            ("taken", None)
        ]
        server.settle()
    assert dump(server, "vehicles", "replicas") == before
    assert server.vehicle(vehicle.public_key).credit_kflop == UNIT_CREDIT


def test_another_result_for_the_same_lease_in_one_request_is_not_kept(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    wrong = output_of(0, ROWS, 5.0)
    both = [result(lease, GOOD), result(lease, wrong), Report(lease=lease, outcome="failed")]
    assert said(report(server, vehicle, both, GOOD, wrong).receipts) == [("taken", None)] * 3
    kept = rows(server, "SELECT output FROM replicas WHERE lease_id = ?", lease)
    assert kept == [(digests.of_tensors(GOOD),)]
    stored = rows(server, "SELECT 1 FROM payloads WHERE digest = ?", digests.of_tensors(wrong))
    assert stored == []


def test_sixty_four_reports_for_leases_nobody_gave_change_nothing(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    unknown = [result(LeaseId(bytes([number]) * 16), GOOD) for number in range(64)]
    before = dump(server, "vehicles")
    reply = report(server, vehicle, unknown, GOOD)
    assert said(reply.receipts) == [("refused", "unknown_lease")] * 64
    assert dump(server, "vehicles") == before


def test_a_report_after_its_batch_was_cancelled_is_not_needed(server: WorkServer) -> None:
    batch = server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    with server.database.transaction() as repos:
        repos.batches.end(batch.id, "cancelled", server.clock.now_ms())
    server.settle()
    before = dump(server, "vehicles")
    reply = report(server, vehicle, [result(lease, GOOD)], GOOD)
    assert said(reply.receipts) == [("not_needed", "unit_cancelled")]
    assert dump(server, "vehicles") == before


def test_the_same_report_in_a_second_session_hears_the_same_and_changes_nothing(
    server: WorkServer,
) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    first = report(server, vehicle, [result(lease, GOOD)], GOOD)
    vehicle.seq += 7
    vehicle.hear(server.answer([vehicle.request()])[0])
    before = dump(server, "vehicles", "retired_sessions")
    again = report(server, vehicle, [result(lease, GOOD)], GOOD)
    assert again.receipts == first.receipts
    assert dump(server, "vehicles", "retired_sessions") == before


# --- claims ------------------------------------------------------------------------------------------


def test_nothing_a_vehicle_claims_moves_its_credit(server: WorkServer) -> None:
    server.publish(1)
    boaster, modest = join(server, 1), join(server, 2)
    [lease] = leased(server, boaster)
    claim = msgspec.structs.replace(
        result(lease, GOOD),
        compute_ms=limits.INTEGER,
        runtime=Runtime(onnxruntime="9" * 32, provider="Quantum" * 9, machine="Cray" * 16),
        detail="worth " + "9" * 300 + " FLOP",
    )
    report(server, boaster, [claim], GOOD)
    work(server, modest)
    server.settle()
    credit = [server.vehicle(one.public_key).credit_kflop for one in (boaster, modest)]
    assert credit == [UNIT_CREDIT, UNIT_CREDIT]


def test_no_message_has_a_place_for_a_claim_of_work() -> None:
    """Credit is rows times the model's own count (`domain.credit`); the vehicle is never asked."""
    fields = set(Report.__struct_fields__) | set(WorkRequest.__struct_fields__)
    assert not {name for name in fields if "flop" in name or "credit" in name}


# --- messages that nobody may send -------------------------------------------------------------------


def refused(server: WorkServer, raw: bytes, error: type[Exception]) -> None:
    """The message ends before any service, and the database is as it was."""
    before = dump(server)
    with pytest.raises(error) as told:
        server.exchange.answer([arrival(raw)])
    assert "\n" not in str(told.value)
    assert dump(server) == before


def request_of(server: WorkServer) -> tuple[ModelVehicle, WorkRequest]:
    vehicle = join(server, 1)
    return vehicle, asked(vehicle)


def test_a_request_with_anothers_key_inside_is_refused(server: WorkServer) -> None:
    victim = join(server, 2)
    thief, request = request_of(server)
    stolen = msgspec.structs.replace(request, key=victim.public_key)
    refused(server, signed(thief, stolen), BadSignature)


def test_a_key_that_anybody_can_sign_for_speaks_for_itself_alone(server: WorkServer) -> None:
    """The neutral element as a key passes with one signature for every message."""
    _, request = request_of(server)
    weak = msgspec.structs.replace(request, key=b"\1" + bytes(31))
    sealed = dsse.seal(weak, roles.WORK_REQUEST, ModelVehicle(1, 1).key)
    any_signature = msgspec.structs.replace(sealed.signatures[0], sig=b"\1" + bytes(63))
    forged = msgspec.structs.replace(sealed, signatures=(any_signature,))
    before = dump(server)
    [answer] = server.answer([dsse.pack_message(forged)])
    assert answer.envelope.payload_type == roles.UNKNOWN_VEHICLE
    assert dump(server) == before


def edited(raw: bytes, change: Callable[[Envelope], Envelope]) -> bytes:
    message = dsse.unpack_message(raw)
    return msgspec.msgpack.encode(
        msgspec.structs.replace(message, envelope=change(message.envelope))
    )


def unsigned(sealed: Envelope) -> Envelope:
    return msgspec.structs.replace(sealed, signatures=())


def half_signed(sealed: Envelope) -> Envelope:
    signature = msgspec.structs.replace(sealed.signatures[0], sig=bytes(64))
    return msgspec.structs.replace(sealed, signatures=(signature,))


def longer(sealed: Envelope) -> Envelope:
    return msgspec.structs.replace(sealed, payload=sealed.payload + b"\0")


def of_another_type(sealed: Envelope) -> Envelope:
    return msgspec.structs.replace(sealed, payload_type=roles.ENROLMENT)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (unsigned, MalformedMessage),
        (half_signed, BadSignature),
        (longer, MalformedMessage),
        (of_another_type, WrongPayloadType),
    ],
)
def test_an_envelope_that_was_changed_is_refused(
    server: WorkServer, change: Callable[[Envelope], Envelope], error: type[Exception]
) -> None:
    vehicle, request = request_of(server)
    refused(server, edited(signed(vehicle, request), change), error)


def test_a_signature_under_another_type_does_not_carry_over(server: WorkServer) -> None:
    """A departure's bytes with its own good signature, called a work request."""
    vehicle = join(server, 1)
    leaving = Departure(key=vehicle.public_key, erase=True, nonce=Nonce(bytes(16)))
    sealed = dsse.seal(leaving, roles.DEPARTURE, vehicle.key)
    called = msgspec.structs.replace(sealed, payload_type=roles.WORK_REQUEST)
    refused(server, msgspec.msgpack.encode(Message(envelope=called)), MalformedMessage)


def test_too_much_of_anything_is_refused(server: WorkServer) -> None:
    vehicle, request = request_of(server)
    many = tuple(result(LeaseId(b"%016d" % number), GOOD) for number in range(65))
    crowd = tuple(LeaseId(b"%016d" % number) for number in range(limits.HOLDING + 1))
    for changed in (
        msgspec.structs.replace(request, reports=many),
        msgspec.structs.replace(request, holding=crowd),
        msgspec.structs.replace(request, client="x" * 33),
    ):
        refused(server, signed(vehicle, changed), MalformedMessage)
    large = Message(envelope=dsse.unpack_message(signed(vehicle, request)).envelope,
                    attachments=(bytes(limits.ATTACHMENT_BYTES + 1),))  # fmt: skip
    refused(server, msgspec.msgpack.encode(large), MalformedMessage)
    refused(server, bytes(limits.MESSAGE_BYTES + 1), LimitExceeded)


# --- games with the sequence -------------------------------------------------------------------------

GAMES: dict[str, dict[str, object]] = {
    "skips a number": {"seq": 9},
    "goes back": {"seq": 1},
    "repeats its number with other words": {"seq": 2, "client": "other"},
    "names another request before": {"previous": digests.plain(b"another")},
    "begins a session without a nonce": {"session": SessionId(b"n" * 16), "seq": 1,
                                         "previous": digests.ZERO},
    "makes up a nonce": {"session": SessionId(b"n" * 16), "seq": 1, "previous": digests.ZERO,
                         "nonce": Nonce(b"n" * 16)},
    "comes from a future epoch": {"epoch": 7},
}  # fmt: skip


@pytest.mark.parametrize("game", GAMES)
def test_who_plays_with_the_sequence_is_told_where_it_stands_and_nothing_changes(
    server: WorkServer, game: str
) -> None:
    server.publish(2)
    vehicle = join(server, 1)
    [lease] = leased(server, vehicle)
    talk(server, vehicle)
    before = dump(server, "vehicles")
    stands = server.vehicle(vehicle.public_key)
    changes: dict[str, object] = {"reports": (result(lease, GOOD),), **GAMES[game]}
    raw = signed(vehicle, asked(vehicle, **changes), [GOOD])
    [answer] = server.answer([raw])
    assert answer.envelope.payload_type == roles.RESYNC
    assert dump(server, "vehicles") == before
    after = server.vehicle(vehicle.public_key)
    assert (after.session, after.seq, after.last_digest) == (
        stands.session, stands.seq, stands.last_digest,
    )  # fmt: skip
    assert talk(server, vehicle, 1).leases


def test_a_nonce_opens_one_session_and_no_second(server: WorkServer) -> None:
    vehicle = join(server, 1)
    talk(server, vehicle)
    vehicle.seq += 5
    vehicle.hear(server.answer([vehicle.request()])[0])
    nonce = vehicle.nonce
    talk(server, vehicle)
    first: dict[str, object] = {
        "session": SessionId(b"2" * 16),
        "seq": 1,
        "previous": digests.ZERO,
        "nonce": nonce,
    }
    [answer] = server.answer([signed(vehicle, asked(vehicle, **first))])
    assert answer.envelope.payload_type == roles.RESYNC


def test_two_sessions_at_once_are_one_and_a_clone(server: WorkServer) -> None:
    server.publish(9)
    vehicle = join(server, 1)
    twin = vehicle.copy()
    talk(server, vehicle, 1)
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    talk(server, vehicle, 1)
    for _ in range(settings.CLONE_SIGNS_TO_QUARANTINE + 2):
        twin.saved = None
        twin.seq += 1
        [answer] = server.answer([twin.request(5)])
        assert answer.envelope.payload_type == roles.RESYNC
    assert server.vehicle(vehicle.public_key).state == "quarantined"
    assert talk(server, vehicle, 5).leases == ()


def test_session_after_session_fills_no_table(server: WorkServer) -> None:
    vehicle = join(server, 1)
    for _ in range(settings.RETIRED_SESSIONS_KEPT + 20):
        vehicle.seq += 1
        vehicle.hear(server.answer([vehicle.request()])[0])
        talk(server, vehicle)
    kept = rows(server, "SELECT count(*) FROM retired_sessions")
    assert kept == [(settings.RETIRED_SESSIONS_KEPT,)]

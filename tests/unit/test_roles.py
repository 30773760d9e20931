"""Who may sign what: every wrong signer, time, place and answer is refused."""

from __future__ import annotations

import msgspec
import pytest

from tests.contract import wire_samples as samples
from workunits.errors import (
    BadDigest,
    BadProof,
    BadSignature,
    ContractError,
    LimitExceeded,
    NotAuthorised,
    WrongPayloadType,
)
from workunits.trust import digests, roles
from workunits.trust.envelope import seal
from workunits.values import BatchId, Digest, Milliseconds
from workunits.wire import codec
from workunits.wire.messages import InputPart, Lease, Manifest, Reply

LATER = Milliseconds(samples.NOW + 1000)


def packed_manifest(manifest: Manifest = samples.MANIFEST, *, stranger: bool = False) -> bytes:
    key = samples.STRANGER if stranger else samples.BATCH
    return codec.pack(seal(manifest, roles.MANIFEST, key))


def accept(raw: bytes, now: Milliseconds = LATER) -> Manifest:
    return roles.accept_manifest(raw, digests.of_manifest(raw), samples.PROJECT, now)


def test_a_vehicles_messages_are_signed_by_the_key_inside_them() -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    assert roles.accept_request(sealed) == samples.REQUEST
    with pytest.raises(BadSignature):
        roles.accept_request(seal(samples.REQUEST, roles.WORK_REQUEST, samples.STRANGER))
    with pytest.raises(WrongPayloadType):
        roles.accept_enrolment(sealed)
    with pytest.raises(WrongPayloadType):
        roles.accept_departure(sealed)


@pytest.mark.parametrize(
    ("name", "payload_type"),
    [
        ("reply", roles.REPLY),
        ("resync", roles.RESYNC),
        ("upgrade-required", roles.UPGRADE_REQUIRED),
        ("unknown-vehicle", roles.UNKNOWN_VEHICLE),
    ],
)
def test_answers_are_signed_by_the_scheduler_and_belong_to_their_request(
    name: str, payload_type: str
) -> None:
    value = samples.MESSAGES[name]
    sealed = seal(value, payload_type, samples.SCHEDULER)
    request = samples.REQUEST_DIGEST
    assert roles.accept_answer(sealed, samples.PROJECT, request, LATER) == value
    with pytest.raises(BadDigest):
        roles.accept_answer(sealed, samples.PROJECT, digests.ZERO, LATER)
    for wrong in (samples.BATCH, samples.VEHICLE, samples.STRANGER):
        with pytest.raises(BadSignature):
            roles.accept_answer(seal(value, payload_type, wrong), samples.PROJECT, request, LATER)


def test_an_answer_of_another_type_is_no_answer() -> None:
    sealed = seal(samples.MANIFEST, roles.MANIFEST, samples.SCHEDULER)
    with pytest.raises(WrongPayloadType):
        roles.accept_answer(sealed, samples.PROJECT, samples.REQUEST_DIGEST, LATER)


def test_enrolled_and_departed_come_from_the_scheduler() -> None:
    request = samples.REQUEST_DIGEST
    enrolled = samples.MESSAGES["enrolled"]
    departed = samples.MESSAGES["departed"]
    sealed = seal(enrolled, roles.ENROLLED, samples.SCHEDULER)
    assert roles.accept_enrolled(sealed, samples.PROJECT, request, LATER) == enrolled
    sealed = seal(departed, roles.DEPARTED, samples.SCHEDULER)
    assert roles.accept_departed(sealed, samples.PROJECT, request, LATER) == departed
    with pytest.raises(BadSignature):
        roles.accept_departed(
            seal(departed, roles.DEPARTED, samples.BATCH), samples.PROJECT, request, LATER
        )


def test_a_key_counts_within_its_validity_only() -> None:
    raw = packed_manifest()
    for moment in (samples.NOW - 1, samples.NOW + 91 * samples.DAY):
        with pytest.raises(NotAuthorised):
            accept(raw, Milliseconds(moment))


def test_a_manifest_is_what_the_lease_named_and_the_batch_key_signed() -> None:
    raw = packed_manifest()
    assert accept(raw) == samples.MANIFEST
    with pytest.raises(BadSignature):
        accept(packed_manifest(stranger=True))
    with pytest.raises(BadDigest):
        roles.accept_manifest(raw, Digest(bytes(32)), samples.PROJECT, LATER)


def test_a_manifest_past_its_validity_is_refused() -> None:
    short = msgspec.structs.replace(samples.MANIFEST, not_after=LATER)
    with pytest.raises(NotAuthorised):
        accept(packed_manifest(short))


def test_a_unit_proves_into_its_manifest() -> None:
    assert roles.accept_unit(samples.LEASE, samples.MANIFEST) == samples.UNITS[3]


def changed_lease(changes: dict[str, object]) -> Lease:
    unit = msgspec.structs.replace(samples.UNITS[3], **changes)
    return msgspec.structs.replace(samples.LEASE, unit=codec.pack(unit))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": BatchId(bytes(16))},
        {"index": 2},
        {"index": 99},
        {"first_row": 0},
        {"rows": 91},
        {"inputs": (InputPart(scope="unit", digest=digests.ZERO, size=1),)},
    ],
)
def test_a_changed_unit_does_not_prove(changes: dict[str, object]) -> None:
    with pytest.raises(BadProof):
        roles.accept_unit(changed_lease(changes), samples.MANIFEST)


def test_another_units_proof_does_not_fit() -> None:
    swapped = msgspec.structs.replace(samples.LEASE, unit=samples.LEAVES[1])
    with pytest.raises(BadProof):
        roles.accept_unit(swapped, samples.MANIFEST)


def test_a_unit_with_rows_or_parts_its_batch_does_not_have_is_refused_though_signed() -> None:
    # A publisher's fault, signed and proved: refused all the same.
    for manifest in (
        msgspec.structs.replace(samples.MANIFEST, rows=100),
        msgspec.structs.replace(
            samples.MANIFEST,
            program=msgspec.structs.replace(
                samples.PROGRAM,
                inputs=(msgspec.structs.replace(samples.PROGRAM.inputs[0], scope="unit"),),
            ),
        ),
    ):
        with pytest.raises(BadProof):
            roles.accept_unit(samples.LEASE, manifest)


def test_the_model_is_the_signed_one() -> None:
    roles.check_model(b"a model", samples.MANIFEST)
    with pytest.raises(BadDigest):
        roles.check_model(b"b model", samples.MANIFEST)
    with pytest.raises(LimitExceeded):
        roles.check_model(b"a model and more", samples.MANIFEST)


def test_noise_in_place_of_a_manifest_is_a_contract_error() -> None:
    with pytest.raises(ContractError):
        accept(b"<html>log in to the garage</html>")


def test_a_reply_is_frozen() -> None:
    reply = samples.MESSAGES["reply"]
    assert isinstance(reply, Reply)
    with pytest.raises(AttributeError):
        reply.wait_s = 0  # type: ignore[misc]

"""What is believed of a lease and of an answer: only what was signed, by who may sign it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tesla_at_home.agent import acceptance
from tests.support import models
from tests.support.batch_in_memory import MemoryBatch, make_batch
from tests.support.project_in_memory import MemoryProject
from workunits.errors import BadDigest, BadProof, BadSignature, ContractError, LimitExceeded
from workunits.trust import digests, envelope, roles
from workunits.values import Digest, LeaseId, Milliseconds, Nonce
from workunits.wire.messages import Lease, Reply, Resync

NOW = Milliseconds(1_800_000_000_000)
REQUEST = digests.of_request(b"request")
NAME = LeaseId(b"l" * 16)


@pytest.fixture
def project() -> MemoryProject:
    return MemoryProject(lambda: NOW)


@pytest.fixture
def batch(project: MemoryProject) -> MemoryBatch:
    return project.publish(models.shared(), rows=20, rows_per_unit=8)


def reply_with(*leases: Lease) -> Reply:
    return Reply(
        in_reply_to=REQUEST,
        server_time=NOW,
        epoch=1,
        wait_s=0,
        has_work=True,
        leases=leases,
    )


def message(reply: Reply | Resync, kind: str, key: Ed25519PrivateKey, *attachments: bytes) -> bytes:
    return envelope.pack_message(envelope.seal(reply, kind, key), attachments)


def test_attachments_that_the_leases_speak_of_are_found(
    project: MemoryProject, batch: MemoryBatch
) -> None:
    reply = reply_with(batch.lease(1, NAME, 60), batch.lease(2, LeaseId(b"k" * 16), 60))
    carried = [*batch.carried(1, with_manifest=True), b"something else"]
    raw = message(reply, roles.REPLY, project.scheduler, *carried)
    accepted = acceptance.read_answer(raw, project.project(), REQUEST, NOW)
    assert accepted.answer == reply
    assert sorted(need.kind for need, _ in accepted.files) == ["input", "input", "manifest"]
    assert {file for _, file in accepted.files} == set(carried[:-1])


def test_a_lease_with_a_unit_that_is_none_still_has_its_manifest(
    project: MemoryProject, batch: MemoryBatch
) -> None:
    reply = reply_with(replace(batch.lease(1, NAME, 60), unit=b"\xff"))
    carried = batch.carried(1, with_manifest=True)
    raw = message(reply, roles.REPLY, project.scheduler, *carried)
    accepted = acceptance.read_answer(raw, project.project(), REQUEST, NOW)
    assert [need.kind for need, _ in accepted.files] == ["manifest"]


def test_other_answers_carry_nothing(project: MemoryProject) -> None:
    resync = Resync(
        in_reply_to=REQUEST,
        server_time=NOW,
        nonce=Nonce(bytes(16)),
        epoch=1,
        last_seq=0,
        last=digests.ZERO,
    )
    raw = message(resync, roles.RESYNC, project.scheduler, b"x")
    accepted = acceptance.read_answer(raw, project.project(), REQUEST, NOW)
    assert (accepted.answer, accepted.files) == (resync, ())


def test_strangers_and_other_requests_are_not_believed(project: MemoryProject) -> None:
    reply = reply_with()
    stranger = message(reply, roles.REPLY, Ed25519PrivateKey.generate())
    with pytest.raises(BadSignature):
        acceptance.read_answer(stranger, project.project(), REQUEST, NOW)
    ours = message(reply, roles.REPLY, project.scheduler)
    with pytest.raises(BadDigest):
        acceptance.read_answer(ours, project.project(), digests.ZERO, NOW)
    with pytest.raises(ContractError):
        acceptance.read_answer(b"<html>", project.project(), REQUEST, NOW)


def prove(project: MemoryProject, batch: MemoryBatch, lease: Lease) -> None:
    acceptance.prove(lease, batch.packed, project.project(), NOW, project.model_size)


def test_a_unit_that_proves_and_its_files(project: MemoryProject, batch: MemoryBatch) -> None:
    facts, needs = acceptance.prove(
        batch.lease(2, NAME, 60), batch.packed, project.project(), NOW, project.model_size
    )
    assert (facts.index, facts.rows, facts.steps) == (2, 4, 1)
    assert [need.kind for need in needs] == ["model", "input", "input"]
    assert all(need.digest.hex() in project.blobs for need in needs)
    assert acceptance.files_of(facts) == needs
    assert acceptance.open_manifest(batch.packed) == batch.manifest


CHANGES: dict[str, Callable[[Lease], Lease]] = {
    "another unit": lambda lease: replace(lease, unit=lease.unit[:-1] + b"?"),
    "a shorter proof": lambda lease: replace(lease, proof=lease.proof[:-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_unit_that_does_not_prove(
    project: MemoryProject, batch: MemoryBatch, change: str
) -> None:
    with pytest.raises(BadProof):
        prove(project, batch, CHANGES[change](batch.lease(1, NAME, 60)))


def test_a_unit_of_another_batch(project: MemoryProject, batch: MemoryBatch) -> None:
    other = project.publish(models.shared(), rows=20, rows_per_unit=8)
    stolen = replace(other.lease(1, NAME, 60), manifest=batch.digest)
    with pytest.raises(BadProof):
        prove(project, batch, stolen)


def test_a_manifest_by_the_wrong_role(project: MemoryProject) -> None:
    forged = make_batch(models.mlp(), project.scheduler, rows=8, rows_per_unit=8, rows_per_step=4)
    with pytest.raises(BadSignature):
        prove(project, forged, forged.lease(0, NAME, 60))


def test_a_model_of_another_size_than_its_target(
    project: MemoryProject, batch: MemoryBatch
) -> None:
    project.models = {Digest(digest): size + 1 for digest, size in project.models.items()}
    with pytest.raises(LimitExceeded):
        prove(project, batch, batch.lease(1, NAME, 60))

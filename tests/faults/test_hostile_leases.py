"""Leases and manifests that are not what they seem, and what they may cost the vehicle's disk.

What `tests/unit/test_agent_acceptance.py` does not play already. A thief of the scheduler key orders
what no batch key signed; a thief of the batch key signs what no vehicle may run. Nothing is begun, each
is refused in one line, and what came along with it does not stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_batch
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tesla_at_home.adapters.clock import SystemClock
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent import acceptance
from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.events import Answered, Unanswered
from tesla_at_home.errands import Errands
from tesla_at_home.ports import Cancellation
from tests.support import models
from tests.support.batch_in_memory import MemoryBatch
from tests.support.models import Sample
from tests.support.project_in_memory import MemoryProject
from tests.support.vehicle_agent import Agent
from workunits.errors import ContractError
from workunits.trust import digests, envelope, roles
from workunits.values import Digest, LeaseId, Milliseconds, Nonce
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Lease,
    Program,
    Project,
    Reply,
    Resync,
    TensorSpec,
    Unit,
)

NOW = Milliseconds(1_800_000_000_000)
NAME = LeaseId(b"l" * 16)
HUGE = limits.INTEGER


@pytest.fixture
def project() -> MemoryProject:
    return MemoryProject(lambda: NOW)


@pytest.fixture
def batch(project: MemoryProject) -> MemoryBatch:
    return project.publish(models.mlp(), rows=20, rows_per_unit=8)


def prove(project: MemoryProject, lease: Lease, packed: bytes) -> None:
    acceptance.prove(lease, packed, project.project(), NOW, project.model_size)


# --- the scheduler's key is stolen: units that nobody signed ------------------------------------------

FORGED: dict[str, tuple[Callable[[Lease, MemoryBatch], Lease], str]] = {
    "the place of another unit": (
        lambda lease, batch: replace(lease, unit=batch.units[2]),
        "does not prove|proof is too",
    ),
    "a place that does not exist": (
        lambda lease, batch: replace(lease, unit=_unit(lease, index=99)),
        "does not exist",
    ),
    "other rows": (
        lambda lease, batch: replace(lease, unit=_unit(lease, first_row=0)),
        "does not prove",
    ),
    "other inputs": (
        lambda lease, batch: replace(
            lease,
            unit=_unit(
                lease, inputs=(replace(_parts(lease)[0], digest=digests.of_tensors(b"mine")),)
            ),
        ),
        "does not prove",
    ),
    "a proof with a hash more": (
        lambda lease, batch: replace(lease, proof=(*lease.proof, digests.ZERO)),
        "too long",
    ),
    "a proof without a hash": (
        lambda lease, batch: replace(lease, proof=lease.proof[1:]),
        "too short",
    ),
    "a proof with another hash": (
        lambda lease, batch: replace(lease, proof=(digests.ZERO, *lease.proof[1:])),
        "does not prove",
    ),
    "a unit that is none": (lambda lease, batch: replace(lease, unit=b"\x80"), "Unit"),
    "another manifest than it names": (
        lambda lease, batch: replace(lease, manifest=digests.ZERO),
        "manifest",
    ),
}


def _unit(lease: Lease, **changed: object) -> bytes:
    unit = codec.unpack(lease.unit, Unit, most=4096)
    return codec.pack(msgspec.structs.replace(unit, **changed))


def _parts(lease: Lease) -> tuple[msgspec.Struct, ...]:
    return codec.unpack(lease.unit, Unit, most=4096).inputs


@pytest.mark.parametrize("name", FORGED)
def test_a_unit_that_no_batch_key_signed_is_refused(
    name: str, project: MemoryProject, batch: MemoryBatch
) -> None:
    change, line = FORGED[name]
    with pytest.raises(ContractError, match=line) as caught:
        prove(project, change(batch.lease(1, NAME, 60), batch), batch.packed)
    assert "\n" not in str(caught.value)


# --- manifests by the wrong hand, or at the wrong time ------------------------------------------------


def resealed(batch: MemoryBatch, key: Ed25519PrivateKey, **changed: object) -> MemoryBatch:
    """The batch with another manifest, signed by `key`."""
    manifest = msgspec.structs.replace(batch.manifest, **changed)
    packed = codec.pack(envelope.seal(manifest, roles.MANIFEST, key))
    return replace_batch(
        batch, manifest=manifest, packed=packed, digest=digests.of_manifest(packed)
    )


Change = Callable[[MemoryBatch, MemoryProject], MemoryBatch]
OF_THE_WRONG_TIME_OR_HAND: dict[str, tuple[Change, str]] = {
    "by the scheduler": (lambda b, p: resealed(b, p.scheduler), "not signed by a key"),
    "of another project": (
        lambda b, p: resealed(b, MemoryProject(lambda: NOW).batch_key),
        "not signed by a key",
    ),
    "not valid yet": (
        lambda b, p: resealed(b, p.batch_key, not_before=Milliseconds(NOW + 1)),
        "not valid now",
    ),
    "valid no more": (lambda b, p: resealed(b, p.batch_key, not_after=NOW), "not valid now"),
    "as another object": (
        lambda b, p: replace_batch(
            b, packed=codec.pack(envelope.seal(b.manifest, roles.REPLY, p.batch_key))
        ),
        "manifest",
    ),
}


@pytest.mark.parametrize("name", OF_THE_WRONG_TIME_OR_HAND)
def test_a_manifest_of_the_wrong_time_or_hand_is_refused(
    name: str, project: MemoryProject, batch: MemoryBatch
) -> None:
    change, line = OF_THE_WRONG_TIME_OR_HAND[name]
    other = change(batch, project)
    with pytest.raises(ContractError, match=line):
        prove(project, other.lease(1, NAME, 60), other.packed)


def test_a_batch_key_past_its_validity_signs_nothing(
    project: MemoryProject, batch: MemoryBatch
) -> None:
    def expired(project: Project) -> Project:
        keys = tuple(replace(key, not_after=NOW) for key in project.batch_keys)
        return replace(project, batch_keys=keys, scheduler_keys=keys)

    past = expired(project.project())
    with pytest.raises(ContractError, match="valid now"):
        acceptance.prove(batch.lease(1, NAME, 60), batch.packed, past, NOW, project.model_size)
    raw = answer(project, reply())
    with pytest.raises(ContractError, match="valid now"):
        acceptance.read_answer(raw, past, digests.ZERO, NOW)


# --- the batch key is stolen: programs without measure ------------------------------------------------


def _outputs(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="y", dtype="float32", shape=shape),)


def _inputs(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="x", dtype="float32", shape=shape),)


WITHOUT_MEASURE: dict[str, tuple[Callable[[Program], Program], str]] = {
    "work for all the years to come": (
        lambda p: replace(p, kflop_per_row=limits.KFLOP_PER_ROW + 1), "too many for one night"),
    "work past all numbers": (lambda p: replace(p, kflop_per_row=HUGE), "too many for one night"),
    "an output that fills the disk": (
        lambda p: replace(p, rows_per_step=1, outputs=_outputs(20_000_000)), "outputs are larger"),
    "an output that its header makes too large": (
        lambda p: replace(p, rows_per_step=1, outputs=_outputs(limits.TENSOR_PAYLOAD_BYTES // 32)),
        "outputs are larger"),
    "an output past all numbers": (
        lambda p: replace(p, rows_per_step=1, outputs=_outputs(*[HUGE] * 8)), "outputs are larger"),
    "an input past all numbers": (
        lambda p: replace(p, rows_per_step=1, inputs=_inputs(*[HUGE] * 8)), "inputs are larger"),
    "a step that fills the memory": (
        lambda p: replace(p, rows_per_step=limits.ROWS_PER_STEP, inputs=_inputs(1000)),
        "one step has more"),
    "an output that all rows share": (
        lambda p: replace(p, outputs=(replace(_outputs(4)[0], scope="unit"),)), "all rows share"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_MEASURE)
def test_a_program_without_measure_is_refused_before_anything_is_fetched(
    name: str, project: MemoryProject, batch: MemoryBatch
) -> None:
    change, line = WITHOUT_MEASURE[name]
    program = change(batch.manifest.program)
    other = resealed(batch, project.batch_key, program=program)
    with pytest.raises(ContractError, match=line):
        prove(project, other.lease(1, NAME, 60), other.packed)


def test_a_name_of_a_model_is_only_a_name(project: MemoryProject, batch: MemoryBatch) -> None:
    evil = "../../\x1b[2J/etc/passwd\n"
    other = resealed(batch, project.batch_key, model_name=evil)
    facts, needs = acceptance.prove(
        other.lease(1, NAME, 60), other.packed, project.project(), NOW, project.model_size
    )
    assert facts.model_name.isprintable()
    shelf_names = {need.digest.hex() for need in needs}
    assert all(set(name) <= set("0123456789abcdef") for name in shelf_names)


# --- answers, and what rides along --------------------------------------------------------------------


def reply(*leases: Lease, in_reply_to: Digest = digests.ZERO) -> Reply:
    return Reply(
        in_reply_to=in_reply_to, server_time=NOW, epoch=1, wait_s=0, has_work=True, leases=leases
    )


def answer(project: MemoryProject, said: Reply, *attachments: bytes) -> bytes:
    sealed = envelope.seal(said, roles.REPLY, project.scheduler)
    return envelope.pack_message(sealed, attachments)


def _as_a_resync(project: MemoryProject) -> bytes:
    return envelope.pack_message(envelope.seal(reply(), roles.RESYNC, project.scheduler))


def _resync_as_a_reply(project: MemoryProject) -> bytes:
    resync = Resync(
        in_reply_to=digests.ZERO, server_time=NOW, nonce=Nonce(b"n" * 16), epoch=1, last_seq=0,
        last=digests.ZERO,
    )  # fmt: skip
    return envelope.pack_message(envelope.seal(resync, roles.REPLY, project.scheduler))


def _signed_by(project: MemoryProject, key: Ed25519PrivateKey) -> bytes:
    return envelope.pack_message(envelope.seal(reply(), roles.REPLY, key))


def _unknown_field(project: MemoryProject) -> bytes:
    nasty = msgspec.msgpack.encode({"in_reply_to": bytes(32), "a\x1b[2J\nb": 1})
    return envelope.pack_message(envelope.seal_bytes(nasty, roles.REPLY, project.scheduler))


NO_ANSWERS: dict[str, Callable[[MemoryProject], bytes]] = {
    "to another vehicle's request": lambda p: answer(p, reply(in_reply_to=digests.plain(b"?"))),
    "by the batch key": lambda p: _signed_by(p, p.batch_key),
    "by a stranger": lambda p: _signed_by(p, Ed25519PrivateKey.generate()),
    "a reply that calls itself a resync": _as_a_resync,
    "a resync that calls itself a reply": _resync_as_a_reply,
    "with a field that nobody knows": _unknown_field,
    "with an attachment past the limit": lambda p: msgspec.msgpack.encode(
        {"envelope": envelope.seal(reply(), roles.REPLY, p.scheduler),
         "attachments": [bytes(limits.ATTACHMENT_BYTES + 1)]}),
    "longer than any message": lambda p: bytes(limits.MESSAGE_BYTES + 1),
    "of nothing": lambda p: b"",
}  # fmt: skip


@pytest.fixture
def errands(project: MemoryProject, tmp_path: Path) -> Errands:
    return Errands(project, project, project, FileShelf(tmp_path))


def post(errands: Errands, project: MemoryProject, *holding: LeaseId) -> object:
    """Send a request with these leases in hand; the event that tells how it went."""
    sealed = envelope.seal(reply(), roles.WORK_REQUEST, project.scheduler)
    saved = SavedRequest(sealed=sealed, digest=digests.ZERO, reports=(), holding=holding)
    *_, event = errands.post(saved, [], project.project(), NOW, Cancellation())
    return event


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_changes_nothing(
    name: str, project: MemoryProject, errands: Errands, tmp_path: Path
) -> None:
    project._before.append(lambda message: NO_ANSWERS[name](project))
    event = post(errands, project)
    assert isinstance(event, Unanswered)
    assert event.is_untrusted
    assert event.detail.startswith("an answer that is not the project's")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_inputs_of_leases_that_are_not_new_are_not_kept(
    project: MemoryProject, batch: MemoryBatch, errands: Errands, tmp_path: Path
) -> None:
    """Else each reply could leave 8 MiB that no unit ever lets go of."""
    taken = batch.lease(1, NAME, 60)
    known = batch.lease(0, LeaseId(b"k" * 16), 60)
    twice = replace(batch.lease(2, NAME, 60), lease=NAME)
    files = [raw for index in range(3) for raw in batch.carried(index, with_manifest=False)]
    raw = answer(project, reply(taken, known, twice), *files)
    project._before += [lambda message: raw] * 2
    assert isinstance(post(errands, project, known.lease), Answered)
    (kept,) = (tmp_path / "spool" / "inputs").iterdir()
    assert kept.name == _parts(taken)[0].digest.hex()  # type: ignore[attr-defined]
    held = [LeaseId(number.to_bytes(16, "big")) for number in range(limits.HOLDING)]
    kept.unlink()
    assert isinstance(post(errands, project, *held), Answered)
    assert not list((tmp_path / "spool" / "inputs").iterdir())


# --- the whole agent ----------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    agent = Agent(tmp_path / "vehicle", MemoryProject(SystemClock().now_ms))
    agent.join()
    return agent


def bytes_on_disk(agent: Agent) -> int:
    return sum(
        path.stat().st_size
        for folder in ("models", "spool")
        for path in (agent.directory / folder).rglob("*")
        if path.is_file()
    )


def test_foreign_leases_leave_nothing_on_the_disk(agent: Agent) -> None:
    agent.project.publish(models.mlp(features=500), rows=400, rows_per_unit=20)
    agent.project.tamper(lambda lease: replace(lease, proof=(digests.ZERO,)))
    most: list[int] = []

    def watch(steps: int) -> bool:
        most.append(bytes_on_disk(agent))
        return steps >= 20

    agent.run_until(lambda driver: watch(len(agent.project.reports)))
    assert {(r.outcome, r.code) for r in agent.project.reports.values()} == {
        ("returned", "bad_proof")
    }
    manifests = sum(len(batch.packed) for batch in agent.project.batches)
    unit = max(len(raw) for raw in agent.project.blobs.values())
    assert max(most) <= manifests + 2 * unit
    with Store.open(agent.directory) as store:
        told = [entry for entry in store.history() if entry.kind == "lease_refused"]
    assert told
    assert all("does not prove" in entry.text or "too" in entry.text for entry in told)


def test_a_blob_of_the_wrong_digest_is_given_up_and_not_fetched_for_ever(agent: Agent) -> None:
    project = agent.project
    project.rides_along = False
    batch = project.publish(models.mlp(), rows=8, rows_per_unit=8)
    name = _parts(batch.lease(0, NAME, 1))[0].digest.hex()  # type: ignore[attr-defined]
    project.blobs[name] = bytes(len(project.blobs[name]))
    agent.run_until(lambda driver: bool(project.reports))
    (report,) = project.reports.values()
    assert (report.outcome, report.code) == ("returned", "file_missing")
    assert "digest" in (report.detail or "")
    assert not list((agent.directory / "spool" / "inputs").iterdir())


def renamed_output() -> Sample:
    sample = models.integers()
    outputs = (replace(sample.outputs[0], name="z"), *sample.outputs[1:])
    return replace_batch(sample, outputs=outputs)


def test_signed_models_that_may_not_run_cost_one_report_each_and_the_next_unit_is_computed(
    agent: Agent,
) -> None:
    for sample in (models.by_chance(), renamed_output(), models.mlp()):
        agent.project.publish(sample, rows=4, rows_per_unit=4)
    agent.run_until(lambda driver: len(agent.project.reports) == 3)
    said = [(r.outcome, r.code) for r in agent.project.reports.values()]
    assert said == [("failed", "graph_refused"), ("failed", "tensors_refused"), ("done", None)]
    for report in agent.project.reports.values():
        assert (report.detail or "").isprintable()

"""One of every message, from fixed keys, ids and times: what the golden vectors are made of."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from workunits.trust import digests, merkle
from workunits.trust.envelope import public_bytes
from workunits.values import (
    BatchId,
    Digest,
    KeyId,
    LeaseId,
    Milliseconds,
    Nonce,
    OwnerId,
    SessionId,
)
from workunits.wire import codec
from workunits.wire.messages import (
    Abort,
    Consent,
    Departed,
    Departure,
    Enrolled,
    Enrolment,
    InputPart,
    Lease,
    Manifest,
    NewOwner,
    OutputRule,
    Program,
    Project,
    Receipt,
    Reply,
    Report,
    Resync,
    RoleKey,
    Runtime,
    TensorSpec,
    Terms,
    Unit,
    UnknownVehicle,
    UpgradeRequired,
    Verdict,
    Wish,
    WorkRequest,
)

VEHICLE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SCHEDULER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
BATCH = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(96, 128)))

NOW = Milliseconds(1_790_000_000_000)
DAY = 86_400_000
SESSION = SessionId(bytes([0x51]) * 16)
NONCE = Nonce(bytes([0x0E]) * 16)
BATCH_ID = BatchId(bytes([0xBA]) * 16)
LEASE_ID = LeaseId(bytes([0x1E]) * 16)
OUTPUT = digests.of_tensors(b"an output")

RUNTIME = Runtime(onnxruntime="1.32.0", provider="CPUExecutionProvider", machine="x86_64")
PROGRAM = Program(
    model=digests.plain(b"a model"),
    inputs=(TensorSpec(name="x", dtype="float32", shape=(64,)),),
    outputs=(
        TensorSpec(name="label", dtype="int64", shape=()),
        TensorSpec(name="scores", dtype="float32", shape=(10,)),
    ),
    rows_per_step=8,
    optimisation="all",
    precision="fp32",
    runtime_from="1.20.0",
    runtime_below="2.0.0",
    kflop_per_row=1_234,
)
RULES = (
    OutputRule(name="label", rule="label", tau=1.6e-5, sigma=0.25, of="scores"),
    OutputRule(name="scores", rule="tolerance", tau=1.6e-5, sigma=0.25),
)
UNITS = tuple(
    Unit(
        batch=BATCH_ID,
        index=index,
        first_row=index * 90,
        rows=90,
        inputs=(InputPart(scope="row", digest=digests.of_tensors(b"%d" % index), size=23_000),),
    )
    for index in range(5)
)
LEAVES = tuple(codec.pack(unit) for unit in UNITS)
LEVELS = merkle.build(merkle.leaf_hash(leaf) for leaf in LEAVES)
MANIFEST = Manifest(
    batch=BATCH_ID,
    model_name="digits",
    model_bytes=7,
    program=PROGRAM,
    agreement=RULES,
    root=merkle.root_of(LEVELS),
    units=len(UNITS),
    rows=450,
    not_before=NOW,
    not_after=Milliseconds(NOW + 30 * DAY),
)
PROJECT = Project(
    name="digits at home",
    scheduler_keys=(
        RoleKey(
            key=public_bytes(SCHEDULER),
            not_before=NOW,
            not_after=Milliseconds(NOW + 90 * DAY),
        ),
    ),
    batch_keys=(
        RoleKey(key=public_bytes(BATCH), not_before=NOW, not_after=Milliseconds(NOW + 90 * DAY)),
    ),
    terms=Terms(digest=digests.plain(b"terms"), size=5, version="1"),
    protocol_oldest=1,
    protocol_newest=1,
    sign_up="open",
)
LEASE = Lease(
    lease=LEASE_ID,
    manifest=Digest(bytes([0x3A]) * 32),
    unit=LEAVES[3],
    proof=merkle.prove(LEVELS, 3, len(UNITS)),
    duration_s=72 * 3600,
    ticket=bytes([0x71]) * 16,
)
REQUEST = WorkRequest(
    protocol=1,
    key=public_bytes(VEHICLE),
    epoch=1,
    session=SESSION,
    seq=1,
    previous=digests.ZERO,
    client="0.1.0",
    holding=(LEASE_ID,),
    reports=(
        Report(
            lease=LEASE_ID,
            outcome="done",
            output=OUTPUT,
            output_size=9,
            runtime=RUNTIME,
            compute_ms=1_000,
        ),
        Report(lease=LEASE_ID, outcome="failed", code="not_enough_memory", detail="killed"),
    ),
    wish=Wish(seconds=3600, units=2, free_disk=10**9, models=(PROGRAM.model,), runtime=RUNTIME),
)
REQUEST_DIGEST = digests.of_request(codec.pack(REQUEST))

MESSAGES: dict[str, msgspec.Struct] = {
    "manifest": MANIFEST,
    "unit": UNITS[3],
    "enrolment": Enrolment(
        protocol=1,
        key=public_bytes(VEHICLE),
        session=SESSION,
        vehicle_name="garage",
        owner=NewOwner(code="0123-4567-89ab-cdef", name="nightjar", is_public=True),
        consent=Consent(terms=digests.plain(b"terms"), version="1", at=NOW, scopes=("compute",)),
        client="0.1.0",
    ),
    "enrolled": Enrolled(
        in_reply_to=REQUEST_DIGEST,
        server_time=NOW,
        vehicle=KeyId(digests.of_key(public_bytes(VEHICLE))),
        owner=OwnerId(bytes([0x0A]) * 16),
        owner_name="nightjar",
        epoch=1,
    ),
    "departure": Departure(key=public_bytes(VEHICLE), erase=True, nonce=NONCE),
    "departed": Departed(in_reply_to=REQUEST_DIGEST, server_time=NOW, erased=True),
    "work-request": REQUEST,
    "reply": Reply(
        in_reply_to=REQUEST_DIGEST,
        server_time=NOW,
        epoch=1,
        wait_s=600,
        has_work=True,
        receipts=(Receipt(lease=LEASE_ID, outcome="taken"),),
        verdicts=(Verdict(lease=LEASE_ID, verdict="valid", kflop=111_060),),
        leases=(LEASE,),
        aborts=(Abort(lease=LEASE_ID, code="cancelled"),),
        notice="hello",
    ),
    "resync": Resync(
        in_reply_to=REQUEST_DIGEST,
        server_time=NOW,
        nonce=NONCE,
        epoch=2,
        last_seq=7,
        last=Digest(bytes([0x77]) * 32),
    ),
    "upgrade-required": UpgradeRequired(
        in_reply_to=REQUEST_DIGEST, server_time=NOW, oldest=2, newest=3
    ),
    "unknown-vehicle": UnknownVehicle(in_reply_to=REQUEST_DIGEST, server_time=NOW),
}

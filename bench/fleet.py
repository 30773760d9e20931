"""Many vehicles in one process: their keys, their sessions, the requests they sign.

A vehicle's key follows from its number, so that the process that puts it into the database and the
one that drives it need not talk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from workunits.trust import digests, envelope, roles
from workunits.values import Digest, LeaseId, SessionId
from workunits.wire import codec, limits
from workunits.wire.messages import Reply, Report, Runtime, Wish, WorkRequest
from workunits.wire.tensors import RawTensor, encode

ROWS = 16
COLUMNS = 16
RUNTIME = Runtime(onnxruntime="1.22.0", provider="CPUExecutionProvider", machine="x86_64")
# 1 KiB in and 1 KiB out: a message of the size that small models have.
OUTPUT = encode({"y": RawTensor("float32", (ROWS, COLUMNS), bytes(ROWS * COLUMNS * 4))})
OUTPUT_DIGEST = digests.of_tensors(OUTPUT)


def key_of(number: int) -> Ed25519PrivateKey:
    """The private key of vehicle `number`."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"bench %d" % number).digest())


def session_of(number: int) -> SessionId:
    """The session that vehicle `number` begins with."""
    return SessionId(hashlib.sha256(b"session %d" % number).digest()[:16])


@dataclass(slots=True)
class Vehicle:
    """One vehicle's end of the exchange."""

    number: int
    key: Ed25519PrivateKey = field(init=False)
    public: bytes = field(init=False)
    seq: int = 0
    previous: Digest = digests.ZERO
    leases: list[LeaseId] = field(default_factory=list)
    manifests: tuple[Digest, ...] = ()

    def __post_init__(self) -> None:
        self.key = key_of(self.number)
        self.public = envelope.public_bytes(self.key)

    def request(self, units: int) -> bytes:
        """Reports on all it holds, and the wish for `units` more, as it travels."""
        self.seq += 1
        wish = Wish(seconds=36_000, units=units, free_disk=10**12, manifests=self.manifests)
        request = WorkRequest(
            protocol=1,
            key=self.public,
            epoch=1,
            session=session_of(self.number),
            seq=self.seq,
            previous=self.previous,
            client="bench",
            reports=tuple(_done(lease) for lease in self.leases),
            wish=wish,
        )
        sealed = envelope.seal(request, roles.WORK_REQUEST, self.key)
        self.previous = digests.of_request(sealed.payload)
        attachments = (OUTPUT,) if self.leases else ()
        self.leases = []
        return envelope.pack_message(sealed, attachments)

    def take(self, raw: bytes) -> Reply:
        """The reply, with its leases kept; its signature is not this measurement's business."""
        message = envelope.unpack_message(raw)
        reply = codec.unpack(message.envelope.payload, Reply, most=limits.PAYLOAD_BYTES)
        self.leases = [lease.lease for lease in reply.leases]
        if reply.leases:
            self.manifests = (reply.leases[0].manifest,)
        return reply


def _done(lease: LeaseId) -> Report:
    return Report(
        lease=lease,
        outcome="done",
        output=OUTPUT_DIGEST,
        output_size=len(OUTPUT),
        runtime=RUNTIME,
        compute_ms=1000,
    )

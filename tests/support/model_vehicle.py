"""A vehicle as the protocol sees it: what it must keep, and nothing of how a client keeps it.

It saves before it speaks, sends a saved request again until it has a signed answer, and answers a
resync with a new session and everything it holds. A test can copy it at any moment.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.work_server import TERMS, output_of
from workunits.trust import digests, roles
from workunits.trust import envelope as dsse
from workunits.values import Digest, LeaseId, Milliseconds, Nonce, SessionId
from workunits.wire import codec
from workunits.wire.messages import (
    Consent,
    Departure,
    Enrolment,
    ExistingOwner,
    Lease,
    Message,
    NewOwner,
    RecoveringOwner,
    Reply,
    Report,
    Resync,
    Unit,
    Verdict,
    Wish,
    WorkRequest,
)

CLIENT: Final = "0.1.0"


@dataclass(repr=False)
class ModelVehicle:
    seed: int
    owner: int
    wrong_by: float = 0.0
    session: SessionId = field(init=False)
    sessions_made: int = 0
    seq: int = 0
    last: Digest = digests.ZERO
    nonce: Nonce | None = None
    epoch: int = 1
    saved: bytes | None = None
    holds: dict[LeaseId, Lease] = field(default_factory=dict)
    done: dict[LeaseId, Report] = field(default_factory=dict)
    payloads: dict[Digest, bytes] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin_session()

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(digests.plain(b"key %d" % self.seed))

    @property
    def public_key(self) -> bytes:
        return dsse.public_bytes(self.key)

    @property
    def code(self) -> str:
        return f"owner-code-{self.owner:08d}"

    def copy(self) -> ModelVehicle:
        """As a backup or a stolen disk would have it."""
        return deepcopy(self)

    def begin_session(self, nonce: Nonce | None = None, salt: bytes = b"") -> None:
        self.sessions_made += 1
        name = b"session %d %d %b" % (self.seed, self.sessions_made, salt)
        self.session = SessionId(digests.plain(name)[:16])
        self.seq, self.last, self.nonce = 0, digests.ZERO, nonce

    def enrolment(
        self,
        *,
        name: str | None = None,
        is_public: bool = False,
        invite: str | None = None,
        lost: str | None = None,
        how: str = "new",
    ) -> Enrolment:
        owner: NewOwner | ExistingOwner | RecoveringOwner
        if how == "new":
            owner = NewOwner(code=self.code, name=name, is_public=is_public)
        elif how == "existing":
            owner = ExistingOwner(code=self.code)
        else:
            owner = RecoveringOwner(code=self.code, lost=lost)
        return Enrolment(
            protocol=1,
            key=self.public_key,
            session=self.session,
            vehicle_name=f"car {self.seed}",
            owner=owner,
            consent=Consent(terms=TERMS, version="1", at=Milliseconds(1), scopes=("compute",)),
            client=CLIENT,
            invite=invite,
        )

    def departure(self, *, erase: bool = False) -> Departure:
        return Departure(key=self.public_key, erase=erase, nonce=Nonce(bytes(16)))

    def compute(self) -> None:
        """Every lease it holds becomes a result."""
        for lease in list(self.holds.values()):
            unit = codec.unpack(lease.unit, Unit, most=4096)
            raw = output_of(unit.index, unit.rows, self.wrong_by)
            digest = digests.of_tensors(raw)
            self.payloads[digest] = raw
            self.done[lease.lease] = Report(
                lease=lease.lease, outcome="done", output=digest, output_size=len(raw)
            )

    def fail(self, code: str = "execution_failed") -> None:
        for lease in self.holds:
            self.done[lease] = Report(lease=lease, outcome="failed", code=code)

    def give_back(self) -> None:
        for lease in self.holds:
            self.done[lease] = Report(lease=lease, outcome="returned", code="no_time")

    def request(self, units: int = 1) -> bytes:
        """The saved message, or a new one, saved; it has its number from now on."""
        if self.saved is None:
            self.saved = self._message(self._request(units))
        return self.saved

    def hear(self, message: Message) -> Reply | Resync:
        """Act on a signed answer to the saved request."""
        assert self.saved is not None
        payload = dsse.unpack_message(self.saved).envelope.payload
        digest = digests.of_request(payload)
        if message.envelope.payload_type == roles.RESYNC:
            resync = codec.unpack(message.envelope.payload, Resync, most=2**20)
            assert resync.in_reply_to == digest
            self.saved, self.epoch = None, resync.epoch
            self.begin_session(resync.nonce, payload[-32:])
            return resync
        reply = codec.unpack(message.envelope.payload, Reply, most=2**20)
        assert reply.in_reply_to == digest
        self._accept(reply, digest)
        return reply

    def _request(self, units: int) -> WorkRequest:
        return WorkRequest(
            protocol=1,
            key=self.public_key,
            epoch=self.epoch,
            session=self.session,
            seq=self.seq + 1,
            previous=self.last,
            client=CLIENT,
            nonce=self.nonce,
            holding=tuple(self.holds),
            reports=tuple(self.done.values())[:64],
            wish=Wish(seconds=36_000, units=units, free_disk=10**9),
        )

    def _message(self, request: WorkRequest) -> bytes:
        sealed = dsse.seal(request, roles.WORK_REQUEST, self.key)
        # An output that is not among them was uploaded.
        named = [report.output for report in request.reports if report.output is not None]
        carried = [self.payloads[output] for output in named if output in self.payloads]
        return dsse.pack_message(sealed, dict.fromkeys(carried))

    def _accept(self, reply: Reply, request: Digest) -> None:
        self.saved, self.nonce = None, None
        self.seq, self.last = self.seq + 1, request
        self.replies.append(reply)
        for receipt in reply.receipts:
            if receipt.outcome != "again":
                self.done.pop(receipt.lease, None)
                self.holds.pop(receipt.lease, None)
        for abort in reply.aborts:
            self.done.pop(abort.lease, None)
            self.holds.pop(abort.lease, None)
        for lease in reply.leases:
            self.holds[lease.lease] = lease
        self.verdicts += reply.verdicts

"""A project in memory behind the client's own ports, with real keys, and faults as methods.

Implements `Transport`, `Metadata` and `Enroller`. It issues every unit of its batches once, keeps what
is reported, and speaks the exactly-once exchange as PROTOCOL 8 has it, in the smallest form that a
client can be held against.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tesla_at_home.agent.events import Moved
from tesla_at_home.errors import Told, Unreachable, Untrusted
from tesla_at_home.ports import Cancellation, ProjectView
from tests.support.batch_in_memory import FOR_EVER, MemoryBatch, make_batch
from tests.support.models import Sample
from workunits.trust import digests, envelope, roles
from workunits.values import Digest, LeaseId, Milliseconds, Nonce, OwnerId, SessionId
from workunits.wire import limits
from workunits.wire.messages import (
    Abort,
    Enrolled,
    Lease,
    Message,
    Project,
    Receipt,
    Reply,
    Report,
    Resync,
    RoleKey,
    Terms,
    UnknownVehicle,
    UpgradeRequired,
    Verdict,
    Wish,
    WorkRequest,
)

TERMS = digests.plain(b"Be kind.\n")


@dataclass
class MemoryProject:
    """The project; give it to the client as its transport, its metadata and its enroller."""

    now: Callable[[], Milliseconds]
    wait_s: int = 0
    lease_s: int = 3600
    units_per_reply: int = limits.LEASES_PER_REPLY
    rides_along: bool = True  # payloads as attachments where they fit
    is_fresh: bool = True
    epoch: int = 1
    notice: str | None = None
    holds: threading.Event | None = None  # downloads wait for it
    batches: list[MemoryBatch] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[Digest, int] = field(default_factory=dict)
    leases: dict[LeaseId, tuple[MemoryBatch, int]] = field(default_factory=dict)
    reports: dict[LeaseId, Report] = field(default_factory=dict)
    outputs: dict[Digest, bytes] = field(default_factory=dict)
    requests: list[WorkRequest] = field(default_factory=list)  # those that were processed
    bodies: list[bytes] = field(default_factory=list)  # those that arrived
    verdicts: list[Verdict] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    enrolled: list[SessionId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Ed25519PrivateKey.generate()
        self.batch_key = Ed25519PrivateKey.generate()
        self._lock = threading.RLock()
        self._down = self._up = 0
        self._ready: list[tuple[MemoryBatch, int]] = []
        self._session: SessionId | None = None
        self._seq = 0
        self._last = digests.ZERO
        self._stored: bytes | None = None
        self._nonce: Nonce | None = None
        # Either takes the place of the answer: before the request is processed, or after.
        self._before: list[Callable[[Message], bytes]] = []
        self._after: list[Callable[[bytes], bytes]] = []
        self._again: set[LeaseId] = set()
        self._disliked: set[LeaseId] = set()
        self._change: Callable[[Lease], Lease] = lambda lease: lease
        self._compares = False  # `holding` with what was leased, in the next request

    def publish(
        self, sample: Sample, rows: int, rows_per_unit: int, rows_per_step: int = 4
    ) -> MemoryBatch:
        """A batch of random rows over `sample`, each unit ready once."""
        batch = make_batch(
            sample,
            self.batch_key,
            rows=rows,
            rows_per_unit=rows_per_unit,
            rows_per_step=rows_per_step,
        )
        self.models[batch.manifest.program.model] = len(sample.raw)
        self.blobs |= batch.blobs
        self.batches.append(batch)
        self._ready += [(batch, index) for index in range(len(batch.units))]
        return batch

    # --- faults ----------------------------------------------------------------------------------

    def lose_request(self, times: int = 1) -> None:
        """The next requests never arrive."""
        self._before += [_lost] * times

    def lose_reply(self, times: int = 1) -> None:
        """The next requests are processed, and their replies lost."""
        self._after += [_lost] * times

    def heal(self) -> None:
        """No fault that was ordered happens any more."""
        self._before.clear()
        self._after.clear()
        self._disliked.clear()
        self._change = lambda lease: lease

    def refuse(self, code: str, status: int, times: int = 1) -> None:
        """The next requests get a problem document."""

        def refused(message: Message) -> bytes:
            raise Told(status, code, "because the test says so", 0)

        self._before += [refused] * times

    def refuse_reports_of(self, lease: LeaseId) -> None:
        """Every request that reports this lease gets a problem document."""
        self._disliked.add(lease)

    def sign_with_wrong_key(self, times: int = 1) -> None:
        """The next replies are signed by a stranger."""
        stranger = Ed25519PrivateKey.generate()

        def forge(raw: bytes) -> bytes:
            message = envelope.unpack_message(raw)
            sealed = message.envelope
            forged = envelope.seal_bytes(sealed.payload, sealed.payload_type, stranger)
            return envelope.pack_message(forged, message.attachments)

        self._after += [forge] * times

    def answer_stale(self) -> None:
        """The next reply is the one that was given to the request before."""
        old = self._stored
        assert old is not None
        self._after.append(lambda raw: old)

    def answer_garbage(self, times: int = 1) -> None:
        """A captive portal's page."""
        self._after += [lambda raw: b"<html>Please accept our terms</html>"] * times

    def swap_attachments(self) -> None:
        """The next reply carries other bytes than its digests speak of."""

        def swap(raw: bytes) -> bytes:
            message = envelope.unpack_message(raw)
            swapped = [bytes(reversed(one)) for one in message.attachments]
            return envelope.pack_message(message.envelope, swapped)

        self._after.append(swap)

    def tamper(self, change: Callable[[Lease], Lease]) -> None:
        """Every lease from now on is changed before the reply is signed."""
        self._change = change

    def forget_vehicle(self) -> None:
        """As after a restored backup."""
        self._session = None
        self._before.append(self._say_unknown)

    def want_resync(self) -> None:
        """The server lost count: the next request does not fit, whatever it is."""
        self._before.append(lambda message: self._resync(_digest(message)))

    def want_upgrade(self) -> None:
        """The client is too old."""
        self._before.append(self._say_upgrade)

    def want_payload_again(self, lease: LeaseId) -> None:
        """The first receipt of this lease's report is `again`."""
        self._again.add(lease)

    # --- ports -----------------------------------------------------------------------------------

    def held(self, trusted_now: Milliseconds) -> ProjectView:
        return ProjectView(self.project(), self.is_fresh)

    def refresh(self, trusted_now: Milliseconds, *, cancel: Cancellation) -> ProjectView:
        return self.held(trusted_now)

    def model_size(self, digest: Digest) -> int:
        if digest not in self.models:
            raise Untrusted(f"the project does not name the model {digest.hex()[:16]}")
        return self.models[digest]

    def again(
        self, session: SessionId, trusted_now: Milliseconds, *, cancel: Cancellation
    ) -> Enrolled:
        with self._lock:
            self.enrolled.append(session)
            self._session, self._seq, self._last = session, 0, digests.ZERO
            self._compares = True
            return Enrolled(
                in_reply_to=digests.ZERO,
                server_time=self.now(),
                vehicle=digests.of_key(b"?"),
                owner=OwnerId(bytes(16)),
                owner_name="owner",
                epoch=self.epoch,
            )

    def post(self, path: str, body: bytes, *, cancel: Cancellation) -> bytes:
        assert path == "/v1/work"
        with self._lock:
            self.bodies.append(body)
            self._up += len(body)
            message = envelope.unpack_message(body)
            if self._before:
                return self._before.pop(0)(message)
            raw = self._answer(message)
            raw = self._after.pop(0)(raw) if self._after else raw
            self._down += len(raw)
            return raw

    def fetch(
        self,
        path: str,
        to: Path,
        *,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
        is_exact: bool = True,
    ) -> None:
        if self.holds is not None:
            with cancel.closing(self.holds.set):
                self.holds.wait(30)
        cancel.check()
        raw = self.blobs.get(path.removeprefix("/v1/blobs/"))
        if raw is None:
            raise Told(404, "not_found", "no such blob", None)
        assert len(raw) == size or (not is_exact and len(raw) < size)
        to.write_bytes(raw)
        with self._lock:
            self._down += len(raw)
        on_bytes(len(raw))

    def upload(
        self,
        lease: LeaseId,
        ticket: bytes,
        source: Path,
        *,
        digest: Digest,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
    ) -> None:
        raw = source.read_bytes()
        assert ticket == lease
        assert (digests.of_tensors(raw), len(raw)) == (digest, size)
        with self._lock:
            self.outputs[digest] = raw
            self._up += size
        on_bytes(size)

    def take_moved(self) -> Moved:
        with self._lock:
            moved = Moved(down=self._down, up=self._up)
            self._down = self._up = 0
        return moved

    # --- answering -------------------------------------------------------------------------------

    def project(self) -> Project:
        """What TUF would vouch for."""

        def role(key: Ed25519PrivateKey) -> tuple[RoleKey]:
            public = envelope.public_bytes(key)
            return (RoleKey(key=public, not_before=Milliseconds(0), not_after=FOR_EVER),)

        return Project(
            name="memory",
            scheduler_keys=role(self.scheduler),
            batch_keys=role(self.batch_key),
            terms=Terms(digest=TERMS, size=9, version="1"),
            protocol_oldest=1,
            protocol_newest=1,
            sign_up="open",
        )

    def _answer(self, message: Message) -> bytes:
        request = roles.accept_request(message.envelope)
        digest = _digest(message)
        if any(report.lease in self._disliked for report in request.reports):
            raise Told(400, "malformed_message", "a report that nobody likes", None)
        if (request.session, digest) == (self._session, self._last) and self._stored:
            return self._stored
        if not self._fits(request):
            return self._resync(digest)
        self.requests.append(request)
        self._session, self._seq, self._last = request.session, request.seq, digest
        self.outputs |= envelope.by_digest(message, digests.of_tensors)
        self._stored = self._reply(request, digest)
        return self._stored

    def _fits(self, request: WorkRequest) -> bool:
        if self._session is not None and request.session == self._session:
            return (request.seq, request.previous) == (self._seq + 1, self._last)
        is_first = request.seq == 1 and request.previous == digests.ZERO
        is_known = self._session is None and self._nonce is None
        return is_first and (is_known or request.nonce == self._nonce)

    def _resync(self, digest: Digest) -> bytes:
        self._nonce = self._nonce or Nonce(secrets.token_bytes(16))
        answer = Resync(
            in_reply_to=digest,
            server_time=self.now(),
            nonce=self._nonce,
            epoch=self.epoch,
            last_seq=self._seq,
            last=self._last,
        )
        return envelope.pack_message(envelope.seal(answer, roles.RESYNC, self.scheduler))

    def _reply(self, request: WorkRequest, digest: Digest) -> bytes:
        receipts = tuple(self._receipt(report) for report in request.reports)
        wish = request.wish
        known = () if wish is None else wish.manifests
        leases, carried = [], []
        for name in [*self._lost_leases(request), *self._new_leases(wish)]:
            batch, index = self.leases[name]
            leases.append(self._change(batch.lease(index, name, self.lease_s)))
            if self.rides_along:
                carried += batch.carried(index, with_manifest=batch.digest not in known)
        reply = Reply(
            in_reply_to=digest,
            server_time=self.now(),
            epoch=self.epoch,
            wait_s=self.wait_s,
            has_work=bool(leases),
            receipts=receipts,
            verdicts=tuple(self.verdicts),
            leases=tuple(leases),
            aborts=tuple(self.aborts),
            notice=self.notice,
        )
        self._nonce = None
        self.verdicts, self.aborts = [], []
        sealed = envelope.seal(reply, roles.REPLY, self.scheduler)
        return envelope.pack_message(sealed, dict.fromkeys(carried))

    def _lost_leases(self, request: WorkRequest) -> list[LeaseId]:
        """After a resync: those that the vehicle does not have, though it should."""
        if request.nonce is None and not self._compares:
            return []
        self._compares = False
        return [name for name in self.leases if name not in {*request.holding, *self.reports}]

    def _new_leases(self, wish: Wish | None) -> list[LeaseId]:
        count = min(0 if wish is None else wish.units, self.units_per_reply, len(self._ready))
        names = [LeaseId(secrets.token_bytes(16)) for _ in range(count)]
        self.leases |= {name: self._ready.pop(0) for name in names}
        return names

    def _receipt(self, report: Report) -> Receipt:
        is_missing = report.output is not None and report.output not in self.outputs
        if is_missing or report.lease in self._again:
            self._again.discard(report.lease)
            return Receipt(lease=report.lease, outcome="again")
        self.reports[report.lease] = report
        return Receipt(lease=report.lease, outcome="taken")

    def _say_unknown(self, message: Message) -> bytes:
        answer = UnknownVehicle(in_reply_to=_digest(message), server_time=self.now())
        sealed = envelope.seal(answer, roles.UNKNOWN_VEHICLE, self.scheduler)
        return envelope.pack_message(sealed)

    def _say_upgrade(self, message: Message) -> bytes:
        answer = UpgradeRequired(
            in_reply_to=_digest(message), server_time=self.now(), oldest=7, newest=9
        )
        sealed = envelope.seal(answer, roles.UPGRADE_REQUIRED, self.scheduler)
        return envelope.pack_message(sealed)


def _digest(message: Message) -> Digest:
    return digests.of_request(message.envelope.payload)


def _lost(_: object) -> bytes:
    raise Unreachable("no link")

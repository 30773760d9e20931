"""Outputs too large for a message: resumable uploads, each opened by the ticket of its lease.

Decides who may upload (the ticket) and how much (what the unit's program gives, to the byte), at which
byte it goes on, and when it is complete: all bytes are here, their digest is the announced one, and the
blob is durable. Whether the result is any good is
not its business. One upload at a time and lease; the caller keeps that order.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from server import settings
from server.domain.names import output_blob
from server.domain.records import UploadRow
from server.domain.reports import taken_until
from server.domain.work import HeldRow
from server.errors import Busy, Conflict, Forbidden, NotFound, Refused, TooMany
from server.http.partials import Partials
from server.http.problems import WrongOffset
from server.ports import Blobs, Clock, Database, Repositories
from server.services.manifests import Manifests
from server.services.replies import ticket
from server.services.uploaded import expect_size, forget_unnamed
from workunits.errors import BadDigest, LimitExceeded
from workunits.trust import digests
from workunits.values import DIGEST_BYTES, ID_BYTES, Digest, KeyId, LeaseId, Milliseconds
from workunits.wire import limits

_SCHEME: Final = "ticket "
# A report may still come for these; for all others the bytes would lie here unused.
_AWAITED: Final = frozenset({"leased", "lost"})


class LeaseEnded(Conflict):
    """The result of this lease is not awaited any more."""

    code = "lease_ended"


class QuotaUsed(TooMany):
    """A vehicle has begun more uploads than it finishes and reports."""

    code = "upload_quota_used"


class Received(msgspec.Struct, frozen=True):
    """How far an upload is."""

    received: int
    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client says it sends: the bytes of `digest` from `offset` on."""

    lease: LeaseId
    offset: int
    size: int
    digest: Digest
    vehicle: KeyId | None = None  # whose quota it takes; known once it is admitted


def lease_of(text: str) -> LeaseId:
    """The lease in the address.

    Raises:
        NotFound: it is not one.
    """
    raw = _hex(text, ID_BYTES)
    if raw is None:
        raise NotFound("there is no such upload")
    return LeaseId(raw)


def offer_of(lease: LeaseId, offset: str | None, size: str | None, digest: str | None) -> Offer:
    """The offer in the headers Upload-Offset, Upload-Length and Upload-Digest.

    Raises:
        Refused: one is missing or no number; LimitExceeded: too large.
    """
    raw = _hex(digest or "", DIGEST_BYTES)
    if raw is None:
        raise Refused("Upload-Digest: give the digest of the whole payload, 64 hex digits")
    whole = _number("Upload-Length", size)
    if not 1 <= whole <= limits.TENSOR_PAYLOAD_BYTES:
        raise LimitExceeded(
            f"Upload-Length: {whole} bytes, must be 1 to {limits.TENSOR_PAYLOAD_BYTES}"
        )
    return Offer(lease, _number("Upload-Offset", offset), whole, Digest(raw))


def expect_room(repositories: Repositories, offer: Offer) -> None:
    """Raise `QuotaUsed` or `Busy` unless one more payload may come; what was announced counts whole."""
    uploads = repositories.uploads
    if offer.vehicle is not None:
        used = uploads.bytes_of(offer.vehicle, offer.lease)
        if used + offer.size > settings.UPLOAD_BYTES_PER_VEHICLE:
            raise QuotaUsed(
                f"{used} bytes of this vehicle wait for their reports; report what is complete first"
            )
    if uploads.bytes_in_all() + offer.size > settings.UPLOAD_BYTES_IN_ALL:
        raise Busy("more uploads wait for their reports than there is room for; try again later")


def ticket_opens(ticket_key: bytes, lease: LeaseId, authorization: str | None) -> bool:
    """Whether the Authorization header carries the ticket that the signed lease carried."""
    given = authorization or ""
    if not given.lower().startswith(_SCHEME):
        return False
    wanted = ticket(ticket_key, lease).hex()
    return hmac.compare_digest(given[len(_SCHEME) :].strip().lower().encode(), wanted.encode())


class Uploads:
    """The uploads of one server; every method may block on the disk."""

    def __init__(
        self, database: Database, blobs: Blobs, partials: Partials, clock: Clock, ticket_key: bytes
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._partials = partials
        self._clock = clock
        self._ticket_key = ticket_key
        self._manifests = Manifests(blobs)

    def admit(self, lease: LeaseId, authorization: str | None) -> HeldRow:
        """The lease, which may upload now.

        Raises:
            Forbidden, LeaseEnded: it may not.
        """
        if not ticket_opens(self._ticket_key, lease, authorization):
            raise Forbidden("the ticket does not open this upload; it stands in the lease")
        with self._database.reading() as repositories:
            held = repositories.replicas.by_leases([lease]).get(lease)
        if held is None or not _is_awaited(held, self._clock.now_ms()):
            raise LeaseEnded("the result of this lease is not awaited any more")
        return held

    def expect_size(self, held: HeldRow, size: int) -> None:
        """Raise `WrongSize` unless the output of this lease's unit has exactly this size."""
        with self._database.reading() as repositories:
            batch = repositories.batches.by_ids([held.batch_id])[held.batch_id]
        expect_size(self._manifests.manifest(batch.manifest), held.rows, size)

    def standing(self, lease: LeaseId) -> Received:
        """How far the upload is; one that stopped just before its end is completed here."""
        row = self._row(lease)
        if row is None:
            return Received(0, 0, False)
        if row.is_complete:
            return self._complete(row)
        received = self._partials.received(lease)
        if received == row.size:
            return self._finish_alone(row)
        return Received(received, row.size, False)

    def begin(self, offer: Offer) -> Received:
        """Ready to append at `offer.offset`; complete if there is nothing left to send.

        Raises:
            WrongOffset: it stands elsewhere, or another payload was begun; from 0 on either is
                begun anew.
            QuotaUsed, Busy: there is no room for another payload, of this vehicle or of anybody.
        """
        row = self._row(offer.lease)
        if row is None or (row.digest, row.size) != (offer.digest, offer.size):
            return self._begin_anew(offer, row)
        if row.is_complete:
            complete = self._complete(row)
            return complete if complete.complete else self._begin_anew(offer, row)
        received = self._partials.received(offer.lease)
        if offer.offset != received:
            raise WrongOffset(f"{received} bytes are here; go on there", received)
        return Received(received, offer.size, False)

    def append(self, lease: LeaseId, piece: bytes) -> None:
        """Keep a piece."""
        self._partials.append(lease, piece)

    def finish(self, offer: Offer) -> Received:
        """Check the digest, make the blob durable, and only then call the upload complete.

        Raises:
            BadDigest: what came is something else; it is thrown away.
            Outage: the disk is full or broken; the part stays and this may be repeated.
        """
        try:
            self._blobs.put_stream(output_blob(offer.digest), self._checked(offer))
        except BadDigest:
            self._partials.discard(offer.lease)
            raise
        self._note(offer, is_complete=True)
        # Last of all: until here a crash or an outage costs nobody the bytes that came.
        self._partials.discard(offer.lease)
        return Received(offer.size, offer.size, True)

    def _finish_alone(self, row: UploadRow) -> Received:
        """What a power cut damaged was not sent by anybody; nothing is here then."""
        try:
            return self.finish(Offer(row.lease_id, row.size, row.size, row.digest, row.vehicle_id))
        except BadDigest:
            return Received(0, row.size, False)

    def touch(self, offer: Offer) -> Received:
        """Note that the upload moved on, and how far it is."""
        self._note(offer, is_complete=False)
        return Received(self._partials.received(offer.lease), offer.size, False)

    def _begin_anew(self, offer: Offer, former: UploadRow | None) -> Received:
        """One payload for each lease: what it sent before goes, unless somebody's result names it."""
        if offer.offset != 0:
            raise WrongOffset("nothing of this payload is here; begin at 0", 0)
        with self._database.transaction() as repositories:
            expect_room(repositories, offer)
            self._partials.discard(offer.lease)
            repositories.uploads.put(self._noted(offer, is_complete=False))
            if former is not None:
                forget_unnamed(repositories, self._blobs, [former.digest])
        return Received(0, offer.size, False)

    def _complete(self, row: UploadRow) -> Received:
        """A finished upload; when its blob is gone from the disk, nothing of it is here."""
        self._partials.discard(row.lease_id)  # left by a crash at the very end
        is_here = self._blobs.size(output_blob(row.digest)) == row.size
        return Received(row.size if is_here else 0, row.size, is_here)

    def _checked(self, offer: Offer) -> Iterator[bytes]:
        running = digests.streamed_tensors()
        for piece in self._partials.pieces(offer.lease):
            running.update(piece)
            yield piece
        digests.expect(Digest(running.digest()), offer.digest, "upload")

    def _row(self, lease: LeaseId) -> UploadRow | None:
        with self._database.reading() as repositories:
            return repositories.uploads.get(lease)

    def _note(self, offer: Offer, *, is_complete: bool) -> None:
        with self._database.transaction() as repositories:
            repositories.uploads.put(self._noted(offer, is_complete=is_complete))

    def _noted(self, offer: Offer, *, is_complete: bool) -> UploadRow:
        now = self._clock.now_ms()
        return UploadRow(
            offer.lease, offer.digest, offer.size, is_complete, now, vehicle_id=offer.vehicle
        )


def _is_awaited(held: HeldRow, now: Milliseconds) -> bool:
    return held.state in _AWAITED and now <= taken_until(held, settings.LATE_SHARE)


def _number(name: str, text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refused(f"{name}: give a number of bytes")
    return int(text)


def _hex(text: str, size: int) -> bytes | None:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw if len(raw) == size and len(text) == 2 * size else None

"""What rides along with a reply: looked up each time, so that a stored reply stays small.

Inputs up to the limit of an attachment, and manifests that the vehicle did not say it has. Whatever
is not found small is left to the vehicle to fetch as a blob.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from server.domain import names
from server.ports import Blobs, Database
from server.services.manifests import Manifests, Recent
from workunits.trust.envelope import pack_message
from workunits.values import Digest
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, Reply, Unit, Wish

# Small inputs that were read from blobs; a unit's input goes out at least `quorum` times.
_INPUTS_KEPT: Final = 256
# What attachments may take of a message, so that the envelope has room.
_CARRIED_BYTES: Final = limits.MESSAGE_BYTES - limits.PAYLOAD_BYTES - limits.ATTACHMENT_BYTES


@dataclass(frozen=True, slots=True)
class Answer:
    """A signed answer, and the digests of what may ride along with it."""

    envelope: Envelope
    inputs: tuple[Digest, ...] = ()
    manifests: tuple[Digest, ...] = ()


def with_attachments(envelope: Envelope, reply: Reply, wish: Wish | None) -> Answer:
    """The answer that carries `reply`, and what its leases need that is small."""
    units = (codec.unpack(lease.unit, Unit, most=limits.PAYLOAD_BYTES) for lease in reply.leases)
    inputs = (
        part.digest
        for unit in units
        for part in unit.inputs
        if part.size <= limits.ATTACHMENT_BYTES
    )
    known = wish.manifests if wish else ()
    manifests = (lease.manifest for lease in reply.leases if lease.manifest not in known)
    return Answer(envelope, _once(inputs), _once(manifests))


class Carrier:
    """Answers as the bytes of their messages. Used by one thread."""

    def __init__(self, database: Database, blobs: Blobs, manifests: Manifests) -> None:
        self._database = database
        self._blobs = blobs
        self._manifests = manifests
        self._inputs: Recent[Digest, bytes | None] = Recent(self._small_blob, _INPUTS_KEPT)

    def carry(self, answers: Sequence[Answer]) -> list[bytes]:
        """The packed Message of each answer."""
        wanted = _once(digest for answer in answers for digest in answer.inputs)
        stored: dict[Digest, bytes] = {}
        if wanted:
            with self._database.reading() as repos:
                stored = repos.payloads.read(wanted)
        return [
            pack_message(answer.envelope, self._attachments(answer, stored)) for answer in answers
        ]

    def _attachments(self, answer: Answer, stored: dict[Digest, bytes]) -> list[bytes]:
        carried: list[bytes] = []
        room = _CARRIED_BYTES
        for raw in self._found(answer, stored):
            if raw is None or len(raw) > min(room, limits.ATTACHMENT_BYTES):
                continue
            if len(carried) == limits.ATTACHMENTS:
                break
            carried.append(raw)
            room -= len(raw)
        return carried

    def _found(self, answer: Answer, stored: dict[Digest, bytes]) -> Iterable[bytes | None]:
        for digest in answer.inputs:
            yield stored.get(digest) or self._inputs.get(digest)
        for digest in answer.manifests:
            # A repeated reply may name one that has been damaged since; the vehicle asks for it.
            yield self._manifests.packed(digest) if self._manifests.find(digest) else None

    def _small_blob(self, digest: Digest) -> bytes | None:
        name = names.public_blob(digest)
        size = self._blobs.size(name)
        return (
            self._blobs.read(name) if size is not None and size <= limits.ATTACHMENT_BYTES else None
        )


def _once(found: Iterable[Digest]) -> tuple[Digest, ...]:
    return tuple(dict.fromkeys(found))

"""Keeping input payloads where vehicles find them: as blobs, and small ones in the database too.

The copy in the database rides along with a lease; the blob is for a vehicle that has lost it. Both are
named by their digest, so that storing them shows nothing to anybody before a batch names them.
"""

from __future__ import annotations

from typing import Final

from server.domain.names import public_blob
from server.ports import Blobs, Database
from workunits.trust import digests
from workunits.values import Digest
from workunits.wire import limits
from workunits.wire.messages import InputPart, Scope

# Made durable together: few flushes, and still little memory and short transactions.
TOGETHER: Final = 128
TOGETHER_BYTES: Final = 32 * limits.MIB


class PayloadStore:
    """Gathers payloads and writes them in groups; `flush` after the last one."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._small: dict[Digest, bytes] = {}
        self._large: dict[Digest, bytes] = {}
        self._bytes = 0

    def add(self, scope: Scope, raw: bytes) -> InputPart:
        """Take one payload in; how a unit names it."""
        digest = digests.of_tensors(raw)
        # A small one rides along with its lease (DESIGN 6), which reads it from the database.
        group = self._small if len(raw) <= limits.ATTACHMENT_BYTES else self._large
        group[digest] = raw
        self._bytes += len(raw)
        if len(self._small) + len(self._large) >= TOGETHER or self._bytes >= TOGETHER_BYTES:
            self.flush()
        return InputPart(scope=scope, digest=digest, size=len(raw))

    def flush(self) -> None:
        """Make durable what was added."""
        every = {**self._large, **self._small}
        if every:
            self._blobs.put_many((public_blob(name), raw) for name, raw in every.items())
        if self._small:
            with self._database.transaction() as storage:
                storage.payloads.add(self._small)
        self._small, self._large, self._bytes = {}, {}, 0

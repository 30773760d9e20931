"""Manifests and trees of batches, kept at hand: what a lease must say beyond its own row.

Decides whether what the disk gives is what was published; a damaged blob is this server's own fault
and is said once. Which leases there are is `server.services.leasing`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar

from server.domain import names
from server.domain.records import BatchRow
from server.errors import Damaged, NotFound
from server.ports import Blobs
from workunits.errors import ContractError
from workunits.trust import digests, merkle
from workunits.values import DIGEST_BYTES, Digest, show
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, Manifest

K = TypeVar("K")
V = TypeVar("V")

# Batches whose manifests and (mapped, not read) trees are kept; more run at once only rarely.
_KEPT: Final = 128

_log = logging.getLogger("server.services.manifests")


class Recent(Generic[K, V]):
    """The most recently used values of something that never changes. Used by any thread."""

    def __init__(self, load: Callable[[K], V], most: int = _KEPT) -> None:
        self._load = load
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Two threads may load the same; a load that waits for the disk must not stop the others.
        value = self._load(key)
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


class Manifests:
    """Used by any thread."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._packed: Recent[Digest, bytes] = Recent(self._read)
        self._open: Recent[Digest, Manifest] = Recent(self._unpack)
        self._trees: Recent[tuple[str, int, Digest], memoryview] = Recent(self._view)
        self._told: set[str] = set()

    def packed(self, digest: Digest) -> bytes:
        """The packed envelope, as it travels.

        Raises:
            Damaged: it is not there, or is something else.
        """
        return self._packed.get(digest)

    def manifest(self, digest: Digest) -> Manifest:
        """What is in it; this server signed it, so the signature is not checked again.

        Raises:
            Damaged: it is not there, or is something else.
        """
        return self._open.get(digest)

    def find(self, digest: Digest) -> Manifest | None:
        """The manifest; None, and a line in the log, when it is damaged."""
        try:
            found = self.manifest(digest)
        except Damaged as error:
            self._tell(show(digest), error)
            return None
        self._told.discard(show(digest))
        return found

    def is_sound(self, batch: BatchRow) -> bool:
        """Whether everything is here that leases of this batch are made of."""
        if self.find(batch.manifest) is None:
            return False
        try:
            self._levels(batch)
        except Damaged as error:
            self._tell(batch.tree, error)
            return False
        self._told.discard(batch.tree)
        return True

    def proof(self, batch: BatchRow, index: int) -> tuple[Digest, ...]:
        """The inclusion proof of a unit, cut from its batch's tree.

        Raises:
            Damaged: the tree is not there, or is not the manifest's.
        """
        levels = self._levels(batch)
        return tuple(
            Digest(bytes(levels[at : at + DIGEST_BYTES]))
            for at in merkle.offsets(index, batch.units)
        )

    def _levels(self, batch: BatchRow) -> memoryview:
        return self._trees.get((batch.tree, batch.units, batch.manifest))

    def _read(self, digest: Digest) -> bytes:
        try:
            raw = self._blobs.read(names.public_blob(digest))
        except NotFound as error:
            raise Damaged(f"the manifest {show(digest)} is gone") from error
        if digests.of_manifest(raw) != digest:
            raise Damaged(f"the manifest {show(digest)} is not what was written")
        return raw

    def _unpack(self, digest: Digest) -> Manifest:
        raw = self.packed(digest)
        try:
            sealed = codec.unpack(raw, Envelope, most=limits.MESSAGE_BYTES)
            return codec.unpack(sealed.payload, Manifest, most=limits.PAYLOAD_BYTES)
        except ContractError as error:
            raise Damaged(f"the manifest {show(digest)} cannot be read: {error}") from error

    def _view(self, tree: tuple[str, int, Digest]) -> memoryview:
        name, size, manifest = tree
        try:
            levels = self._blobs.view(name)
        except NotFound as error:
            raise Damaged(f"the tree {name} is gone") from error
        wanted = merkle.levels_bytes(size)
        if len(levels) != wanted:
            raise Damaged(f"the tree {name} has {len(levels)} bytes, not {wanted}")
        if bytes(levels[-DIGEST_BYTES:]) != self.manifest(manifest).root:
            raise Damaged(f"the tree {name} is not the one of its manifest")
        return levels

    def _tell(self, name: str, error: Damaged) -> None:
        """Once for each blob, until it is well again: every request looks at it."""
        if name not in self._told:
            self._told.add(name)
            _log.error("damaged blob=%s detail=%r", name, str(error))

"""Manifests and trees of batches, kept at hand: what a lease must say beyond its own row.

A cache of immutable blobs and nothing more; which leases there are is `server.services.leasing`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from server.domain import names
from server.ports import Blobs
from workunits.trust import merkle
from workunits.values import DIGEST_BYTES, Digest
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, Manifest

K = TypeVar("K")
V = TypeVar("V")

# Batches whose manifests and (mapped, not read) trees are kept; more run at once only rarely.
_KEPT: Final = 128


class Recent(Generic[K, V]):
    """The most recently used values of something that never changes."""

    def __init__(self, load: Callable[[K], V], most: int = _KEPT) -> None:
        self._load = load
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._kept[key] = self._load(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value


class Manifests:
    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._packed: Recent[Digest, bytes] = Recent(self._read)
        self._open: Recent[Digest, Manifest] = Recent(self._unpack)
        self._trees: Recent[str, memoryview] = Recent(blobs.view)

    def packed(self, digest: Digest) -> bytes:
        """The packed envelope, as it travels."""
        return self._packed.get(digest)

    def manifest(self, digest: Digest) -> Manifest:
        """What is in it; this server signed it, so the signature is not checked again."""
        return self._open.get(digest)

    def proof(self, tree: str, index: int, size: int) -> tuple[Digest, ...]:
        """The inclusion proof of a unit, cut from its batch's tree."""
        levels = self._trees.get(tree)
        return tuple(
            Digest(bytes(levels[at : at + DIGEST_BYTES])) for at in merkle.offsets(index, size)
        )

    def _read(self, digest: Digest) -> bytes:
        return self._blobs.read(names.public_blob(digest))

    def _unpack(self, digest: Digest) -> Manifest:
        sealed = codec.unpack(self.packed(digest), Envelope, most=limits.MESSAGE_BYTES)
        return codec.unpack(sealed.payload, Manifest, most=limits.PAYLOAD_BYTES)

"""Words of the contract as types: what a number or a run of bytes means.

Ids are 128 random bits made by the server, digests are SHA-256. Both travel as raw bytes in
MessagePack and are shown as hex (`show`). Time on the wire is whole milliseconds since the Unix
epoch, UTC; lengths of time are whole seconds.
"""

from __future__ import annotations

from typing import Annotated, Final, NewType

from msgspec import Meta

ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32

_RawId = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
_RawDigest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]

# An id of a batch, a unit, a lease (= its replica) or an owner; never reused (PROTOCOL 2.1).
BatchId = NewType("BatchId", _RawId)
LeaseId = NewType("LeaseId", _RawId)
OwnerId = NewType("OwnerId", _RawId)
# 128 random bits, made by the client when it joins and after each resync.
SessionId = NewType("SessionId", _RawId)
Nonce = NewType("Nonce", _RawId)

Digest = NewType("Digest", _RawDigest)
# The digest of an Ed25519 public key; names a vehicle for ever.
KeyId = NewType("KeyId", _RawDigest)

Milliseconds = NewType("Milliseconds", int)  # since 1970-01-01T00:00Z
Seconds = NewType("Seconds", int)
KiloFlop = NewType("KiloFlop", int)  # credit is kept in whole kFLOP

# 1 cobblestone = 86,400 s of 1 GFLOP/s over 200 (BOINC's definition).
KFLOP_PER_COBBLESTONE: Final = 432_000_000


def show(value: bytes) -> str:
    """Hex, as people and JSON see ids and digests."""
    return value.hex()

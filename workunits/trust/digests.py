"""Content ids: SHA-256 with a domain tag per use, so that no object can pass for another (PROTOCOL 2.2).

Two uses are plain SHA-256 because other tools compute them too: model files and the terms' text, as
they stand in TUF targets.
"""

from __future__ import annotations

import hashlib
from typing import Final

from workunits.errors import BadDigest
from workunits.values import DIGEST_BYTES, Digest, KeyId, show

ZERO: Final = Digest(bytes(DIGEST_BYTES))

_TAG_ROOT: Final = b"tesla-at-home/v1/"


def _tagged(use: bytes, raw: bytes) -> Digest:
    return Digest(hashlib.sha256(_TAG_ROOT + use + b"\0" + raw).digest())


def of_request(payload: bytes) -> Digest:
    """Of a signed request's payload: 'in reply to' and 'previous' (PROTOCOL 8.3)."""
    return _tagged(b"request", payload)


def of_tensors(raw: bytes) -> Digest:
    """Of a tensor payload's exact bytes."""
    return _tagged(b"tensors", raw)


def of_manifest(raw: bytes) -> Digest:
    """Of a manifest as it travels: its packed envelope, signature included."""
    return _tagged(b"manifest", raw)


def of_owner_code(code: str) -> Digest:
    """What the server keeps of an owner's recovery code (128 random bits: no slow hash needed)."""
    return _tagged(b"owner-code", code.encode())


def of_invite(code: str) -> Digest:
    """What the server keeps of an invitation."""
    return _tagged(b"invite", code.encode())


def of_key(public_key: bytes) -> KeyId:
    """The id of a vehicle: of its 32 public key bytes."""
    return KeyId(_tagged(b"key", public_key))


def plain(raw: bytes) -> Digest:
    """Untagged SHA-256: model files and the terms' text only."""
    return Digest(hashlib.sha256(raw).digest())


def streamed_tensors() -> hashlib._Hash:
    """A running hash whose digest is that of `of_tensors`, for payloads that arrive in pieces."""
    return hashlib.sha256(_TAG_ROOT + b"tensors\0")


def expect_tensors(raw: bytes | memoryview, wanted: Digest, what: str) -> None:
    """Raise `BadDigest` unless `raw` is the tensor payload named `wanted`."""
    running = streamed_tensors()
    running.update(raw)
    expect(Digest(running.digest()), wanted, what)


def expect(found: Digest, wanted: Digest, what: str) -> None:
    """Raise `BadDigest` unless they are equal."""
    if found != wanted:
        raise BadDigest(f"{what}: digest is {show(found)[:16]}, signed was {show(wanted)[:16]}")

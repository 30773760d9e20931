"""DSSE: signing exactly the bytes that travel, so that no canonical form is needed (PROTOCOL 4).

The key id in an envelope is a hint. Which key counts is decided by who calls: `open_with` takes the
keys that may sign, and the caller has them from TUF or, for a vehicle, from inside the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from workunits.errors import BadSignature, LimitExceeded, WrongPayloadType
from workunits.trust import digests
from workunits.values import Digest
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, Message, Signature

T = TypeVar("T")


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1's PAE: what is signed. Source: secure-systems-lab/dsse, protocol.md."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_from_seed(seed: bytes) -> Ed25519PrivateKey:
    """The private key of 32 random bytes; the caller has the randomness."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw public bytes of a private key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def seal(value: msgspec.Struct, payload_type: str, key: Ed25519PrivateKey) -> Envelope:
    """`value` as MessagePack, signed."""
    return seal_bytes(codec.pack(value), payload_type, key)


def seal_bytes(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> Envelope:
    """`payload` as it is, signed."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    keyid = digests.of_key(public_bytes(key)).hex()
    return Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=(Signature(keyid=keyid, sig=signature),),
    )


def expect_type(envelope: Envelope, payload_type: str) -> None:
    """Raise `WrongPayloadType` unless the envelope says it carries `payload_type`."""
    if envelope.payload_type != payload_type:
        raise WrongPayloadType(
            f"expected {payload_type}, the envelope carries {envelope.payload_type!r:.80}"
        )


def check_signature(envelope: Envelope, keys: Iterable[bytes]) -> None:
    """Raise `BadSignature` unless one of `keys` (32 raw bytes each) signed the envelope."""
    signed = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    for raw in keys:
        try:
            public = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            continue
        for signature in envelope.signatures:
            try:
                public.verify(signature.sig, signed)
            except InvalidSignature:
                continue
            return
    raise BadSignature(f"{envelope.payload_type}: not signed by a key that may sign it")


def open_with(envelope: Envelope, payload_type: str, kind: type[T], keys: Iterable[bytes]) -> T:
    """The trusted object in an envelope: type, signature, then content, in this order.

    Raises:
        WrongPayloadType, BadSignature, MalformedMessage, LimitExceeded
    """
    expect_type(envelope, payload_type)
    check_signature(envelope, keys)
    return codec.unpack(envelope.payload, kind, most=limits.PAYLOAD_BYTES)


def pack_message(envelope: Envelope, attachments: Iterable[bytes] = ()) -> bytes:
    """An envelope and its attachments as they travel.

    Raises:
        LimitExceeded: more or larger than a message may be.
    """
    carried = tuple(attachments)
    if len(carried) > limits.ATTACHMENTS or any(
        len(raw) > limits.ATTACHMENT_BYTES for raw in carried
    ):
        raise LimitExceeded("attachments: too many, or one too large")
    raw = codec.pack(Message(envelope=envelope, attachments=carried))
    if len(raw) > limits.MESSAGE_BYTES:
        raise LimitExceeded(f"message: {len(raw)} bytes, at most {limits.MESSAGE_BYTES}")
    return raw


def unpack_message(raw: bytes) -> Message:
    """A message as it came; nothing in it is trusted yet."""
    return codec.unpack(raw, Message, most=limits.MESSAGE_BYTES)


def by_digest(message: Message, of: Callable[[bytes], Digest]) -> dict[Digest, bytes]:
    """The attachments under the digest that `of` gives them: `digests.of_tensors` or `of_manifest`."""
    return {of(raw): raw for raw in message.attachments}

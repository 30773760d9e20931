"""The golden vectors still hold, and other implementations agree with them."""

from __future__ import annotations

import hashlib
import json
from typing import cast

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import CryptoSigner, Signature

from tests.contract import wire_samples as samples
from tests.contract.regenerate_vectors import TOPICS, VECTORS
from workunits.trust import merkle, roles
from workunits.trust.envelope import pre_authentication_encoding, seal
from workunits.values import Digest
from workunits.wire import codec


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_what_the_code_makes_is_what_is_written_down(topic: str) -> None:
    written = json.loads((VECTORS / f"{topic}.json").read_text())
    assert json.loads(json.dumps(TOPICS[topic]())) == written


def test_every_vector_file_has_its_topic() -> None:
    assert {path.stem for path in VECTORS.glob("*.json")} == set(TOPICS)


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_written_bytes_decode_to_the_sample(name: str) -> None:
    value = samples.MESSAGES[name]
    raw = bytes.fromhex(json.loads((VECTORS / "messages.json").read_text())[name])
    assert codec.unpack(raw, type(value), most=len(raw)) == value
    assert codec.from_json(codec.to_json(value), type(value), most=10**6) == value


def test_no_two_digest_uses_meet() -> None:
    found = json.loads((VECTORS / "digests.json").read_text())
    raw = bytes.fromhex(found.pop("over"))
    assert len(set(found.values())) == len(found)
    assert found["plain"] == hashlib.sha256(raw).hexdigest()
    assert found["tensors"] == hashlib.sha256(b"tesla-at-home/v1/tensors\0" + raw).hexdigest()


def test_signed_bytes_are_those_of_securesystemslib() -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    theirs = TheirEnvelope(sealed.payload, sealed.payload_type, {})
    assert theirs.pae() == pre_authentication_encoding(sealed.payload_type, sealed.payload)


def test_securesystemslib_accepts_our_signature() -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    signer = CryptoSigner(samples.VEHICLE)
    key = signer.public_key
    theirs = TheirEnvelope(
        sealed.payload,
        sealed.payload_type,
        {key.keyid: Signature(key.keyid, sealed.signatures[0].sig.hex())},
    )
    assert theirs.verify([key], 1).keys() == {key.keyid}


def rfc6962_root(leaves: list[bytes]) -> bytes:
    """Section 2.1 of the RFC, word for word: split at the largest power of two below n."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = rfc6962_root(leaves[:split]), rfc6962_root(leaves[split:])
    return hashlib.sha256(b"\1" + left + right).digest()


def test_roots_are_those_of_rfc_6962() -> None:
    for tree in json.loads((VECTORS / "merkle.json").read_text())["trees"]:
        size = cast(int, tree["leaves"])
        leaves = [bytes([i]) for i in range(size)]
        assert rfc6962_root(leaves).hex() == tree["root"]
        for index, proof in enumerate(tree["proofs"]):
            hashes = [bytes.fromhex(h) for h in proof]
            merkle.verify(leaves[index], index, size, hashes, Digest(rfc6962_root(leaves)))

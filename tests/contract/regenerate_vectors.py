"""Writes the golden vectors anew: `python -m tests.contract.regenerate_vectors`.

A topic is a function that gives a JSON object; its file is `vectors/<topic>.json`. A changed file is
a changed protocol: it needs a new version and an entry in CHANGELOG.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.contract import tensor_samples
from tests.contract import wire_samples as samples
from workunits.trust import digests, merkle, roles
from workunits.trust.envelope import pre_authentication_encoding, public_bytes, seal
from workunits.wire import codec, tensors

VECTORS = Path(__file__).parent / "vectors"

Vector = dict[str, object]


def messages() -> Vector:
    """Every message: its MessagePack bytes."""
    return {name: codec.pack(value).hex() for name, value in samples.MESSAGES.items()}


def digest_tags() -> Vector:
    """Each digest over the same bytes; all differ."""
    raw = b"the same bytes"
    return {
        "over": raw.hex(),
        "request": digests.of_request(raw).hex(),
        "tensors": digests.of_tensors(raw).hex(),
        "manifest": digests.of_manifest(raw).hex(),
        "owner-code": digests.of_owner_code(raw.decode()).hex(),
        "invite": digests.of_invite(raw.decode()).hex(),
        "key": digests.of_key(raw).hex(),
        "plain": digests.plain(raw).hex(),
    }


def merkle_trees() -> Vector:
    """Roots and all proofs of trees of 1 to 9 leaves; leaf i is the one byte i."""
    trees = []
    for size in range(1, 10):
        levels = merkle.build(merkle.leaf_hash(bytes([i])) for i in range(size))
        proofs = [[h.hex() for h in merkle.prove(levels, i, size)] for i in range(size)]
        trees.append({"leaves": size, "root": merkle.root_of(levels).hex(), "proofs": proofs})
    return {"trees": trees}


def envelopes() -> Vector:
    """A signed work request: key, signed bytes, signature (Ed25519 is deterministic)."""
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    return {
        "private_key": bytes(range(32)).hex(),
        "public_key": public_bytes(samples.VEHICLE).hex(),
        "payload_type": sealed.payload_type,
        "payload": sealed.payload.hex(),
        "signed": pre_authentication_encoding(sealed.payload_type, sealed.payload).hex(),
        "signature": sealed.signatures[0].sig.hex(),
        "envelope": codec.pack(sealed).hex(),
    }


def tensor_payloads() -> Vector:
    """Payloads of small tensors: dtypes, shapes and little-endian data, and the bytes they make."""
    return {
        name: {
            "tensors": [
                {"name": key, "dtype": t.dtype, "shape": list(t.shape), "data": bytes(t.data).hex()}
                for key, t in sample.items()
            ],
            "payload": tensors.encode(sample).hex(),
            "digest": digests.of_tensors(tensors.encode(sample)).hex(),
        }
        for name, sample in tensor_samples.PAYLOADS.items()
    }


TOPICS: dict[str, Callable[[], Vector]] = {
    "messages": messages,
    "digests": digest_tags,
    "merkle": merkle_trees,
    "envelope": envelopes,
    "tensors": tensor_payloads,
}


def main() -> None:
    VECTORS.mkdir(exist_ok=True)
    for topic, make in TOPICS.items():
        text = json.dumps(make(), indent=1) + "\n"
        (VECTORS / f"{topic}.json").write_text(text)


if __name__ == "__main__":
    main()

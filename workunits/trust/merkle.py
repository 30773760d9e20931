"""RFC 6962 hash trees: one root for all units of a batch, a short proof for each.

The tree is kept as its levels in one run of bytes (leaves first), so that a proof is cut by
offsets, without hashing. A level of odd length hands its last hash up unchanged; this gives the
same root as RFC 6962 section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from workunits.errors import BadProof
from workunits.values import DIGEST_BYTES, Digest


def leaf_hash(leaf: bytes) -> Digest:
    """RFC 6962: the hash of a leaf has the prefix 0x00."""
    return Digest(hashlib.sha256(b"\0" + leaf).digest())


def inner_hash(left: bytes, right: bytes) -> Digest:
    """RFC 6962: the hash of two nodes has the prefix 0x01."""
    return Digest(hashlib.sha256(b"\1" + left + right).digest())


def build(leaves: Iterable[Digest]) -> bytes:
    """All levels of the tree over leaf hashes, joined; the last 32 bytes are the root.

    Raises:
        ValueError: no leaf.
    """
    level = list(leaves)
    if not level:
        raise ValueError("a tree needs a leaf")
    levels = [b"".join(level)]
    while len(level) > 1:
        above = [inner_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(b"".join(above))
        level = above
    return b"".join(levels)


def levels_bytes(size: int) -> int:
    """How many bytes `build` makes of `size` leaves."""
    hashes = size
    while size > 1:
        size = (size + 1) // 2
        hashes += size
    return hashes * DIGEST_BYTES


def root_of(levels: bytes) -> Digest:
    """The root of what `build` made."""
    return Digest(levels[-DIGEST_BYTES:])


def offsets(index: int, size: int) -> list[int]:
    """Where in the levels of a tree of `size` leaves the hashes of leaf `index`'s proof begin, in bytes."""
    _check_place(index, size)
    found = []
    start = 0
    while size > 1:
        sibling = index ^ 1
        if sibling < size:
            found.append((start + sibling) * DIGEST_BYTES)
        start += size
        index //= 2
        size = (size + 1) // 2
    return found


def prove(levels: bytes, index: int, size: int) -> tuple[Digest, ...]:
    """The proof of leaf `index`: the hashes beside its path, from the leaf up."""
    return tuple(Digest(levels[at : at + DIGEST_BYTES]) for at in offsets(index, size))


def verify(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: Digest) -> None:
    """Check that `leaf` is number `index` of the `size` leaves under `root`.

    Raises:
        BadProof: it is not, or the proof has another length than the place demands.
    """
    if not 0 <= index < size:
        raise BadProof(f"unit {index} of {size} does not exist")
    node: Digest = leaf_hash(leaf)
    rest = list(proof)
    while size > 1:
        if index ^ 1 < size:
            if not rest:
                raise BadProof("proof is too short")
            beside = rest.pop(0)
            node = inner_hash(beside, node) if index % 2 else inner_hash(node, beside)
        index //= 2
        size = (size + 1) // 2
    if rest:
        raise BadProof("proof is too long")
    if node != root:
        raise BadProof("unit does not prove into its manifest")


def _check_place(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of {size}")

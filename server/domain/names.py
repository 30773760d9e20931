"""How blobs are called. Plain hex names are public (`GET /v1/blobs/{hex}`), those with a kind are not.

An output is never public: whoever could fetch another's result would have a voice without working.
"""

from __future__ import annotations

from workunits.values import BatchId, Digest, show


def public_blob(digest: Digest) -> str:
    """A model, a manifest, a large input, the terms."""
    return show(digest)


def output_blob(digest: Digest) -> str:
    """A result that was too large to ride along with its report."""
    return f"outputs/{show(digest)}"


def tree_blob(batch: BatchId) -> str:
    """The levels of a batch's Merkle tree, as `merkle.build` joins them."""
    return f"trees/{show(batch)}"

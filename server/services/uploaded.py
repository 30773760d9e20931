"""Uploaded outputs: how long one may be, and how long it is kept without a result that names it.

Taking in the bytes is `server.http.uploads`, naming them in a report `server.services.intake`.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.domain.names import output_blob
from server.errors import Refused
from server.ports import Blobs, Repositories
from workunits.values import Digest
from workunits.wire import limits, tensors
from workunits.wire.messages import Manifest


class WrongSize(Refused):
    """An output of the unit's program has another length."""

    code = "wrong_size"
    status = 422


def expect_size(manifest: Manifest, rows: int, size: int) -> None:
    """Raise `WrongSize` unless the output of a unit of `rows` rows is uploaded and has this size."""
    wanted = tensors.payload_bytes(manifest.program.outputs, rows)
    if size != wanted:
        raise WrongSize(f"Upload-Length: {size} bytes; the output of this unit has {wanted}")
    if size <= limits.ATTACHMENT_BYTES:
        raise WrongSize(f"Upload-Length: {size} bytes ride along with their report")


def forget_unnamed(repos: Repositories, blobs: Blobs, outputs: Iterable[Digest]) -> None:
    """Delete the uploaded outputs that no upload and no result names any more.

    Call it in the transaction that took the name away: whoever sends one is written down before its
    blob, so nobody can begin to rely on it in between.
    """
    for digest in outputs:
        if not repos.uploads.is_named(digest):
            blobs.delete(output_blob(digest))

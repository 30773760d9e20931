"""Rows of the server's database with plain values, to be changed with `dataclasses.replace`."""

from __future__ import annotations

from typing import Final

from server.domain.records import BatchRow
from workunits.values import BatchId, Digest, Milliseconds

NOW: Final = Milliseconds(1_000_000)
HOUR_MS: Final = 3_600_000

BATCH: Final = BatchRow(
    id=BatchId(bytes(16)), model_name="m", kind="tensor", options=b"{}", state="running", quorum=2,
    assurance="replicated", units=1, rows=4, kflop_per_row=1, lease_s=3600, created_ms=NOW,
    deadline_ms=Milliseconds(NOW + 9 * HOUR_MS), manifest=Digest(bytes(32)), tree="trees/00",
)  # fmt: skip

"""Who takes work only to hand it back, and how long they get none. Pure.

Each lease that is handed back leaves a row behind and costs another vehicle's turn. A car that drives
off does so with everything it holds, which is fine; one that does nothing else rests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.domain.work import HeldRow
from workunits.values import KeyId, LeaseId, Milliseconds
from workunits.wire.messages import Report


@dataclass(frozen=True, slots=True)
class Returns:
    """How many leases were handed back since a moment; counted anew after `window_ms`."""

    count: int
    since_ms: Milliseconds

    def plus(self, more: int, now: Milliseconds, window_ms: int) -> Returns:
        if more == 0:
            return self
        if now >= self.since_ms + window_ms:
            return Returns(more, now)
        return Returns(self.count + more, self.since_ms)

    def rests_until(self, most: int, now: Milliseconds, window_ms: int) -> Milliseconds | None:
        """Until when there is no new lease; None: there may be one now."""
        until = Milliseconds(self.since_ms + window_ms)
        return until if self.count > most and now < until else None


def handed_back(reports: Sequence[Report], held: Mapping[LeaseId, HeldRow], vehicle: KeyId) -> int:
    """How many leases of `vehicle` end by being returned; one that has ended before counts no more."""
    leases = {report.lease for report in reports if report.outcome == "returned"}
    return sum(
        held[lease].state == "leased" and held[lease].vehicle_id == vehicle
        for lease in leases & held.keys()
    )

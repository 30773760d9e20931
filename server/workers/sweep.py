"""The sweep in the background: everything that only time brings about, a block of each per round."""

from __future__ import annotations

from server.services.standings import Standings
from server.services.sweeping import Sweeping
from workunits.values import Milliseconds


class Sweep:
    def __init__(self, sweeping: Sweeping, standings: Standings) -> None:
        self._sweeping = sweeping
        self._standings = standings

    def run_once(self, now: Milliseconds) -> int:
        """How much was done; 0: nothing is past its end, until time goes on."""
        return (
            self._sweeping.end_leases(now)
            + self._sweeping.end_batches(now)
            + self._sweeping.close_units(now)
            + self._sweeping.drop_uploads(now)
            + self._sweeping.forget(now)
            + self._standings.fall_out(now)
        )

"""How much work a vehicle gets after what went wrong with it: the failure brake. Pure.

Each error (a failed report, a refused output, a result that was not valid) halves the leases that it may
hold at once, each valid result doubles them again. Errors beyond the last halving make it rest for a
while. Leases that ended unheard of, so many in a row, pause it for longer; after that it gets one unit
at a time until one comes back. Nothing here takes away what a vehicle holds, nor refuses its reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from workunits.values import Milliseconds

_NEVER: Final = Milliseconds(0)


@dataclass(frozen=True, slots=True)
class BrakeLimits:
    leases: int  # at once, without any brake
    lost_in_row: int  # so many pause it
    lost_pause_ms: int
    error_rest_ms: int


@dataclass(frozen=True, slots=True)
class Happened:
    """What came of some of a vehicle's leases."""

    errors: int = 0
    valid: int = 0
    results: int = 0  # taken, not yet judged
    lost: int = 0

    def plus(self, other: Happened) -> Happened:
        return Happened(
            self.errors + other.errors,
            self.valid + other.valid,
            self.results + other.results,
            self.lost + other.lost,
        )


@dataclass(frozen=True, slots=True)
class Brake:
    """How a vehicle stands; all zero: nothing is wrong with it."""

    halvings: int = 0
    lost_in_row: int = 0
    paused_until_ms: Milliseconds = _NEVER

    def quota(self, limits: BrakeLimits) -> int:
        """How many leases it may hold at once, never none: who gets nothing can show nothing."""
        if self.lost_in_row >= limits.lost_in_row:
            return 1
        return max(1, limits.leases >> self.halvings)

    def is_paused(self, now: Milliseconds, limits: BrakeLimits) -> bool:
        """A pause longer than there are any was written by a clock that has been set back since."""
        return 0 < self.paused_until_ms - now <= max(limits.lost_pause_ms, limits.error_rest_ms)

    def after(self, happened: Happened, now: Milliseconds, limits: BrakeLimits) -> Brake:
        """Errors before successes, so that a good result is never undone by what came with it."""
        most = max(0, limits.leases.bit_length() - 1)
        raised = self.halvings + happened.errors
        lost_in_row = (0 if happened.results else self.lost_in_row) + happened.lost
        # It is back: what it was paused for is over.
        is_back = happened.results > 0 and self.lost_in_row >= limits.lost_in_row
        paused_until = _NEVER if is_back else self.paused_until_ms
        rests = limits.error_rest_ms if raised > most else 0
        if happened.lost and lost_in_row >= limits.lost_in_row:
            rests = max(rests, limits.lost_pause_ms)
        return Brake(
            halvings=max(0, min(raised, most) - happened.valid),
            lost_in_row=lost_in_row,
            paused_until_ms=Milliseconds(max(paused_until, now + rests if rests else 0)),
        )

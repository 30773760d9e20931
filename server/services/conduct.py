"""How a vehicle has behaved, and so how much work it gets: what it handed back, and its failure brake.

The rules are `server.domain.returns` and `server.domain.brake`; here they meet the project's settings,
the rows and the line that tells the owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server import settings
from server.domain.brake import Brake, BrakeLimits, Happened
from server.domain.records import VehicleRow
from server.domain.returns import Returns, handed_back
from server.domain.work import HeldRow
from server.ports import Repositories
from workunits.values import KeyId, LeaseId, Milliseconds
from workunits.wire.messages import Report

BRAKE_LIMITS: Final = BrakeLimits(
    leases=settings.HELD_LEASES,
    lost_in_row=settings.LOST_IN_ROW_TO_PAUSE,
    lost_pause_ms=settings.LOST_PAUSE_MS,
    error_rest_ms=settings.ERROR_REST_MS,
)
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Conduct:
    """A vehicle's counts as they stand."""

    returns: Returns
    brake: Brake

    @property
    def quota(self) -> int:
        """How many leases it may hold at once."""
        return self.brake.quota(BRAKE_LIMITS)

    def may_have_work(self, now: Milliseconds) -> bool:
        return self._rests_until(now) is None and not self.brake.is_paused(now, BRAKE_LIMITS)

    def notice(self, now: Milliseconds) -> str | None:
        """The line for the owner; None: it may hold as much as any other."""
        if self.brake.is_paused(now, BRAKE_LIMITS):
            return f"{self._trouble()}; it gets new ones in {_length(self.brake.paused_until_ms - now)}"
        until = self._rests_until(now)
        if until is not None:
            return (
                f"this vehicle handed back {self.returns.count} units within an hour "
                f"and gets new ones in {_length(until - now)}"
            )
        if self.quota < settings.HELD_LEASES:
            return f"{self._trouble()}; until results are accepted it holds {self.quota} at most"
        return None

    def _rests_until(self, now: Milliseconds) -> Milliseconds | None:
        return self.returns.rests_until(settings.RETURNS_PER_HOUR, now, settings.HOUR_MS)

    def _trouble(self) -> str:
        if self.brake.lost_in_row >= BRAKE_LIMITS.lost_in_row:
            return f"this vehicle let {self.brake.lost_in_row} units in a row run out of time"
        return "units of this vehicle failed or were not accepted"


def conduct_of(vehicle: VehicleRow) -> Conduct:
    return Conduct(
        Returns(vehicle.returns, vehicle.returns_since_ms),
        Brake(vehicle.halvings, vehicle.lost_in_row, vehicle.paused_until_ms),
    )


def conduct_after(
    vehicle: VehicleRow,
    reports: Sequence[Report],
    held: Mapping[LeaseId, HeldRow],
    happened: Happened,
    now: Milliseconds,
) -> Conduct:
    """With what one request reported and came to."""
    before = conduct_of(vehicle)
    more = handed_back(reports, held, vehicle.id)
    return Conduct(
        before.returns.plus(more, now, settings.HOUR_MS),
        before.brake.after(happened, now, BRAKE_LIMITS),
    )


def brake(repos: Repositories, happened: Mapping[KeyId, Happened], now: Milliseconds) -> None:
    """Write what became of leases behind the vehicles' backs; who has been erased needs no brake."""
    before = repos.vehicles.brakes(sorted(happened))
    after = {key: one.after(happened[key], now, BRAKE_LIMITS) for key, one in before.items()}
    repos.vehicles.set_brakes({key: one for key, one in after.items() if one != before[key]})


def _length(length_ms: int) -> str:
    minutes = -(-length_ms // _MINUTE_MS)
    return f"{minutes} min" if minutes < 120 else f"{-(-minutes // 60)} h"

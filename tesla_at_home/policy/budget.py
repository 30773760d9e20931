"""What may still be sent and fetched today, and how much work to ask for.

Decides from counts; does not count. A day begins at noon UTC, so that a night is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from msgspec import Struct

from workunits.values import Milliseconds

_DAY_MS: Final = 86_400_000
_DAY_S: Final = 86_400.0
# What is asked for before the first unit has shown how fast this computer is.
_UNITS_OF_UNKNOWN_SPEED: Final = 1
# How much a new unit's time weighs against what was learned: the last ten or so units count.
_LEARNING: Final = 0.2


class Used(Struct, frozen=True, kw_only=True):
    """Bytes that went over the link in one day."""

    day: int = 0
    down: int = 0
    up: int = 0

    def add(self, now_ms: Milliseconds, *, down: int = 0, up: int = 0) -> Used:
        """With these bytes; yesterday's are forgotten."""
        day = day_of(now_ms)
        if day != self.day:
            return Used(day=day, down=down, up=up)
        return Used(day=day, down=self.down + down, up=self.up + up)


def day_of(now_ms: Milliseconds) -> int:
    """The number of the day that `now_ms` belongs to."""
    return (now_ms - _DAY_MS // 2) // _DAY_MS


def next_day_ms(now_ms: Milliseconds) -> Milliseconds:
    """When the next day's budget begins."""
    return Milliseconds((day_of(now_ms) + 1) * _DAY_MS + _DAY_MS // 2)


@dataclass(frozen=True, slots=True)
class Left:
    """Bytes that may still go over the link today."""

    down: int
    up: int


def left(used: Used, now_ms: Milliseconds, *, down_mb: float, up_mb: float) -> Left:
    """What is left of today's budgets."""
    today = used if used.day == day_of(now_ms) else Used()
    return Left(
        down=max(0, ceil(down_mb * 1e6) - today.down), up=max(0, ceil(up_mb * 1e6) - today.up)
    )


def used_up(used: Used, now_ms: Milliseconds, *, down_mb: float, up_mb: float) -> str | None:
    """What is used up today, `down` or `up`; None while both are left."""
    rest = left(used, now_ms, down_mb=down_mb, up_mb=up_mb)
    if not rest.down:
        return "down"
    return None if rest.up else "up"


@dataclass(frozen=True, slots=True)
class Ask:
    """How much work to ask for; 0 units: none is needed."""

    seconds: int
    units: int


def ask(
    held: int, seconds_per_unit: float | None, *, low_days: float, more_days: float, most_units: int
) -> Ask:
    """The work to ask for with `held` units not yet computed.

    Below `low_days` of work on hand, up to `low_days + more_days`: few requests, and never idle.
    """
    room = most_units - held
    full_s = (low_days + more_days) * _DAY_S
    if room <= 0:
        return Ask(0, 0)
    if seconds_per_unit is None:
        units = max(0, _UNITS_OF_UNKNOWN_SPEED - held)
        return Ask(int(full_s) if units else 0, units)
    on_hand_s = held * seconds_per_unit
    # A unit longer than the buffer is still asked for when there is none.
    if held and on_hand_s >= low_days * _DAY_S:
        return Ask(0, 0)
    units = min(room, max(1, int((full_s - on_hand_s) / max(seconds_per_unit, 1e-3))))
    return Ask(max(1, int(full_s - on_hand_s)), units)


def learn(seconds_per_unit: float | None, took_s: float) -> float:
    """The learned seconds per unit after one more took `took_s`."""
    if seconds_per_unit is None:
        return took_s
    return seconds_per_unit + _LEARNING * (took_s - seconds_per_unit)

"""What valid work is worth and which day it counts to. Pure; whole kFLOP throughout."""

from __future__ import annotations

from typing import Final

from workunits.values import Milliseconds

VALID_RESULT: Final = "valid_result"  # the reason in the ledger

_DAY_MS: Final = 86_400_000


def worth_kflop(rows: int, kflop_per_row: int) -> int:
    """Credit of one valid result: the model's counted cost, never what a vehicle claims."""
    return rows * kflop_per_row


def day_of(at: Milliseconds) -> int:
    """The UTC day of a moment, in days since the epoch."""
    return at // _DAY_MS


def first_standing_day(now: Milliseconds, days: int) -> int:
    """The oldest day that still counts to the standings of the last `days` days."""
    return day_of(now) - days + 1

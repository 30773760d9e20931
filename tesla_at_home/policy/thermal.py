"""Bands: a value that closes at one level and opens again at another, so that nothing flaps.

Decides heat and charge from numbers and what was decided before. Does not read sensors.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heat:
    """Whether the chip is counted as hot, and when it last was."""

    is_hot: bool = False
    cooled_at_s: float | None = None  # boot clock, when it came below the resume level


def heat(
    before: Heat, celsius: float, *, stop_c: float, resume_c: float, hold_s: float, now_s: float
) -> Heat:
    """Hot at `stop_c`; no longer once at or below `resume_c` for `hold_s` on end."""
    if celsius >= stop_c:
        return Heat(is_hot=True)
    if not before.is_hot:
        return Heat()
    if celsius > resume_c:
        return Heat(is_hot=True)
    cooled_at_s = now_s if before.cooled_at_s is None else before.cooled_at_s
    if now_s - cooled_at_s >= hold_s:
        return Heat()
    return Heat(is_hot=True, cooled_at_s=cooled_at_s)


def is_low(was_low: bool, percent: float, *, floor: float, margin: float) -> bool:
    """Low below `floor`; no longer from `floor + margin` (or full) on."""
    if percent < floor:
        return True
    return was_low and percent < min(100.0, floor + margin)

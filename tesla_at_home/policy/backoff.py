"""How long to wait after failures. The draw comes from outside."""

from __future__ import annotations

from typing import Final

# Vehicles that failed together must not come back together: each waits 0.5 to 1 of the delay.
_JITTER_LOW: Final = 0.5
# 2^30 first delays are far above any longest delay; keeps the power finite.
_MOST_DOUBLINGS: Final = 30


def delay_s(failures: int, *, first_s: float, most_s: float, draw: float) -> float:
    """Seconds to wait after `failures` failures in a row, at least one; `draw` is from [0, 1)."""
    doubled = first_s * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS)
    return min(doubled, most_s) * (_JITTER_LOW + (1 - _JITTER_LOW) * draw)

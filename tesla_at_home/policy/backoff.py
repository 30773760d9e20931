"""How long to wait after failures. The draw comes from outside."""

from __future__ import annotations

from typing import Final

# Vehicles that failed together must not come back together: each waits 0.5 to 1 of the delay.
_JITTER_LOW: Final = 0.5
# Nor must those that were all told the same wait: up to half as long again, and an hour at most,
# which is still long against what a server needs to answer every vehicle there is.
_TOLD_SPREAD: Final = 0.5
_TOLD_SPREAD_S: Final = 3600.0
# 2^30 first delays are far above any longest delay; keeps the power finite.
_MOST_DOUBLINGS: Final = 30


def delay_s(
    failures: int, *, first_s: float, most_s: float, draw: float, at_least_s: float = 0.0
) -> float:
    """Seconds to wait after `failures` failures in a row, at least one; `draw` is from [0, 1).

    Never less than `at_least_s`, the wait that the project asked for (`Retry-After`, `wait_s`).
    """
    doubled = first_s * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS)
    own_s = min(doubled, most_s) * (_JITTER_LOW + (1 - _JITTER_LOW) * draw)
    spread_s = min(at_least_s * _TOLD_SPREAD, _TOLD_SPREAD_S)
    return max(own_s, at_least_s + spread_s * draw)

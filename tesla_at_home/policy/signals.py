"""What sources say about the vehicle, and what is believed of it.

Decides when a reading is too old, and that sources which disagree make the signal unknown. Does not
decide whether the vehicle may compute (`gates`). Times are seconds on the boot clock, which also
counts while the computer sleeps: a reading from before a night's sleep is old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

Signal = Literal[
    "parked", "plugged_in", "home_wifi", "in_use", "metered", "charge_percent", "temperature_c"
]
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
NUMBERS: Final[frozenset[Signal]] = frozenset({"charge_percent", "temperature_c"})

# A source that pushes is believed for this long after it spoke (DESIGN 5).
PUSHED_MAX_AGE_S: Final = 30.0
# A source that is asked is believed for this many of its intervals: one answer may come late.
POLLED_MAX_AGE_INTERVALS: Final = 1.5

# Two thermometers or fuel gauges never show the same digits; further apart than this they disagree.
_ALIKE_WITHIN: Final = 5.0

_NO_VALUES: Final = frozenset(
    {"", "null", "none", "nil", "nan", "n/a", "unknown", "unavailable", "invalid", "<invalid>"}
)
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal as one source said it.

    `value` None: the source speaks, and does not know. `max_age_s` None: holds until it says
    otherwise. `is_declared`: by the owner's word, not measured; with value None the condition is
    not applicable to this computer.
    """

    signal: Signal
    value: bool | float | None
    source: str
    at_s: float  # boot clock
    max_age_s: float | None
    is_declared: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """A source spoke: each reading takes the place of that source's last one of the signal."""

    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Belief:
    """One signal as it is believed: the value, or None with the reason why it is unknown."""

    value: bool | float | None
    why_unknown: str | None = None
    sources: tuple[str, ...] = ()
    is_not_applicable: bool = False
    fresh_until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Readings:
    """The last reading of every source, by (signal, source)."""

    last: tuple[Reading, ...] = ()

    def heard(self, heard: Heard) -> Readings:
        """With what was just heard in the place of what the same sources said before."""
        new = {(r.signal, r.source) for r in heard.readings}
        kept = tuple(r for r in self.last if (r.signal, r.source) not in new)
        return Readings(kept + heard.readings)

    def believe(self, signal: Signal, now_s: float) -> Belief:
        """What to believe of `signal` now."""
        return _believe([r for r in self.last if r.signal == signal], now_s)

    def next_expiry_s(self, now_s: float) -> float | None:
        """When the next reading that is still fresh becomes too old; None if none does."""
        ends = [end for r in self.last if (end := _end(r)) is not None and end > now_s]
        return min(ends, default=None)


def parse_truth(raw: object) -> bool | None:
    """True, False, or None for every spelling of "no value" that cars are known to send."""
    if isinstance(raw, bool):
        return raw
    text = str(raw).strip().lower()
    return True if text in _YES else False if text in _NO else None


def parse_number(raw: object) -> float | None:
    """A finite number, or None for every spelling of "no value"."""
    if isinstance(raw, bool) or str(raw).strip().lower() in _NO_VALUES:
        return None
    try:
        number = float(str(raw))
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _end(reading: Reading) -> float | None:
    return None if reading.max_age_s is None else reading.at_s + reading.max_age_s


def _is_fresh(reading: Reading, now_s: float) -> bool:
    end = _end(reading)
    # A reading from the future means a clock that cannot be the boot clock: not believed.
    return reading.at_s <= now_s and (end is None or now_s < end)


def _believe(said: Iterable[Reading], now_s: float) -> Belief:
    said = sorted(said, key=lambda r: r.source)
    measured = [r for r in said if not r.is_declared]
    if not measured and said:
        # The owner's word counts only where nothing measures.
        return _declared(said)
    if not measured:
        return Belief(None, "no source says so")
    fresh = [r for r in measured if _is_fresh(r, now_s)]
    if len(fresh) < len(measured):
        silent = next(r for r in measured if r not in fresh)
        return Belief(None, f"{silent.source} has been silent about it", (silent.source,))
    return _agreed(fresh)


def _declared(said: list[Reading]) -> Belief:
    sources = tuple(r.source for r in said)
    value = said[0].value
    return Belief(value, None, sources, is_not_applicable=value is None)


def _agreed(fresh: list[Reading]) -> Belief:
    for reading in fresh:
        if reading.value is None:
            return Belief(None, f"{reading.source} does not know", (reading.source,))
    first = fresh[0]
    for other in fresh[1:]:
        if not _alike(first.value, other.value):
            names = (first.source, other.source)
            return Belief(None, f"{names[0]} and {names[1]} disagree", names)
    ends = [end for r in fresh if (end := _end(r)) is not None]
    return Belief(
        _worst(fresh), None, tuple(r.source for r in fresh), fresh_until_s=min(ends, default=None)
    )


def _alike(one: bool | float | None, other: bool | float | None) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    return abs(one - other) <= _ALIKE_WITHIN


def _worst(fresh: list[Reading]) -> bool | float | None:
    """Of numbers that agree the one that closes sooner: the hottest, or the emptiest."""
    values = [r.value for r in fresh if r.value is not None]
    if isinstance(values[0], bool):
        return values[0]
    return max(values) if fresh[0].signal == "temperature_c" else min(values)

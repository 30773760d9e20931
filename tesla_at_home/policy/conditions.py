"""The conditions of the gate, one by one: is it met, and how is that said in one plain sentence.

Decides each by itself, from readings, rules and bands; the gate puts them together (`gates`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from tesla_at_home.policy.budget import next_day_ms
from tesla_at_home.policy.signals import Belief, Readings, Signal
from tesla_at_home.policy.thermal import Heat
from workunits.values import Milliseconds

# Three states, and the fourth that only a declaration gives (DECISIONS C.4).
ConditionState = Literal["yes", "no", "unknown", "not_applicable"]

# A pause without an end.
FOR_EVER: Final = 2**53 - 1

_MINUTE_MS: Final = 60_000
_DAY_MINUTES: Final = 24 * 60
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The owner's limits, from the settings."""

    charge_floor: float
    charge_margin: float
    temperature_c: float | None
    temperature_resume_c: float
    heat_hold_s: float
    calm_s: float
    hours: tuple[tuple[int, int], ...]
    clock_off_s: float


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that the gate looks at, at one moment."""

    readings: Readings
    rules: Rules
    has_consent: bool
    paused_until_ms: int | None
    used_up: str | None
    clock_off_s: float | None
    now_ms: Milliseconds
    boot_s: float
    minute_of_day: int


@dataclass(frozen=True, slots=True)
class Bands:
    """What is remembered of values that close at one level and open at another."""

    heat: Heat = field(default_factory=Heat)
    is_low: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    state: ConditionState
    sentence: str
    until_ms: int | None = None
    sources: tuple[str, ...] = ()


def _consent(bands: Bands, now: Inputs) -> Found:
    if now.has_consent:
        return Found("yes", "you agreed to the terms")
    return Found("no", "you have not agreed to the project's terms, or no longer do")


def _paused(bands: Bands, now: Inputs) -> Found:
    until_ms = now.paused_until_ms
    if until_ms is None or now.now_ms >= until_ms:
        return Found("yes", "not paused")
    if until_ms == FOR_EVER:
        return Found("no", "paused by you until `tesla-at-home resume`")
    return Found("no", "paused by you", until_ms)


def _truth(
    signal: Signal, wanted: bool, question: str, yes: str, no: str
) -> Callable[[Bands, Inputs], Found]:
    def find(bands: Bands, now: Inputs) -> Found:
        belief = now.readings.believe(signal, now.boot_s)
        if belief.is_not_applicable:
            return Found(
                "not_applicable", "does not apply here, by your word", None, belief.sources
            )
        if belief.value is None:
            return _unknown(belief, question)
        if belief.value is wanted:
            return Found("yes", yes, None, belief.sources)
        return Found("no", no, None, belief.sources)

    return find


def _unknown(belief: Belief, question: str) -> Found:
    sentence = f"it is unknown whether {question}: {belief.why_unknown}"
    return Found("unknown", sentence, None, belief.sources)


def _charge(bands: Bands, now: Inputs) -> Found:
    belief = now.readings.believe("charge_percent", now.boot_s)
    floor = now.rules.charge_floor
    if belief.is_not_applicable:
        return Found(
            "not_applicable", "there is no battery to spare, by your word", None, belief.sources
        )
    if belief.value is None:
        return _unknown(belief, f"the battery is above your floor of {floor:g} %")
    if bands.is_low:
        back = min(100.0, floor + now.rules.charge_margin)
        sentence = f"the battery is at {belief.value:g} %; it goes on at {back:g} %"
        return Found("no", sentence, None, belief.sources)
    return Found("yes", f"the battery is at {belief.value:g} %", None, belief.sources)


def _temperature(bands: Bands, now: Inputs) -> Found:
    if now.rules.temperature_c is None:
        return Found("not_applicable", "this computer has no thermometer, by your setting")
    belief = now.readings.believe("temperature_c", now.boot_s)
    if belief.is_not_applicable:
        return Found("not_applicable", "does not apply here, by your word", None, belief.sources)
    if belief.value is None:
        return _unknown(belief, "the computer is cool enough")
    if not bands.heat.is_hot:
        return Found("yes", f"the computer is at {belief.value:g} °C", None, belief.sources)
    until_ms = None
    if bands.heat.cooled_at_s is not None:
        left_s = bands.heat.cooled_at_s + now.rules.heat_hold_s - now.boot_s
        until_ms = now.now_ms + int(left_s * 1000)
    sentence = (
        f"the computer was too hot and is at {belief.value:g} °C; it rests until it was at "
        f"{now.rules.temperature_resume_c:g} °C for a while"
    )
    return Found("no", sentence, until_ms, belief.sources)


def _hours(bands: Bands, now: Inputs) -> Found:
    spans = now.rules.hours
    if not spans or any(_within(now.minute_of_day, *span) for span in spans):
        return Found("yes", "within your hours")
    wait = min((first - now.minute_of_day) % _DAY_MINUTES for first, _ in spans)
    return Found("no", "outside the hours you set", now.now_ms + wait * _MINUTE_MS)


def _within(minute: int, first: int, end: int) -> bool:
    if first == end:
        return True  # 0:00-24:00 is the whole day
    return first <= minute < end if first < end else minute >= first or minute < end


def _clock(bands: Bands, now: Inputs) -> Found:
    off_s = now.clock_off_s
    if off_s is None or abs(off_s) <= now.rules.clock_off_s:
        return Found("yes", "the clock is right")
    return Found(
        "no",
        f"this computer's clock and the project's differ by {_span(abs(off_s))}; "
        "if this computer's is wrong, run `sudo timedatectl set-ntp true`",
    )


def _span(seconds: float) -> str:
    if seconds < 2 * _HOUR_S:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 48 * _HOUR_S:
        return f"{seconds / _HOUR_S:.0f} hours"
    return f"{seconds / (24 * _HOUR_S):.0f} days"


def _budget(bands: Bands, now: Inputs) -> Found:
    if now.used_up is None:
        return Found("yes", "within today's budgets")
    sentence = f"today's data budget is used up (limits.{now.used_up}_mb)"
    return Found("no", sentence, next_day_ms(now.now_ms))


CONDITIONS: Final[dict[str, Callable[[Bands, Inputs], Found]]] = {
    "consent": _consent,
    "paused": _paused,
    "parked": _truth(
        "parked", True, "the car is parked", "the car is parked", "the car is not parked"
    ),
    "plugged_in": _truth(
        "plugged_in",
        True,
        "the car is plugged in",
        "the car is plugged in",
        "the car is not plugged in",
    ),
    "home_wifi": _truth(
        "home_wifi",
        True,
        "this is your home network",
        "on your home network",
        "this is not your home network",
    ),
    "metered": _truth(
        "metered",
        False,
        "the connection is metered",
        "the connection is not metered",
        "the connection is metered",
    ),
    "in_use": _truth(
        "in_use", False, "somebody uses the car", "nobody uses the car", "somebody uses the car"
    ),
    "charge": _charge,
    "temperature": _temperature,
    "hours": _hours,
    "clock": _clock,
    "budget": _budget,
}

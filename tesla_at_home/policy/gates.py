"""The gate: whether this vehicle may compute now, and the first reason why not.

Named conditions, each yes, no, unknown, or not applicable by declaration. Unknown is closed. Closing
is at once, opening needs calm. Decides nothing about what a closed gate does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from tesla_at_home.policy.conditions import (
    CONDITIONS,
    FOR_EVER,
    Bands,
    ConditionState,
    Inputs,
    Rules,
)
from tesla_at_home.policy.thermal import heat, is_low

__all__ = [
    "CALM",
    "FOR_EVER",
    "NAMES",
    "Condition",
    "Gate",
    "GateView",
    "Inputs",
    "Rules",
    "evaluate",
]

# The order in which the first failing condition is named: the owner's own word before the car's
# state, the car's before the computer's.
NAMES: Final = (
    "consent", "paused", "parked", "plugged_in", "home_wifi", "metered", "in_use", "charge",
    "temperature", "hours", "clock", "budget",
)  # fmt: skip
# What must hold for anything to go over the link: finished work is sent also while nothing computes.
LINK_NAMES: Final = frozenset({"consent", "home_wifi", "metered", "budget"})
# The reason of a gate whose conditions all hold, but not for long enough.
CALM: Final = "calm"


@dataclass(frozen=True, slots=True)
class Condition:
    """One named condition as it stands; `is_met` is what the gate counts."""

    name: str
    state: ConditionState
    sentence: str  # one plain sentence: the reason when it is not met
    since_ms: int
    until_ms: int | None = None
    sources: tuple[str, ...] = ()

    @property
    def is_met(self) -> bool:
        return self.state in ("yes", "not_applicable")


@dataclass(frozen=True, slots=True)
class GateView:
    """The gate as the owner sees it."""

    is_open: bool
    since_ms: int  # of the reason; without one, of being open or closed
    reason: str | None  # name of the first failing condition, or `CALM`
    sentence: str
    until_ms: int | None
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate, and what it must remember for calm and hysteresis."""

    conditions: tuple[Condition, ...] = ()
    is_open: bool = False
    since_ms: int = 0
    met_since_s: float | None = None  # boot clock
    opens_at_s: float | None = None  # boot clock: end of calm
    opens_at_ms: int | None = None
    bands: Bands = field(default_factory=Bands)

    def failing(self) -> Condition | None:
        """The first condition that is not met."""
        return next((c for c in self.conditions if not c.is_met), None)

    def link_is_ours(self) -> bool:
        """Whether anything may go over the link."""
        return bool(self.conditions) and all(
            c.is_met for c in self.conditions if c.name in LINK_NAMES
        )

    def view(self) -> GateView:
        """For `why` and `status`."""
        failing = self.failing()
        if failing is not None:
            since_ms, until_ms = failing.since_ms, failing.until_ms
            reason, sentence = failing.name, failing.sentence
        elif self.is_open:
            since_ms, until_ms = self.since_ms, None
            reason, sentence = None, "all conditions hold"
        else:
            since_ms, until_ms = self.since_ms, self.opens_at_ms
            reason, sentence = CALM, "all conditions hold; waiting a while to be sure"
        return GateView(self.is_open, since_ms, reason, sentence, until_ms, self.conditions)


def evaluate(before: Gate, now: Inputs) -> Gate:
    """The gate at this moment, from what it was and what is known."""
    found = replace(before, bands=_move_bands(before.bands, now))
    olds = {c.name: c for c in before.conditions}
    conditions = tuple(_condition(name, found, now, olds.get(name)) for name in NAMES)
    if not all(c.is_met for c in conditions):
        gate = replace(found, conditions=conditions, is_open=False, met_since_s=None)
        return _dated(before, replace(gate, opens_at_s=None, opens_at_ms=None), now)
    met_since_s = now.boot_s if before.met_since_s is None else before.met_since_s
    opens_at_s = met_since_s + now.rules.calm_s
    is_open = before.is_open or now.boot_s >= opens_at_s
    gate = replace(
        found,
        conditions=conditions,
        is_open=is_open,
        met_since_s=met_since_s,
        opens_at_s=None if is_open else opens_at_s,
        opens_at_ms=None if is_open else now.now_ms + int((opens_at_s - now.boot_s) * 1000),
    )
    return _dated(before, gate, now)


def _dated(before: Gate, gate: Gate, now: Inputs) -> Gate:
    changed = gate.is_open != before.is_open or not before.conditions
    return replace(gate, since_ms=now.now_ms if changed else before.since_ms)


def _move_bands(before: Bands, now: Inputs) -> Bands:
    """The bands, moved by the numbers that are known; an unknown number moves nothing."""
    rules, bands = now.rules, before
    celsius = now.readings.believe("temperature_c", now.boot_s).value
    if celsius is not None and rules.temperature_c is not None:
        moved = heat(
            before.heat,
            celsius,
            stop_c=rules.temperature_c,
            resume_c=rules.temperature_resume_c,
            hold_s=rules.heat_hold_s,
            now_s=now.boot_s,
        )
        bands = replace(bands, heat=moved)
    percent = now.readings.believe("charge_percent", now.boot_s).value
    if percent is not None:
        low = is_low(before.is_low, percent, floor=rules.charge_floor, margin=rules.charge_margin)
        bands = replace(bands, is_low=low)
    return bands


def _condition(name: str, gate: Gate, now: Inputs, old: Condition | None) -> Condition:
    found = CONDITIONS[name](gate.bands, now)
    is_same = old is not None and old.state == found.state
    since_ms = old.since_ms if old is not None and is_same else now.now_ms
    return Condition(name, found.state, found.sentence, since_ms, found.until_ms, found.sources)

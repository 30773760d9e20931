"""The gate: every condition closes it, unknown is closed, opening needs calm, closing is at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tesla_at_home.policy.conditions import FOR_EVER, Inputs, Rules
from tesla_at_home.policy.gates import CALM, NAMES, Condition, Gate, evaluate
from tesla_at_home.policy.signals import Heard, Reading, Readings, Signal
from workunits.values import Milliseconds

GOOD: dict[Signal, bool | float | None] = {
    "parked": True, "plugged_in": True, "home_wifi": True, "in_use": False, "metered": False,
    "charge_percent": 80.0, "temperature_c": 45.0,
}  # fmt: skip

RULES = Rules(
    charge_floor=50.0,
    charge_margin=5.0,
    temperature_c=85.0,
    temperature_resume_c=75.0,
    heat_hold_s=300.0,
    calm_s=0.0,
    hours=(),
    clock_off_s=300.0,
)


def readings(
    *, declared: frozenset[Signal] = frozenset(), **values: bool | float | None
) -> Readings:
    said = tuple(
        Reading(signal, values.get(signal, value), "test", 0.0, None, signal in declared)
        for signal, value in GOOD.items()
    )
    return Readings().heard(Heard(said))


INPUTS = Inputs(
    readings=readings(),
    rules=RULES,
    has_consent=True,
    paused_until_ms=None,
    used_up=None,
    clock_off_s=0.0,
    now_ms=Milliseconds(1_000_000),
    boot_s=100.0,
    minute_of_day=600,
)


def at(inputs: Inputs, boot_s: float) -> Inputs:
    later_ms = INPUTS.now_ms + int((boot_s - INPUTS.boot_s) * 1000)
    return replace(inputs, boot_s=boot_s, now_ms=Milliseconds(later_ms))


def condition(gate: Gate, name: str) -> Condition:
    return next(c for c in gate.conditions if c.name == name)


def test_all_conditions_are_there_and_it_opens() -> None:
    gate = evaluate(Gate(), INPUTS)
    assert tuple(c.name for c in gate.conditions) == NAMES
    assert gate.is_open
    assert gate.link_is_ours()
    view = gate.view()
    assert (view.reason, view.sentence) == (None, "all conditions hold")
    assert not Gate().link_is_ours()


CLOSERS = {
    "consent": replace(INPUTS, has_consent=False),
    "paused": replace(INPUTS, paused_until_ms=FOR_EVER),
    "parked": replace(INPUTS, readings=readings(parked=False)),
    "plugged_in": replace(INPUTS, readings=readings(plugged_in=False)),
    "home_wifi": replace(INPUTS, readings=readings(home_wifi=False)),
    "metered": replace(INPUTS, readings=readings(metered=True)),
    "in_use": replace(INPUTS, readings=readings(in_use=True)),
    "charge": replace(INPUTS, readings=readings(charge_percent=49.9)),
    "temperature": replace(INPUTS, readings=readings(temperature_c=85.0)),
    "hours": replace(INPUTS, rules=replace(RULES, hours=((1320, 390),))),
    "clock": replace(INPUTS, clock_off_s=-301.0),
    "budget": replace(INPUTS, used_up="down"),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_condition_closes_at_once_and_names_itself(name: str) -> None:
    gate = evaluate(evaluate(Gate(), INPUTS), CLOSERS[name])
    assert not gate.is_open
    assert gate.view().reason == name
    assert condition(gate, name).state == "no"
    assert condition(gate, name).sentence


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("parked", "parked"), ("plugged_in", "plugged_in"), ("home_wifi", "home_wifi"),
        ("metered", "metered"), ("in_use", "in_use"), ("charge", "charge_percent"),
        ("temperature", "temperature_c"),
    ],
)  # fmt: skip
def test_unknown_is_closed(name: str, signal: str) -> None:
    unknown: dict[str, bool | float | None] = {signal: None}
    gate = evaluate(Gate(), replace(INPUTS, readings=readings(declared=frozenset(), **unknown)))
    assert not gate.is_open
    assert (gate.view().reason, condition(gate, name).state) == (name, "unknown")
    assert "test does not know" in condition(gate, name).sentence


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("parked", "parked"), ("charge", "charge_percent"), ("in_use", "in_use"),
        ("temperature", "temperature_c"),
    ],
)  # fmt: skip
def test_not_applicable_only_by_declaration(name: str, signal: Signal) -> None:
    words = readings(declared=frozenset({signal}), **{signal: None})
    gate = evaluate(Gate(), replace(INPUTS, readings=words))
    assert gate.is_open
    assert condition(gate, name).state == "not_applicable"


def test_the_first_failing_condition_is_named() -> None:
    both = replace(INPUTS, readings=readings(parked=False, charge_percent=1.0))
    assert evaluate(Gate(), both).view().reason == "parked"


def test_opening_needs_calm_and_a_blink_starts_it_anew() -> None:
    calm = replace(INPUTS, rules=replace(RULES, calm_s=60.0))
    away = replace(calm, readings=readings(parked=False))
    gate = evaluate(Gate(), at(calm, 100.0))
    assert (gate.is_open, gate.view().reason, gate.opens_at_s) == (False, CALM, 160.0)
    assert gate.view().until_ms == at(calm, 160.0).now_ms
    gate = evaluate(gate, at(calm, 159.0))
    assert not gate.is_open
    gate = evaluate(gate, at(away, 159.5))
    gate = evaluate(gate, at(calm, 160.0))
    assert not gate.is_open
    gate = evaluate(gate, at(calm, 220.0))
    assert gate.is_open
    assert gate.since_ms == at(calm, 220.0).now_ms


def test_since_stays_while_the_state_stays() -> None:
    gate = evaluate(Gate(), at(INPUTS, 100.0))
    later = evaluate(gate, at(INPUTS, 200.0))
    assert condition(later, "parked").since_ms == INPUTS.now_ms
    closed = evaluate(later, at(CLOSERS["parked"], 300.0))
    assert condition(closed, "parked").since_ms == at(INPUTS, 300.0).now_ms


def test_a_closed_gate_says_since_when_its_reason_holds() -> None:
    away = replace(INPUTS, readings=readings(parked=False, plugged_in=False))
    unplugged = replace(INPUTS, readings=readings(plugged_in=False))
    gate = evaluate(evaluate(Gate(), at(INPUTS, 100.0)), at(CLOSERS["parked"], 200.0))
    gate = evaluate(gate, at(away, 300.0))
    gate = evaluate(gate, at(unplugged, 400.0))
    view = gate.view()
    assert view.reason == "plugged_in"
    assert view.since_ms == condition(gate, "plugged_in").since_ms == at(INPUTS, 300.0).now_ms


def test_heat_comes_back_only_cool_and_after_a_rest() -> None:
    def hot(celsius: float | None, boot_s: float, gate: Gate) -> Gate:
        warm = replace(INPUTS, readings=readings(temperature_c=celsius))
        return evaluate(gate, at(warm, boot_s))

    gate = hot(85.0, 100.0, evaluate(Gate(), INPUTS))
    gate = hot(80.0, 110.0, gate)
    assert gate.view().reason == "temperature"
    assert gate.view().until_ms is None
    gate = hot(75.0, 120.0, gate)
    assert gate.view().until_ms == at(INPUTS, 420.0).now_ms
    assert not hot(75.0, 419.0, gate).is_open
    assert hot(76.0, 419.0, gate).bands.heat.cooled_at_s is None
    assert hot(None, 425.0, gate).bands.heat.is_hot
    assert hot(74.0, 420.0, gate).is_open


def test_charge_comes_back_only_above_the_margin() -> None:
    def charged(percent: float, gate: Gate) -> Gate:
        return evaluate(gate, replace(INPUTS, readings=readings(charge_percent=percent)))

    gate = charged(49.0, Gate())
    assert not charged(54.9, gate).is_open
    assert charged(55.0, gate).is_open
    assert charged(54.9, charged(55.0, gate)).is_open


def test_no_thermometer_by_setting() -> None:
    none = replace(INPUTS, rules=replace(RULES, temperature_c=None))
    gate = evaluate(Gate(), replace(none, readings=readings(temperature_c=None)))
    assert gate.is_open
    assert condition(gate, "temperature").state == "not_applicable"
    assert evaluate(Gate(), replace(none, readings=readings(temperature_c=99.0))).is_open


def test_a_pause_ends_by_itself() -> None:
    paused = replace(INPUTS, paused_until_ms=INPUTS.now_ms + 10_000)
    gate = evaluate(Gate(), paused)
    assert (gate.view().reason, gate.view().until_ms) == ("paused", INPUTS.now_ms + 10_000)
    assert evaluate(gate, at(paused, 110.0)).is_open


@pytest.mark.parametrize(
    ("minute", "is_open"),
    [(1319, False), (1320, True), (0, True), (389, True), (390, False), (720, True), (779, True)],
)
def test_hours_over_midnight(minute: int, is_open: bool) -> None:
    hours = replace(RULES, hours=((1320, 390), (720, 780)))
    gate = evaluate(Gate(), replace(INPUTS, rules=hours, minute_of_day=minute))
    assert gate.is_open is is_open
    if not is_open:
        wait = min((first - minute) % 1440 for first in (1320, 720))
        assert gate.view().until_ms == INPUTS.now_ms + wait * 60_000


def test_an_hour_that_begins_where_it_ends_is_the_whole_day() -> None:
    hours = replace(RULES, hours=((0, 0),))
    assert evaluate(Gate(), replace(INPUTS, rules=hours)).is_open


@pytest.mark.parametrize(
    ("off_s", "said"),
    [(3600.0, "60 minutes"), (-3 * 3600.0, "3 hours"), (365 * 86_400.0, "365 days")],
)
def test_clocks_that_differ_are_named_and_none_is_blamed(off_s: float, said: str) -> None:
    view = evaluate(Gate(), replace(INPUTS, clock_off_s=off_s)).view()
    assert f"this computer's clock and the project's differ by {said}; if" in view.sentence
    assert "timedatectl" in view.sentence


def test_a_clock_of_which_nothing_is_known_closes_nothing() -> None:
    assert evaluate(Gate(), replace(INPUTS, clock_off_s=None)).is_open


def test_a_closed_gate_may_leave_the_link_open() -> None:
    gate = evaluate(Gate(), CLOSERS["parked"])
    assert gate.link_is_ours()
    for name in ("home_wifi", "metered", "consent", "budget"):
        assert not evaluate(Gate(), CLOSERS[name]).link_is_ours()

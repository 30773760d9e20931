"""What is believed of readings: age, disagreement, declaration, and every spelling of "no value"."""

from __future__ import annotations

import pytest

from tesla_at_home.policy.signals import (
    Heard,
    Reading,
    Readings,
    Signal,
    parse_number,
    parse_truth,
)


def said(
    signal: Signal,
    value: bool | float | None,
    source: str = "a",
    at_s: float = 0.0,
    max_age_s: float | None = None,
    declared: bool = False,
) -> Reading:
    return Reading(signal, value, source, at_s, max_age_s, declared)


def heard(*readings: Reading) -> Readings:
    return Readings().heard(Heard(readings))


def test_nobody_says_anything() -> None:
    belief = Readings().believe("parked", 0.0)
    assert (belief.value, belief.why_unknown) == (None, "no source says so")


def test_a_fresh_reading_is_believed_until_it_is_too_old() -> None:
    readings = heard(said("parked", True, max_age_s=30))
    assert readings.believe("parked", 29.9).value is True
    assert readings.believe("parked", 29.9).fresh_until_s == 30
    belief = readings.believe("parked", 30.0)
    assert (belief.value, belief.why_unknown) == (None, "a has been silent about it")


def test_a_reading_from_the_future_is_not_believed() -> None:
    assert heard(said("parked", True, at_s=5)).believe("parked", 4.0).value is None


def test_a_reading_without_an_age_holds_for_ever() -> None:
    belief = heard(said("parked", False)).believe("parked", 1e9)
    assert (belief.value, belief.fresh_until_s) == (False, None)


def test_a_source_that_does_not_know_makes_unknown() -> None:
    readings = heard(said("parked", True), said("parked", None, "b"))
    assert readings.believe("parked", 0.0).why_unknown == "b does not know"


def test_one_silent_source_of_two_makes_unknown() -> None:
    readings = heard(said("parked", True), said("parked", True, "b", max_age_s=1))
    assert readings.believe("parked", 2.0).why_unknown == "b has been silent about it"


def test_sources_that_disagree_make_unknown_and_are_named() -> None:
    belief = heard(said("parked", True, "b"), said("parked", False, "a")).believe("parked", 0.0)
    assert (belief.value, belief.why_unknown) == (None, "a and b disagree")
    assert belief.sources == ("a", "b")


def test_a_truth_and_a_number_disagree() -> None:
    readings = heard(said("parked", True), said("parked", 1.0, "b"))
    assert readings.believe("parked", 0.0).value is None


@pytest.mark.parametrize(("signal", "worse"), [("temperature_c", 62.0), ("charge_percent", 58.0)])
def test_numbers_that_are_close_agree_on_the_worse(signal: Signal, worse: float) -> None:
    readings = heard(said(signal, 62.0), said(signal, 58.0, "b"))
    assert readings.believe(signal, 0.0).value == worse
    far = heard(said(signal, 62.0), said(signal, 50.0, "b"))
    assert far.believe(signal, 0.0).value is None


def test_a_source_speaks_for_itself_only() -> None:
    readings = heard(said("parked", True), said("parked", True, "b"))
    readings = readings.heard(Heard((said("parked", False),)))
    assert readings.believe("parked", 0.0).why_unknown == "a and b disagree"


def test_the_owners_word_counts_where_nothing_measures() -> None:
    word = heard(said("charge_percent", None, declared=True))
    assert word.believe("charge_percent", 0.0).is_not_applicable
    measured = word.heard(Heard((said("charge_percent", 30.0, "sysfs"),)))
    belief = measured.believe("charge_percent", 0.0)
    assert (belief.value, belief.is_not_applicable) == (30.0, False)
    assert heard(said("parked", True, declared=True)).believe("parked", 0.0).value is True


def test_the_next_expiry() -> None:
    readings = heard(
        said("parked", True),
        said("in_use", False, max_age_s=5),
        said("metered", False, max_age_s=9),
    )
    assert readings.next_expiry_s(0.0) == 5
    assert readings.next_expiry_s(6.0) == 9
    assert readings.next_expiry_s(9.0) is None


@pytest.mark.parametrize("raw", [True, "true", "Yes", " on ", "1"])
def test_yes(raw: object) -> None:
    assert parse_truth(raw) is True


@pytest.mark.parametrize("raw", [False, "false", "NO", "off", "0"])
def test_no(raw: object) -> None:
    assert parse_truth(raw) is False


@pytest.mark.parametrize("raw", [None, "", "<invalid>", "unknown", "N/A", "maybe", 2])
def test_no_truth_at_all(raw: object) -> None:
    assert parse_truth(raw) is None


@pytest.mark.parametrize(
    "raw", [None, "", "<invalid>", "null", "nan", "NaN", "inf", "-inf", "1e999", True, "P"]
)
def test_no_number_at_all(raw: object) -> None:
    assert parse_number(raw) is None


@pytest.mark.parametrize(("raw", "number"), [("12.5", 12.5), (3, 3.0), ("-1", -1.0)])
def test_a_number(raw: object, number: float) -> None:
    assert parse_number(raw) == number

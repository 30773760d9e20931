"""Plain words and numbers for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import lifecycle
from server.http import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (43_210_000, "43.2 M"),
        (0.0374, "37.4 m"),
        (0.000_000_5, "0.50 µ"),
        (7.2e15, "7200 T"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert wording.si(value) == text


def test_credit_counts_cobblestones() -> None:
    assert wording.credit(432_000_000) == "1.00"
    assert wording.credit(432_000) == "1.00 m"


@given(st.floats(1e-5, 1e14))
def test_the_text_is_the_number_within_its_digits(value: float) -> None:
    text, _, prefix = wording.si(value).partition(" ")
    scale = {"µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert float(text) * scale == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(
    ("table", "words", "first"),
    [
        (lifecycle.BATCH, wording.BATCH, "running"),
        (lifecycle.UNIT, wording.UNIT, "open"),
        (lifecycle.REPLICA, wording.REPLICA, "ready"),
        (lifecycle.VEHICLE, wording.VEHICLE, "active"),
    ],
)
def test_every_state_has_plain_words(
    table: lifecycle.Table, words: dict[str, str], first: str
) -> None:
    assert {first, *table.values()} == set(words)


def test_a_missing_word_is_shown_as_its_code() -> None:
    assert wording.say(wording.UNIT, "some_new_state") == "some new state"

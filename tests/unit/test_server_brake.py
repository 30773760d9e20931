"""How much work a vehicle gets after errors and losses, and when all is well again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.brake import Brake, BrakeLimits, Happened
from tests.support.server_rows import HOUR_MS, NOW
from workunits.values import Milliseconds

DAY_MS = 24 * HOUR_MS
REST_MS = 600_000
LIMITS = BrakeLimits(leases=50, lost_in_row=5, lost_pause_ms=DAY_MS, error_rest_ms=REST_MS)
NEW = Brake()


def later(ms: int) -> Milliseconds:
    return Milliseconds(NOW + ms)


def after(brake: Brake, *happened: Happened) -> Brake:
    for one in happened:
        brake = brake.after(one, NOW, LIMITS)
    return brake


@pytest.mark.parametrize(
    ("errors", "quota"), [(0, 50), (1, 25), (2, 12), (3, 6), (4, 3), (5, 1), (6, 1), (99, 1)]
)
def test_every_error_halves_what_it_may_hold(errors: int, quota: int) -> None:
    assert after(NEW, *[Happened(errors=1)] * errors).quota(LIMITS) == quota
    assert after(NEW, Happened(errors=errors)).quota(LIMITS) == quota


def test_every_valid_result_doubles_it_and_never_beyond_the_whole() -> None:
    braked = after(NEW, Happened(errors=3))
    quotas = [after(braked, Happened(valid=more)).quota(LIMITS) for more in range(5)]
    assert quotas == [6, 12, 25, 50, 50]
    assert after(NEW, Happened(valid=9)) == NEW


def test_what_is_taken_and_not_yet_judged_doubles_nothing() -> None:
    braked = after(NEW, Happened(errors=2))
    assert after(braked, Happened(results=50)).quota(LIMITS) == 12


def test_errors_beyond_the_last_halving_make_it_rest() -> None:
    at_one = after(NEW, Happened(errors=5))
    assert not at_one.is_paused(NOW, LIMITS)
    resting = after(at_one, Happened(errors=1))
    assert resting.is_paused(later(REST_MS - 1), LIMITS)
    assert not resting.is_paused(later(REST_MS), LIMITS)


def test_five_lost_in_a_row_pause_it_for_a_day_and_then_it_gets_one_at_a_time() -> None:
    four = after(NEW, Happened(lost=4))
    assert (four.is_paused(NOW, LIMITS), four.quota(LIMITS)) == (False, 50)
    five = after(four, Happened(lost=1))
    assert (five.is_paused(later(DAY_MS - 1), LIMITS), five.quota(LIMITS)) == (True, 1)
    assert not five.is_paused(later(DAY_MS), LIMITS)
    again = five.after(Happened(lost=1), later(2 * DAY_MS), LIMITS)
    assert again.is_paused(later(3 * DAY_MS - 1), LIMITS)


def test_a_result_between_lost_ones_begins_the_row_anew() -> None:
    assert after(NEW, *[Happened(lost=4), Happened(results=1)] * 3) == NEW


def test_who_comes_home_with_a_result_works_at_once() -> None:
    away = after(NEW, Happened(lost=20))
    back = after(away, Happened(results=1))
    assert (back.is_paused(NOW, LIMITS), back.quota(LIMITS)) == (False, 50)


def test_a_result_does_not_end_the_rest_after_errors() -> None:
    resting = after(NEW, Happened(errors=9))
    assert after(resting, Happened(results=1)).is_paused(NOW, LIMITS)


def test_a_clock_that_was_a_year_ahead_pauses_nobody_for_a_year() -> None:
    ahead = NEW.after(Happened(lost=9), later(365 * DAY_MS), LIMITS)
    assert not ahead.is_paused(NOW, LIMITS)


def test_what_happened_adds_up() -> None:
    assert Happened(1, 2, 3, 4).plus(Happened(10, 20, 30, 40)) == Happened(11, 22, 33, 44)


@given(
    st.lists(
        st.builds(
            Happened, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)
        ),
        max_size=20,
    )
)
def test_whatever_happens_it_may_hold_one_and_comes_back_to_all(happened: list[Happened]) -> None:
    brake = after(NEW, *happened)
    assert 1 <= brake.quota(LIMITS) <= LIMITS.leases
    assert not brake.is_paused(later(DAY_MS), LIMITS)
    assert after(brake, Happened(results=1), Happened(valid=5)).quota(LIMITS) == LIMITS.leases

"""Backoff, budgets, how much work to ask for, and which time to believe."""

from __future__ import annotations

import pytest

from tesla_at_home.policy.backoff import delay_s
from tesla_at_home.policy.budget import Ask, Used, ask, day_of, learn, next_day_ms, used_up
from tesla_at_home.policy.deadlines import SignedTime, clock_off_s, lease_now, trusted_now
from workunits.values import Milliseconds

DAY_MS = 86_400_000
NOW = Milliseconds(1_800_000_000_000)


@pytest.mark.parametrize(
    ("failures", "draw", "wanted"),
    [(1, 0.0, 30), (1, 1.0, 60), (2, 1.0, 120), (0, 1.0, 60), (8, 1.0, 3600), (5000, 0.5, 2700)],
)
def test_delays_double_up_to_the_longest(failures: int, draw: float, wanted: float) -> None:
    assert delay_s(failures, first_s=60, most_s=3600, draw=draw) == wanted


def test_a_days_budget() -> None:
    used = Used().add(NOW, down=600_000, up=10).add(NOW, down=400_000)
    assert (used.down, used.up, used.day) == (1_000_000, 10, day_of(NOW))
    assert used_up(used, NOW, down_mb=1.0, up_mb=1.0) == "down"
    assert used_up(used, NOW, down_mb=1.1, up_mb=1e-5) == "up"
    assert used_up(used, NOW, down_mb=1.1, up_mb=1.0) is None


def test_the_next_day_begins_at_noon_with_a_new_budget() -> None:
    used = Used().add(NOW, down=10**9, up=10**9)
    next_ms = next_day_ms(NOW)
    assert next_ms % DAY_MS == DAY_MS // 2
    assert day_of(next_ms) == day_of(NOW) + 1
    assert used_up(used, next_ms, down_mb=1.0, up_mb=1.0) is None
    assert used.add(next_ms, up=1) == Used(day=day_of(next_ms), down=0, up=1)


def wanted(held: int, seconds_per_unit: float | None, most_units: int = 50) -> Ask:
    return ask(held, seconds_per_unit, low_days=0.1, more_days=0.5, most_units=most_units)


def test_one_unit_shows_how_fast_this_computer_is() -> None:
    assert wanted(0, None) == Ask(51_840, 1)
    assert wanted(1, None) == Ask(0, 0)


def test_the_buffer_is_filled_at_once_and_not_before_it_is_low() -> None:
    assert wanted(0, 600.0) == Ask(51_840, 50)
    assert wanted(14, 600.0).units == 36  # 8,400 s on hand, below 8,640
    assert wanted(15, 600.0) == Ask(0, 0)


def test_never_more_than_may_be_held() -> None:
    assert wanted(3, 1.0, most_units=3) == Ask(0, 0)
    assert wanted(2, 1.0, most_units=3).units == 1
    assert wanted(2, 0.0, most_units=3).units == 1


def test_a_unit_longer_than_the_buffer_is_asked_for_when_there_is_none() -> None:
    assert wanted(0, 1e6).units == 1
    assert wanted(1, 1e6).units == 0


def test_learning_moves_slowly() -> None:
    assert learn(None, 10.0) == 10.0
    assert learn(10.0, 20.0) == 12.0


# --- time -------------------------------------------------------------------------------------


def test_before_anything_was_signed_the_local_clock_is_believed() -> None:
    assert trusted_now(SignedTime(), NOW, 5.0, "boot") == NOW
    assert lease_now(SignedTime(), NOW, 5.0, "boot") == NOW
    assert clock_off_s(SignedTime(), NOW, 5.0, "boot") is None


def test_the_boot_clock_bridges_from_the_signed_time() -> None:
    signed = SignedTime().heard(NOW, wall_ms=NOW, boot_s=100.0, boot_id="boot")
    behind, ahead = Milliseconds(NOW - DAY_MS), Milliseconds(NOW + DAY_MS)
    assert trusted_now(signed, behind, 110.0, "boot") == NOW + 10_000
    assert trusted_now(signed, ahead, 110.0, "boot") == ahead
    # A wall clock set ahead does not end leases, and one set back does not stretch them.
    assert lease_now(signed, ahead, 110.0, "boot") == NOW + 10_000
    assert lease_now(signed, behind, 110.0, "boot") == NOW + 10_000
    assert clock_off_s(signed, ahead, 110.0, "boot") == pytest.approx(DAY_MS / 1000 - 10)


def test_after_a_reboot_the_larger_counts() -> None:
    signed = SignedTime().heard(NOW, wall_ms=NOW, boot_s=100.0, boot_id="boot")
    behind, ahead = Milliseconds(NOW - 1000), Milliseconds(NOW + 1000)
    assert lease_now(signed, behind, 1.0, "next") == NOW
    assert lease_now(signed, ahead, 1.0, "next") == ahead
    assert trusted_now(signed, behind, 1.0, "next") == NOW
    assert clock_off_s(signed, behind, 1.0, "next") == -1.0
    assert clock_off_s(signed, ahead, 1.0, "next") is None


def test_an_older_signed_time_changes_nothing() -> None:
    signed = SignedTime().heard(NOW, wall_ms=NOW, boot_s=100.0, boot_id="boot")
    assert (
        signed.heard(Milliseconds(NOW + 5_000), wall_ms=NOW, boot_s=110.0, boot_id="boot") == signed
    )
    assert signed.heard(Milliseconds(NOW - 1), wall_ms=NOW, boot_s=1.0, boot_id="next") == signed
    newer = signed.heard(Milliseconds(NOW + 1), wall_ms=NOW, boot_s=1.0, boot_id="next")
    assert newer.boot_id == "next"


YEAR_AHEAD = Milliseconds(NOW + 365 * DAY_MS)


def test_a_time_far_ahead_is_in_doubt_until_it_is_said_again_an_hour_later() -> None:
    right = SignedTime().heard(NOW, wall_ms=NOW, boot_s=0.0, boot_id="boot")
    doubting = right.heard(YEAR_AHEAD, wall_ms=NOW, boot_s=0.0, boot_id="boot")
    assert trusted_now(doubting, NOW, 10.0, "boot") == NOW + 10_000
    assert lease_now(doubting, NOW, 10.0, "boot") == NOW + 10_000
    assert clock_off_s(doubting, NOW, 0.0, "boot") == -365 * 86_400
    assert clock_off_s(doubting, NOW, 0.0, "next") is None
    for boot_s, is_confirmed in ((1800.0, False), (3600.0, True)):
        said = Milliseconds(YEAR_AHEAD + int(boot_s * 1000))
        doubting = doubting.heard(said, wall_ms=NOW, boot_s=boot_s, boot_id="boot")
        assert (doubting.doubt is None) is is_confirmed
    assert trusted_now(doubting, NOW, 3600.0, "boot") == YEAR_AHEAD + 3_600_000


def test_what_is_said_otherwise_the_second_time_confirms_nothing() -> None:
    doubting = SignedTime().heard(YEAR_AHEAD, wall_ms=NOW, boot_s=0.0, boot_id="boot")
    other = Milliseconds(YEAR_AHEAD + 30 * DAY_MS)
    again = doubting.heard(other, wall_ms=NOW, boot_s=7200.0, boot_id="boot")
    assert again.doubt is not None
    assert again.doubt.ms == other
    rebooted = doubting.heard(YEAR_AHEAD, wall_ms=NOW, boot_s=9000.0, boot_id="next")
    assert rebooted.doubt is not None


def test_an_answer_that_fits_settles_a_doubt_and_corrects_a_wrong_highest_time() -> None:
    right = SignedTime().heard(NOW, wall_ms=NOW, boot_s=0.0, boot_id="boot")
    doubting = right.heard(YEAR_AHEAD, wall_ms=NOW, boot_s=1.0, boot_id="boot")
    assert doubting.heard(NOW, wall_ms=NOW, boot_s=2.0, boot_id="boot") == right
    wrong = SignedTime(ms=YEAR_AHEAD, boot_s=0.0, boot_id="boot")
    mended = wrong.heard(NOW, wall_ms=NOW, boot_s=1.0, boot_id="next")
    assert mended == SignedTime(ms=NOW, boot_s=1.0, boot_id="next")
    hours_ahead = SignedTime(ms=Milliseconds(NOW + DAY_MS // 2), boot_s=0.0, boot_id="boot")
    assert hours_ahead.heard(NOW, wall_ms=NOW, boot_s=1.0, boot_id="boot").ms == NOW
    off = Milliseconds(NOW - 600_000)  # the local clock agrees with neither
    assert hours_ahead.heard(NOW, wall_ms=off, boot_s=1.0, boot_id="boot") == hours_ahead
    far = Milliseconds(NOW + 100 * DAY_MS)
    assert wrong.heard(far, wall_ms=NOW, boot_s=1.0, boot_id="boot") == wrong

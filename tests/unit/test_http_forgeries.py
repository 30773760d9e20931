"""Who sends too many bad signatures is not read for the minute; what is remembered is bounded."""

from __future__ import annotations

import pytest

from server.http.forgeries import Forgeries, Strangers, TooManyForgeries
from tests.support.still_clock import StillClock
from workunits.errors import BadSignature, MalformedMessage
from workunits.values import Milliseconds

NET, OTHER = "203.0.113.0/24", "198.51.100.0/24"
NOW = Milliseconds(60_000_000)
MINUTE_MS = 60_000


def is_welcome(forgeries: Forgeries, network: str | None, now: int = NOW) -> bool:
    try:
        forgeries.expect_welcome(network, Milliseconds(now))
    except TooManyForgeries:
        return False
    return True


def test_so_many_a_minute_and_no_more_and_only_from_there() -> None:
    forgeries = Forgeries(most=3)
    for _ in range(3):
        assert is_welcome(forgeries, NET)
        forgeries.note(NET, NOW)
    assert not is_welcome(forgeries, NET)
    assert is_welcome(forgeries, OTHER)
    assert is_welcome(forgeries, NET, NOW + MINUTE_MS)


def test_this_computer_is_not_counted() -> None:
    forgeries = Forgeries(most=1)
    for _ in range(5):
        forgeries.note(None, NOW)
    assert is_welcome(forgeries, None)
    assert forgeries.is_quiet()


def test_a_hundred_thousand_networks_take_the_memory_of_a_few() -> None:
    forgeries = Forgeries(most=2, networks=50)
    for number in range(100_000):
        forgeries.note(f"10.{number >> 8}.{number & 255}.0/24", NOW)
    assert len(forgeries._counts) <= 50
    # Who was never heard of before is not the one who pays.
    assert is_welcome(forgeries, "192.0.2.0/24")
    forgeries.note(NET, Milliseconds(NOW + MINUTE_MS))
    assert len(forgeries._counts) == 2


def test_the_many_networks_of_one_home_are_bounded_together() -> None:
    forgeries = Forgeries(most=3, most_of_provider=10, networks=4)
    for number in range(10):
        assert is_welcome(forgeries, f"2001:db8:0:{number:x}00::/56")
        forgeries.note(f"2001:db8:0:{number:x}00::/56", NOW)
    assert not is_welcome(forgeries, "2001:db8:0:ff00::/56")
    assert is_welcome(forgeries, "2001:db9::/56")
    assert is_welcome(forgeries, NET)


def forge(strangers: Strangers, host: str, error: Exception) -> None:
    with pytest.raises(type(error)), strangers.heard(host):
        raise error


def test_only_bad_signatures_count_and_a_household_is_one() -> None:
    clock = StillClock()
    strangers = Strangers(clock, Forgeries(most=2))
    for _ in range(5):
        forge(strangers, "203.0.113.7", MalformedMessage("x"))
    for host in ("203.0.113.8", "203.0.113.9"):
        forge(strangers, host, BadSignature("x"))
    with pytest.raises(TooManyForgeries), strangers.heard("203.0.113.10"):
        raise AssertionError("was read")
    clock.pass_s(60)
    with strangers.heard("203.0.113.10"):
        pass

"""The rings in which enrolments are counted."""

from __future__ import annotations

import pytest

from server.domain.networks import EVERYBODY, Ring, rings


@pytest.mark.parametrize(
    ("network", "provider"),
    [
        ("203.0.113.0/24", "203.0.0.0/16"),
        ("2001:db8:1:200::/56", "2001:db8::/32"),
        ("2001:db8:ffff:ff00::/56", "2001:db8::/32"),
    ],
)
def test_a_network_lies_within_its_provider_and_everybody(network: str, provider: str) -> None:
    found = rings(network, 10, 200, 2_000)
    assert found == (Ring(network, 10), Ring(provider, 200), Ring(EVERYBODY, 2_000))


def test_who_hides_is_counted_together_and_among_everybody() -> None:
    assert rings("unknown", 10, 200, 2_000) == (Ring("unknown", 10), Ring(EVERYBODY, 2_000))

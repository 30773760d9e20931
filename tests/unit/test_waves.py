"""Ten thousand vehicles after an outage: they do not come back in one wave.

The measure is the fullest minute: which share of all vehicles comes within it. The worst start is
taken: all of them met the outage in the same second.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from tesla_at_home.agent.commands import Fetch, Post, Upload
from tesla_at_home.agent.events import FetchFailed, Refused, UploadFailed
from tesla_at_home.policy.backoff import delay_s
from tesla_at_home.settings import Network
from tests.support.machine_bench import INPUT, Bench, lease_id, offer

VEHICLES = 10_000
HOUR_S = 3600.0
NETWORK = Network()


def comes_back_s(draws: random.Random, outage_s: float) -> float:
    """When a vehicle that is refused from second 0 on first meets a server that is up."""
    at_s, failures = 0.0, 0
    while at_s < outage_s:
        failures += 1
        at_s += delay_s(
            failures,
            first_s=NETWORK.backoff_first_s,
            most_s=NETWORK.backoff_most_s,
            draw=draws.random(),
        )
    return at_s


def fullest_minute(moments_s: Iterable[float]) -> float:
    minutes = Counter(int(at_s // 60) for at_s in moments_s)
    return max(minutes.values()) / VEHICLES


@pytest.mark.parametrize(("hours", "most"), [(2, 0.025), (6, 0.0125), (72, 0.01)])
def test_after_an_outage_of_hours_no_minute_has_more_than_its_share(
    hours: float, most: float
) -> None:
    draws = random.Random(1)
    back_s = [comes_back_s(draws, hours * HOUR_S) for _ in range(VEHICLES)]
    assert fullest_minute(back_s) <= most
    assert max(back_s) <= hours * HOUR_S + NETWORK.backoff_most_s


@pytest.mark.parametrize(("told_s", "most"), [(600, 0.25), (3600, 0.04), (86_400, 0.02)])
def test_all_were_told_the_same_wait_and_come_one_by_one(told_s: int, most: float) -> None:
    draws = random.Random(2)
    waits_s = [
        delay_s(1, first_s=60, most_s=4 * HOUR_S, draw=draws.random(), at_least_s=told_s)
        for _ in range(VEHICLES)
    ]
    assert min(waits_s) >= told_s
    assert max(waits_s) <= told_s + min(told_s / 2, HOUR_S)
    assert fullest_minute(waits_s) <= most


@pytest.mark.parametrize(("status_code", "is_final"), [("busy", False), ("forbidden", True)])
def test_a_request_waits_as_long_as_it_was_told(status_code: str, is_final: bool) -> None:
    bench = Bench()
    bench.begin()
    assert bench.took(Post)
    bench.do(Refused(status_code, "503 busy", 7200, is_final))
    bench.wait(7199)
    assert not bench.took(Post)
    assert bench.machine.state.exchange.retry_s - bench.boot_s <= 1 + 3600


def test_a_fetch_waits_as_long_as_it_was_told() -> None:
    bench = Bench()
    bench.begin()
    bench.reply(leases=(offer(1, 86_400),))
    bench.prove(1, INPUT)
    assert bench.took(Fetch)
    bench.do(FetchFailed(INPUT, "503 busy", retry_after_s=7200))
    bench.wait(7199)
    assert not bench.took(Fetch)
    bench.wait(3602)
    assert bench.took(Fetch)


def test_an_upload_waits_as_long_as_it_was_told() -> None:
    bench = Bench()
    bench.lease_one(duration_s=86_400)
    bench.finish(1, size=10**6)
    assert bench.took(Upload)
    bench.do(UploadFailed(lease_id(1), "503 busy", retry_after_s=7200))
    bench.wait(7199)
    assert not bench.took(Upload)
    bench.wait(3602)
    assert bench.took(Upload)

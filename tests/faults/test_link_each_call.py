"""Every send and every receive fails once, in each way it can; then in pairs, and in storms.

The crossings of an undisturbed run of one vehicle are counted; then the run is repeated with a fault at
crossing k, for each k. In pairs and storms several owners meet over each unit. `World.check` is the judge: each unit has one canonical result, the answer has the bytes of
the undisturbed run, credit is the sum of the valid results, each repetition got the same reply, and
nothing is left in hand or on disk.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import get_args

import pytest

from tests.faults import storms
from tests.support.weather import Crossing, Fault, planned
from tests.support.world import world


@cache
def undisturbed(vehicles: int = 1) -> tuple[tuple[Crossing, ...], tuple[bytes, ...]]:
    """What crosses the link when nothing goes wrong, and the answer."""
    with world(owners=range(vehicles)) as here:
        here.publish(small=1, wide=1, quorum=vehicles)
        here.run()
        here.check()
        return tuple(here.weather.crossed), tuple(here.answer())


def play(faults: Mapping[int, Fault], vehicles: int = 1) -> int:
    """The same with these faults; how many of them befell."""
    _, answer = undisturbed(vehicles)
    with world(choose=planned(faults), owners=range(vehicles)) as here:
        here.publish(small=1, wide=1, quorum=vehicles)
        here.run()
        here.check()
        assert tuple(here.answer()) == answer
        assert here.site.numbers_used_twice == 0
        return here.weather.befell.total()


def test_an_undisturbed_run_crosses_in_every_way() -> None:
    crossed, _ = undisturbed()
    assert {(crossing.errand, crossing.way) for crossing in crossed} == {
        ("look", "asked"), ("look", "answered"), ("post", "asked"), ("post", "answered"),
        ("blob", "asked"), ("blob", "answered"), ("blob", "down"),
        ("standing", "asked"), ("standing", "answered"),
        ("upload", "asked"), ("upload", "up"), ("upload", "answered"),
    }  # fmt: skip


@pytest.mark.parametrize("fault", get_args(Fault))
def test_a_fault_at_each_crossing_loses_nothing(fault: Fault) -> None:
    crossed, _ = undisturbed()
    places = [number for number, crossing in enumerate(crossed) if fault in crossing.faults]
    assert places
    for number in places:
        try:
            assert play({number: fault}) == 1
        except Exception as error:
            error.add_note(f"{fault} at crossing {number}, {crossed[number]}")
            raise


@pytest.mark.parametrize("seed", range(12))
def test_random_pairs_lose_nothing(seed: int) -> None:
    crossed, _ = undisturbed(vehicles=2)
    draws = random.Random(seed)
    numbers = draws.sample(range(len(crossed)), 2)
    assert (
        play({number: draws.choice(crossed[number].faults) for number in numbers}, vehicles=2) >= 1
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_delays_and_loses_nothing(seed: int) -> None:
    counts = storms.Counts()
    storms.play(seed, counts)
    assert counts.injected

"""Storms over the link: worlds with many faults drawn by chance, for as long as is asked.

`run(seconds, seed)` is what `make soak` calls; each world is checked at its end, and a failure names
the seed that plays it again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.support.weather import Choice, Fault, stormy
from tests.support.world import world

# More would only be weather in which nothing is ever done; less is what `test_link_each_call` has.
_SHARES: Final = (0.05, 0.15, 0.3)
_FLEETS: Final = ((0, 1), (0, 1, 2), (0, 0, 1))


@dataclass
class Counts:
    """What a run of storms injected, and how often everything was checked."""

    worlds: int = 0
    crossings: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)

    @property
    def injected(self) -> int:
        return self.faults.total()


def run(seconds: float, seed: int) -> Counts:
    """Worlds, one after the other, until `seconds` have passed; at least one."""
    counts = Counts()
    ends_s = time.monotonic() + seconds
    while not counts.worlds or time.monotonic() < ends_s:
        play(seed + counts.worlds, counts)
    return counts


def play(seed: int, counts: Counts) -> None:
    """One world in a storm; the same seed is the same storm."""
    draws = random.Random(seed)
    choose: Choice = stormy(draws, draws.choice(_SHARES))
    try:
        with world(choose=choose, owners=draws.choice(_FLEETS)) as here:
            here.publish(small=draws.randint(0, 6), wide=draws.randint(1, 4))
            here.run()
            here.check()
            assert here.site.numbers_used_twice == 0
            counts.crossings += len(here.weather.crossed)
            counts.faults += here.weather.befell
    except Exception as error:
        error.add_note(f"play it again: tests.faults.storms.play({seed}, Counts())")
        raise
    counts.worlds += 1

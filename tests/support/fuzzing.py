"""Damaged bytes for everything that reads a stranger's, for as long as is asked: a part of `make soak`.

Decides what is tried and how often; what is right is said by the targets themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Final

from tests.support.decoders import TARGETS
from tests.support.mutation import drawn, mutated
from tests.support.surface import storm, surface

# A round of each, then the clock is looked at.
_TRIES: Final = 50
_VEHICLES: Final = 200


def run(seconds: float, seed: int) -> Mapping[str, int]:
    """How many damaged inputs were taken or refused as declared.

    Raises:
        Exception: something else happened; the seed repeats it.
    """
    random = Random(seed)
    ends_s = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    while time.monotonic() < ends_s:
        counts += _decode(random, ends_s)
        if time.monotonic() < ends_s:
            counts += _send(random)
    return counts


def _decode(random: Random, ends_s: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    for target in TARGETS.values():
        for _ in range(_TRIES):
            if time.monotonic() >= ends_s:
                return counts
            raw, other = random.choice(target.samples), random.choice(target.samples)
            said = target.refusal(mutated(raw, other, drawn(random)))
            assert said is None or said.isprintable(), repr(said)
            counts["damaged inputs decoded"] += 1
    return counts


def _send(random: Random) -> Counter[str]:
    """A project anew each time, since its vehicles speak once."""
    with surface(_VEHICLES) as site:
        statuses = storm(site, random, _VEHICLES)
    refused = sum(times for status, times in statuses.items() if status != 200)
    return Counter(
        {"damaged messages sent": _VEHICLES, "of them refused, nothing changed": refused}
    )

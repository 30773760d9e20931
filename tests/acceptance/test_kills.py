"""A fixed dozen of `kill -9`: server, agents and computing processes, at instants drawn by chance.

Hundreds of them are `make soak`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.fleet import KINDS, Fleet

UNITS = 200
ROUNDS = 4

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("seed", [1])
def test_a_dozen_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    fleet = Fleet(tmp_path, random.Random(seed))
    with fleet.running():
        batch = fleet.submit(UNITS)
        for _ in range(ROUNDS):
            for kind in KINDS:
                fleet.pass_time(1.5)
                fleet.kill_one(kind)
        fleet.wait_until_done(200)
        fleet.check(batch, UNITS)
    assert fleet.kills == dict.fromkeys(KINDS, ROUNDS)

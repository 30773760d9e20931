"""`kill -9` of server, agents and computing processes, one after the other, for as long as it is told."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support.fleet import KINDS, Fleet

# Enough work for some sixty kills; a machine that gets further gets another batch.
_UNITS: Final = 800
# Between two kills there is time to get somewhere, and not always to get ready.
_PAUSE_S: Final = 1.0
_END_S: Final = 180


def run(seconds: float, seed: int) -> Counter[str]:
    """How many processes were killed and batches checked.

    Raises:
        AssertionError: something was lost, or counted twice.
    """
    draw = random.Random(seed)
    ends_s = time.monotonic() + seconds
    found: Counter[str] = Counter()
    while time.monotonic() < ends_s:
        with tempfile.TemporaryDirectory(prefix="tesla-at-home-soak-") as folder:
            fleet = Fleet(Path(folder), draw)
            with fleet.running():
                batch = fleet.submit(_UNITS)
                while time.monotonic() < ends_s and not fleet.is_done():
                    fleet.pass_time(_PAUSE_S)
                    fleet.kill_one(draw.choice(KINDS))
                fleet.wait_until_done(_END_S)
                fleet.check(batch, _UNITS)
            found.update({f"kills of the {kind}": times for kind, times in fleet.kills.items()})
            found.update({"answers identical to an undisturbed run": 1, "units checked": _UNITS})
    return found

"""A vehicle's life from joining to the last receipt, with a disk that fails at every call that changes it.

`python -m tests.faults.agent_disk_play each SHARE`: the calls one by one, a `SHARE`-th of them.
`python -m tests.faults.agent_disk_play soak SECONDS SEED`: calls, faults and pairs as they are drawn.
Runs under `disk_faults` and prints how many calls there are and how many faults of which kind met them.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from tests.support.disk_faults import Fault
from tests.support.disk_vehicle import DiskVehicle, DiskWorld, Plan

_MEMORY_DISK: Final = Path("/dev/shm")
# `cut` is what the name says: a kill of which the disk kept what POSIX promises, and no more.
_KINDS: Final = ("once", "gone", "torn", "short", "full", "cut")


def live(plan: Plan) -> tuple[str, int]:
    """A whole life under `plan`, and what must hold after it; the calls made, and how many failed."""
    DiskVehicle.plan = plan
    parent = _MEMORY_DISK if _MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        here = DiskWorld(Path(name))
        (vehicle,) = here.vehicles
        assert isinstance(vehicle, DiskVehicle)
        try:
            here.publish()
            here.run()
            here.check()
            return vehicle.disk.kinds(), vehicle.faults_met()
        finally:
            vehicle.disk.mend()
            here.close()
            vehicle.disk.unwatch()


def plan_of(kind: str, at: int, seed: int) -> Plan:
    if kind == "cut":
        return Plan(((at, Fault.GONE),), cut=Random(seed))
    return Plan(((at, Fault[kind.upper()]),))


def places(calls: str) -> list[int]:
    """Every call that is no write, and of each run of writes the first, or in turns the last."""
    found = []
    for turn, run in enumerate(re.finditer("W+|[^W]", calls)):
        found.append(run.start() + 1 if turn % 2 else run.end())
    return found


def each(share: int) -> Iterator[tuple[str, Plan]]:
    """Each place with one fault, in turns, so that every kind meets every part of the life."""
    calls, _ = live(Plan())
    for turn, at in enumerate(places(calls)[::share]):
        kind = _KINDS[turn % len(_KINDS)]
        yield kind, plan_of(kind, at, seed=at)


def drawn(seconds: float, seed: int) -> Iterator[tuple[str, Plan]]:
    """Any call, any fault; every third time a second one, together or while it starts again."""
    draw = Random(seed)
    calls, _ = live(Plan())
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        kind = draw.choice(_KINDS)
        plan = plan_of(kind, draw.randint(1, len(calls)), draw.randrange(2**32))
        if draw.random() < 1 / 3:
            kind, plan = f"{kind} twice", _again(plan, draw, len(calls))
        yield kind, plan


def _again(plan: Plan, draw: Random, calls: int) -> Plan:
    second = draw.choice((Fault.ONCE, Fault.GONE, Fault.TORN))
    if draw.random() < 0.5:
        return Plan(plan.faults, ((draw.randint(1, 60), second),), plan.cut)
    together = ((draw.randint(1, calls), Fault.ONCE), *plan.faults)
    return Plan(together, cut=plan.cut)


def main(arguments: list[str]) -> None:
    mode, first, *rest = arguments
    plans = each(int(first)) if mode == "each" else drawn(float(first), int(rest[0]))
    met: Counter[str] = Counter()
    lives = 0
    for kind, plan in plans:
        try:
            _, injected = live(plan)
        except BaseException as error:
            error.add_note(f"{kind}: {plan}")
            raise
        met[kind] += injected
        lives += 1
    print(json.dumps({"lives": lives, "faults": met.total(), "by_kind": dict(met)}))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`make soak`: faults for SOAK_SECONDS (ten minutes), then what was injected and what was checked.

Two things run beside each other: real processes are killed, and the parts that inject faults in
memory and below the disk take turns. Every part checks its own end: one canonical result for each unit,
an answer identical to an undisturbed run's, credit that is the sum of the valid results, replies equal
to their repetitions. SOAK_SEED repeats a run's draws.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from tests.soak.parts import KILLS, PARTS

IN_MEMORY: Final = tuple(part for part in PARTS if part != KILLS)
# One turn of a part; the draws of the next are others.
_TURN_S: Final = 30.0
# A part ends its last scene and its checks after its time.
_GRACE_S: Final = 900.0


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    seed = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(2**31))))
    print(f"soaking for {seconds:g} s with SOAK_SEED={seed} ...", flush=True)
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(_play, KILLS, seconds, seed), pool.submit(_in_memory, seconds, seed)]
    return _tell(parts)


def _in_memory(seconds: float, seed: int) -> Counter[str]:
    ends_s = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    turn = 0
    while (left_s := ends_s - time.monotonic()) > 0:
        part = IN_MEMORY[turn % len(IN_MEMORY)]
        counts += _play(part, min(_TURN_S, left_s), seed + turn)
        turn += 1
    return counts


def _play(part: str, seconds: float, seed: int) -> Counter[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.one", part, str(seconds), str(seed)],
        capture_output=True,
        text=True,
        timeout=seconds + _GRACE_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"the part {part!r} with seed {seed} failed:\n{done.stdout}{done.stderr}"
        )
    return Counter(json.loads(done.stdout.splitlines()[-1]))


def _tell(parts: list[Future[Counter[str]]]) -> int:
    """The table; 1 if a part failed."""
    total: Counter[str] = Counter()
    failed = 0
    for part in parts:
        error = part.exception()
        if error is not None:
            print(error, file=sys.stderr)
            failed += 1
        else:
            total += part.result()
    for what, times in sorted(total.items()):
        print(f"{times:>10,}  {what}")
    print(
        "something was lost or counted twice" if failed else "nothing lost, nothing counted twice"
    )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

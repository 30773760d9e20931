"""A disk that fails under the agent at any call: every unit is done exactly once, bit for bit.

The vehicle's life is joining, three leases (one fetched as a blob and uploaded), steps, reports and
receipts, against a real project. After each fault: the answer is an undisturbed run's, credit is given
once, the exchange went on in its session, the consent is what was given, nothing lies in the spool.
"""

from __future__ import annotations

from tests.support import disk_faults
from tests.support.disk_faults import needs_compiler

pytestmark = needs_compiler

PLAY = "tests.faults.agent_disk_play"


def run(seconds: float, seed: int) -> dict[str, object]:
    """Faults as they are drawn, for `make soak`: how many lives, how many faults of which kind."""
    return disk_faults.play(PLAY, "soak", str(seconds), str(seed), timeout_s=seconds + 600)


def test_a_fault_at_every_call_loses_nothing() -> None:
    found = disk_faults.play(PLAY, "each", "1")
    assert isinstance(found["lives"], int)
    assert isinstance(found["faults"], int)
    assert found["lives"] > 100
    assert found["faults"] >= found["lives"] * 0.9

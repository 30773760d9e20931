"""`linux:stationary`: a computer that does not move, in the owner's word (DECISIONS C.4).

The owner declares at `join` that it is parked, has no driving battery and is nobody's car seat. What
Linux measures counts over the word: mains, heat, and a battery once one is listed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tesla_at_home.adapters import power
from tesla_at_home.adapters.vehicle.polled import PolledSource
from tesla_at_home.policy.signals import Heard, Reading, Signal
from tesla_at_home.ports import Clock

# Reads five small files; an unplugged computer stops well within the seconds that owners expect.
POLL_S: Final = 2.0
NAME: Final = "linux:stationary"
# None: the condition does not apply to a computer without a battery to drive on.
_DECLARED: Final[dict[Signal, bool | float | None]] = {
    "parked": True,
    "in_use": False,
    "charge_percent": None,
}


class StationaryComputer:
    """The port `VehicleSource` for a computer that stays where it is."""

    def __init__(self, clock: Clock, root: Path = Path("/")) -> None:
        self._clock = clock
        self._measured = PolledSource("sysfs", partial(power.look, root), clock, POLL_S)

    @property
    def calm_s(self) -> float | None:
        return None

    def start(self, post: Callable[[Heard], None]) -> None:
        at_s = self._clock.boot_s()
        said = (
            Reading(signal, value, NAME, at_s, None, is_declared=True)
            for signal, value in _DECLARED.items()
        )
        post(Heard(tuple(said)))
        self._measured.start(post)

    def stop(self) -> None:
        self._measured.stop()

    def count(self, steps: int, units: int) -> None:
        pass

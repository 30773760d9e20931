"""A clock that moves only when a test moves it."""

from __future__ import annotations

from dataclasses import dataclass

from workunits.values import Milliseconds


@dataclass
class StillClock:
    """Implements the port `Clock`."""

    wall_ms: int = 1_800_000_000_000
    at_s: float = 1000.0

    def now_ms(self) -> Milliseconds:
        return Milliseconds(self.wall_ms)

    def boot_s(self) -> float:
        return self.at_s

    def boot_id(self) -> str:
        return "this boot"

    def monotonic_s(self) -> float:
        return self.at_s

    def minute_of_day(self) -> int:
        return 0

    def pass_s(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.at_s += seconds

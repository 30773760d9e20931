"""What befalls the link between vehicles and project: each crossing is counted, and may go wrong.

A crossing is one thing that crosses the link: a request, its answer, or a piece of a file. Says what
may befall each and chooses when; what a fault does is `tests.support.link`'s.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Way = Literal["asked", "answered", "down", "up"]
Errand = Literal["post", "look", "enrol", "blob", "standing", "upload"]
# lost: it never arrives. cut: half of it does. stalled: nothing for so long that it is given up.
# twice: it arrives twice. late: and once more, when much else has happened. portal: somebody else
# answers. busy: a proxy or the project says 503. replayed: an earlier answer comes in its place.
Fault = Literal[
    "lost", "cut", "stalled", "twice", "late", "portal", "busy", "replayed",
    "agent_killed", "server_killed",
]  # fmt: skip

_KILLS: Final[tuple[Fault, ...]] = ("agent_killed", "server_killed")
_FAULTS: Final[dict[Way, tuple[Fault, ...]]] = {
    "asked": ("lost", "stalled", "twice", "late", "portal", "busy", *_KILLS),
    "answered": ("lost", "stalled", *_KILLS),
    "down": ("lost", "cut", "stalled", *_KILLS),
    "up": ("lost", "cut", "stalled", *_KILLS),
}
# Crossings until what is late arrives: behind the next exchange, and behind several.
_LATE_BY: Final = (2, 9)


@dataclass(frozen=True, slots=True)
class Crossing:
    errand: Errand
    way: Way

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What may befall it."""
        is_message = self.way == "answered" and self.errand in ("post", "enrol")
        return (*_FAULTS[self.way], *(("cut", "replayed") if is_message else ()))


Choice: TypeAlias = Callable[[int, Crossing], Fault | None]


def fair(number: int, crossing: Crossing) -> Fault | None:
    """Nothing goes wrong."""
    return None


def planned(faults: Mapping[int, Fault]) -> Choice:
    """These faults at the crossings of these numbers, where they fit."""

    def choose(number: int, crossing: Crossing) -> Fault | None:
        fault = faults.get(number)
        return fault if fault in crossing.faults else None

    return choose


def stormy(draws: random.Random, share: float) -> Choice:
    """Any fault at any crossing, at this share of them."""

    def choose(number: int, crossing: Crossing) -> Fault | None:
        return draws.choice(crossing.faults) if draws.random() < share else None

    return choose


@dataclass
class Weather:
    """Over one world; `crossed` is what happened so far."""

    choose: Choice = fair
    crossed: list[Crossing] = field(default_factory=list)
    befell: Counter[Fault] = field(default_factory=Counter)
    _late: list[tuple[int, Callable[[], object]]] = field(default_factory=list)

    def cross(self, errand: Errand, way: Way) -> Fault | None:
        """What befalls the next crossing; what is late arrives before it."""
        crossing = Crossing(errand, way)
        number = len(self.crossed)
        self.crossed.append(crossing)
        self.deliver_late(number)
        fault = self.choose(number, crossing)
        if fault is not None:
            self.befell[fault] += 1
        return fault

    def later(self, deliver: Callable[[], object]) -> None:
        """Deliver it again, soon and much later."""
        number = len(self.crossed)
        self._late += [(number + by, deliver) for by in _LATE_BY]

    def deliver_late(self, number: int | None = None) -> None:
        """What is due at crossing `number`; without one, all that is still on its way."""
        due = [deliver for at, deliver in self._late if number is None or at <= number]
        self._late = [] if number is None else [one for one in self._late if one[0] > number]
        for deliver in due:
            deliver()

"""What the driver stands between: its inbox, and the ports that it performs with.

Decides nothing. Everything that threads beside the deciding one have to say goes through the inbox.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tesla_at_home.agent.events import Event
from tesla_at_home.errands import Errands
from tesla_at_home.ports import (
    Clock,
    Keeping,
    ProjectView,
    Randomness,
    Runner,
    Shelf,
    VehicleSource,
)
from tesla_at_home.settings import Settings


class Wake:
    """Orders may lie in the store."""


class End:
    """Stop in order: keep everything, end the child."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The project as it was looked at, from the exchange lane."""

    view: ProjectView | None
    event: Event


Posted: TypeAlias = Event | Wake | End | Seen | BaseException
Inbox: TypeAlias = queue.SimpleQueue[Posted]


@dataclass(frozen=True, slots=True)
class Outside:
    """Every port the driver performs with."""

    clock: Clock
    randomness: Randomness
    keeping: Keeping
    shelf: Shelf
    errands: Errands
    runner: Runner
    source: VehicleSource
    settings: Callable[[], Settings]  # reads them anew, for the order `reload`

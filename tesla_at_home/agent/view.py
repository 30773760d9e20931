"""What the owner sees of the agent: frozen values that `status`, `why` and `history` print.

Says nothing of how they are kept or shown. Moments are milliseconds since 1970, for people.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesla_at_home.agent.books import Totals
from tesla_at_home.policy.gates import GateView
from workunits.values import LeaseId


@dataclass(frozen=True, slots=True)
class UnitView:
    """One unit in the vehicle's hands."""

    lease: LeaseId
    model_name: str
    index: int
    rows: int
    state: str  # a state of `agent.tables`
    steps_done: int
    steps: int
    deadline_ms: int
    provider: str | None
    story: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the history."""

    at_ms: int
    kind: str  # gate_opened, gate_closed, unit_started, unit_resumed, unit_interrupted, ...
    text: str
    lease: LeaseId | None = None
    first_step: int | None = None  # of a start
    reason: str | None = None  # of a closing: the condition's name


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A report that the project refused three times; kept on disk and named to the owner."""

    lease: LeaseId
    code: str
    detail: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class View:
    """Everything that reading commands show, from one reading of the database."""

    url: str
    vehicle_name: str
    owner_name: str
    is_running: bool
    is_finishing: bool
    paused_until_ms: int | None  # None: not paused; `policy.gates.FOR_EVER`: until `resume`
    gate: GateView | None  # as last written by a running agent
    units: tuple[UnitView, ...]
    quarantined: tuple[Quarantined, ...]
    totals: Totals
    notice: str | None  # the project's line for the owner
    fault: str | None  # what last went wrong with the project, in one line
    last_contact_ms: int | None
    next_contact_ms: int | None
    repaired: Entry | None = None  # when the database was last set aside as damaged

    def is_paused(self, now_ms: int) -> bool:
        """Whether the owner's pause holds."""
        return self.paused_until_ms is not None and now_ms < self.paused_until_ms

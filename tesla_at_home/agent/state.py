"""The agent's state while it runs, and how it is changed so that every change is written down.

What the disk keeps (books, units) is frozen and replaced; the rest is forgotten with the process. Each
way of changing it stands here once; when it changes is decided by the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack

from msgspec.structs import replace

from tesla_at_home.agent.acceptance import inputs_of
from tesla_at_home.agent.books import STORY_LINES, Books, Facts, HeldUnit, Talk, Totals
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.commands import Command, Forget
from tesla_at_home.agent.events import Need, Now
from tesla_at_home.agent.tables import (
    IN_CHILD,
    PENDING,
    TalkCause,
    UnitCause,
    next_talk,
    next_unit,
)
from tesla_at_home.agent.view import Entry
from tesla_at_home.agent.words import one_line
from tesla_at_home.policy.backoff import delay_s
from tesla_at_home.policy.budget import Used
from tesla_at_home.policy.deadlines import SignedTime, lease_now, trusted_now
from tesla_at_home.policy.gates import Gate
from tesla_at_home.policy.signals import Readings
from tesla_at_home.settings import Settings
from workunits.values import Digest, LeaseId, Milliseconds
from workunits.wire.messages import Envelope, Lease, Runtime, WorkRequest


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this vehicle is towards the project."""

    key: bytes
    client: str  # version
    machine: str  # instruction set, for statistics
    seal: Callable[[WorkRequest], Envelope]  # signs; the same request gives the same bytes


@dataclass(slots=True)
class Child:
    """The computing process, as far as the agent knows."""

    model: Digest
    runtime: Runtime | None = None
    idle_since_s: float | None = None


@dataclass(slots=True)
class Tries:
    """Of one thing that may fail: how often it did in a row, and when it is tried again."""

    failures: int = 0
    retry_s: float = 0.0
    absent: int = 0  # how often the project said that it does not have it

    def failed(self, now: Now, *, first_s: float, most_s: float, at_least_s: float = 0.0) -> None:
        """Once more: wait longer, and no less than the project asked for."""
        self.failures += 1
        wait_s = delay_s(
            self.failures, first_s=first_s, most_s=most_s, draw=now.draw, at_least_s=at_least_s
        )
        self.retry_s = now.boot_s + wait_s


class UnitFields(TypedDict, total=False):
    """What a transition may change besides the state."""

    facts: Facts
    offer: Lease
    deadline_ms: Milliseconds
    steps_done: int
    starts: int
    crashes: int
    crashed_at: int
    mended: int
    outcome: str | None
    output: Digest | None
    output_size: int
    code: str
    detail: str
    runtime: Runtime | None
    compute_ms: int
    settled_ms: int


class BookFields(TypedDict, total=False):
    talk: Talk
    signed: SignedTime
    used: Used
    totals: Totals
    seconds_per_unit: float
    notice: str | None
    fault: str | None
    last_contact_ms: int
    next_contact_ms: int | None


@dataclass
class State:
    """Everything the agent knows. `now` is the moment of the event that is being handled."""

    identity: Identity
    settings: Settings
    books: Books
    units: dict[LeaseId, HeldUnit]
    calm_s: float | None  # the vehicle's own, in place of the setting
    now: Now
    gate: Gate = field(default_factory=Gate)
    readings: Readings = field(default_factory=Readings)
    has_consent: bool = False
    closed_since_s: float | None = None
    child: Child | None = None
    missing: dict[LeaseId, set[Need]] = field(default_factory=dict)
    fetching: Need | None = None
    down: dict[Need, Tries] = field(default_factory=dict)
    up: dict[LeaseId, Tries] = field(default_factory=dict)
    exchange: Tries = field(default_factory=Tries)
    look: Tries = field(default_factory=Tries)
    clock: Tries = field(default_factory=Tries)  # asking for the time, while clocks differ
    errand: Literal["look", "enrol"] | None = None  # under way in the exchange's lane
    is_project_fresh: bool = False
    project_seen_s: float | None = None
    vouched_until_ms: Milliseconds | None = None  # when the metadata that are held become stale
    # Leases that did not check out, and wait for one look at metadata that may be newer.
    unproved: set[LeaseId] = field(default_factory=set)
    looked_for: set[LeaseId] = field(default_factory=set)
    wait_until_s: float = 0.0  # the project's own wish
    quiet_until_s: float = 0.0  # nothing is said before
    report_at_s: float = 0.0
    work_at_s: float = 0.0
    replies_without_work: int = 0
    nothing_after: Digest | None = None  # the request whose reply was of no use
    senseless: int = 0  # replies in a row that made no sense
    is_wary: bool = False  # no unit was computed since one came to nothing
    renewals: int = 0  # sessions begun in a row without a reply between them
    had_no_work: bool = False  # said by the last reply to a request for work
    free_disk: int = 0
    cached_models: tuple[Digest, ...] = ()
    cached_manifests: tuple[Digest, ...] = ()
    steps_counted: int = 0
    units_counted: int = 0
    written_s: float = 0.0  # boot clock, when the progress of the unit in the child was last kept
    progress: int = 0  # steps of the unit in the child that are in the spool
    compute_ms: int = 0  # of the unit in the child
    starting: Tries = field(default_factory=Tries)  # of a computing process that cannot be started
    looked_s: float = 0.0  # boot clock, when the unit in the child was last looked at
    silent_s: float = 0.0  # time in which it computed and said nothing
    rest_s: float = 0.0  # how long it rests after its last step
    commands: list[Command] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    _entries: list[Entry] = field(default_factory=list)
    _changed: set[LeaseId] = field(default_factory=set)
    _books_changed: bool = False
    _gate_changed: bool = False

    # --- time ------------------------------------------------------------------------------------

    def trusted_now(self) -> Milliseconds:
        now = self.now
        return trusted_now(self.books.signed, now.wall_ms, now.boot_s, now.boot_id)

    def lease_now(self) -> Milliseconds:
        now = self.now
        return lease_now(self.books.signed, now.wall_ms, now.boot_s, now.boot_id)

    def vouched(self, server_time: Milliseconds) -> Milliseconds:
        """As much of a signed time as the metadata vouch for (PROTOCOL 9.4).

        Nothing but staleness follows from a later one, and that follows from this one too. So a
        scheduler key that fell into wrong hands can withhold work, but not move the time for ever.
        """
        if self.vouched_until_ms is None:
            return server_time
        return min(server_time, self.vouched_until_ms)

    def is_due(self, at_s: float) -> bool:
        """Whether `at_s` has come; if not, the agent is woken then."""
        if self.now.boot_s >= at_s:
            return True
        self.wakes.append(at_s)
        return False

    # --- changing --------------------------------------------------------------------------------

    def command(self, command: Command) -> None:
        self.commands.append(command)

    def note(
        self,
        kind: str,
        text: str,
        *,
        lease: LeaseId | None = None,
        first_step: int | None = None,
        reason: str | None = None,
    ) -> None:
        """A line of the history."""
        entry = Entry(self.now.wall_ms, kind, one_line(text), lease, first_step, reason)
        self._entries.append(entry)

    def put_books(self, books: Books) -> None:
        self.books = books
        self._books_changed = True

    def change_books(self, **fields: Unpack[BookFields]) -> None:
        if (fault := fields.get("fault")) is not None:
            fields["fault"] = one_line(fault)
        if (notice := fields.get("notice")) is not None:
            fields["notice"] = one_line(notice)
        self.put_books(replace(self.books, **fields))

    def put_talk(self, cause: TalkCause, talk: Talk) -> None:
        """The exchange after `cause`, with what else changed in `talk`."""
        self.change_books(talk=replace(talk, state=next_talk(self.books.talk.state, cause)))

    def add_unit(self, unit: HeldUnit) -> None:
        self.units[unit.lease] = unit
        self._changed.add(unit.lease)

    def move(
        self, lease: LeaseId, cause: UnitCause, line: str, **fields: Unpack[UnitFields]
    ) -> None:
        """Unit `lease` after `cause`, with a line for its story; dropped units are forgotten."""
        unit = self.units[lease]
        after = next_unit(unit.state, cause, unit.story)
        told = f"{self.now.wall_ms} {unit.state} -> {after}: {one_line(line)}"
        story = (*unit.story, told)[-STORY_LINES:]
        self._changed.add(lease)
        if after != "leased":
            self.unproved.discard(lease)
        if after == "dropped":
            del self.units[lease]
            self.missing.pop(lease, None)
            self.up.pop(lease, None)
            self.command(Forget(lease, self._inputs_of_no_other(unit)))
            return
        self.units[lease] = replace(unit, state=after, story=story, **fields)
        if after not in ("leased", "fetching"):
            self.missing.pop(lease, None)

    def edit(self, lease: LeaseId, **fields: Unpack[UnitFields]) -> None:
        """Change a unit that stays in its state."""
        self.units[lease] = replace(self.units[lease], **fields)
        self._changed.add(lease)

    def upload_failed(self, lease: LeaseId, at_least_s: float = 0.0) -> None:
        """The output did not get there: wait longer before it goes up again."""
        self.transfer_failed(self.up.setdefault(lease, Tries()), at_least_s)

    def transfer_failed(self, tries: Tries, at_least_s: float = 0.0) -> None:
        """A file did not get through, one way or the other."""
        network = self.settings.network
        tries.failed(
            self.now,
            first_s=network.transfer_first_s,
            most_s=network.transfer_most_s,
            at_least_s=at_least_s,
        )

    def put_gate(self, gate: Gate) -> None:
        before = [(c.name, c.state) for c in self.gate.conditions]
        after = [(c.name, c.state) for c in gate.conditions]
        waits = (self.gate.opens_at_s is None) != (gate.opens_at_s is None)
        self._gate_changed |= before != after or waits or self.gate.is_open != gate.is_open
        self.gate = gate

    def take_changes(self) -> Changes:
        """What is to be written since the last time."""
        changes = Changes(
            books=self.books if self._books_changed else None,
            units=tuple(self.units[name] for name in self._changed if name in self.units),
            dropped=tuple(name for name in self._changed if name not in self.units),
            entries=tuple(self._entries),
            gate=self.gate.view() if self._gate_changed else None,
        )
        self._books_changed = self._gate_changed = False
        self._changed.clear()
        self._entries.clear()
        return changes

    # --- asking ----------------------------------------------------------------------------------

    def is_exchange_busy(self) -> bool:
        """Whether something is under way to the project; one thing at a time."""
        return self.errand is not None or self.books.talk.state == "sending"

    def in_child(self) -> HeldUnit | None:
        """The unit in the computing process."""
        return next((u for u in self.units.values() if u.state in IN_CHILD), None)

    def in_order(self, states: Iterable[str] = PENDING) -> list[HeldUnit]:
        """Units in one of `states`, the one that must be done first in front."""
        found = [unit for unit in self.units.values() if unit.state in states]
        return sorted(found, key=lambda unit: (unit.deadline_ms, unit.lease))

    def models_in_use(self) -> frozenset[Digest]:
        return frozenset(u.facts.model for u in self.units.values() if u.facts is not None)

    def manifests_in_use(self) -> frozenset[Digest]:
        return frozenset(unit.offer.manifest for unit in self.units.values())

    def facts_in_use(self) -> list[Facts]:
        return [unit.facts for unit in self.units.values() if unit.facts is not None]

    def _inputs_of_no_other(self, gone: HeldUnit) -> tuple[Digest, ...]:
        # From the offers, since a unit that is not proved yet may share an input too.
        used = {digest for unit in self.units.values() for digest in inputs_of(unit.offer)}
        return tuple(digest for digest in inputs_of(gone.offer) if digest not in used)

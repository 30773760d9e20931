"""What `run` says of itself: one calm line for each important change, and not too many of them.

Listens where changes are written down, so that what is said is on disk. Decides nothing for the
agent; the whole story stands in the history.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tesla_at_home.agent.books import Books, HeldUnit
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.events import Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.errors import CannotSave
from tesla_at_home.ports import Clock, ConsentRecord, Keeping, Membership

# A line every two seconds is still read; a night's log stays small.
MOST_LINES: Final = 30
WINDOW_S: Final = 60.0
_TROUBLE_AT: Final = 2
# Kinds of history entries that are told, and what stands before their text.
_TOLD: Final = {
    "gate_opened": "gate open: ",
    "gate_closed": "gate closed: ",
    "unit_started": "unit {unit} ",
    "unit_computed": "unit {unit} ",
    "unit_done": "unit {unit} ",
    "unit_failed": "unit {unit} failed: ",
    "unit_returned": "unit {unit} given back, ",
    "unit_aborted": "unit {unit} ",
    "lease_refused": "unit {unit} refused: ",
    "report_quarantined": "report of unit {unit} kept, the project refuses it: ",
    "unknown_vehicle": "",
    "project_notice": "the project says: ",
    "joined": "",
}


class Announcing:
    """The port `Keeping` before another one; tells what is saved."""

    def __init__(self, keeping: Keeping, clock: Clock, tell: Callable[[str], None]) -> None:
        self._keeping = keeping
        self._clock = clock
        self._tell = tell
        self._books = keeping.books()
        self._held = {unit.lease for unit in keeping.units()}
        self._is_idle = False
        self._window_s = clock.boot_s()
        self._lines = 0
        self._failures = 0  # of saving, in a row

    def begin(self, directory: Path) -> None:
        """What runs, for whom, where, and how it is stopped."""
        member = self._keeping.membership()
        self._say(
            f"{member.vehicle_name} of {member.owner_name} computes for {member.url} while its gate "
            f"is open; everything is kept in {directory}. Ctrl-C stops it."
        )
        if self._books.notice:
            self._say(f"the project says: {self._books.notice}")

    def end(self) -> None:
        held = len(self._held)
        kept = f"; what is held is kept ({held} unit{'' if held == 1 else 's'})" if held else ""
        self._say(f"ended{kept}")

    def save(self, changes: Changes) -> None:
        """See `ports.Keeping`; on disk first, then said."""
        try:
            self._keeping.save(changes)
        except CannotSave as error:
            self._tell_trouble(error)
            raise
        self._tell_mended()
        self._held |= {unit.lease for unit in changes.units}
        self._held -= set(changes.dropped)
        before, self._books = self._books, changes.books or self._books
        for entry in changes.entries:
            if (line := entry_line(entry)) is not None:
                self._say(line)
        for line in books_lines(before, self._books):
            self._say(line)
        self._tell_idle(before)

    def books(self) -> Books:
        return self._keeping.books()

    def units(self) -> list[HeldUnit]:
        return self._keeping.units()

    def membership(self) -> Membership:
        return self._keeping.membership()

    def consent(self) -> ConsentRecord | None:
        return self._keeping.consent()

    def take_orders(self) -> list[Order]:
        return self._keeping.take_orders()

    def _tell_trouble(self, error: CannotSave) -> None:
        """Once, and not of a program that held the database for a moment."""
        self._failures += 1
        if self._failures == _TROUBLE_AT:
            self._say(f"nothing is computed, because nothing can be saved: {error}; tried again")

    def _tell_mended(self) -> None:
        if self._failures >= _TROUBLE_AT:
            self._say("saved again; all goes on")
        self._failures = 0

    def _tell_idle(self, before: Books) -> None:
        """The project had no work: once, until there is some again."""
        books = self._books
        if self._held:
            self._is_idle = False
        is_answer = books.last_contact_ms != before.last_contact_ms
        if self._held or self._is_idle or not is_answer or books.next_contact_ms is None:
            return
        self._is_idle = True
        wait_s = max(0, books.next_contact_ms - self._clock.now_ms()) // 1000
        self._say(f"no work here; the project is asked again in {wait_s} s, then less often")

    def _say(self, line: str) -> None:
        now_s = self._clock.boot_s()
        if now_s - self._window_s >= WINDOW_S:
            self._window_s, self._lines = now_s, 0
        self._lines += 1
        if self._lines > MOST_LINES:
            return
        if self._lines == MOST_LINES:
            line = "much happens; the rest of this minute stands in `tesla-at-home history`"
        # Whoever listened may have gone: no reason to stop computing.
        with contextlib.suppress(OSError):
            self._tell(line)


def entry_line(entry: Entry) -> str | None:
    """The line for one entry of the history, if it is told at all."""
    if entry.kind == "unit_interrupted":
        is_told = entry.reason == "child_crashed"
        return f"unit {_unit(entry)}: {entry.text}" if is_told else None
    if entry.kind == "verdict":
        is_told = entry.text == "invalid"
        return f"unit {_unit(entry)} was not accepted by the project" if is_told else None
    if entry.kind == "ordered":
        return "no new work is taken" if entry.text == "finish" else None
    before = _TOLD.get(entry.kind)
    return None if before is None else before.format(unit=_unit(entry)) + entry.text


def books_lines(before: Books, now: Books) -> Iterator[str]:
    """What changed between project and vehicle."""
    if now.notice and now.notice != before.notice:
        yield f"the project says: {now.notice}"
    if now.fault and now.fault != before.fault:
        yield f"trouble: {now.fault}; it is tried again"
    elif before.fault and not now.fault:
        yield "the project answers again"


def _unit(entry: Entry) -> str:
    return entry.lease.hex()[:8] if entry.lease else ""

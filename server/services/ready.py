"""Ready replicas at hand: a window over the rows of each running batch, and how far each owner is.

This is a cache of rows and decides nothing for good: what it offers is checked against the database
in the transaction that leases it. It is forgotten after a rollback. Reading goes forward only, so
that the cost of dispatch does not grow with what was passed over or finished.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from server import settings
from server.domain.work import ReadyRow
from server.ports import Repositories
from workunits.values import BatchId, OwnerId

# Rows read for one owner whose place is outside the window.
_ASIDE: Final = 128


@dataclass(frozen=True, slots=True)
class Offer:
    """Rows after an owner's place, in order, with the owners who have a voice in their units."""

    rows: Sequence[ReadyRow]
    voices: Mapping[int, set[OwnerId]]


@dataclass(slots=True)
class _Window:
    """All rows of one batch that were ready between two ids when they were read."""

    low: int
    high: int
    rows: list[ReadyRow] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    voices: dict[int, set[OwnerId]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    dry_at: int = -1  # the newest replica there was when nothing more was found


class ReadyReplicas:
    def __init__(
        self, block: int = settings.READY_BLOCK, most: int = settings.READY_WINDOW
    ) -> None:
        self._block = block
        self._most = most
        self._windows: dict[BatchId, _Window] = {}
        self._places: OrderedDict[tuple[OwnerId, BatchId], int] = OrderedDict()

    def place(self, owner: OwnerId, batch: BatchId) -> int:
        """The last id that `owner` was offered in this batch."""
        return self._places.get((owner, batch), 0)

    def offer(self, repos: Repositories, batch: BatchId, after: int, newest: int) -> Offer:
        """Some of the rows after id `after`; none: there are none. `newest` is of all replicas."""
        window = self._windows.get(batch)
        if window is None:
            window = self._windows[batch] = _Window(after, after)
        if not window.low <= after <= window.high:
            return _read(repos, batch, after, _ASIDE)
        start = bisect_right(window.ids, after)
        if start == len(window.ids) and window.dry_at != newest:
            self._extend(repos, batch, window, newest)
            start = bisect_right(window.ids, after)
        return Offer(window.rows[start : start + settings.READY_EXAMINED], window.voices)

    def gone(self, batch: BatchId) -> set[int]:
        """Rows that were taken since they were read; who takes one adds it, or gives it back."""
        return self._windows[batch].gone

    def committed(self, places: Mapping[tuple[OwnerId, BatchId], int]) -> None:
        """What was leased is leased: move the owners' places on and let go of the rows."""
        for key, place in places.items():
            self._places[key] = place
            self._places.move_to_end(key)
        while len(self._places) > settings.CURSORS:
            self._places.popitem(last=False)
        for window in self._windows.values():
            _tidy(window, self._most)

    def forget(self) -> None:
        """After a rollback: read everything again."""
        self._windows.clear()

    def keep_only(self, running: Iterable[BatchId]) -> None:
        """Batches that have ended need no memory."""
        ended = self._windows.keys() - set(running)
        for batch in ended:
            del self._windows[batch]

    def _extend(self, repos: Repositories, batch: BatchId, window: _Window, newest: int) -> None:
        more = _read(repos, batch, window.high, self._block)
        window.rows.extend(more.rows)
        window.ids.extend(row.id for row in more.rows)
        window.voices.update(more.voices)
        if len(more.rows) < self._block:
            window.high = window.dry_at = newest
        else:
            window.high = more.rows[-1].id


def _read(repos: Repositories, batch: BatchId, after: int, limit: int) -> Offer:
    rows = repos.replicas.ready(batch, after, limit)
    units = sorted({row.unit_id for row in rows})
    voices: dict[int, set[OwnerId]] = {unit: set() for unit in units}
    voices.update(repos.replicas.voices(units))
    return Offer(rows, voices)


def _tidy(window: _Window, most: int) -> None:
    """Drop what is gone at the front, or everywhere once it is the larger part, and the oldest rows
    past the limit."""
    if len(window.gone) * 2 > len(window.rows):
        _keep(window, [row for row in window.rows if row.id not in window.gone])
        window.gone.clear()
    else:
        _trim(window)
    if len(window.rows) > most:
        cut = len(window.rows) // 2
        window.low = window.ids[cut - 1]
        _keep(window, window.rows[cut:])


def _trim(window: _Window) -> None:
    """What was taken at the front need not be passed over again by every new owner."""
    taken = list(takewhile(window.gone.__contains__, window.ids))
    del window.ids[: len(taken)], window.rows[: len(taken)]
    window.gone.difference_update(taken)


def _keep(window: _Window, rows: list[ReadyRow]) -> None:
    units = {row.unit_id for row in rows}
    window.rows = rows
    window.ids = [row.id for row in rows]
    window.voices = {unit: who for unit, who in window.voices.items() if unit in units}

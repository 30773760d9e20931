"""Save, then speak, on a disk that at times takes nothing: full, read-only, held by another program.

While the agent's changes cannot be saved, nothing computes, moves or is said, and what is posted
waits; then all goes on where it was. The agent does not end by it: a supervisor that starts it again
every second would be no better off, and what is in hand would be begun again. What is saved is
decided elsewhere.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable
from typing import Final

from tesla_at_home.agent.changes import Changes
from tesla_at_home.errors import CannotSave, ClientError
from tesla_at_home.outside import End, Inbox, Outside, Posted, Wake
from tesla_at_home.policy.backoff import delay_s

# A program that holds the database is gone in a moment; a full disk is looked at once a minute.
_AGAIN_FIRST_S: Final = 0.1
_AGAIN_MOST_S: Final = 60.0


class EndedUnsaved(Exception):
    """The agent was told to end while the disk took nothing."""


class Saving:
    """Saves for the driver; `hold` stops what must not go on meanwhile."""

    def __init__(self, outside: Outside, inbox: Inbox, hold: Callable[[], None]) -> None:
        self._outside = outside
        self._inbox = inbox
        self._hold = hold
        self._late: deque[Posted] = deque()

    def keep(self, changes: Changes) -> bool:
        """On disk when this returns; whether that had to be waited for.

        Raises:
            EndedUnsaved
        """
        failures = 0
        while not self._is_saved(changes):
            failures += 1
            if failures == 1:
                self._hold()
            self._wait(failures)
        return failures > 0

    def keep_the_last(self, changes: Changes) -> None:
        """At the end of the agent: what cannot be saved now is as after a kill."""
        with contextlib.suppress(ClientError):
            self._outside.keeping.save(changes)

    def late(self) -> Posted | None:
        """The next of what was posted while nothing could be saved."""
        return self._late.popleft() if self._late else None

    def _is_saved(self, changes: Changes) -> bool:
        try:
            self._outside.keeping.save(changes)
        except CannotSave:
            return False
        return True

    def _wait(self, failures: int) -> None:
        clock, draw = self._outside.clock, self._outside.randomness.fraction()
        wait_s = delay_s(failures, first_s=_AGAIN_FIRST_S, most_s=_AGAIN_MOST_S, draw=draw)
        until_s = clock.boot_s() + wait_s
        while (left_s := until_s - clock.boot_s()) > 0:
            try:
                posted = self._inbox.get(timeout=left_s)
            except queue.Empty:
                return
            if isinstance(posted, End):
                raise EndedUnsaved
            # Orders stay in the store: the tick after all this finds them.
            if not isinstance(posted, Wake):
                self._late.append(posted)

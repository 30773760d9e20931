"""A thread that does a piece of work again and again: when woken, and at the latest after a while.

Decides when a round begins and what a failed one costs: it is logged and the next comes at its time,
so that a full disk does not end the project. What a round does is given.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger("server.workers")


class Rounds:
    """Runs `do_round` in a thread of its own; it says whether there is more to do at once.

    Who is woken all the time rests `rest_s` between rounds, so that small ones become a large one.
    """

    def __init__(
        self, name: str, do_round: Callable[[], bool], every_s: float, rest_s: float = 0.0
    ) -> None:
        self.name = name
        self._do_round = do_round
        self._every_s = every_s
        self._rest_s = rest_s
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Begin a round now, or one more after the one that is running."""
        self._woken.set()

    def stop(self) -> None:
        """Finish the round that is running, and no more."""
        self._stopped.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            if not self._has_more() and not self._stopped.wait(self._rest_s):
                self._woken.wait(self._every_s)

    def _has_more(self) -> bool:
        try:
            return self._do_round()
        except Exception:
            _log.exception("round_failed worker=%s", self.name)
            return False

"""Lanes: threads that talk to the project beside the deciding one, and only post events.

One job at a time in each lane. Cancelling ends the job under way by closing its socket, and those that
wait; decides nothing about when.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from tesla_at_home.ports import Cancellation

# A name lookup cannot be cancelled; the process ends without it.
_PATIENCE_S: Final = 5.0

T = TypeVar("T")


class Lane(Generic[T]):
    """One thread and the jobs for it; a job says as events how it went, and raises only for a bug."""

    def __init__(self, name: str, post: Callable[[T | BaseException], None]) -> None:
        self._post = post
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[Cancellation], Sequence[T]], Cancellation] | None
        ] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[Cancellation] = []
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Cancellation], Sequence[T]]) -> None:
        """Do `job` after those before it; its events are posted."""
        cancel = Cancellation()
        with self._lock:
            self._open.append(cancel)
        self._jobs.put((job, cancel))

    def cancel(self) -> None:
        """End the job under way and those that wait; each says so itself."""
        with self._lock:
            open_now = list(self._open)
        for cancel in open_now:
            cancel.cancel()

    def close(self) -> None:
        """Cancel all, and wait a little for the thread."""
        self.cancel()
        self._jobs.put(None)
        self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, cancel = item
            try:
                events = job(cancel)
            except Exception as error:
                # A bug must end the agent, not a thread of it.
                self._post(error)
                return
            finally:
                with self._lock:
                    self._open.remove(cancel)
            for event in events:
                self._post(event)

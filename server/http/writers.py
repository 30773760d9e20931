"""The few threads in which the HTTP side writes, apart from those in which it reads.

Whoever writes waits for the database's one writer, and that may be another process for a while. Here
they wait among themselves, so that blobs, metadata and pages never wait with them. Decides how many
may wait; past that everybody is told at once that it is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Final, ParamSpec, TypeVar

from server.errors import Busy

P = ParamSpec("P")
R = TypeVar("R")

# One writes to the database; the others check and copy uploads meanwhile.
THREADS: Final = 4
# A second of enrolments at full speed; behind a held write lock nobody is served sooner by waiting.
MOST_WAITING: Final = 256


class Writers:
    """Used from one event loop."""

    def __init__(self, threads: int = THREADS, most: int = MOST_WAITING) -> None:
        """`most` counts those at work as well."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="http_writer")
        self._places = BoundedSemaphore(most)

    async def run(self, act: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What `act` returns, called in one of the threads.

        Raises:
            Busy: too many wait; nothing was begun.
        """
        if not self._places.acquire(blocking=False):
            raise Busy("more is being written than can be at present; ask again in a moment")
        try:
            future = self._executor.submit(act, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        # It counts until it ends, also when its asker has gone.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Nothing more is begun; what runs is finished."""
        self._executor.shutdown(cancel_futures=True)

"""A source that is asked again and again; what it reads is the subclass's business."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tesla_at_home.policy.signals import POLLED_MAX_AGE_INTERVALS, Heard, Reading, Signal
from tesla_at_home.ports import Clock


class PolledSource:
    """Asks `look` at once and then every `interval_s`, in a thread of its own."""

    def __init__(
        self,
        name: str,
        look: Callable[[], dict[Signal, bool | float | None]],
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._name = name
        self._look = look
        self._clock = clock
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def calm_s(self) -> float | None:
        return None

    def start(self, post: Callable[[Heard], None]) -> None:
        post(self._hear())
        self._thread = threading.Thread(
            target=self._poll, args=(post,), name=self._name, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def count(self, steps: int, units: int) -> None:
        pass

    def _poll(self, post: Callable[[Heard], None]) -> None:
        while not self._stopped.wait(self._interval_s):
            post(self._hear())

    def _hear(self) -> Heard:
        at_s = self._clock.boot_s()
        age_s = self._interval_s * POLLED_MAX_AGE_INTERVALS
        readings = (Reading(s, v, self._name, at_s, age_s) for s, v in self._look().items())
        return Heard(tuple(readings))

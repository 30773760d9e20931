"""Ticks for the agent. APScheduler is never the only trigger: a wall clock set back stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler


class Ticks:
    """Calls `tick` every `interval_s` from a thread of its own, until stopped."""

    def __init__(self, tick: Callable[[], None], interval_s: float) -> None:
        # A tick that comes late or twice says nothing that the next one does not.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)}, daemon=True, timezone="UTC"
        )
        self._scheduler.add_job(
            tick, "interval", seconds=interval_s, coalesce=True, misfire_grace_time=None
        )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """No tick comes after this."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

"""The log: one event a line on stderr, `time level logger event key=value ...`, in UTC.

What is an event is decided where it happens. Commands' answers are never logging.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final

_FORM: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What uvicorn says about starting and stopping is said by us already.
_QUIET: Final = ("uvicorn.error", "uvicorn.access")


def log_to_stderr() -> None:
    """Send the events of this process to stderr, once."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, _Lines) for handler in root.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(_FORM))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


class _Lines(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        at = datetime.fromtimestamp(record.created, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

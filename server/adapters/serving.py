"""One `serve` for each directory, and where it can be found: `serve.lock` and `serve.json`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from server.adapters import durable_files
from server.errors import Conflict

LOCK: Final = "serve.lock"
FOUND_AT: Final = "serve.json"


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Holds the directory's lock.

    Raises:
        Conflict: another process serves this project.
    """
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"this project is being served already{_where(directory)}") from None
        yield


def announce(directory: Path, url: str) -> None:
    """Write down where this process listens."""
    text = json.dumps({"pid": os.getpid(), "url": url}) + "\n"
    durable_files.replace(directory / FOUND_AT, text.encode(), durable_files.PRIVATE)


def withdraw(directory: Path) -> None:
    """It listens no more."""
    (directory / FOUND_AT).unlink(missing_ok=True)


def _where(directory: Path) -> str:
    try:
        found = json.loads((directory / FOUND_AT).read_text())
        return f" by process {int(found['pid'])} at {found['url']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""

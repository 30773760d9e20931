"""What the database driver's exceptions mean: a guard that said no, an outage, or damage to be restored.

Each becomes one line that says what to do, where somebody must do something.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError

from server.errors import Damaged, Outage, StateChanged

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """The driver's exceptions about the database at `path` as this package's."""
    try:
        yield
    except IntegrityError as error:
        raise StateChanged(f"the database refused a write: {error.orig}") from error
    except DBAPIError as error:
        raise failure(path, error.orig) from error
    except sqlite3.Error as error:
        raise failure(path, error) from error


def failure(path: Path, error: BaseException | None) -> Outage:
    """What failed, and how to mend it."""
    code = primary_code(error)
    if code in _DAMAGE:
        return Damaged(
            f"{path.name} is damaged ({error}); stop `serve` and bring the project back with: "
            "tesla-at-home-server restore FILE"
        )
    if code == sqlite3.SQLITE_BUSY:
        return Outage(f"{path.name} is being written by another command; try again in a moment")
    if code == sqlite3.SQLITE_FULL:
        return Outage(f"{path.name}: the disk is full; make room")
    if code == sqlite3.SQLITE_READONLY:
        return Outage(
            f"{path.name} may only be read: the disk is mounted read-only, or its mode is"
        )
    return Outage(f"the database failed: {error}")


def primary_code(error: BaseException | None) -> int:
    """SQLite's result code without its extension; 0: it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF

"""The database as of one moment, as a file of its own.

Decides how a copy is taken while others write: in one read transaction, compacted, so that what was
erased is not in it either. What is done with the copy is the command's business.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from server import settings
from server.errors import Damaged, Outage


def copy(source: Path, target: Path) -> None:
    """Write the last commit of `source` to `target`, which must not be there yet.

    Raises:
        Outage: the disk is full, or the database is damaged.
    """
    try:
        with closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA busy_timeout = {settings.BUSY_TIMEOUT_MS}")
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise Outage(f"{source.name} cannot be copied: {error}") from None
    target.chmod(0o600)


def expect_sound(path: Path, *, with_indexes: bool = False) -> None:
    """Raise `Damaged` unless the file is a database in which SQLite finds no fault.

    Whether each index has just what its table has takes several times as long as all the rest.
    """
    check = "integrity_check" if with_indexes else "quick_check"
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute(f"PRAGMA {check}(1)").fetchone()
    except sqlite3.Error as error:
        raise Damaged(f"{path.name} is not a sound database: {error}") from None
    if found != ("ok",):
        raise Damaged(f"{path.name} is not a sound database: {' '.join(str(found[0]).split())}")

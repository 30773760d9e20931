"""All that a project has kept, as values: what must be the same before and after a refusal."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from workunits.trust import digests

# Numbers of SQLite's own, and what a database in use has beside itself.
_COUNTERS: Final = "sqlite_sequence"
_DATABASE: Final = ".sqlite3"

Tables = dict[str, list[tuple[object, ...]]]


def tables(database: Path) -> Tables:
    """Every row of every table."""
    connection = sqlite3.connect(database)
    try:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        names = sorted(name for (name,) in found if name != _COUNTERS)
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in names
        }
    finally:
        connection.close()


def files(folder: Path) -> dict[str, str]:
    """Every file by its path, with the digest of its content; without those of databases."""
    return {
        str(path.relative_to(folder)): digests.plain(path.read_bytes()).hex()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _DATABASE not in path.name
    }


def changed(before: Tables, after: Tables) -> set[str]:
    """The names of the tables that differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

"""The SQLite database: one writer at a time, any number of readers, every commit on disk.

It decides how connections behave; what is read and written stands in `server.storage.repositories`,
the tables in `server.storage.tables`, what failures mean in `server.storage.failures`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from server import settings
from server.errors import Outage
from server.ports import Repositories
from server.storage.failures import failure, mapped_errors, primary_code
from server.storage.migrations import HEAD
from server.storage.repositories import SqlRepositories

# Pages kept by each connection, in KiB (negative: SQLite's way to say KiB); indexes stay in memory.
_WRITER_CACHE_KIB: Final = 64 * 1024
_READER_CACHE_KIB: Final = 8 * 1024
_READERS: Final = 8
_STATEMENTS: Final = 512


class SqliteDatabase:
    """`server.ports.Database` on one file.

    Raises:
        Outage: the file is not there, or its schema is not the one this version works with.
        Damaged: it is no database any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _check_schema(path)
        self.writer: Engine = _engine(path, is_writer=True)
        self.readers: Engine = _engine(path, is_writer=False)
        self._lock = RLock()
        with mapped_errors(path):
            self._connection: Connection = self.writer.connect()

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self.writer.dispose()
            self.readers.dispose()

    def __enter__(self) -> SqliteDatabase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[Repositories]:
        with (
            self._lock,
            mapped_errors(self._path),
            self._closed_after(),
            self._connection.begin(),
        ):
            yield SqlRepositories(self._connection)

    @contextmanager
    def reading(self) -> Iterator[Repositories]:
        with mapped_errors(self._path), self.readers.connect() as connection, connection.begin():
            yield SqlRepositories(connection)

    def data_version(self) -> int:
        with self._lock, mapped_errors(self._path):
            return int(self._raw().execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _closed_after(self) -> Iterator[None]:
        """A commit that fails (disk full) leaves SQLite inside its transaction; undo it then."""
        try:
            yield
        finally:
            if self._raw().in_transaction:
                self._raw().rollback()

    def _raw(self) -> sqlite3.Connection:
        raw = self._connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        return raw


def _check_schema(path: Path) -> None:
    if not path.is_file():
        raise Outage(
            f"{path.name}: there is no database; `tesla-at-home-server init` makes a project"
        )
    found = schema_version(path)
    if found != HEAD:
        raise Outage(
            f"{path.name}: the schema is {found or 'none'}, this version works with {HEAD}; "
            "run `tesla-at-home-server migrate`"
        )


def schema_version(path: Path) -> str | None:
    """The revision that the file's schema has; None for a file that was never migrated.

    Raises:
        Damaged: the file is not an SQLite database.
        Outage: it cannot be read now.
    """
    connection = sqlite3.connect(path)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_ERROR:  # there is no such table
            return None
        raise failure(path, error) from None
    finally:
        connection.close()
    return str(row[0]) if row else None


def _engine(path: Path, *, is_writer: bool) -> Engine:
    def connect() -> sqlite3.Connection:
        return _connect(path, is_writer=is_writer)

    if is_writer:
        engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    else:
        engine = create_engine(
            "sqlite://", creator=connect, poolclass=QueuePool, pool_size=_READERS
        )

    # The driver never begins by itself, so that a writer takes its lock before it reads.
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _connect(path: Path, *, is_writer: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    cache = _WRITER_CACHE_KIB if is_writer else _READER_CACHE_KIB
    for pragma in (
        f"busy_timeout = {settings.BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        f"cache_size = -{cache}",
        f"query_only = {'OFF' if is_writer else 'ON'}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection

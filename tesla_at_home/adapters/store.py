"""`DIR/agent.sqlite3`: everything the agent must not forget, in one file (DECISIONS C.3).

One writer, the agent's deciding thread; other commands read, and add rows to `orders`. A `save` is one
transaction and durable when it returns. Decides nothing: what is kept stands in `agent.books`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from tesla_at_home.agent.books import Books, HeldUnit, Talk
from tesla_at_home.agent.changes import Changes, after_order
from tesla_at_home.agent.events import Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.errors import ClientError, NotJoined
from tesla_at_home.policy.gates import GateView
from tesla_at_home.ports import ConsentRecord, Membership
from workunits.values import LeaseId, Milliseconds

FILE_NAME: Final = "agent.sqlite3"
SCHEMA_VERSION: Final = 1
# Another process's short write is waited for this long; none takes a tenth of it.
_BUSY_S: Final = 10.0
# A year of a busy car's history is kept; older lines go.
_HISTORY_LINES: Final = 100_000

_SCHEMA: Final = """
CREATE TABLE values_by_name (name TEXT PRIMARY KEY, packed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE units (lease BLOB PRIMARY KEY, packed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE consents (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE history (
  id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
  lease BLOB, first_step INTEGER, reason TEXT
);
"""

T = TypeVar("T")


class Store:
    """The open database. Open it with `Store.open`, use it as a context manager or `close` it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, directory: Path, *, is_writer: bool = True) -> Self:
        """The store of a joined directory.

        Raises:
            NotJoined: there is none. ClientError: it was written by a later version.
        """
        path = directory / FILE_NAME
        if not path.exists():
            raise NotJoined(f"{directory} belongs to no project yet; run `tesla-at-home join URL`")
        return cls(_connect(path))

    @classmethod
    def create(cls, directory: Path) -> Self:
        """As `open`, making the database where there is none (only `join` and `recover` do)."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(_connect(directory / FILE_NAME))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # --- joining ---------------------------------------------------------------------------------

    def join(self, membership: Membership, record: ConsentRecord, now_ms: Milliseconds) -> None:
        """Write down the project and the consent; the exchange starts anew, held units stay."""
        talk = Talk(session=membership.session, epoch=membership.epoch)
        with self._transaction():
            before = self._value("books", Books)
            books = (
                Books(talk=talk) if before is None else msgspec.structs.replace(before, talk=talk)
            )
            self._put("membership", membership)
            self._put("books", books)
            self._add_consent(record)
            self._add_entry(Entry(now_ms, "joined", f"joined {membership.url}"))

    def membership(self) -> Membership:
        """Raises `NotJoined` where `join` did not come to an end."""
        found = self._value("membership", Membership)
        if found is None:
            raise NotJoined("this directory belongs to no project; run `tesla-at-home join URL`")
        return found

    def change_membership(self, membership: Membership) -> None:
        with self._transaction():
            self._put("membership", membership)

    def consent(self) -> ConsentRecord | None:
        """The last consent given."""
        row = self._db.execute("SELECT packed FROM consents ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else _unpack(row[0], ConsentRecord)

    def consents(self) -> list[ConsentRecord]:
        """All consents ever given here, oldest first."""
        rows = self._db.execute("SELECT packed FROM consents ORDER BY id").fetchall()
        return [_unpack(row[0], ConsentRecord) for row in rows]

    def add_consent(self, record: ConsentRecord) -> None:
        """A new consent, or the withdrawal of the last one: records are added, never changed."""
        with self._transaction():
            self._add_consent(record)

    # --- the agent's books -----------------------------------------------------------------------

    def books(self) -> Books:
        """Raises `NotJoined` where `join` did not come to an end."""
        found = self._value("books", Books)
        if found is None:
            raise NotJoined("this directory belongs to no project; run `tesla-at-home join URL`")
        return found

    def units(self) -> list[HeldUnit]:
        rows = self._db.execute("SELECT packed FROM units").fetchall()
        return [_unpack(row[0], HeldUnit) for row in rows]

    def gate(self) -> GateView | None:
        """The gate as the last running agent wrote it."""
        return self._value("gate", GateView)

    def save(self, changes: Changes) -> None:
        """All of it or nothing; on disk when this returns."""
        with self._transaction():
            if changes.books is not None:
                self._put("books", changes.books)
            if changes.gate is not None:
                self._put("gate", changes.gate)
            self._db.executemany(
                "INSERT OR REPLACE INTO units VALUES (?, ?)",
                [(unit.lease, _pack(unit)) for unit in changes.units],
            )
            self._db.executemany(
                "DELETE FROM units WHERE lease = ?", [(lease,) for lease in changes.dropped]
            )
            for entry in changes.entries:
                self._add_entry(entry)

    # --- history and orders ----------------------------------------------------------------------

    def history(self, most: int = 200) -> list[Entry]:
        """The last `most` lines, oldest first."""
        rows = self._db.execute(
            "SELECT at_ms, kind, text, lease, first_step, reason FROM history "
            "ORDER BY id DESC LIMIT ?",
            (most,),
        ).fetchall()
        return [_entry(row) for row in reversed(rows)]

    def add_order(self, order: Order) -> None:
        """Leave an order for the running agent."""
        with self._transaction():
            self._db.execute("INSERT INTO orders (packed) VALUES (?)", (_pack(order),))

    def take_orders(self) -> list[Order]:
        """The orders left, oldest first; they are gone afterwards."""
        if self._db.execute("SELECT 1 FROM orders LIMIT 1").fetchone() is None:
            return []
        with self._transaction():
            rows = self._db.execute("SELECT packed FROM orders ORDER BY id").fetchall()
            self._db.execute("DELETE FROM orders")
        return [_unpack(row[0], Order) for row in rows]

    def apply_order(self, order: Order) -> None:
        """Carry an order out on the books, in place of an agent that is not running."""
        with self._transaction():
            self._put("books", after_order(self.books(), order))

    # --- inside ----------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _value(self, name: str, kind: type[T]) -> T | None:
        row = self._db.execute(
            "SELECT packed FROM values_by_name WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else _unpack(row[0], kind)

    def _put(self, name: str, value: Books | GateView | Membership) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO values_by_name VALUES (?, ?)", (name, _pack(value))
        )

    def _add_consent(self, record: ConsentRecord) -> None:
        self._db.execute("INSERT INTO consents (packed) VALUES (?)", (_pack(record),))

    def _add_entry(self, entry: Entry) -> None:
        cursor = self._db.execute(
            "INSERT INTO history (at_ms, kind, text, lease, first_step, reason) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (entry.at_ms, entry.kind, entry.text, entry.lease, entry.first_step, entry.reason),
        )
        self._db.execute(
            "DELETE FROM history WHERE id <= ?", ((cursor.lastrowid or 0) - _HISTORY_LINES,)
        )


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time uses a connection; which one it is, is the driver's business.
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _make_schema(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        raise ClientError(
            f"{path}: not a usable database ({error}); restore it or join anew"
        ) from None
    except BaseException:
        db.close()
        raise
    return db


def _make_schema(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ClientError(f"{path}: written by a later version of tesla-at-home; update this one")
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def _pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _unpack(raw: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(raw, type=kind)


def _entry(row: tuple[Any, ...]) -> Entry:
    at_ms, kind, text, lease, first_step, reason = row
    held = None if lease is None else LeaseId(lease)
    return Entry(at_ms, kind, text, held, first_step, reason)

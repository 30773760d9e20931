"""`DIR/agent.sqlite3`: everything the agent must not forget, in one file (DECISIONS C.3).

One writer, the agent's deciding thread; other commands read, and add rows to `orders`. A `save` is one
transaction and durable when it returns. Decides nothing: what is kept stands in `agent.books`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

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

# By SQLite's primary result code: what the file itself is not to blame for.
_MENDS: Final = {
    sqlite3.SQLITE_FULL: "make room on this disk, then start again: nothing kept is lost",
    sqlite3.SQLITE_READONLY: "make the directory writable, then start again",
    sqlite3.SQLITE_CANTOPEN: "make the directory readable and writable, then start again",
    sqlite3.SQLITE_IOERR: "look at the disk and the room on it, then start again",
    sqlite3.SQLITE_PERM: "make the directory writable, then start again",
    sqlite3.SQLITE_BUSY: "another program holds it; end that one",
    sqlite3.SQLITE_LOCKED: "another program holds it; end that one",
    sqlite3.SQLITE_NOMEM: "end other programs: there is not enough memory",
}

T = TypeVar("T")
_Value: TypeAlias = str | bytes | int | None


class Store:
    """The open database. Open it with `Store.open`, use it as a context manager or `close` it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path

    @classmethod
    def open(cls, directory: Path, *, is_writer: bool = True) -> Self:
        """The store of a joined directory.

        Raises:
            NotJoined: there is none. ClientError: it was written by a later version.
        """
        path = directory / FILE_NAME
        if not path.exists():
            raise NotJoined(f"{directory} belongs to no project yet; run `tesla-at-home join URL`")
        return cls(_connect(path), path)

    @classmethod
    def create(cls, directory: Path) -> Self:
        """As `open`, making the database where there is none (only `join` and `recover` do)."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / FILE_NAME
        return cls(_connect(path), path)

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
        row = self._row("SELECT packed FROM consents ORDER BY id DESC LIMIT 1")
        return None if row is None else self._unpack(row[0], ConsentRecord)

    def consents(self) -> list[ConsentRecord]:
        """All consents ever given here, oldest first."""
        rows = self._rows("SELECT packed FROM consents ORDER BY id")
        return [self._unpack(row[0], ConsentRecord) for row in rows]

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
        rows = self._rows("SELECT packed FROM units")
        return [self._unpack(row[0], HeldUnit) for row in rows]

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
            self._ask_many(
                "INSERT OR REPLACE INTO units VALUES (?, ?)",
                [(unit.lease, _pack(unit)) for unit in changes.units],
            )
            self._ask_many(
                "DELETE FROM units WHERE lease = ?", [(lease,) for lease in changes.dropped]
            )
            for entry in changes.entries:
                self._add_entry(entry)

    # --- history and orders ----------------------------------------------------------------------

    def history(self, most: int = 200) -> list[Entry]:
        """The last `most` lines, oldest first."""
        rows = self._rows(
            "SELECT at_ms, kind, text, lease, first_step, reason FROM history "
            "ORDER BY id DESC LIMIT ?",
            (most,),
        )
        return [_entry(row) for row in reversed(rows)]

    def add_order(self, order: Order) -> None:
        """Leave an order for the running agent."""
        with self._transaction():
            self._ask("INSERT INTO orders (packed) VALUES (?)", (_pack(order),))

    def waiting_orders(self) -> list[Order]:
        """The orders left that the agent has not taken yet, oldest first."""
        rows = self._rows("SELECT packed FROM orders ORDER BY id")
        return [self._unpack(row[0], Order) for row in rows]

    def take_orders(self) -> list[Order]:
        """The orders left, oldest first; they are gone afterwards."""
        if self._row("SELECT 1 FROM orders LIMIT 1") is None:
            return []
        with self._transaction():
            rows = self._rows("SELECT packed FROM orders ORDER BY id")
            self._ask("DELETE FROM orders")
        return [self._unpack(row[0], Order) for row in rows]

    def apply_order(self, order: Order) -> None:
        """Carry an order out on the books, in place of an agent that is not running."""
        with self._transaction():
            self._put("books", after_order(self.books(), order))

    # --- inside ----------------------------------------------------------------------------------

    def _ask(self, statement: str, values: Sequence[_Value] = ()) -> sqlite3.Cursor:
        with _in_one_line(self._path):
            return self._db.execute(statement, values)

    def _ask_many(self, statement: str, rows: Iterable[Sequence[_Value]]) -> None:
        with _in_one_line(self._path):
            self._db.executemany(statement, rows)

    def _rows(self, statement: str, values: Sequence[_Value] = ()) -> list[Any]:
        with _in_one_line(self._path):
            return self._db.execute(statement, values).fetchall()

    def _row(self, statement: str, values: Sequence[_Value] = ()) -> Any:
        with _in_one_line(self._path):
            return self._db.execute(statement, values).fetchone()

    def _unpack(self, raw: bytes, kind: type[T]) -> T:
        try:
            return msgspec.msgpack.decode(raw, type=kind)
        except (msgspec.DecodeError, TypeError) as error:
            raise _damaged(self._path, str(error)) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._ask("BEGIN IMMEDIATE")
        try:
            yield
            self._ask("COMMIT")
        except BaseException:
            # A full disk may have ended it already; what was not committed is not there either way.
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _value(self, name: str, kind: type[T]) -> T | None:
        row = self._row("SELECT packed FROM values_by_name WHERE name = ?", (name,))
        return None if row is None else self._unpack(row[0], kind)

    def _put(self, name: str, value: Books | GateView | Membership) -> None:
        self._ask("INSERT OR REPLACE INTO values_by_name VALUES (?, ?)", (name, _pack(value)))

    def _add_consent(self, record: ConsentRecord) -> None:
        self._ask("INSERT INTO consents (packed) VALUES (?)", (_pack(record),))

    def _add_entry(self, entry: Entry) -> None:
        cursor = self._ask(
            "INSERT INTO history (at_ms, kind, text, lease, first_step, reason) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (entry.at_ms, entry.kind, entry.text, entry.lease, entry.first_step, entry.reason),
        )
        self._ask("DELETE FROM history WHERE id <= ?", ((cursor.lastrowid or 0) - _HISTORY_LINES,))


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time uses a connection; which one it is, is the driver's business.
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        with _in_one_line(path):
            path.chmod(0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _make_schema(db, path)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """SQLite's words for what the owner can mend; a broken constraint is a bug and stays one."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        mend = _MENDS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if mend is None:
            raise _damaged(path, str(error)) from None
        raise ClientError(f"{path}: {error}; {mend}") from None


def _damaged(path: Path, what: str) -> ClientError:
    return ClientError(
        f"{path}: not a usable database ({what}); restore it, or begin in another --dir "
        "(`recover URL` there keeps your credit and your owner code); finished results stay in "
        f"{path.parent / 'spool'}"
    )


def _make_schema(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ClientError(f"{path}: written by a later version of tesla-at-home; update this one")
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def _pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _entry(row: tuple[Any, ...]) -> Entry:
    at_ms, kind, text, lease, first_step, reason = row
    held = None if lease is None else LeaseId(lease)
    return Entry(at_ms, kind, text, held, first_step, reason)

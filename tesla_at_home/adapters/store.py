"""`DIR/agent.sqlite3`: everything the agent must not forget, in one file (DECISIONS C.3).

One writer, the agent's deciding thread; other commands read, and add rows to `orders`. A `save` is one
transaction and durable when it returns. Decides nothing: what is kept stands in `agent.books`, how
the file is opened and read in `store_file`, what outlasts its loss in `store_copy`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import msgspec

from tesla_at_home.adapters import store_copy, store_file
from tesla_at_home.adapters.store_copy import Copy
from tesla_at_home.adapters.store_file import FILE_NAME
from tesla_at_home.agent.books import Books, HeldUnit, Talk
from tesla_at_home.agent.changes import Changes, after_order
from tesla_at_home.agent.events import Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.policy.gates import GateView
from tesla_at_home.ports import ConsentRecord, Membership
from workunits.values import LeaseId, Milliseconds

__all__ = ["FILE_NAME", "Store"]

# Another process's short write is waited for this long; none takes a tenth of it.
_PATIENCE_S: Final = 10.0
# A year of a busy car's history is kept; older lines go.
_HISTORY_LINES: Final = 100_000
# What `history` and `why` call the line about a database that was set aside.
REPAIRED: Final = "repaired"

T = TypeVar("T")
_Value: TypeAlias = str | bytes | int | None


class Store:
    """The open database. Open it with `Store.open`, use it as a context manager or `close` it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._copied: tuple[int | None, bool] | None = None  # the wishes in the copy, once known

    @classmethod
    def open(
        cls, directory: Path, *, is_writer: bool = True, patience_s: float = _PATIENCE_S
    ) -> Self:
        """The store of a joined directory.

        Raises:
            NotJoined: there is none. StoreDamaged: it cannot be read. CannotSave: not now.
            ClientError: it was written by a later version.
        """
        path = directory / FILE_NAME
        return cls(store_file.connect(path, patience_s), path)

    @classmethod
    def create(cls, directory: Path) -> Self:
        """As `open`, making the database where there is none (only `join` and `recover` do)."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / FILE_NAME
        return cls(store_file.connect(path, _PATIENCE_S, is_new=True), path)

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
        self.copy()

    def begin_from(self, copy: Copy, books: Books, entry: Entry) -> None:
        """Fill a new store with what outlasted the old one."""
        with self._transaction():
            self._put("membership", copy.membership)
            self._put("books", books)
            for record in copy.consents:
                self._add_consent(record)
            self._add_entry(entry)

    def membership(self) -> Membership:
        """Raises `NotJoined` where `join` did not come to an end."""
        return self._needed("membership", Membership)

    def change_membership(self, membership: Membership) -> None:
        with self._transaction():
            self._put("membership", membership)
        self.copy()

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
        # While the database is written, no copy says that the owner still agrees.
        store_copy.remove(self._path.parent)
        with self._transaction():
            self._add_consent(record)
        self.copy()

    # --- damage ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Read the whole file through and every row that the agent goes by. Raises `StoreDamaged`."""
        found = self._rows("PRAGMA quick_check(1)")
        if found != [("ok",)]:
            raise store_file.damaged(self._path, str(found[0][0]))
        self.membership(), self.books(), self.units(), self.consents()
        self.gate(), self.waiting_orders(), self.history(1)

    def copy(self) -> None:
        """Bring the copy up to date; a disk that has no room for it gets it at the next occasion."""
        books = self.books()
        talk = Talk(session=books.talk.session, epoch=books.talk.epoch)
        copy = Copy(
            membership=self.membership(),
            consents=tuple(self.consents()),
            books=msgspec.structs.replace(books, talk=talk),
        )
        self._copied = None
        with suppress(OSError):
            store_copy.write(self._path.parent, copy)
            self._copied = _wishes(books)

    # --- the agent's books -----------------------------------------------------------------------

    def books(self) -> Books:
        """Raises `NotJoined` where `join` did not come to an end."""
        return self._needed("books", Books)

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
                [(unit.lease, store_file.pack(unit)) for unit in changes.units],
            )
            self._ask_many(
                "DELETE FROM units WHERE lease = ?", [(lease,) for lease in changes.dropped]
            )
            for entry in changes.entries:
                self._add_entry(entry)
        if changes.books is not None and _wishes(changes.books) != self._copied:
            self.copy()

    # --- history and orders ----------------------------------------------------------------------

    def history(self, most: int = 200) -> list[Entry]:
        """The last `most` lines, oldest first."""
        rows = self._rows(
            "SELECT at_ms, kind, text, lease, first_step, reason FROM history "
            "ORDER BY id DESC LIMIT ?",
            (most,),
        )
        return [_entry(row) for row in reversed(rows)]

    def last(self, kind: str) -> Entry | None:
        """The last line of that kind, if one is kept."""
        row = self._row(
            "SELECT at_ms, kind, text, lease, first_step, reason FROM history "
            "WHERE kind = ? ORDER BY id DESC LIMIT 1",
            (kind,),
        )
        return None if row is None else _entry(row)

    def add_order(self, order: Order) -> None:
        """Leave an order for the running agent."""
        with self._transaction():
            self._ask("INSERT INTO orders (packed) VALUES (?)", (store_file.pack(order),))

    def waiting_orders(self) -> list[Order]:
        """The orders left that the agent has not taken yet, oldest first."""
        rows = self._rows("SELECT packed FROM orders ORDER BY id")
        return [self._unpack(row[0], Order) for row in rows]

    def take_orders(self) -> list[Order]:
        """The orders left, oldest first; they are gone afterwards."""
        if self._row("SELECT 1 FROM orders LIMIT 1") is None:
            return []
        with self._transaction():
            orders = self.waiting_orders()
            self._ask("DELETE FROM orders")
        return orders

    def apply_order(self, order: Order) -> None:
        """Carry an order out on the books, in place of an agent that is not running."""
        with self._transaction():
            self._put("books", after_order(self.books(), order))
        self.copy()

    # --- inside ----------------------------------------------------------------------------------

    def _ask(self, statement: str, values: Sequence[_Value] = ()) -> sqlite3.Cursor:
        with store_file.in_one_line(self._path):
            return self._db.execute(statement, values)

    def _ask_many(self, statement: str, rows: Iterable[Sequence[_Value]]) -> None:
        with store_file.in_one_line(self._path):
            self._db.executemany(statement, rows)

    def _rows(self, statement: str, values: Sequence[_Value] = ()) -> list[Any]:
        with store_file.in_one_line(self._path):
            return self._db.execute(statement, values).fetchall()

    def _row(self, statement: str, values: Sequence[_Value] = ()) -> Any:
        with store_file.in_one_line(self._path):
            return self._db.execute(statement, values).fetchone()

    def _unpack(self, raw: bytes, kind: type[T]) -> T:
        return store_file.unpack(raw, kind, self._path)

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

    def _needed(self, name: str, kind: type[T]) -> T:
        found = self._value(name, kind)
        if found is None:
            raise store_file.lost(self._path)
        return found

    def _put(self, name: str, value: Books | GateView | Membership) -> None:
        self._ask(
            "INSERT OR REPLACE INTO values_by_name VALUES (?, ?)", (name, store_file.pack(value))
        )

    def _add_consent(self, record: ConsentRecord) -> None:
        self._ask("INSERT INTO consents (packed) VALUES (?)", (store_file.pack(record),))

    def _add_entry(self, entry: Entry) -> None:
        cursor = self._ask(
            "INSERT INTO history (at_ms, kind, text, lease, first_step, reason) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (entry.at_ms, entry.kind, entry.text, entry.lease, entry.first_step, entry.reason),
        )
        self._ask("DELETE FROM history WHERE id <= ?", ((cursor.lastrowid or 0) - _HISTORY_LINES,))


def _wishes(books: Books) -> tuple[int | None, bool]:
    """What the owner said, and nobody else can say again."""
    return books.paused_until_ms, books.is_finishing


def _entry(row: tuple[Any, ...]) -> Entry:
    at_ms, kind, text, lease, first_step, reason = row
    held = None if lease is None else LeaseId(lease)
    return Entry(at_ms, kind, text, held, first_step, reason)

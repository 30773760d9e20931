"""The file under the store: how it is opened, how a row is sealed, and what SQLite's errors mean here.

Three families: the disk takes no changes now (`CannotSave`: the same again later), the file cannot be
believed any more (`StoreDamaged`: `repair` sets it aside), and all else, which is a bug. What stands
in the rows is `store`'s.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tesla_at_home.adapters import store_copy
from tesla_at_home.errors import CannotSave, ClientError, NotJoined, StoreDamaged

FILE_NAME: Final = "agent.sqlite3"
SCHEMA_VERSION: Final = 2
# No program will ever write this one: a number like it is a damaged header.
_NO_VERSION: Final = 1000

# Another process may be reading the log of a killed one back into the file.
_OPENING_S: Final = 10.0

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
# Version 1 had no checksums.
_FROM_1: Final = "".join(
    f"UPDATE {table} SET packed = sealed(packed);"
    for table in ("values_by_name", "units", "consents", "orders")
)

# By SQLite's primary result code: what the file itself is not to blame for.
_MENDS: Final = {
    sqlite3.SQLITE_FULL: "make room on this disk: nothing kept is lost",
    sqlite3.SQLITE_READONLY: "make the directory writable",
    sqlite3.SQLITE_CANTOPEN: "make the directory readable and writable",
    sqlite3.SQLITE_IOERR: "look at the disk and the room on it",
    sqlite3.SQLITE_PERM: "make the directory writable",
    sqlite3.SQLITE_BUSY: "another program holds it; end that one",
    sqlite3.SQLITE_LOCKED: "another program holds it; end that one",
    sqlite3.SQLITE_NOMEM: "end other programs: there is not enough memory",
}
# Reading fails where the disk has lost a sector: waiting would not bring it back.
_LOST: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})
_CHECKSUM: Final = struct.Struct("<I")

T = TypeVar("T")


def connect(path: Path, patience_s: float, *, is_new: bool = False) -> sqlite3.Connection:
    """The open database; `patience_s` is how long another program's writing is waited for.

    Raises:
        NotJoined, StoreDamaged: there is none, and it is not `is_new` either. ClientError: it was
        written by a later version.
    """
    if not is_new and not _has_content(path):
        raise lost(path)
    with in_one_line(path):
        # One thread at a time uses a connection; which one it is, is the driver's business.
        db = sqlite3.connect(
            path, timeout=_OPENING_S, isolation_level=None, check_same_thread=False
        )
    try:
        with in_one_line(path):
            path.chmod(0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _make_schema(db, path)
            db.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
    except BaseException:
        db.close()
        raise
    return db


def expect_joined(directory: Path) -> None:
    """Raise `NotJoined` where nothing says that this directory belongs to a project."""
    path = directory / FILE_NAME
    if not _has_content(path) and not store_copy.path_in(directory).exists():
        raise lost(path)


def lost(path: Path) -> ClientError:
    """What it means that the database, or what `join` wrote there, is not there."""
    if store_copy.path_in(path.parent).exists():
        return damaged(path, "what `join` wrote there is gone")
    return NotJoined(f"{path.parent} belongs to no project yet; run `tesla-at-home join URL`")


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for a file that cannot be believed, with the way out."""
    what = " ".join(what.split())
    if store_copy.read(path.parent) is not None:
        return StoreDamaged(
            f"{path}: damaged ({what}); `tesla-at-home run` sets it aside and goes on with what is "
            "kept beside it"
        )
    return StoreDamaged(
        f"{path}: damaged ({what}); restore it, or begin in another --dir "
        "(`recover URL` there keeps your credit and your owner code); finished results stay in "
        f"{path.parent / 'spool'}"
    )


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """SQLite's words for what the owner can mend; a broken constraint is a bug and stays one."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        mend = None if code in _LOST else _MENDS.get(code & 0xFF)
        if mend is None:
            raise damaged(path, str(error)) from None
        raise CannotSave(f"{path}: {error}; {mend}") from None


def seal(packed: bytes) -> bytes:
    """With a checksum: SQLite does not notice what a disk changes inside a row."""
    return packed + _CHECKSUM.pack(zlib.crc32(packed))


def pack(value: object) -> bytes:
    return seal(msgspec.msgpack.encode(value))


def unpack(raw: bytes, kind: type[T], path: Path) -> T:
    """What `pack` was given. Raises `StoreDamaged`."""
    if not isinstance(raw, bytes) or len(raw) < _CHECKSUM.size or seal(raw[:-4]) != raw:
        raise damaged(path, "a row does not match its checksum")
    try:
        return msgspec.msgpack.decode(raw[:-4], type=kind)
    except msgspec.DecodeError as error:
        raise damaged(path, str(error)) from None


def _has_content(path: Path) -> bool:
    # A power cut may leave a file without its bytes.
    return path.exists() and path.stat().st_size > 0


def _make_schema(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version < _NO_VERSION:
        raise damaged(path, f"its schema has the version {version}")
    if version > SCHEMA_VERSION:
        raise ClientError(f"{path}: written by a later version of tesla-at-home; update this one")
    if version < SCHEMA_VERSION:
        db.create_function("sealed", 1, seal, deterministic=True)
        change = _FROM_1 if version else _SCHEMA
        db.executescript(f"BEGIN IMMEDIATE;{change}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")

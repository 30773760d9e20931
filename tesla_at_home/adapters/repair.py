"""A damaged database: set aside under a name of its own, and a new one begun from the small copy.

What the copy does not hold comes again: the exchange begins a new session, the project sends what is
leased under the same ids (PROTOCOL 8.5), and steps in the spool count. Consent comes from the copy
alone; without one nothing is begun. Whoever calls holds the directory's lock.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from tesla_at_home.adapters import store_copy
from tesla_at_home.adapters.files import sync_directory
from tesla_at_home.adapters.store import FILE_NAME, REPAIRED, Store
from tesla_at_home.agent.books import Talk
from tesla_at_home.agent.view import Entry
from tesla_at_home.errors import StoreDamaged
from tesla_at_home.ports import Clock, Randomness
from workunits.values import SessionId

# Enough to be looked at by somebody who knows SQLite; they must not fill the disk.
KEPT: Final = 3
# By the number set aside within a day: a disk that damages one after the other is not worn out, and
# the project is not asked for a new session every second.
_WAITS_S: Final = (0.0, 60.0, 3600.0)
_DAY_S: Final = 86_400.0
_SESSION_BYTES: Final = 16
_MARK: Final = ".damaged-"
_NAME: Final = FILE_NAME + _MARK


def wait_s(directory: Path, clock: Clock) -> float:
    """How long to wait before the next repair, by how often there was one lately."""
    now_s = clock.now_ms() / 1000
    lately = [path for path in set_aside(directory) if abs(now_s - _moved_s(path)) < _DAY_S]
    return _WAITS_S[min(len(lately), len(_WAITS_S) - 1)]


def mend(directory: Path, damage: StoreDamaged, clock: Clock, randomness: Randomness) -> str:
    """Begin a new database in the place of the damaged one; gives the line for the owner.

    Raises:
        StoreDamaged: there is no copy to begin from; nothing was moved.
    """
    copy = store_copy.read(directory)
    if copy is None:
        raise damage
    name = _move_away(directory, clock.now_ms() / 1000)
    line = (
        f"the agent's database was damaged and is kept as {name}; a new one was begun, and what is "
        "held comes again from the project and the spool"
    )
    session = SessionId(randomness.token(_SESSION_BYTES))
    talk = Talk(session=session, epoch=copy.books.talk.epoch, is_renewed=True)
    books = replace(copy.books, talk=talk, fault=None, notice=None)
    with Store.create(directory) as store:
        store.begin_from(copy, books, Entry(clock.now_ms(), REPAIRED, line))
    return line


def set_aside(directory: Path) -> list[Path]:
    """The damaged databases that are kept, oldest first."""
    found = directory.glob(f"{_NAME}*")
    return sorted((path for path in found if path.suffix[len(_MARK) :].isdigit()), key=_number)


def _move_away(directory: Path, now_s: float) -> str:
    kept = set_aside(directory)
    aside = directory / f"{_NAME}{_number(kept[-1]) + 1 if kept else 1}"
    for old in kept[: max(0, len(kept) + 1 - KEPT)]:
        discard(old)
    # The database first: cut off in between, its log must not be found beside a new database, and
    # is moved by the next attempt, which finds no database at all.
    if (directory / FILE_NAME).exists():
        (directory / FILE_NAME).rename(aside)
        os.utime(aside, (now_s, now_s))
    else:
        aside.touch(mode=0o600)
    for tail in ("-wal", "-shm"):
        path = directory / f"{FILE_NAME}{tail}"
        if path.exists():
            path.rename(aside.with_name(aside.name + tail))
    sync_directory(directory)
    return aside.name


def discard(aside: Path) -> None:
    """Remove a database that was set aside."""
    for tail in ("-wal", "-shm", ""):
        aside.with_name(aside.name + tail).unlink(missing_ok=True)


def _number(aside: Path) -> int:
    return int(aside.name.rpartition("-")[2])


def _moved_s(aside: Path) -> float:
    return aside.stat().st_mtime

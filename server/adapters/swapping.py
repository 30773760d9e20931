"""Putting one project in the place of another, in one step that a crash cannot halve.

The new one is prepared in `DIR/.restoring`, which counts for nothing. Renaming that to `DIR/.restored-*`
decides: from then on the new one holds, and whoever looks next finishes moving it in. The former project
is moved aside and never deleted. Everything stays on one file system and DIR itself is never renamed, so
that it may be a mount point. What makes a project whole is not known here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from server.adapters import durable_files
from server.errors import Conflict, Refused
from server.settings import DATABASE_FILE
from workunits.values import Milliseconds

PREPARED: Final = ".restoring"
_DECIDED: Final = ".restored-"
_ASIDE: Final = "replaced-"
# project.toml comes last: it says that all is there.
PARTS: Final = (DATABASE_FILE, "blobs", "metadata", "keys", "project.toml")
# They belong to the former database and process; the new one has none yet.
_LEFT_BEHIND: Final = (f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm", "uploads", "serve.json")


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Keeps a restore out for as long as a command works on the project.

    Raises:
        Conflict: one is under way.
    """
    told = "this project is being restored; try again when that is done"
    with _locked(folder, fcntl.LOCK_SH | fcntl.LOCK_NB, told):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps every command out while the project is replaced.

    Raises:
        Conflict: one is at work.
    """
    told = "another command works on this project; try again when it is done"
    with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB, told):
        yield


def prepare(folder: Path) -> Path:
    """An empty place for the new project; what a cut-off restore had prepared goes.

    Raises:
        Refused: a part of the project lies on another disk, so that it cannot be swapped in one step.
    """
    for name in PARTS:
        part = folder / name
        if part.exists() and part.stat().st_dev != folder.stat().st_dev:
            raise Refused(f"{part} lies on another disk; restore into a new --dir")
    prepared = folder / PREPARED
    if prepared.exists():
        shutil.rmtree(prepared)
    prepared.mkdir(mode=0o700)
    return prepared


def drop(folder: Path) -> None:
    """What was prepared is not wanted."""
    shutil.rmtree(folder / PREPARED, ignore_errors=True)


def decide(folder: Path, now: Milliseconds) -> None:
    """What was prepared holds from here on; call it `alone`, then `finish_alone`."""
    # One flush for all the files: a million of them would take hours one by one.
    os.sync()
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    (folder / PREPARED).rename(folder / f"{_DECIDED}{stamp}")
    durable_files.sync_folder(folder)


def finish(folder: Path) -> None:
    """Move in what was decided and cut off; every command begins with this."""
    if any(_decided(folder)):
        with _locked(folder, fcntl.LOCK_EX, ""):
            finish_alone(folder)


def finish_alone(folder: Path) -> Path | None:
    """Move in what was decided; where the former project lies now, if there was one."""
    aside = None
    for decided in _decided(folder):
        aside = folder / f"{_ASIDE}{decided.name.removeprefix(_DECIDED)}"
        _move_in(folder, decided, aside)
    return aside if aside is not None and aside.exists() else None


def _decided(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_DECIDED}*"))


def _move_in(folder: Path, decided: Path, aside: Path) -> None:
    """Each step can be the last one before a crash: what was moved in is not in `decided` any more."""
    aside.mkdir(mode=0o700, exist_ok=True)
    if (decided / DATABASE_FILE).exists():
        # A journal beside another database than its own would be played into it.
        for name in _LEFT_BEHIND:
            _move(folder / name, aside / name)
        durable_files.sync_folder(folder)
    for name in PARTS:
        if (decided / name).exists():
            _move(folder / name, aside / name)
            (decided / name).rename(folder / name)
    durable_files.sync_folder(aside)
    durable_files.sync_folder(folder)
    decided.rmdir()
    if not any(aside.iterdir()):
        aside.rmdir()
    durable_files.sync_folder(folder)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.rename(target)


@contextmanager
def _locked(folder: Path, how: int, told: str) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    except BlockingIOError:
        raise Conflict(told) from None
    finally:
        os.close(descriptor)

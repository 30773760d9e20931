"""What `doctor` looks at in a project's directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.adapters import settings_file
from server.adapters.clock import SystemClock
from server.adapters.keys import ROLES, KeyFolder
from server.adapters.metadata import ProjectMetadata
from server.cli_doctor_blobs import look_at_blobs
from server.errors import Damaged, ServerError
from server.settings import DATABASE_FILE
from server.storage.database import SqliteDatabase
from server.storage.snapshots import expect_sound

# Less than this, and a batch of large inputs may not fit.
_FREE_BYTES: Final = 2**30
_RESTORE: Final = "stop `serve` and bring the project back with: tesla-at-home-server restore FILE"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_well: bool
    detail: str


class _Wrong(Exception):
    """What is wrong and how to mend it."""


def examine(folder: Path) -> list[Finding]:
    """Everything, also after the first thing that is wrong."""
    looks: tuple[tuple[str, Callable[[Path], str]], ...] = (
        ("project.toml", _look_at_settings),
        ("directory", _look_at_folder),
        ("keys", _look_at_keys),
        ("metadata", _look_at_metadata),
        ("database", _look_at_database),
        ("blobs", look_at_blobs),
        ("disk", _look_at_disk),
    )
    return [_look(what, look, folder) for what, look in looks]


def _look(what: str, look: Callable[[Path], str], folder: Path) -> Finding:
    try:
        return Finding(what, True, look(folder))
    except (ServerError, _Wrong) as error:
        return Finding(what, False, str(error))
    except OSError as error:
        return Finding(what, False, f"{error.filename}: {error.strerror}")


def _look_at_settings(folder: Path) -> str:
    return f"project {settings_file.read(folder).name!r}"


def _look_at_folder(folder: Path) -> str:
    if folder.stat().st_mode & 0o077:
        raise _Wrong(f"others may look into it; mend with: chmod 700 {folder}")
    return "private"


def _look_at_keys(folder: Path) -> str:
    keys = KeyFolder(folder / "keys")
    present = [role for role in ROLES if keys.has(role)]
    for role in present:
        keys.load(role)
    absent = [role for role in ROLES if role not in present]
    if "scheduler" in absent:
        raise _Wrong("keys/scheduler.pem is missing: vehicles cannot be answered")
    return f"here: {', '.join(present)}" + (f"; not here: {', '.join(absent)}" if absent else "")


def _look_at_metadata(folder: Path) -> str:
    metadata = ProjectMetadata(folder / "metadata", KeyFolder(folder / "keys"))
    now = SystemClock().now_ms()
    if foreign := metadata.foreign_keys():
        raise _Wrong(f"keys/{foreign[0]}.pem is not the key that the metadata names")
    if warnings := metadata.warnings(now):
        raise _Wrong("; ".join(warnings))
    expired = [state.role for state in metadata.roles() if state.expires_ms <= now]
    if expired:
        raise _Wrong(f"expired: {', '.join(expired)}; `serve` signs it anew")
    return "signed and fresh"


def _look_at_database(folder: Path) -> str:
    path = folder / DATABASE_FILE
    with SqliteDatabase(path) as database, database.reading() as storage:
        storage.meta.secrets()
        unbalanced = storage.credit.unbalanced()
    try:
        expect_sound(path, with_indexes=True)
    except Damaged as error:
        raise _Wrong(f"{error}; {_RESTORE}") from None
    if unbalanced:
        raise _Wrong(f"{unbalanced} owners' credit is not the sum of their ledger; {_RESTORE}")
    return "sound, with the schema of this version, and all credit is in the ledger"


def _look_at_disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise _Wrong(f"only {free // 2**20} MiB are free")
    return f"{free // 2**30} GiB are free"

"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

# Only the owner reads what stands in a vehicle's directory: keys, codes, digests of networks.
_MODE: Final = 0o600
# Less than the database and one checkpoint need.
_LITTLE_BYTES: Final = 1024 * 1024


def write_whole(path: Path, raw: bytes) -> None:
    """Put `raw` in the place of `path`: durable, and readable by the owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def trouble(directory: Path) -> str | None:
    """Why nothing can be kept in `directory` now, as far as looking tells; None where it can."""
    if not os.access(directory, os.W_OK):
        return f"{directory} cannot be written; make it writable"
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < _LITTLE_BYTES:
        return f"the disk of {directory} is full; make room: nothing kept is lost"
    return None


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

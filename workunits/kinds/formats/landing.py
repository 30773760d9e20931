"""A file that appears under its name whole and durable, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class Landing:
    """A file beside its final place; `keep` moves it there, `drop` removes it."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
        if path.exists() and not path.is_file():
            # It would be replaced by a file, and whoever reads from it would wait for ever.
            raise OSError(errno.EINVAL, "it is a pipe or a device, name a file", str(path))
        self._path = path
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self.file: BinaryIO = self._part.open("xb")

    def keep(self) -> None:
        """Make it durable, then give it its name, replacing what stood there."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._part.replace(self._path)
        _sync_folder(self._path.parent)

    def drop(self) -> None:
        """Remove it; nothing happens after `keep`."""
        with suppress(OSError):  # as the last bytes do not fit on a full disk
            self.file.close()
        self._part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

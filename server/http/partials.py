"""Files of uploads that are under way: `uploads/<lease>.part`, appended to as bytes come.

Decides nothing about who may upload what. A part survives the end of the process; after a power cut
its tail may be wrong, which the digest at the end shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from server.errors import Outage
from workunits.values import ID_BYTES, LeaseId, show

_PIECE_BYTES: Final = 1024 * 1024
_HEX: Final = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")


class Partials:
    """The parts in one directory, one for each lease (`server.ports.UploadFiles`)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def received(self, lease: LeaseId) -> int:
        """How many bytes are here."""
        with _mapped_errors(lease):
            try:
                return self._path(lease).stat().st_size
            except FileNotFoundError:
                return 0

    def append(self, lease: LeaseId, piece: bytes) -> None:
        """Add to the end.

        Raises:
            Outage: the disk took some of it or nothing; `received` says how much is here.
        """
        with _mapped_errors(lease), self._path(lease).open("ab") as file:
            file.write(piece)

    def pieces(self, lease: LeaseId) -> Iterator[bytes]:
        """What is here, from the start."""
        with _mapped_errors(lease), self._path(lease).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def discard(self, lease: LeaseId) -> None:
        """Remove the part, if there is one."""
        with _mapped_errors(lease):
            self._path(lease).unlink(missing_ok=True)

    def kept(self) -> list[LeaseId]:
        """The leases of which there is a part."""
        stems = (path.stem for path in self._directory.glob("*.part"))
        return [LeaseId(bytes.fromhex(stem)) for stem in stems if _HEX.fullmatch(stem)]

    def _path(self, lease: LeaseId) -> Path:
        return self._directory / f"{show(lease)}.part"


@contextmanager
def _mapped_errors(lease: LeaseId) -> Iterator[None]:
    """The file system's errors as this package's."""
    try:
        yield
    except OSError as error:
        raise Outage(f"upload {show(lease)}: {error.strerror}") from error

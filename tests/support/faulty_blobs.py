"""Blobs whose disk fills up when a test says so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from server.errors import Outage
from server.storage.blobs import FolderBlobs


class FaultyBlobs(FolderBlobs):
    """A folder of blobs; after `fail_after(n)` the n-th next write and all later ones fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._left: int | None = None

    def fail_after(self, writes: int) -> None:
        self._left = writes

    def work_again(self) -> None:
        self._left = None

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> int:
        self._count()
        return super().put_stream(name, chunks)

    def put_many(self, blobs: Iterable[tuple[str, bytes]]) -> None:
        for name, raw in blobs:
            self.put(name, raw)

    def _count(self) -> None:
        if self._left is None:
            return
        if self._left == 0:
            raise Outage("no space left on device")
        self._left -= 1

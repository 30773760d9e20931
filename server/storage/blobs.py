"""Blobs in a folder: models, manifests, large payloads, trees; written whole or not at all.

A name is hex or `kind/hex` and nothing else, so that no name can lead out of the folder. What a name
means is `server.domain.names`; whether content fits its digest is for who writes it to know.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.errors import NotFound, Outage
from workunits.values import Milliseconds

_NAME: Final = re.compile(r"(?:[a-z]{1,16}/)?[0-9a-f]{2,128}")
_PASSING: Final = ".part"
_CHUNK_BYTES: Final = 256 * 1024


class FolderBlobs:
    """`server.ports.Blobs` in one folder, spread over 256 folders by the first two digits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._durable: set[Path] = set()  # folders whose names are on disk for certain

    def put(self, name: str, raw: bytes) -> None:
        self.put_stream(name, (raw,))

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> int:
        path = self._path(name)
        with _mapped_errors(name):
            size = self._write(path, chunks)
            _flush_folder(path.parent)
        return size

    def put_many(self, blobs: Iterable[tuple[str, bytes]]) -> None:
        touched: set[Path] = set()
        for name, raw in blobs:
            path = self._path(name)
            with _mapped_errors(name):
                self._write(path, (raw,))
            touched.add(path.parent)
        for folder in touched:
            with _mapped_errors(folder.name):
                _flush_folder(folder)

    def read(self, name: str) -> bytes:
        with _mapped_errors(name):
            return self._path(name).read_bytes()

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with _mapped_errors(name), self._path(name).open("rb") as file:
            handle = file.fileno()
            return [os.pread(handle, end - start, start) for start, end in ranges]

    def view(self, name: str) -> memoryview:
        with _mapped_errors(name), self._path(name).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def size(self, name: str) -> int | None:
        try:
            with _mapped_errors(name):
                return self._path(name).stat().st_size
        except NotFound:
            return None

    def chunks(self, name: str, start: int, end: int) -> Iterator[bytes]:
        with _mapped_errors(name), self._path(name).open("rb") as file:
            file.seek(start)
            while start < end:
                chunk = file.read(min(_CHUNK_BYTES, end - start))
                if not chunk:
                    return
                start += len(chunk)
                yield chunk

    def delete(self, name: str) -> None:
        with _mapped_errors(name):
            self._path(name).unlink(missing_ok=True)

    def drop_passing(self, before: Milliseconds) -> int:
        gone = 0
        for path in self._folder.rglob(f"*{_PASSING}"):
            with suppress(NotFound), _mapped_errors(path.name):
                if path.stat().st_mtime * 1000 < before:
                    path.unlink()
                    gone += 1
        return gone

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise NotFound(f"{name!r:.80} is not the name of a blob")
        kind, _, digits = name.rpartition("/")
        return self._folder / (kind or "public") / digits[:2] / digits

    def _write(self, path: Path, chunks: Iterable[bytes]) -> int:
        """Under a passing name first: a reader never sees half a blob, a crash leaves none."""
        self._make_folder(path.parent)
        passing = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_PASSING}")
        size = 0
        try:
            with passing.open("xb") as file:
                for chunk in chunks:
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            passing.replace(path)
        except BaseException:
            passing.unlink(missing_ok=True)
            raise
        return size

    def _make_folder(self, folder: Path) -> None:
        """With its name on disk: one that is there may be from somebody whose flush failed."""
        if folder in self._durable:
            return
        if folder != self._folder:
            self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _flush_folder(folder.parent)
        self._durable.add(folder)


class _mapped_errors:  # noqa: N801 (reads as a statement)
    """The file system's errors as this package's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise NotFound(f"there is no blob {self._name!r:.160}") from None
        if isinstance(error, OSError):
            raise Outage(f"blob {self._name!r:.160}: {error.strerror}") from error


def _flush_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""One file that holds many: plain tar, written and read as a stream, with a digest as its last word.

Decides which members there can be at all: regular files under short, plain names. A link, a device, an
extended header or a way out of the folder is refused at the door, because the reader knows none of
them. Nothing is kept in memory but one piece. What the members mean is not known here.

The digest shows damage, not malice: whoever can write the file can also write another digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Final

from server.errors import Refused

END: Final = "SHA256"
_BLOCK: Final = tarfile.BLOCKSIZE
_PIECE_BYTES: Final = 1024 * 1024
# What fits a header without an extension; every file of a project is shorter.
_NAME_CHARS: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_PRIVATE: Final = 0o600


class BadArchive(Refused):
    """It cannot be used: foreign, cut off or damaged; the message says which."""

    code = "bad_archive"


class ArchiveWriter:
    """Appends members to `file`; `end` makes it complete."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, name: str, raw: bytes, mtime_s: int = 0) -> None:
        """A small member from memory."""
        self._header(name, len(raw), mtime_s)
        self._write(raw + _padding(len(raw)))

    def add_file(self, name: str, source: IO[bytes]) -> None:
        """A member from a file, as long as it is now.

        Raises:
            Refused: it became shorter while it was read.
        """
        facts = os.fstat(source.fileno())
        self._header(name, facts.st_size, int(facts.st_mtime))
        left = facts.st_size
        while left:
            piece = source.read(min(_PIECE_BYTES, left))
            if not piece:
                raise Refused(f"{name} became shorter while it was read; try again")
            left -= len(piece)
            self._write(piece)
        self._write(_padding(facts.st_size))

    def end(self) -> None:
        """The digest of all before it, and tar's two empty blocks."""
        raw = self._digest.hexdigest().encode()
        self._header(END, len(raw), 0)
        self._write(raw + _padding(len(raw)) + bytes(2 * _BLOCK))

    def _header(self, name: str, size: int, mtime_s: int) -> None:
        _check_name(name)
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, mtime_s, _PRIVATE
        self._write(info.tobuf(tarfile.GNU_FORMAT))

    def _write(self, raw: bytes) -> None:
        self._file.write(raw)
        self._digest.update(raw)


class Member:
    """A member on its way in: its name and size, and its bytes once, in order."""

    def __init__(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        self.name = name
        self.size = size
        self.pieces = pieces

    def read(self, most: int) -> bytes:
        """All of it, if it is small.

        Raises:
            BadArchive: it is larger than `most`.
        """
        if self.size > most:
            raise BadArchive(f"{self.name} is larger than it can be")
        return b"".join(self.pieces)


class ArchiveReader:
    """Iterates over the members of an archive; each must be read before the next is asked for.

    The iteration ends only where the archive is whole and its digest is right.

    Raises:
        BadArchive: what is wrong.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._seen_end = False

    def __iter__(self) -> Iterator[Member]:
        while not self._seen_end:
            before = self._digest.hexdigest()
            name, size = self._header()
            member = Member(name, size, self._pieces(size))
            if name == END:
                self._end(member.read(len(before)), before)
                return
            yield member
            for _ in member.pieces:
                pass  # whoever did not want it

    def _end(self, said: bytes, found: str) -> None:
        if said != found.encode():
            raise BadArchive("its content is not what was written")
        if self._file.read(2 * _BLOCK) != bytes(2 * _BLOCK) or self._file.read(1):
            raise BadArchive("something follows after its end")
        self._seen_end = True

    def _header(self) -> tuple[str, int]:
        block = self._take(_BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError, ValueError):
            raise BadArchive("it is damaged, or no file that `backup` wrote") from None
        # Links, devices, folders and extended headers are other types; nothing of them is read.
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise BadArchive(f"it holds {info.name!r:.80}, which is no plain file")
        _check_name(info.name)
        return info.name, info.size

    def _pieces(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = self._take(min(_PIECE_BYTES, left))
            left -= len(piece)
            yield piece
        self._take(len(_padding(size)))

    def _take(self, size: int) -> bytes:
        raw = self._file.read(size)
        if len(raw) != size:
            raise BadArchive("it ends in the middle; it was cut off")
        self._digest.update(raw)
        return raw


def _check_name(name: str) -> None:
    if len(name) > _NAME_CHARS or _NAME.fullmatch(name) is None:
        raise BadArchive(f"it holds {name!r:.80}, which is no name of a project's file")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)

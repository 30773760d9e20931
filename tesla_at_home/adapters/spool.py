"""The spool: the outputs of the steps done so far, one file per unit (DECISIONS C.1).

Appended to by the child, step by step; read by the agent to know where to go on. Each frame carries
its number, length and checksums: a torn tail (power cut, kill) is cut off, a damaged middle raises
`SpoolDamaged`. Knows nothing of tensors, so the agent may import it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tesla_at_home.adapters.files import sync_directory
from workunits.errors import SpoolDamaged
from workunits.wire import limits

_MAGIC: Final = b"tesla-at-home steps 1\n"
# Number of the step, bytes of its payload, checksum of the payload; then the checksum of these.
_HEAD: Final = struct.Struct("<III")
_SUM: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEAD.size + _SUM.size
_ORIGIN_NUMBER: Final = 0xFFFFFFFF
_PIECE_BYTES: Final = limits.MIB


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """How the steps were computed; only alike they may be joined to the same bits."""

    lease: bytes
    provider: str
    onnxruntime: str
    threads: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a spool file holds: where each step's payload lies, and where the good part ends."""

    origin: Origin | None  # None: nothing readable was written yet
    steps: tuple[tuple[int, int], ...]  # (offset, bytes)
    end: int

    def end_of(self, steps: int) -> int:
        """Where the file ends that has only the first `steps` steps."""
        return self.end if steps == len(self.steps) else self.steps[steps][0] - _HEAD_BYTES


class Spool:
    """A spool file open for appending; made by `begin` or `go_on`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @classmethod
    def begin(cls, path: Path, origin: Origin) -> Spool:
        """Begin anew, in place: the file may have a second name, in the child's folder (`cell`)."""
        file = path.open("wb", buffering=0)
        with _closed_on_error(file):
            spool = cls(path, file)
            spool._write(_MAGIC + _frame(_ORIGIN_NUMBER, msgspec.msgpack.encode(origin)))
            # A power cut may else take the name, and all steps with it.
            sync_directory(path.parent)
        return spool

    @classmethod
    def go_on(cls, path: Path, end: int) -> Spool:
        """Append behind `end`; what lies beyond is cut off."""
        file = path.open("r+b", buffering=0)
        with _closed_on_error(file):
            file.truncate(end)
            file.seek(end)
        return cls(path, file)

    def append(self, number: int, payload: bytes) -> None:
        """Add step `number`; a kill from now on loses none of it, a power cut may until `sync`."""
        self._write(_frame(number, payload))

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write(self, raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            view = view[self._file.write(view) :]


def scan(path: Path) -> Scan:
    """Read a spool file through; memory does not grow with it.

    Raises:
        SpoolDamaged: something before the tail is not what was written.
    """
    try:
        with path.open("rb") as file:
            return _Reading(path.name, file).scan()
    except FileNotFoundError:
        return Scan(None, (), 0)


@contextmanager
def _closed_on_error(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def make_durable(path: Path) -> None:
    """Bring the file to the disk through a descriptor of one's own: its writer may be stopped."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def payloads(path: Path, found: Scan) -> Iterator[bytes]:
    """The payloads of the steps, in order."""
    with path.open("rb") as file:
        for offset, size in found.steps:
            file.seek(offset)
            yield file.read(size)


def _frame(number: int, payload: bytes) -> bytes:
    head = _HEAD.pack(number, len(payload), zlib.crc32(payload))
    return head + _SUM.pack(zlib.crc32(head)) + payload


class _Reading:
    """One pass over a spool file, frame by frame."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file
        self._length = os.fstat(file.fileno()).st_size

    def scan(self) -> Scan:
        magic = self._file.read(len(_MAGIC))
        if magic != _MAGIC:
            if _MAGIC.startswith(magic):
                return Scan(None, (), 0)
            raise SpoolDamaged(f"{self._name}: does not begin as a spool file")
        first = self._frame()
        if first is None:
            return Scan(None, (), 0)
        origin = self._origin(*first)
        steps: list[tuple[int, int]] = []
        end = self._file.tell()
        while (frame := self._frame()) is not None:
            number, offset, size = frame
            if number != len(steps):
                raise SpoolDamaged(f"{self._name}: step {number} where step {len(steps)} belongs")
            steps.append((offset, size))
            end = self._file.tell()
        return Scan(origin, tuple(steps), end)

    def _frame(self) -> tuple[int, int, int] | None:
        """Number, offset and bytes of the next frame; None if it is torn, or there is none."""
        at = self._file.tell()
        head = self._file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return None
        number, size, checksum = _HEAD.unpack_from(head)
        if _SUM.unpack_from(head, _HEAD.size)[0] != zlib.crc32(head[: _HEAD.size]):
            self._check_torn(at, head)
            return None
        offset = self._file.tell()
        if offset + size > self._length:
            return None
        if self._checksum(size) == checksum:
            return number, offset, size
        if offset + size == self._length:
            return None
        raise SpoolDamaged(f"{self._name}: the frame at byte {at} does not match its checksum")

    def _check_torn(self, at: int, head: bytes) -> None:
        # A file system may lengthen a file before it writes the data: a tail of zeros is torn.
        while head:
            if head.strip(b"\0"):
                raise SpoolDamaged(f"{self._name}: a frame at byte {at} is not one")
            head = self._file.read(_PIECE_BYTES)

    def _checksum(self, size: int) -> int:
        checksum = 0
        while size:
            piece = self._file.read(min(size, _PIECE_BYTES))
            checksum = zlib.crc32(piece, checksum)
            size -= len(piece)
        return checksum

    def _origin(self, number: int, offset: int, size: int) -> Origin:
        if number != _ORIGIN_NUMBER:
            raise SpoolDamaged(f"{self._name}: begins with step {number}")
        self._file.seek(offset)
        try:
            return msgspec.msgpack.decode(self._file.read(size), type=Origin)
        except msgspec.DecodeError as error:
            raise SpoolDamaged(f"{self._name}: {error}") from None

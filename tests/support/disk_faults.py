"""A disk that fails when a test says so, below SQLite and below every file: the preloaded `disk_faults.c`.

Decides nothing: it builds the library, starts a play under it, and is its face inside the play. What
a power cut leaves of the calls it recorded is `tests.support.power_cut`.

A test starts a play, a module run as a process of its own, and reads the one JSON line it prints:

    found = disk_faults.play("tests.faults.server_disk_play", "each", str(tmp_path))

Inside the play:

    disk = Disk.here()                  # raises if the library was not preloaded
    disk.watch(folder)                  # from now on calls that change this folder count, from 0
    disk.arm(7, Fault.ONCE)             # the 7th call from now on (1 is the next) fails with EIO
    disk.arm(9, Fault.SHORT)            # and the 9th, if it writes, writes only half
    ...
    disk.count(), disk.injected()       # calls seen; calls that were made to fail, tear or shorten
    disk.kinds()                        # "CWWSRF...": one letter per call, see `Kind`
    disk.mend()                         # nothing fails any more; counting goes on

`watch` again begins anew; `unwatch` ends it. `watch(folder, records=True)` keeps every call with its
bytes for `power_cut.rebuild`. A counted call is one that changes the folder or makes it durable: a file
made or emptied by `open`, `write` and its kin, `ftruncate`, `fsync`, `fdatasync`, `rename`, `link`,
`unlink`, `mkdir`, `rmdir`. Flushes are not really done: a test is about what would have been kept.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Final

import pytest

COMPILER: Final = shutil.which("cc")
SOURCE: Final = Path(__file__).with_suffix(".c")
ROOT: Final = Path(__file__).parents[2]
# A play is a few seconds of work; a loaded machine is slow.
PLAY_TIMEOUT_S: Final = 600.0

needs_compiler: Final = pytest.mark.skipif(
    COMPILER is None and "CI" not in os.environ, reason="there is no C compiler (cc)"
)


class Fault(IntEnum):
    """What meets a call; the numbers are `enum action` in disk_faults.c."""

    ONCE = 1  # this call fails, nothing else
    GONE = 2  # this call and all later ones fail: for the disk the same as `kill -9` here
    FULL = 3  # from here on whatever needs room fails; deleting, renaming, flushing go on
    TORN = 4  # half of this write is written, then as GONE
    SHORT = 5  # half of this write is written and said so, which POSIX allows
    KILL = 6  # SIGKILL before this call


class Kind(Enum):
    """A counted call's letter."""

    CREATE = "C"
    WRITE = "W"
    TRUNCATE = "T"
    SYNC = "S"
    SYNC_FOLDER = "F"
    RENAME = "R"
    UNLINK = "U"
    LINK = "L"
    MKDIR = "M"
    RMDIR = "D"


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call; paths are relative to the watched folder ("" is the folder itself)."""

    kind: Kind
    failed: bool
    path: str
    other: str  # where it was renamed or linked to
    inode: int  # 0 where the call was not about an open file
    offset: int  # of a write, or the new size
    data: bytes


class Disk:
    """The preloaded library in this process."""

    _HEADER: Final = struct.Struct("<BBHHHQqQ")

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.disk_arm.argtypes = (ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
        library.disk_watch.argtypes = (ctypes.c_char_p, ctypes.c_int)
        library.disk_log.argtypes = (ctypes.POINTER(ctypes.c_uint64),)
        library.disk_log.restype = ctypes.c_void_p
        library.disk_kinds.restype = ctypes.c_void_p
        library.disk_counted.restype = library.disk_injected.restype = ctypes.c_uint64
        self._folder = ""

    @classmethod
    def here(cls) -> Disk:
        """Raises RuntimeError: this process does not run under the library."""
        library = ctypes.CDLL(None)
        if not hasattr(library, "disk_watch"):
            raise RuntimeError("not started under disk_faults: use disk_faults.play")
        return cls(library)

    def watch(self, folder: Path, *, records: bool = False) -> None:
        """Count, and if wanted keep, the calls that change `folder` from now on; nothing is armed."""
        self._folder = str(folder.resolve())
        self._library.disk_watch(self._folder.encode(), int(records))

    def unwatch(self) -> None:
        """Let everything pass."""
        self._library.disk_watch(b"", 0)

    def arm(self, at: int, fault: Fault, error: int | None = None) -> None:
        """Let the `at`-th call from now on meet `fault`; EIO, or ENOSPC for FULL, unless `error`."""
        assert at >= 1
        if error is None:
            error = errno.ENOSPC if fault is Fault.FULL else errno.EIO
        assert self._library.disk_arm(at, int(fault), error), "too many faults are armed"

    def mend(self) -> None:
        """Nothing fails any more."""
        self._library.disk_mend()

    def count(self) -> int:
        """Calls since `watch`."""
        return int(self._library.disk_counted())

    def injected(self) -> int:
        """Calls since `watch` that were made to fail, tear or shorten."""
        return int(self._library.disk_injected())

    def kinds(self) -> str:
        """A letter for each call since `watch`."""
        return ctypes.string_at(self._library.disk_kinds(), self.count()).decode()

    def log(self) -> tuple[Call, ...]:
        """The recorded calls in the order of the disk."""
        size = ctypes.c_uint64()
        start = self._library.disk_log(ctypes.byref(size))
        raw = ctypes.string_at(start, size.value) if size.value else b""
        return tuple(self._entries(raw))

    def _entries(self, raw: bytes) -> Iterator[Call]:
        at = 0
        while at < len(raw):
            kind, failed, path, other, _, inode, offset, data = self._HEADER.unpack_from(raw, at)
            parts = []
            at += self._HEADER.size
            for size in (path, other, data):
                parts.append(raw[at : at + size])
                at += size
            yield Call(
                Kind(chr(kind)), bool(failed), self._inside(parts[0]), self._inside(parts[1]),
                inode, offset, parts[2],
            )  # fmt: skip

    def _inside(self, path: bytes) -> str:
        return path.decode().removeprefix(self._folder).removeprefix("/")


def telling(kinds: str) -> list[int]:
    """Numbers of the calls where a fault shows most: of a row of writes the first, the last and every
    eighth, and all others. Pages of one commit are alike."""
    return [
        at + 1
        for at, kind in enumerate(kinds)
        if kind != Kind.WRITE.value or at % 8 == 0 or kinds[max(0, at - 1) : at + 2] != "WWW"
    ]


def library() -> Path:
    """The built library, made once for each version of its source."""
    assert COMPILER is not None, "there is no C compiler (cc)"
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"disk_faults-{os.getuid()}-{digest}.so"
    if not built.exists():
        passing = built.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [COMPILER, "-std=gnu11", "-O2", "-shared", "-fPIC", SOURCE, "-o", passing, "-ldl",
             "-lpthread"],
            check=True,
        )  # fmt: skip
        passing.replace(built)
    return built


def environment() -> dict[str, str]:
    """This process's environment with the library preloaded."""
    return {**os.environ, "LD_PRELOAD": str(library())}


def play(module: str, *arguments: str, timeout_s: float = PLAY_TIMEOUT_S) -> dict[str, object]:
    """What the play printed as its last line; AssertionError with its words if it failed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{module} {arguments}: {done.returncode}\n{done.stderr}"
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found

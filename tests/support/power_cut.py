"""What a power cut leaves of a folder, from the calls that `disk_faults` recorded.

The rules are the hard ones of POSIX and no file system's mercy. Bytes are kept for certain only when
their file was flushed after them; a name, its removal or its new place only when its folder was.
Everything else is there wholly, not at all or, where it is bytes, up to a sector in the middle, each as
`draw` says, in any mixture. A flush that failed keeps nothing and promises nothing: what it should have
flushed is in doubt for ever, also when a later flush succeeds (as on Linux, which then drops the pages).

SQLite's shared memory (`-shm`) is never there afterwards: it lives in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.support.disk_faults import Call, Kind

SECTOR_BYTES: Final = 512
# How often bytes in doubt are there, and how often up to a sector in their middle.
_KEPT: Final = 0.4
_TORN: Final = 0.2


@dataclass(frozen=True)
class Snapshot:
    """A folder whose every byte is durable: where the calls began."""

    folders: frozenset[str]
    files: dict[str, tuple[int, bytes]]  # inode and content

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        every = list(folder.rglob("*"))
        files = {
            str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
            for path in every
            if path.is_file() and not path.name.endswith("-shm")
        }
        folders = {str(path.relative_to(folder)) for path in every if path.is_dir()}
        return cls(frozenset(folders), files)


@dataclass
class _File:
    """One inode: what is on the platter, and later changes, each with whether it is there for certain."""

    kept: bytearray = field(default_factory=bytearray)
    doubtful: list[tuple[Call, bool]] = field(default_factory=list)  # since a flush that failed
    pending: list[Call] = field(default_factory=list)

    def flushed(self) -> None:
        if self.doubtful:
            self.doubtful += [(call, True) for call in self.pending]
        else:
            for call in self.pending:
                _apply(self.kept, call)
        self.pending.clear()

    def not_flushed(self) -> None:
        self.doubtful += [(call, False) for call in self.pending]
        self.pending.clear()

    def after_cut(self, draw: Random) -> bytes:
        content = bytearray(self.kept)
        for call, is_certain in (*self.doubtful, *((call, False) for call in self.pending)):
            chance = 0.0 if is_certain else draw.random()
            if chance < _KEPT:
                _apply(content, call)
            elif chance < _KEPT + _TORN:
                _apply(content, call, draw.randrange(len(call.data) // SECTOR_BYTES + 1))
        return bytes(content)


@dataclass(frozen=True)
class _Naming:
    """A change of names that its folder's flush makes certain."""

    removes: str | None
    puts: str | None
    what: _File | None  # None: a folder

    def folders(self) -> set[str]:
        return {_parent(path) for path in (self.removes, self.puts) if path is not None}

    def apply(self, names: dict[str, _File | None]) -> None:
        if self.removes is not None:
            names.pop(self.removes, None)
        if self.puts is not None:
            names[self.puts] = self.what


class Platter:
    """A folder while the calls are played: what is on it for certain, and what may be."""

    def __init__(self, start: Snapshot) -> None:
        self._by_inode = {inode: _File(bytearray(raw)) for inode, raw in start.files.values()}
        self._kept: dict[str, _File | None] = dict.fromkeys(start.folders)
        self._kept |= {path: self._by_inode[inode] for path, (inode, _) in start.files.items()}
        self._seen = dict(self._kept)
        self._pending: list[_Naming] = []

    def play(self, call: Call) -> None:
        if call.path.endswith("-shm"):
            return
        if call.failed:
            if call.kind is Kind.SYNC and call.inode in self._by_inode:
                self._by_inode[call.inode].not_flushed()
            return
        if call.kind in (Kind.WRITE, Kind.TRUNCATE):
            self._by_inode[call.inode].pending.append(call)
        elif call.kind is Kind.SYNC:
            self._by_inode[call.inode].flushed()
        elif call.kind is Kind.SYNC_FOLDER:
            self._flush_names(call.path)
        else:
            self._name(self._naming(call))

    def leave(self, folder: Path, draw: Random) -> Path:
        """Make `folder` as a power cut now may leave it; calls may be played on afterwards."""
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, self._after_cut(draw).items())
        return folder

    def _after_cut(self, draw: Random) -> dict[str, bytes | None]:
        """Contents by path; None for a folder."""
        names = dict(self._kept)
        for naming in self._pending:
            if draw.random() < 0.5:
                naming.apply(names)
        reachable = sorted(path for path in names if _is_reachable(path, names))
        return {
            path: None if (found := names[path]) is None else found.after_cut(draw)
            for path in reachable
        }

    def _naming(self, call: Call) -> _Naming:
        if call.kind is Kind.CREATE:
            made = self._by_inode[call.inode] = _File()
            return _Naming(None, call.path, made)
        if call.kind is Kind.MKDIR:
            return _Naming(None, call.path, None)
        if call.kind is Kind.LINK:
            return _Naming(None, call.other, self._seen[call.path])
        if call.kind is Kind.RENAME:
            assert self._seen[call.path] is not None, "renamed folders are not modelled"
            return _Naming(call.path, call.other, self._seen[call.path])
        return _Naming(call.path, None, None)

    def _name(self, naming: _Naming) -> None:
        naming.apply(self._seen)
        self._pending.append(naming)

    def _flush_names(self, folder: str) -> None:
        certain = [naming for naming in self._pending if folder in naming.folders()]
        for naming in certain:
            naming.apply(self._kept)
            self._pending.remove(naming)


def rebuild(start: Snapshot, calls: Sequence[Call], draw: Random, folder: Path) -> Path:
    """Make `folder` as a power cut after the last of `calls` may leave what began as `start`."""
    platter = Platter(start)
    for call in calls:
        platter.play(call)
    return platter.leave(folder, draw)


def _write(folder: Path, contents: Iterable[tuple[str, bytes | None]]) -> None:
    folder.mkdir(mode=0o700)
    for path, raw in contents:
        if raw is None:
            (folder / path).mkdir(mode=0o700)
        else:
            (folder / path).write_bytes(raw)
            (folder / path).chmod(0o600)  # modes are not recorded; ours are private


def _apply(content: bytearray, call: Call, sectors: int | None = None) -> None:
    if call.kind is Kind.TRUNCATE:
        if sectors is not None:
            return
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    data = call.data if sectors is None else call.data[: sectors * SECTOR_BYTES]
    content.extend(bytes(max(0, call.offset - len(content))))
    content[call.offset : call.offset + len(data)] = data


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _is_reachable(path: str, names: dict[str, _File | None]) -> bool:
    parent = _parent(path)
    return not parent or (parent in names and _is_reachable(parent, names))

"""Files of the vehicle: models, inputs and manifests by digest, and the spool of each unit.

A file has its name only once its digest is right and it is on the disk; before, it is a `.part`. What
is kept and what goes is decided by the agent; here is how.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final, Literal

from tesla_at_home.adapters import spool
from tesla_at_home.agent.events import Need
from workunits.errors import SpoolDamaged
from workunits.trust import digests
from workunits.values import Digest, LeaseId
from workunits.wire import limits

_DIGEST_NAME: Final = re.compile(r"[0-9a-f]{64}")
_LEASE_NAME: Final = re.compile(r"[0-9a-f]{32}")
_FOLDERS: Final = {"model": "models", "input": "spool/inputs", "manifest": "spool/manifests"}


class FileShelf:
    """The `Shelf` port in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in _FOLDERS.values():
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- files by digest -------------------------------------------------------------------------

    def path(self, need: Need) -> Path:
        return self._directory / _FOLDERS[need.kind] / need.digest.hex()

    def part(self, need: Need) -> Path:
        return self.path(need).with_suffix(".part")

    def use(self, need: Need) -> Path:
        # A file's time of change is when it was last used: what eviction goes by. One that cannot
        # be touched can still be read.
        with contextlib.suppress(OSError):
            os.utime(self.path(need))
        return self.path(need)

    def has(self, need: Need) -> bool:
        return self.path(need).exists()

    def read(self, need: Need) -> bytes:
        return self.use(need).read_bytes()

    def recheck(self, need: Need) -> None:
        if not _is_right(self.path(need), need):
            _discard(self.path(need))

    def accept(self, need: Need) -> None:
        part = self.part(need)
        try:
            digests.expect(_digest_of(part, need), need.digest, need.kind)
        except Exception:
            part.unlink(missing_ok=True)
            raise
        spool.make_durable(part)
        part.rename(self.path(need))
        _sync_directory(part.parent)

    def put(self, need: Need, raw: bytes) -> None:
        if not self.has(need):
            self.part(need).write_bytes(raw)
            self.accept(need)

    def held(self, kind: Literal["manifest", "model"]) -> tuple[Digest, ...]:
        found = []
        for path in (self._directory / _FOLDERS[kind]).iterdir():
            # Names that are no digest (a README, a .part, a desktop's own files) are not ours.
            # The other thread may evict one of them meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if _DIGEST_NAME.fullmatch(path.name):
                    found.append((path.stat().st_mtime, path.name))
        return tuple(Digest(bytes.fromhex(name)) for _, name in sorted(found, reverse=True))

    def evict(self, keep: Container[Digest], most_bytes: int) -> None:
        self._discard_parts(keep)
        paths = [(self.path(Need("model", d, 0)), d) for d in self.held("model")]
        total = sum(path.stat().st_size for path, _ in paths)
        for path, digest in reversed(paths):
            if total <= most_bytes:
                return
            if digest not in keep:
                total -= path.stat().st_size
                path.unlink()

    def evict_manifests(self, keep: Container[Digest], most: int) -> bool:
        old = [digest for digest in self.held("manifest")[most:] if digest not in keep]
        for digest in old:
            _discard(self.path(Need("manifest", digest, 0)))
        return bool(old)

    def _discard_parts(self, keep: Container[Digest]) -> None:
        """Begun models whose units are gone."""
        for part in (self._directory / _FOLDERS["model"]).glob("*.part"):
            name = part.stem
            if _DIGEST_NAME.fullmatch(name) and Digest(bytes.fromhex(name)) not in keep:
                _discard_part(part)

    # --- one unit's files ------------------------------------------------------------------------

    def spool(self, lease: LeaseId) -> Path:
        return self._directory / "spool" / f"{lease.hex()}.steps"

    def output(self, lease: LeaseId) -> Path:
        return self._directory / "spool" / f"{lease.hex()}.output"

    def has_output(self, lease: LeaseId, digest: Digest) -> bool:
        return _is_right(self.output(lease), Need("input", digest, 0))

    def begin(self, lease: LeaseId) -> int:
        path = self.spool(lease)
        try:
            found = spool.scan(path)
        except SpoolDamaged:
            path.replace(path.with_suffix(".damaged"))
            return 0
        return len(found.steps)

    def forget(self, lease: LeaseId, inputs: Iterable[Digest]) -> None:
        for path in (self._directory / "spool").glob(f"{lease.hex()}.*"):
            _discard(path)
        for digest in inputs:
            _discard(self.path(Need("input", digest, 0)))
            _discard_part(self.part(Need("input", digest, 0)))

    def sweep(self, leases: Container[LeaseId], inputs: Container[Digest]) -> None:
        for path in (self._directory / "spool").glob("*.*"):
            name = path.name.partition(".")[0]
            if _LEASE_NAME.fullmatch(name) and LeaseId(bytes.fromhex(name)) not in leases:
                _discard(path)
        for path in (self._directory / _FOLDERS["input"]).iterdir():
            name = path.name.partition(".")[0]
            if _DIGEST_NAME.fullmatch(name) and Digest(bytes.fromhex(name)) not in inputs:
                _discard(path)

    # --- the disk --------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free

    def disk_bytes(self) -> int:
        return shutil.disk_usage(self._directory).total


def _discard(path: Path) -> None:
    # A disk that cannot be written keeps it; the next sweep takes it.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _discard_part(part: Path) -> None:
    _discard(part)
    # The transport's note of which version it is a part of.
    _discard(part.with_name(f"{part.name}.etag"))


def _is_right(path: Path, need: Need) -> bool:
    try:
        return _digest_of(path, need) == need.digest
    except OSError:
        return False


def _digest_of(path: Path, need: Need) -> Digest:
    if need.kind == "manifest":
        return digests.of_manifest(path.read_bytes()[: limits.PAYLOAD_BYTES])
    running = digests.streamed_tensors() if need.kind == "input" else hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(limits.MIB):
            running.update(piece)
    return Digest(running.digest())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

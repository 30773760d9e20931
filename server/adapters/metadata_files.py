"""The files of a TUF repository: which versions are the valid ones, reading and writing them.

Valid is what the timestamp names, and what that names in turn; other files are leftovers of a change
that was cut short, or past versions. One writer at a time, by a lock on the folder. Nothing is signed
and nothing is decided here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from server.adapters import durable_files
from server.errors import NotFound, Outage

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


class MetadataFiles:
    """`DIR/metadata`, which `serve` hands out as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make_folders(self) -> None:
        """The folders of an empty repository."""
        (self._folder / "targets").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other writers out: `serve` renews while `model add` publishes."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def first_root(self) -> bytes:
        """The root that owners pin."""
        return self._read("1.root.json")

    def root(self) -> Root:
        """The newest root; the timestamp does not name it (TUF 1.0, section 5.3)."""
        versions = [int(path.name.split(".")[0]) for path in self._folder.glob("[1-9]*.root.json")]
        if not versions:
            raise NotFound("there is no project here; make one with: tesla-at-home-server init")
        return self._load(f"{max(versions)}.root.json", Root)

    def timestamp(self) -> Timestamp:
        """The one file without a version in its name."""
        return self._load("timestamp.json", Timestamp)

    def snapshot(self) -> Snapshot:
        """The snapshot that the timestamp names."""
        version = self.timestamp().snapshot_meta.version
        return self._load(f"{version}.snapshot.json", Snapshot)

    def targets(self) -> Targets:
        """The targets that the snapshot names."""
        version = self.snapshot().meta["targets.json"].version
        return self._load(f"{version}.targets.json", Targets)

    def current(self, targets: Sequence[str]) -> dict[str, bytes]:
        """Every root, what the timestamp names, and the files of `targets`, by name."""
        snapshot, described = self.snapshot(), self.targets()
        names = [path.name for path in sorted(self._folder.glob("[1-9]*.root.json"))]
        names += [f"{described.version}.targets.json", f"{snapshot.version}.snapshot.json"]
        names += [f"targets/{described.targets[name].get_prefixed_paths()[0]}" for name in targets]
        return {name: self._read(name) for name in (*names, "timestamp.json")}

    def write(self, role: str, metadata: Metadata[S]) -> None:
        """Put signed metadata under the name of its version."""
        version = metadata.signed.version
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        durable_files.replace(self._folder / name, metadata.to_bytes(JSONSerializer(compact=True)))

    def put_target(self, targets: Targets, name: str, raw: bytes) -> None:
        """Write a target file under its digest and describe it in `targets`."""
        target = TargetFile.from_data(name, raw, ["sha256"])
        durable_files.replace(self._folder / "targets" / target.get_prefixed_paths()[0], raw)
        targets.targets[name] = target

    def read_target(self, targets: Targets, name: str) -> bytes:
        """The bytes of a target file that `targets` describes."""
        return self._read(f"targets/{targets.targets[name].get_prefixed_paths()[0]}")

    def _load(self, name: str, kind: type[S]) -> S:
        try:
            signed = Metadata[S].from_bytes(self._read(name)).signed
        except DeserializationError:
            raise Outage(f"metadata/{name} is damaged; restore it from a backup") from None
        if not isinstance(signed, kind):
            raise Outage(f"metadata/{name} holds another role's metadata")
        return signed

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"metadata/{name} is missing; is this a project's directory?") from None

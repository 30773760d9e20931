"""A project's TUF repository in memory, behind the vehicle's own port, with attacks as methods.

After python-tuf's tests/repository_simulator.py: honest unless a test says otherwise. What is
served is `files`; `publish` signs everything anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from tesla_at_home.errors import NotThere, Unreachable
from tesla_at_home.ports import Cancellation
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire import codec
from workunits.wire.messages import Project, RoleKey, Terms

NOW = Milliseconds(1_800_000_000_000)
HOUR_MS = 3_600_000
TERMS_TEXT = "Be kind to each other's cars.\n"
ROLES = ("root", "targets", "snapshot", "timestamp")

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def a_project(name: str = "test", key: bytes = bytes(32)) -> Project:
    """A project whose scheduler and batch key is `key`."""
    role = RoleKey(
        key=key, not_before=Milliseconds(0), not_after=Milliseconds(NOW + 10**6 * HOUR_MS)
    )
    text = TERMS_TEXT.encode()
    terms = Terms(digest=digests.plain(text), size=len(text), version="1")
    return Project(
        name=name, scheduler_keys=(role,), batch_keys=(role,), terms=terms,
        protocol_oldest=1, protocol_newest=1, sign_up="open",
    )  # fmt: skip


class TufRepository:
    """The repository and the wire to it: implements `MetadataSource`."""

    def __init__(self, project: Project | None = None, now: Milliseconds = NOW) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.is_down = False
        self.endless: str | None = None
        self.signers = {role: new_signer() for role in ROLES}
        start = _moment(now)
        self.root = Root(expires=start + timedelta(days=365), consistent_snapshot=True)
        for role in ROLES:
            self.root.add_key(self.signers[role].public_key, role)
        self.targets = Targets(expires=start + timedelta(days=90))
        self.snapshot = Snapshot(expires=start + timedelta(days=7))
        self.timestamp = Timestamp(expires=start + timedelta(hours=24))
        self.targets.version = self.snapshot.version = self.timestamp.version = 0
        self.put("terms.txt", TERMS_TEXT.encode())
        self.put("project.json", codec.to_json(project or a_project()))
        self.write_root()
        self.publish()

    # --- the port -------------------------------------------------------------------------------

    def pieces(self, path: str, *, cancel: Cancellation) -> Iterator[bytes]:
        cancel.check()
        self.asked.append(path)
        name = path.removeprefix("/metadata/")
        if self.is_down:
            raise Unreachable("no connection")
        if self.endless is not None and self.endless in name:
            while True:
                yield bytes(65536)
        if name not in self.files:
            raise NotThere(path)
        yield self.files[name]

    # --- the honest publisher -------------------------------------------------------------------

    def put(self, path: str, raw: bytes) -> None:
        """A target with its file."""
        self.targets.targets[path] = TargetFile.from_data(path, raw, ["sha256"])
        self.files[f"targets/{hashlib.sha256(raw).hexdigest()}.{path}"] = raw

    def put_model(self, name: str, raw: bytes) -> None:
        """A model's target; its bytes are a blob elsewhere."""
        path = f"models/{name}/{hashlib.sha256(raw).hexdigest()}"
        self.targets.targets[path] = TargetFile.from_data(path, raw, ["sha256"])

    def publish(self) -> None:
        """Everything anew: targets, then snapshot, then timestamp."""
        self.targets.version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.snapshot.meta["targets.json"] = MetaFile(version=self.targets.version)
        self.timestamp.snapshot_meta = MetaFile(version=self.snapshot.version)
        self.write(f"{self.targets.version}.targets.json", self.targets, "targets")
        self.write(f"{self.snapshot.version}.snapshot.json", self.snapshot, "snapshot")
        self.write("timestamp.json", self.timestamp, "timestamp")

    def rotate_root(self, *more_signers: CryptoSigner) -> None:
        """The next root, signed by its own key and by `more_signers` (the one before)."""
        self.root.version += 1
        self.write_root(*more_signers)

    def write_root(self, *more_signers: CryptoSigner) -> None:
        self.write(f"{self.root.version}.root.json", self.root, "root", *more_signers)

    def write(self, name: str, signed: S, role: str, *more_signers: CryptoSigner) -> None:
        metadata = Metadata(signed)
        for signer in (self.signers[role], *more_signers):
            metadata.sign(signer, append=True)
        self.files[name] = metadata.to_bytes()

    def renew(self, role: str, *, at: Milliseconds, life: timedelta) -> None:
        """Give `role` a new expiry; visible with the next `publish`."""
        signed = {"targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp}
        signed[role].expires = _moment(at) + life

    # --- attacks --------------------------------------------------------------------------------

    def steal(self, role: str) -> None:
        """Sign `role` with a key that the root does not name."""
        self.signers[role] = new_signer()

    def roll_back_to(self, files: dict[str, bytes]) -> None:
        """Serve an earlier state of everything."""
        self.files = dict(files)


def new_signer() -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.generate())


def _moment(now: Milliseconds) -> datetime:
    return datetime.fromtimestamp(now // 1000, UTC)

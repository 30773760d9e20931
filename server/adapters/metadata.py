"""The project's TUF repository: who may sign, the terms, the models (DESIGN 4, DECISIONS D.1).

Four roles with a key each, consistent snapshots. The targets `project.json` and `terms.txt` lie as
files under `metadata/targets/`; a model is only described here, its bytes are a blob. Every change
starts from what the timestamp on disk names and writes the timestamp last, so that a change that was
cut short never counts. What the models and the terms say is not decided here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from server.adapters.keys import ROLES, TUF_ROLES, KeyFolder
from server.adapters.metadata_files import MetadataFiles
from server.domain.restoring import beyond
from server.errors import Refused
from server.settings import ProjectSettings
from workunits.trust import envelope
from workunits.values import Digest, Milliseconds, show
from workunits.wire import codec, limits
from workunits.wire.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, ModelFacts, Project, RoleKey

LIFE: Final = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(hours=24),
}
# How long `project.json` lets a scheduler or batch key sign; prolonged whenever targets are signed.
ROLE_KEY_LIFE: Final = timedelta(days=365)
WARN_FROM: Final = timedelta(days=30)
PROJECT: Final = "project.json"
TERMS: Final = "terms.txt"

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class RoleState:
    """How one role of the metadata stands."""

    role: str
    version: int
    expires_ms: Milliseconds
    has_key: bool


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """A model as the metadata describes it."""

    digest: Digest
    size: int
    facts: ModelFacts


class ProjectMetadata:
    """The metadata in `folder`, signed with whichever of `keys` are there."""

    def __init__(self, folder: Path, keys: KeyFolder) -> None:
        self._files = MetadataFiles(folder)
        self._keys = keys

    def create(self, project: Project, terms: bytes, now: Milliseconds) -> None:
        """The first version of everything; all four keys must be here."""
        self._files.make_folders()
        moment = _moment(now)
        with self._files.lock():
            targets = Targets(expires=moment + LIFE["targets"])
            self._files.put_target(targets, PROJECT, codec.to_json(project))
            self._files.put_target(targets, TERMS, terms)
            root = Root(expires=moment + LIFE["root"], consistent_snapshot=True)
            for role in TUF_ROLES:
                root.add_key(self._signer(role).public_key, role)
            self._write("root", root)
            snapshot = Snapshot(expires=moment + LIFE["snapshot"])
            timestamp = Timestamp(expires=moment + LIFE["timestamp"])
            self._publish(targets, snapshot, timestamp)

    def refresh(self, now: Milliseconds) -> tuple[str, ...]:
        """Sign anew what has less than a third of its life left, where the key is here.

        Returns warnings, in plain sentences, about what a key that is not here must sign soon.
        """
        with self._files.lock():
            self._refresh_root(now)
            self._refresh_chain(now)
        return self.warnings(now)

    def leap(self, now: Milliseconds) -> tuple[str, ...]:
        """After a restore: sign versions that are higher than any that vehicles may have seen.

        They refuse lower ones as a rollback (TUF 1.0, sections 5.4 to 5.6). Returns the roles that
        stay behind because a key is not here.
        """
        able = [role for role in TUF_ROLES[1:] if self._can_sign(role)]
        with self._files.lock():
            if able:
                self._sign_from(able[0], now, above=beyond(0, now) - 1)
        return tuple(role for role in TUF_ROLES[1:] if role not in able)

    def current(self) -> dict[str, bytes]:
        """The files that a vehicle needs, by name: every root, and what the timestamp names."""
        with self._files.lock():
            return self._files.current((PROJECT, TERMS))

    def align(self, settings: ProjectSettings, now: Milliseconds) -> bool:
        """Tell vehicles what the operator has changed in the settings, and which versions of the
        protocol this program speaks; whether there was anything new.

        Raises:
            Refused: a key that must sign this is not here.
        """
        told = self.project()
        sign_up: Literal["open", "invite"] = "invite" if settings.sign_up == "invite" else "open"
        changed = msgspec.structs.replace(
            told,
            name=settings.name,
            sign_up=sign_up,
            protocol_oldest=PROTOCOL_OLDEST,
            protocol_newest=PROTOCOL_VERSION,
        )
        if changed == told:
            return False

        def put(targets: Targets) -> None:
            self._files.put_target(targets, PROJECT, codec.to_json(changed))

        self._change_targets(put, now)
        return True

    def add_model(self, digest: Digest, size: int, facts: ModelFacts, now: Milliseconds) -> None:
        """Publish a model: the target `models/<name>/<sha256>`."""
        path = model_path(facts.name, digest)
        target = TargetFile(
            length=size,
            hashes={"sha256": show(digest)},
            path=path,
            # Canonical JSON knows no floating point numbers, so the facts travel as one text.
            unrecognized_fields={"custom": {"facts": codec.to_json(facts).decode()}},
        )

        def put(targets: Targets) -> None:
            targets.targets[path] = target

        self._change_targets(put, now)

    def retire_model(self, name: str, digest: Digest, now: Milliseconds) -> None:
        """Take a model's target away; vehicles then refuse the model."""

        def drop(targets: Targets) -> None:
            targets.targets.pop(model_path(name, digest), None)

        self._change_targets(drop, now)

    def models(self) -> tuple[ModelTarget, ...]:
        """The models that are published."""
        found = self._files.targets().targets.items()
        return tuple(_model_target(target) for path, target in sorted(found) if "/" in path)

    def project(self) -> Project:
        """What vehicles are told about this project."""
        raw = self._files.read_target(self._files.targets(), PROJECT)
        return codec.from_json(raw, Project, most=limits.PAYLOAD_BYTES)

    def terms(self) -> bytes:
        """The text that owners agree to."""
        return self._files.read_target(self._files.targets(), TERMS)

    def fingerprint(self) -> str:
        """SHA-256 of the first root: what an owner compares at `join`, in hex."""
        return hashlib.sha256(self._files.first_root()).hexdigest()

    def roles(self) -> tuple[RoleState, ...]:
        """How the four roles stand."""
        files = self._files
        signed = (files.root(), files.targets(), files.snapshot(), files.timestamp())
        return tuple(
            RoleState(role, each.version, _ms(each.expires), self._keys.has(role))
            for role, each in zip(TUF_ROLES, signed, strict=True)
        )

    def foreign_keys(self) -> tuple[str, ...]:
        """Roles whose key here is not the one that is named for it: what it signs nobody takes."""
        return tuple(role for role in ROLES if self._keys.has(role) and not self._is_named(role))

    def warnings(self, now: Milliseconds) -> tuple[str, ...]:
        """What will stop vehicles from taking work unless a key that is not here signs."""
        return tuple(
            _warning(state, now)
            for state in self.roles()
            if not self._can_sign(state.role) and state.expires_ms - now < _length(WARN_FROM)
        )

    # --- signing --------------------------------------------------------------------------------

    def _refresh_root(self, now: Milliseconds) -> None:
        root = self._files.root()
        if self._can_sign("root") and _is_due(root, "root", now):
            root.version += 1
            root.expires = _moment(now) + LIFE["root"]
            self._write("root", root)

    def _refresh_chain(self, now: Milliseconds) -> None:
        """The first that is due, and what follows from it."""
        files = self._files
        signed = (files.targets(), files.snapshot(), files.timestamp())
        for role, each in zip(TUF_ROLES[1:], signed, strict=True):
            if self._can_sign(role) and _is_due(each, role, now):
                self._sign_from(role, now)
                break

    def _sign_from(self, role: str, now: Milliseconds, above: int = 0) -> None:
        """Targets, snapshot and timestamp: who signs one must sign those that follow from it."""
        if role == "targets":
            self._publish_next(self._files.targets(), now, above)
            return
        snapshot = None
        if role == "snapshot":
            snapshot = _next(self._files.snapshot(), "snapshot", now, above)
        timestamp = _next(self._files.timestamp(), "timestamp", now, above)
        self._publish(None, snapshot, timestamp)

    def _change_targets(self, change: Callable[[Targets], None], now: Milliseconds) -> None:
        if missing := [role for role in _followers("targets") if not self._keys.has(role)]:
            raise Refused(
                f"this is signed with the keys {', '.join(_followers('targets'))}; "
                f"not here: {', '.join(missing)}"
            )
        with self._files.lock():
            targets = self._files.targets()
            change(targets)
            self._publish_next(targets, now)

    def _publish_next(self, targets: Targets, now: Milliseconds, above: int = 0) -> None:
        raw = self._files.read_target(targets, PROJECT)
        project = codec.from_json(raw, Project, most=limits.PAYLOAD_BYTES)
        self._files.put_target(targets, PROJECT, codec.to_json(_prolonged(project, now)))
        self._publish(
            _next(targets, "targets", now, above),
            _next(self._files.snapshot(), "snapshot", now, above),
            _next(self._files.timestamp(), "timestamp", now, above),
        )

    def _publish(
        self, targets: Targets | None, snapshot: Snapshot | None, timestamp: Timestamp
    ) -> None:
        if targets is not None:
            assert snapshot is not None
            snapshot.meta["targets.json"] = MetaFile(version=targets.version)
            self._write("targets", targets)
        if snapshot is not None:
            timestamp.snapshot_meta = MetaFile(version=snapshot.version)
            self._write("snapshot", snapshot)
        self._write("timestamp", timestamp)

    def _can_sign(self, role: str) -> bool:
        return all(self._keys.has(each) for each in _followers(role))

    def _is_named(self, role: str) -> bool:
        if role in TUF_ROLES:
            return self._signer(role).public_key.keyid in self._files.root().roles[role].keyids
        project = self.project()
        named = project.batch_keys if role == "batch" else project.scheduler_keys
        public = envelope.public_bytes(self._keys.load(role))
        return any(each.key == public for each in named)

    def _signer(self, role: str) -> CryptoSigner:
        return CryptoSigner(self._keys.load(role))

    def _write(self, role: str, signed: S) -> None:
        metadata = Metadata(signed)
        metadata.sign(self._signer(role))
        self._files.write(role, metadata)


def model_path(name: str, digest: Digest) -> str:
    """The target path of a model."""
    return f"models/{name}/{show(digest)}"


def role_key(key: Ed25519PrivateKey, now: Milliseconds) -> RoleKey:
    """A key that may sign from now on, as `project.json` names it."""
    not_after = Milliseconds(now + _length(ROLE_KEY_LIFE))
    return RoleKey(key=envelope.public_bytes(key), not_before=now, not_after=not_after)


def _followers(role: str) -> tuple[str, ...]:
    """`role` and the roles that must sign again when it has signed."""
    return ("root",) if role == "root" else TUF_ROLES[TUF_ROLES.index(role) :]


def _next(signed: S, role: str, now: Milliseconds, above: int) -> S:
    signed.version = max(signed.version, above) + 1
    signed.expires = _moment(now) + LIFE[role]
    return signed


def _is_due(signed: Signed, role: str, now: Milliseconds) -> bool:
    return signed.expires - _moment(now) < LIFE[role] / 3


def _prolonged(project: Project, now: Milliseconds) -> Project:
    not_after = Milliseconds(now + _length(ROLE_KEY_LIFE))

    def prolong(keys: tuple[RoleKey, ...]) -> tuple[RoleKey, ...]:
        return tuple(
            msgspec.structs.replace(key, not_after=max(key.not_after, not_after)) for key in keys
        )

    return msgspec.structs.replace(
        project,
        scheduler_keys=prolong(project.scheduler_keys),
        batch_keys=prolong(project.batch_keys),
    )


def _model_target(target: TargetFile) -> ModelTarget:
    custom = cast("dict[str, str]", target.custom)
    facts = codec.from_json(custom["facts"].encode(), ModelFacts, most=limits.PAYLOAD_BYTES)
    return ModelTarget(Digest(bytes.fromhex(target.hashes["sha256"])), target.length, facts)


def _warning(state: RoleState, now: Milliseconds) -> str:
    days = (state.expires_ms - now) // _length(timedelta(days=1))
    when = f"expires in {days} days" if days >= 0 else "has expired"
    keys = ", ".join(f"keys/{role}.pem" for role in _followers(state.role))
    return f"the {state.role} metadata {when} and is not renewed here: it needs {keys}"


def _moment(now: Milliseconds) -> datetime:
    """TUF keeps whole seconds."""
    return datetime.fromtimestamp(now // 1000, UTC)


def _ms(moment: datetime) -> Milliseconds:
    return Milliseconds(int(moment.timestamp()) * 1000)


def _length(life: timedelta) -> int:
    return int(life.total_seconds()) * 1000

"""The project's TUF repository as a vehicle sees it: pinned at `join`, verified at every step.

python-tuf decides what is trusted; here is when it is asked, against which time, and what is kept.
Beside python-tuf's own files lies one file, `held`, with the last complete set that checked out: it
is written in one piece, so that a refresh that was cut short never leaves the vehicle without a
project. What the project's keys may sign is decided in `workunits.trust.roles`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from tesla_at_home.adapters.files import write_whole
from tesla_at_home.errors import ClientError, NotThere, TeslaAtHomeError, Unreachable, Untrusted
from tesla_at_home.ports import Cancellation, ProjectView
from workunits.errors import ContractError
from workunits.trust import digests
from workunits.values import Digest, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import Project

BASE: Final = "/metadata/"
_PROJECT: Final = "project.json"
_TERMS: Final = "terms.txt"
_MODELS: Final = "models/"
# DESIGN 4: this long after its expiry the metadata still lets new work be taken.
GRACE_MS: Final = 24 * 3_600_000
_ROOT_BYTES: Final = UpdaterConfig().root_max_length
_HELD_BYTES: Final = 16 * limits.MIB
# Against this moment nothing has expired: for reading what is held, whose age is judged apart.
_BEFORE_ALL: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MetadataSource(Protocol):
    """Where metadata files come from."""

    def pieces(self, path: str, *, cancel: Cancellation) -> Iterator[bytes]:
        """The file at `path` in pieces, without an end of its own.

        Raises `NotThere` where the server says that there is no such file, else `Unreachable`.
        """
        ...


class _Held(msgspec.Struct, frozen=True):
    """One complete set of metadata, byte for byte as it came."""

    roots: tuple[bytes, ...]  # those that follow the pinned one
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    project: bytes


@dataclass(frozen=True, slots=True)
class _Trusted:
    """What a set that checked out says."""

    project: Project
    model_bytes: dict[Digest, int]
    expires_ms: Milliseconds


class TufMetadata:
    """The port `Metadata`, with its files in `directory`."""

    def __init__(self, directory: Path, source: MetadataSource) -> None:
        self._directory = directory
        self._source = source
        self._lock = threading.Lock()
        self._trusted: _Trusted | None = None

    def held(self, trusted_now: Milliseconds) -> ProjectView:
        """See `ports.Metadata`."""
        trusted = self._what_is_trusted()
        until_ms = Milliseconds(trusted.expires_ms + GRACE_MS)
        return ProjectView(trusted.project, trusted_now < until_ms, until_ms)

    def refresh(self, trusted_now: Milliseconds, *, cancel: Cancellation) -> ProjectView:
        """See `ports.Metadata`. What the server has let expire leaves what is held in force."""
        with self._lock:
            try:
                trusted = self._fetch_all(trusted_now, cancel)
            except ExpiredMetadataError as error:
                if not self._held_path.exists():
                    raise Untrusted(f"the project's metadata: {error}") from None
            else:
                self._trusted = trusted
        return self.held(trusted_now)

    def model_size(self, digest: Digest) -> int:
        """See `ports.Metadata`."""
        size = self._what_is_trusted().model_bytes.get(digest)
        if size is None:
            raise Untrusted(f"the project does not name the model {digest.hex()[:16]}")
        return size

    def terms(self, project: Project, *, cancel: Cancellation) -> str:
        """The text that the owner is asked to agree to, as the project signed it."""
        wanted = project.terms
        path = f"{BASE}targets/{wanted.digest.hex()}.{_TERMS}"
        raw = b""
        for piece in self._source.pieces(path, cancel=cancel):
            raw += piece
            if len(raw) > wanted.size:
                raise Untrusted("the project's terms are longer than what it signed")
        if digests.plain(raw) != wanted.digest:
            raise Untrusted("the project's terms are not what it signed")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Untrusted("the project's terms are not readable text") from None

    @property
    def _held_path(self) -> Path:
        return self._directory / "held"

    def _what_is_trusted(self) -> _Trusted:
        found = self._trusted
        if found is None:
            with _refusing("the metadata on disk"):
                found = self._trusted = _verify(self._pinned(), self._read_held())
        return found

    def _fetch_all(self, now: Milliseconds, cancel: Cancellation) -> _Trusted:
        with _refusing("the project's metadata"):
            at = self._reference(now)
            updater = _Updater(self._directory, self._pinned(), self._source, cancel, at)
            updater.refresh()
            held = self._gather(updater.project())
            trusted = _verify(self._pinned(), held)
            raw = msgspec.msgpack.encode(held)
            if len(raw) > _HELD_BYTES:
                raise Untrusted(
                    f"the project's metadata have {len(raw)} bytes, at most {_HELD_BYTES}"
                )
            write_whole(self._held_path, raw)
            return trusted

    def _reference(self, now: Milliseconds) -> Milliseconds:
        """The moment against which new metadata must not have expired (PROTOCOL 9.4).

        What outlives the set that is held is news, whatever `now` is: a time that a stolen scheduler
        key drove ahead must not keep out the metadata that withdraw the key. Whether what is held is
        fresh is judged apart, by `held`.
        """
        try:
            return min(now, self._what_is_trusted().expires_ms)
        except Untrusted:
            return now

    def _gather(self, project: bytes) -> _Held:
        history = self._directory / "root_history"
        newest = (self._directory / "root.json").resolve()
        first = _version(self._pinned())
        last = int(newest.name.partition(".")[0])
        roots = [(history / f"{n}.root.json").read_bytes() for n in range(first + 1, last + 1)]
        names = ("timestamp", "snapshot", "targets")
        timestamp, snapshot, targets = (
            (self._directory / f"{name}.json").read_bytes() for name in names
        )
        return _Held(tuple(roots), timestamp, snapshot, targets, project)

    def _read_held(self) -> _Held:
        try:
            raw = self._held_path.read_bytes()
        except FileNotFoundError:
            raise Untrusted("no metadata of the project is held here yet") from None
        return codec.unpack(raw, _Held, most=_HELD_BYTES)

    def _pinned(self) -> bytes:
        """What the owner trusted at `join`; never replaced by what a server says now."""
        for path in _pin_paths(self._directory):
            if (root := _sound_root(path)) is not None:
                return root
        raise ClientError(
            f"{_pin_paths(self._directory)[0]}: missing or damaged, and its copy too; restore it, "
            "or begin in another --dir (`recover URL` there keeps your credit and your owner code)"
        )


def pin(directory: Path, root: bytes) -> None:
    """Make `root` the only source of trust; what was held of another project goes."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in ("held", "timestamp.json", "snapshot.json", "targets.json"):
        (directory / old).unlink(missing_ok=True)
    for old_root in (directory / "root_history").glob("*.root.json"):
        old_root.unlink()
    for path in _pin_paths(directory):
        write_whole(path, root)


def is_pinned(directory: Path, root: bytes) -> bool:
    """Whether `root` is what is pinned."""
    return any(_sound_root(path) == root for path in _pin_paths(directory))


def first_root(source: MetadataSource, *, cancel: Cancellation) -> bytes:
    """The root that a new vehicle pins, once its owner has compared the fingerprint."""
    raw = b""
    with _refusing("the project's first root"):
        for piece in source.pieces(f"{BASE}1.root.json", cancel=cancel):
            raw += piece
            if len(raw) > _ROOT_BYTES:
                raise Untrusted(f"the project's first root is longer than {_ROOT_BYTES} bytes")
        TrustedMetadataSet(raw, EnvelopeType.METADATA)
    return raw


class _Updater(Updater):
    """python-tuf's client, with trusted time for the clock and our limits for the network."""

    def __init__(
        self,
        directory: Path,
        pinned: bytes,
        source: MetadataSource,
        cancel: Cancellation,
        now: Milliseconds,
    ) -> None:
        super().__init__(
            str(directory),
            BASE,
            fetcher=_Fetcher(source, cancel),
            target_base_url=f"{BASE}targets/",
            bootstrap=pinned,
        )
        # Taken from the wall clock otherwise, which may be wrong (DESIGN 4: trusted_now).
        self._trusted_set.reference_time = datetime.fromtimestamp(now / 1000, UTC)

    def project(self) -> bytes:
        """The bytes of the target `project.json`, fetched unless they are here."""
        target = self.get_targetinfo(_PROJECT)
        if target is None:
            raise Untrusted(f"the project's metadata names no {_PROJECT}")
        if target.length > limits.PAYLOAD_BYTES:
            raise Untrusted(f"the project's {_PROJECT} is larger than any can be")
        path = os.path.join(self._dir, _PROJECT)
        if self.find_cached_target(target, path) is None:
            self.download_target(target, path)
        return Path(path).read_bytes()


class _Fetcher(FetcherInterface):
    def __init__(self, source: MetadataSource, cancel: Cancellation) -> None:
        self._source = source
        self._cancel = cancel

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._source.pieces(url, cancel=self._cancel)
        except NotThere as error:
            raise DownloadHTTPError(str(error), 404) from None


def _verify(pinned: bytes, held: _Held) -> _Trusted:
    """Everything but age: signatures, versions and digests, from the pinned root down."""
    trusted = TrustedMetadataSet(pinned, EnvelopeType.METADATA)
    trusted.reference_time = _BEFORE_ALL
    for root in held.roots:
        trusted.update_root(root)
    trusted.update_timestamp(held.timestamp)
    trusted.update_snapshot(held.snapshot)
    targets = trusted.update_targets(held.targets).targets
    if _PROJECT not in targets:
        raise Untrusted(f"the project's metadata names no {_PROJECT}")
    targets[_PROJECT].verify_length_and_hashes(held.project)
    project = codec.from_json(held.project, Project, most=limits.PAYLOAD_BYTES)
    expires = min(role.expires for role in trusted)
    return _Trusted(project, _models(targets), Milliseconds(int(expires.timestamp() * 1000)))


def _models(targets: dict[str, TargetFile]) -> dict[Digest, int]:
    found = {}
    for path, target in targets.items():
        named = path.rpartition("/")[2]
        if path.startswith(_MODELS) and target.hashes.get("sha256") == named:
            found[Digest(bytes.fromhex(named))] = target.length
    return found


def _version(root: bytes) -> int:
    return TrustedMetadataSet(root, EnvelopeType.METADATA).root.version


def _pin_paths(directory: Path) -> tuple[Path, Path]:
    """Twice, because nobody but the owner could say again what was trusted."""
    return directory / "pinned.json", directory / "pinned.copy.json"


def _sound_root(path: Path) -> bytes | None:
    """A root that is signed as it says itself: what a disk has damaged is not."""
    try:
        root = path.read_bytes()
        TrustedMetadataSet(root, EnvelopeType.METADATA)
    except (OSError, RepositoryError, ValueError):
        return None
    return root


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Whatever a stranger's metadata sets off in a parser is a refusal, never a crash."""
    try:
        yield
    except (TeslaAtHomeError, ExpiredMetadataError):
        raise
    except DownloadError as error:
        raise Unreachable(f"{what}: {error}") from None
    except OSError as error:
        raise Unreachable(f"{what} cannot be kept: {error.strerror}") from None
    except ContractError as error:
        raise Untrusted(f"{what}: {error}") from None
    except Exception as error:
        raise Untrusted(f"{what} does not check out: {error}") from None

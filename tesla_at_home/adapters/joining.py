"""Becoming part of a project: the fingerprint, the terms, and an enrolment that survives a lost reply.

Save, then speak: the request is on disk before it is sent, and sent again byte for byte until an
answer that counts has come. What the owner is asked, and how, stands in the commands.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tesla_at_home.adapters import enrolment, metadata
from tesla_at_home.adapters.files import write_whole
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.adapters.store import Store
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.errors import ClientError, NotJoined, NotThere, Told
from tesla_at_home.ports import Cancellation, Clock, ConsentRecord, KeyStore, Membership, Randomness
from workunits.trust import digests, roles
from workunits.values import Milliseconds, SessionId
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Consent,
    Enrolled,
    Envelope,
    Project,
)

METADATA: Final = "metadata"
# What an owner agrees to by joining; further scopes are asked for one by one.
SCOPES: Final = ("compute",)
_CODE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Approach:
    """A project that was asked for its first root; nothing of it is trusted yet."""

    transport: HttpTransport
    root: bytes

    @property
    def fingerprint(self) -> str:
        """What the owner compares with what the project publishes elsewhere."""
        return hashlib.sha256(self.root).hexdigest()


@dataclass(frozen=True, slots=True)
class Entrance:
    """A project whose root the owner trusts: its signed words can be read."""

    transport: HttpTransport
    metadata: TufMetadata
    project: Project
    terms: str


@dataclass(frozen=True, slots=True)
class Application:
    """What an owner asks for at the entrance."""

    owner: enrolment.Owner
    vehicle_name: str | None
    invite: str | None
    consented_ms: Milliseconds


@dataclass(frozen=True, slots=True)
class Joined:
    membership: Membership
    owner: enrolment.Owner


def approach(url: str) -> Approach:
    """Fetch the first root of the project at `url`."""
    transport = enrolment.connect(url)
    try:
        return Approach(transport, metadata.first_root(transport, cancel=Cancellation()))
    except NotThere:
        raise ClientError(f"{url}: a server answers, but it is no Tesla@home project") from None


def enter(found: Approach, directory: Path, now: Milliseconds) -> Entrance:
    """Pin the root and read what it vouches for: the project and its terms."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    metadata.pin(directory / METADATA, found.root)
    client = TufMetadata(directory / METADATA, found.transport)
    project = client.refresh(now, cancel=Cancellation()).project
    terms = client.terms(project, cancel=Cancellation())
    return Entrance(found.transport, client, project, terms)


def is_pending(directory: Path, found: Approach) -> bool:
    """Whether an enrolment at this very project was sent and had no answer yet."""
    kept = enrolment.saved(directory)
    if kept is None or kept.pending is None or kept.url != found.transport.base_url:
        return False
    return metadata.is_pinned(directory / METADATA, found.root)


def has_consent(directory: Path) -> bool:
    """Whether the owner agreed, and has not ended it since."""
    with Store.open(directory, is_writer=False) as store:
        record = store.consent()
    return record is not None and record.withdrawn_ms is None


def membership(directory: Path) -> Membership | None:
    """The project that this directory belongs to."""
    try:
        return expect_membership(directory)
    except NotJoined:
        return None


def expect_membership(directory: Path) -> Membership:
    """The project that this directory belongs to. Raises `NotJoined`."""
    with Store.open(directory, is_writer=False) as store:
        return store.membership()


def enrol(
    entrance: Entrance,
    directory: Path,
    application: Application,
    clock: Clock,
    randomness: Randomness,
) -> Joined:
    """Enrol this directory's key; a saved request that had no answer is sent again instead.

    Raises:
        Unreachable: no answer; the same command goes on where it stopped.
        Told: refused; nothing of it is kept.
    """
    keys = FileKeys.open_or_create(directory)
    kept = enrolment.saved(directory)
    if kept is None or kept.pending is None or kept.url != entrance.transport.base_url:
        kept = _prepare(entrance, application, keys, randomness)
        write_whole(directory / enrolment.FILE_NAME, codec.pack(kept))
    assert kept.pending is not None
    sealed = codec.unpack(kept.pending, Envelope, most=limits.PAYLOAD_BYTES)
    try:
        enrolled = enrolment.send(
            sealed, entrance.transport, entrance.project, clock.now_ms(), Cancellation()
        )
    except Told as told:
        if told.status < 500 and told.status != 429:
            (directory / enrolment.FILE_NAME).unlink(missing_ok=True)
        raise
    return _write_down(kept, sealed, enrolled, directory, clock)


def new_owner_code(randomness: Randomness) -> str:
    """128 random bits in eight groups, for the owner to write down."""
    return _grouped(randomness.token(_CODE_BYTES).hex())


def read_owner_code(text: str) -> str:
    """An owner code as it was typed or pasted, in the one form that counts.

    Raises:
        ClientError: nothing that could be one.
    """
    digits = "".join(text.split()).replace("-", "").lower()
    if len(digits) == 2 * _CODE_BYTES and not digits.strip("0123456789abcdef"):
        return _grouped(digits)
    raise ClientError(
        "this is no owner code: it has eight groups of four characters, 0 to 9 and a to f"
    )


def consent_to(project: Project, now: Milliseconds) -> Consent:
    """The record of agreeing to the project's terms as they are."""
    return Consent(terms=project.terms.digest, version=project.terms.version, at=now, scopes=SCOPES)


def _prepare(
    entrance: Entrance, application: Application, keys: KeyStore, randomness: Randomness
) -> enrolment.Saved:
    name = application.vehicle_name or f"vehicle-{digests.of_key(keys.public).hex()[:6]}"
    kept = enrolment.Saved(
        url=entrance.transport.base_url,
        owner=application.owner,
        vehicle_name=name,
        consent=consent_to(entrance.project, application.consented_ms),
        invite=application.invite,
        pending=None,
    )
    session = SessionId(randomness.token(16))
    sealed = enrolment.seal(keys, session, application.owner, kept)
    return msgspec.structs.replace(kept, pending=codec.pack(sealed))


def _write_down(
    kept: enrolment.Saved, sealed: Envelope, enrolled: Enrolled, directory: Path, clock: Clock
) -> Joined:
    asked = roles.accept_enrolment(sealed)
    member = Membership(
        url=kept.url,
        vehicle=enrolled.vehicle,
        vehicle_name=kept.vehicle_name,
        owner=enrolled.owner,
        owner_name=enrolled.owner_name,
        session=asked.session,
        epoch=enrolled.epoch,
    )
    with Store.create(directory) as store:
        store.join(member, ConsentRecord(kept.consent), clock.now_ms())
    answered = msgspec.structs.replace(kept, pending=None)
    write_whole(directory / enrolment.FILE_NAME, codec.pack(answered))
    return Joined(member, kept.owner)


def _grouped(digits: str) -> str:
    return "-".join(digits[n : n + 4] for n in range(0, len(digits), 4))

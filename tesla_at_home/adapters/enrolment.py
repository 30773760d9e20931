"""The enrolment request: what is kept of it, how it is signed and sent, and how it is made again.

The owner's code is kept with it, readable by the owner alone, because a project whose database was
restored from before this vehicle joined must be told it once more. Whom to ask what is `joining`'s.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.errors import ClientError, Told, Untrusted
from tesla_at_home.ports import Cancellation, KeyStore
from workunits.errors import ContractError
from workunits.trust import digests, envelope, roles
from workunits.values import Digest, Milliseconds, SessionId
from workunits.wire import codec, limits
from workunits.wire.messages import (
    PROTOCOL_VERSION,
    Consent,
    Enrolled,
    Enrolment,
    Envelope,
    ExistingOwner,
    NewOwner,
    Project,
    RecoveringOwner,
)

FILE_NAME: Final = "enrolment"
ENROL: Final = "/v1/enrol"
_SAVED_BYTES: Final = limits.MIB
# The owner's code is not known (any more): the project's database is from before this owner.
_NO_SUCH_OWNER: Final = (403, 404)

Owner = NewOwner | ExistingOwner | RecoveringOwner


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`DIR/enrolment`: what is needed to send the enrolment again, or to enrol this key anew."""

    url: str
    owner: Owner
    vehicle_name: str
    consent: Consent
    invite: str | None
    pending: bytes | None  # the packed envelope, until an answer to it has come


def client_version() -> str:
    """Name and version of this program, as it tells the project."""
    try:
        return f"tesla-at-home/{version('tesla-at-home')}"
    except PackageNotFoundError:
        return "tesla-at-home/0"


def connect(url: str) -> HttpTransport:
    """The way to the project at `url`."""
    return HttpTransport(url, user_agent=client_version())


def saved(directory: Path) -> Saved | None:
    """The enrolment that this directory remembers, answered or not."""
    try:
        raw = (directory / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return codec.unpack(raw, Saved, most=_SAVED_BYTES)
    except ContractError as error:
        raise ClientError(
            f"{directory / FILE_NAME}: damaged ({error}); remove it and join again"
        ) from None


def seal(keys: KeyStore, session: SessionId, owner: Owner, kept: Saved) -> Envelope:
    """The request, signed. Raises `ClientError` where a name or an invitation has not its form."""
    enrolment = Enrolment(
        protocol=PROTOCOL_VERSION,
        key=keys.public,
        session=session,
        vehicle_name=kept.vehicle_name,
        owner=owner,
        consent=kept.consent,
        client=client_version(),
        invite=kept.invite,
    )
    sealed = keys.seal(enrolment, roles.ENROLMENT)
    try:
        roles.accept_enrolment(sealed)
    except ContractError as error:
        raise ClientError(f"the project would not take this: {error}") from None
    return sealed


def send(
    sealed: Envelope,
    transport: HttpTransport,
    project: Project,
    now: Milliseconds,
    cancel: Cancellation,
) -> Enrolled:
    """Send the request and check the answer. Raises `Unreachable`, `Told`, `Untrusted`."""
    raw = transport.post(ENROL, envelope.pack_message(sealed), cancel=cancel)
    try:
        answer = envelope.unpack_message(raw).envelope
        return roles.accept_enrolled(answer, project, request_digest(sealed), now)
    except ContractError as error:
        raise Untrusted(f"the project's answer does not check out: {error}") from None


def request_digest(sealed: Envelope) -> Digest:
    """What an answer to this request says it answers."""
    return digests.of_request(sealed.payload)


class Enrolling:
    """The port `Enroller`: the same key and owner once more, for a project that forgot them."""

    def __init__(
        self, directory: Path, transport: HttpTransport, keys: KeyStore, client: TufMetadata
    ) -> None:
        self._directory = directory
        self._transport = transport
        self._keys = keys
        self._metadata = client

    def again(
        self, session: SessionId, trusted_now: Milliseconds, *, cancel: Cancellation
    ) -> Enrolled:
        """See `ports.Enroller`."""
        kept = saved(self._directory)
        if kept is None:
            raise Untrusted(
                "the project does not know this vehicle, and its owner is not on record"
            )
        code = kept.owner.code
        try:
            return self._ask(kept, ExistingOwner(code=code), session, trusted_now, cancel)
        except Told as told:
            if told.status not in _NO_SUCH_OWNER:
                raise
        new = kept.owner if isinstance(kept.owner, NewOwner) else NewOwner(code=code)
        return self._ask(kept, new, session, trusted_now, cancel)

    def _ask(
        self,
        kept: Saved,
        owner: Owner,
        session: SessionId,
        now: Milliseconds,
        cancel: Cancellation,
    ) -> Enrolled:
        project = self._metadata.held(now).project
        sealed = seal(self._keys, session, owner, kept)
        return send(sealed, self._transport, project, now, cancel)

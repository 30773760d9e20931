"""Who may sign what, and what a side may believe after checking (PROTOCOL 5 to 9).

Each `accept_...` turns bytes into a trusted object or raises a `ContractError`. A vehicle's messages
are signed by the key that stands inside them; the project's by the keys that the TUF target
`project.json` names for the role, within their validity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from workunits.errors import BadDigest, BadProof, LimitExceeded, NotAuthorised, WrongPayloadType
from workunits.trust import digests, envelope, merkle
from workunits.values import Digest, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Departed,
    Departure,
    Enrolled,
    Enrolment,
    Envelope,
    Lease,
    Manifest,
    Project,
    Reply,
    Resync,
    RoleKey,
    Unit,
    UnknownVehicle,
    UpgradeRequired,
    WorkRequest,
)

_FORM: Final = "application/vnd.tesla-at-home.{}.v1+msgpack"
MANIFEST: Final = _FORM.format("manifest")
ENROLMENT: Final = _FORM.format("enrolment")
ENROLLED: Final = _FORM.format("enrolled")
DEPARTURE: Final = _FORM.format("departure")
DEPARTED: Final = _FORM.format("departed")
WORK_REQUEST: Final = _FORM.format("work-request")
REPLY: Final = _FORM.format("reply")
RESYNC: Final = _FORM.format("resync")
UPGRADE_REQUIRED: Final = _FORM.format("upgrade-required")
UNKNOWN_VEHICLE: Final = _FORM.format("unknown-vehicle")

# What an Ed25519 scheduler key may answer to a work request, by payload type.
_ANSWERS: Final[dict[str, type[Reply | Resync | UpgradeRequired | UnknownVehicle]]] = {
    REPLY: Reply,
    RESYNC: Resync,
    UPGRADE_REQUIRED: UpgradeRequired,
    UNKNOWN_VEHICLE: UnknownVehicle,
}

Answer = Reply | Resync | UpgradeRequired | UnknownVehicle


class _CarriesKey(Protocol):
    @property
    def key(self) -> bytes: ...


class _AnswersRequest(Protocol):
    @property
    def in_reply_to(self) -> Digest: ...


S = TypeVar("S", bound=_CarriesKey)
A = TypeVar("A", bound=_AnswersRequest)


def valid_keys(keys: Iterable[RoleKey], now: Milliseconds) -> list[bytes]:
    """The public keys that may sign at `now`.

    Raises:
        NotAuthorised: none is valid.
    """
    found = [role.key for role in keys if role.not_before <= now < role.not_after]
    if not found:
        raise NotAuthorised("the project names no key for this role that is valid now")
    return found


def accept_request(sealed: Envelope) -> WorkRequest:
    """A work request signed by the key inside it."""
    return _self_signed(sealed, WORK_REQUEST, WorkRequest)


def accept_enrolment(sealed: Envelope) -> Enrolment:
    """An enrolment signed by the key that it enrols."""
    return _self_signed(sealed, ENROLMENT, Enrolment)


def accept_departure(sealed: Envelope) -> Departure:
    """A departure signed by the vehicle that leaves."""
    return _self_signed(sealed, DEPARTURE, Departure)


def accept_answer(sealed: Envelope, project: Project, request: Digest, now: Milliseconds) -> Answer:
    """The scheduler's answer to the request with digest `request`, whichever of the four it is."""
    kind = _ANSWERS.get(sealed.payload_type)
    if kind is None:
        raise WrongPayloadType(f"{sealed.payload_type!r:.80} is no answer to a work request")
    return _signed_answer(sealed, sealed.payload_type, kind, project, request, now)


def accept_enrolled(
    sealed: Envelope, project: Project, request: Digest, now: Milliseconds
) -> Enrolled:
    """The scheduler's confirmation of the enrolment with digest `request`."""
    return _signed_answer(sealed, ENROLLED, Enrolled, project, request, now)


def accept_departed(
    sealed: Envelope, project: Project, request: Digest, now: Milliseconds
) -> Departed:
    """The scheduler's confirmation of the departure with digest `request`."""
    return _signed_answer(sealed, DEPARTED, Departed, project, request, now)


def accept_manifest(raw: bytes, digest: Digest, project: Project, now: Milliseconds) -> Manifest:
    """The manifest in its packed envelope `raw`, which a lease named by `digest`."""
    digests.expect(digests.of_manifest(raw), digest, "manifest")
    sealed = codec.unpack(raw, Envelope, most=limits.PAYLOAD_BYTES)
    keys = valid_keys(project.batch_keys, now)
    manifest = envelope.open_with(sealed, MANIFEST, Manifest, keys)
    if not manifest.not_before <= now < manifest.not_after:
        raise NotAuthorised("the batch's manifest is not valid now")
    return manifest


def accept_unit(lease: Lease, manifest: Manifest) -> Unit:
    """The unit of a lease, proved into its manifest."""
    unit = codec.unpack(lease.unit, Unit, most=4096)
    if unit.batch != manifest.batch:
        raise BadProof("the unit belongs to another batch than its manifest")
    merkle.verify(lease.unit, unit.index, manifest.units, lease.proof, manifest.root)
    if unit.first_row + unit.rows > manifest.rows:
        raise BadProof("the unit has rows that its batch does not have")
    scopes = [part.scope for part in unit.inputs]
    wanted = {spec.scope for spec in manifest.program.inputs}
    if len(scopes) != len(set(scopes)) or set(scopes) != wanted:
        raise BadProof("the unit's input parts are not those of its program")
    return unit


def check_model(model: bytes, manifest: Manifest) -> None:
    """Raise unless these are the model bytes that the manifest and its TUF target speak of."""
    if len(model) != manifest.model_bytes:
        raise LimitExceeded(f"model: {len(model)} bytes, signed were {manifest.model_bytes}")
    digests.expect(digests.plain(model), manifest.program.model, "model")


def _self_signed(sealed: Envelope, payload_type: str, kind: type[S]) -> S:
    envelope.expect_type(sealed, payload_type)
    claimed = codec.unpack(sealed.payload, kind, most=limits.PAYLOAD_BYTES)
    envelope.check_signature(sealed, (claimed.key,))
    return claimed


def _signed_answer(
    sealed: Envelope,
    payload_type: str,
    kind: type[A],
    project: Project,
    request: Digest,
    now: Milliseconds,
) -> A:
    keys = valid_keys(project.scheduler_keys, now)
    answer = envelope.open_with(sealed, payload_type, kind, keys)
    if answer.in_reply_to != request:
        raise BadDigest("the answer belongs to another request")
    return answer

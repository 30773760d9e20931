"""Every object that travels, as a frozen struct (PROTOCOL 4 to 8).

A struct says what is well formed and no more: who may sign it stands in `trust.roles`, what it
means for a side stands on that side. A field that is unknown, missing, of another type or past its
limit is refused by the codec. Ids and digests are raw bytes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from workunits.values import (
    BatchId,
    Digest,
    KeyId,
    LeaseId,
    Milliseconds,
    Nonce,
    OwnerId,
    SessionId,
)
from workunits.wire import limits

PROTOCOL_VERSION: Final = 1
PROTOCOL_OLDEST: Final = 1

Count = Annotated[int, Meta(ge=0, le=limits.INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=limits.INTEGER)]
Moment = Annotated[Milliseconds, Meta(ge=0, le=limits.INTEGER)]
NonNegative = Annotated[float, Meta(ge=0.0, le=limits.FLOAT)]
Code = Annotated[str, Meta(pattern=r"^[a-z0-9_]+$", max_length=limits.CODE_CHARS)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS)]
TensorName = Annotated[str, Meta(min_length=1, max_length=limits.TENSOR_NAME_CHARS)]
Version = Annotated[str, Meta(min_length=1, max_length=limits.VERSION_CHARS)]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]

Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip
Scope = Literal["row", "unit"]


class _Object(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


# --- transport: what is signed, and what rides along (PROTOCOL 4) -------------------------------


class Signature(_Object, frozen=True):
    keyid: Annotated[str, Meta(max_length=64)]  # a hint: it decides nothing
    sig: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Envelope(_Object, frozen=True):
    """DSSE: the signed bytes exactly as they travel."""

    payload_type: Annotated[str, Meta(max_length=128)]
    payload: Annotated[bytes, Meta(max_length=limits.PAYLOAD_BYTES)]
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=limits.SIGNATURES)]


class Message(_Object, frozen=True):
    """An envelope and the raw bytes its digests speak of; attachments are found by their digest."""

    envelope: Envelope
    attachments: Annotated[
        tuple[Annotated[bytes, Meta(max_length=limits.ATTACHMENT_BYTES)], ...],
        Meta(max_length=limits.ATTACHMENTS),
    ] = ()


# --- what a unit runs (PROTOCOL 6) --------------------------------------------------------------


class TensorSpec(_Object, frozen=True):
    """One input or output of a model: `shape` is that of one row (scope row) or whole (scope unit)."""

    name: TensorName
    dtype: Dtype
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=limits.INTEGER)], ...],
        Meta(max_length=limits.DIMENSIONS),
    ]
    scope: Scope = "row"


TensorSpecs = Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.TENSORS)]


class Program(_Object, frozen=True):
    """What every vehicle must do alike: the model, its steps, and how ONNX Runtime is set."""

    model: Digest  # plain SHA-256 of the model's bytes, as in its TUF target
    inputs: TensorSpecs
    outputs: TensorSpecs
    rows_per_step: Annotated[int, Meta(ge=1, le=limits.ROWS_PER_STEP)]
    optimisation: Literal["off", "basic", "extended", "all"]
    precision: Literal["fp64", "fp32", "fp16", "int8"]
    runtime_from: Version  # ONNX Runtime, inclusive
    runtime_below: Version  # exclusive
    kflop_per_row: Count


class OutputRule(_Object, frozen=True):
    """How two values of one output are compared (PROTOCOL 7).

    bitwise: equal, NaN and infinities by kind. tolerance: |a - b| <= tau * sigma for each element.
    label: like bitwise, but where the scores `of` are within 2 tau sigma either label is right.
    """

    name: TensorName
    rule: Literal["bitwise", "tolerance", "label"]
    tau: NonNegative = 0.0
    sigma: NonNegative = 0.0  # standard deviation over the calibration rows, floored
    of: TensorName | None = None  # label: the scores it is the arg-max or top-k of


OutputRules = Annotated[tuple[OutputRule, ...], Meta(min_length=1, max_length=limits.TENSORS)]


class Manifest(_Object, frozen=True):
    """A batch as its signer publishes it: one signature for all its units (PROTOCOL 6.3)."""

    batch: BatchId
    model_name: Name
    model_bytes: Annotated[int, Meta(ge=1, le=limits.MODEL_BYTES)]
    program: Program
    agreement: OutputRules
    root: Digest
    units: Positive
    rows: Positive
    not_before: Moment
    not_after: Moment


class InputPart(_Object, frozen=True):
    """One tensor payload of a unit: its rows, or what all rows share."""

    scope: Scope
    digest: Digest
    size: Annotated[int, Meta(ge=1, le=limits.TENSOR_PAYLOAD_BYTES)]


class Calibration(_Object, frozen=True):
    """What the calibration rows said: the rules by which results of this model are compared."""

    rows: Positive
    rules: OutputRules


class ModelFacts(_Object, frozen=True):
    """What vetting found out about a model; stands in its TUF target's `custom` as JSON text."""

    name: Name
    opset: Positive
    inputs: TensorSpecs
    outputs: TensorSpecs
    kflop_per_row: Count
    batch_rows: Annotated[int, Meta(ge=1, le=limits.ROWS_PER_STEP)] | None  # fixed batch axis
    precision: Literal["fp64", "fp32", "fp16", "int8"]
    is_portable_exact: bool
    calibration: Calibration | None = None


class Unit(_Object, frozen=True):
    """The leaf: these bytes are what the manifest's root stands for."""

    batch: BatchId
    index: Count
    first_row: Count
    rows: Annotated[int, Meta(ge=1, le=limits.ROWS_PER_UNIT)]
    inputs: Annotated[tuple[InputPart, ...], Meta(min_length=1, max_length=2)]


# --- joining and leaving (PROTOCOL 5) -----------------------------------------------------------


class Consent(_Object, frozen=True):
    """Which words the owner agreed to, when, and to what."""

    terms: Digest  # plain SHA-256 of the text that was shown
    version: Version
    at: Moment
    scopes: Annotated[tuple[Code, ...], Meta(min_length=1, max_length=limits.SCOPES)]


OwnerCode = Annotated[str, Meta(min_length=16, max_length=64)]


class NewOwner(_Object, frozen=True, tag_field="as", tag="new"):
    code: OwnerCode  # made by the client and shown once; the server keeps its digest
    name: Name | None = None
    is_public: bool = False


class ExistingOwner(_Object, frozen=True, tag_field="as", tag="existing"):
    code: OwnerCode


class RecoveringOwner(_Object, frozen=True, tag_field="as", tag="recovering"):
    """A new computer for a lost one: the lost vehicle is retired."""

    code: OwnerCode
    lost: Annotated[str, Meta(max_length=limits.NAME_CHARS)] | None = None  # name or key id prefix


class Enrolment(_Object, frozen=True):
    protocol: Positive
    key: PublicKey
    session: SessionId
    vehicle_name: Name
    owner: NewOwner | ExistingOwner | RecoveringOwner
    consent: Consent
    client: Version
    invite: Annotated[str, Meta(max_length=64)] | None = None


class Enrolled(_Object, frozen=True):
    in_reply_to: Digest
    server_time: Moment
    vehicle: KeyId
    owner: OwnerId
    owner_name: Name
    epoch: Positive


class Departure(_Object, frozen=True):
    """The owner leaves with this vehicle; `erase` also removes the owner and all their vehicles."""

    key: PublicKey
    erase: bool
    nonce: Nonce


class Departed(_Object, frozen=True):
    in_reply_to: Digest
    server_time: Moment
    erased: bool


# --- work (PROTOCOL 8) --------------------------------------------------------------------------


class Runtime(_Object, frozen=True):
    """What computed: claimed by the vehicle, good for statistics, never for trust."""

    onnxruntime: Version
    provider: Annotated[str, Meta(max_length=64)]
    machine: Annotated[str, Meta(max_length=64)]


class Report(_Object, frozen=True):
    """What a vehicle says about one lease."""

    lease: LeaseId
    outcome: Literal["done", "failed", "returned"]
    output: Digest | None = None  # done: an attachment, or an upload that is complete
    output_size: Annotated[int, Meta(ge=0, le=limits.TENSOR_PAYLOAD_BYTES)] = 0
    code: Code | None = None  # failed, returned: why
    detail: Text | None = None
    runtime: Runtime | None = None
    compute_ms: Count = 0


class Wish(_Object, frozen=True):
    """What the vehicle could do until its owner needs it."""

    seconds: Count  # eligible time it expects to have
    units: Annotated[int, Meta(ge=0, le=limits.LEASES_PER_REPLY)]
    free_disk: Count  # bytes
    models: Annotated[tuple[Digest, ...], Meta(max_length=limits.CACHED)] = ()
    manifests: Annotated[tuple[Digest, ...], Meta(max_length=limits.CACHED)] = ()
    runtime: Runtime | None = None


class WorkRequest(_Object, frozen=True):
    protocol: Positive
    key: PublicKey
    epoch: Positive
    session: SessionId
    seq: Positive
    previous: Digest  # of the request before; 32 zero bytes in the first of a session
    client: Version
    nonce: Nonce | None = None  # answers a resync
    holding: Annotated[tuple[LeaseId, ...], Meta(max_length=limits.HOLDING)] = ()
    reports: Annotated[tuple[Report, ...], Meta(max_length=limits.REPORTS_PER_REQUEST)] = ()
    wish: Wish | None = None


class Receipt(_Object, frozen=True):
    """The server's answer to one report; with any of them the vehicle may forget the result.

    taken: kept. not_needed: the unit was settled, cancelled or too late. refused: faulty, with the
    code and a line for the owner. again: the payload is missing here, send it and report again.
    """

    lease: LeaseId
    outcome: Literal["taken", "not_needed", "refused", "again"]
    code: Code | None = None
    detail: Text | None = None


class Verdict(_Object, frozen=True):
    """What validation said about a result that was taken."""

    lease: LeaseId
    verdict: Literal["valid", "invalid", "inconclusive"]
    kflop: Count = 0


class Lease(_Object, frozen=True):
    """The right to compute one replica for `duration_s` from the reply's server time."""

    lease: LeaseId
    manifest: Digest  # of the packed manifest envelope, which is an attachment or a blob
    unit: Annotated[bytes, Meta(max_length=4096)]  # the leaf's own bytes
    proof: Annotated[tuple[Digest, ...], Meta(max_length=limits.PROOF_HASHES)]
    duration_s: Annotated[int, Meta(ge=1, le=limits.LEASE_SECONDS)]
    ticket: Annotated[bytes, Meta(min_length=16, max_length=32)]  # opens the upload of its output


class Abort(_Object, frozen=True):
    lease: LeaseId
    code: Code


class Reply(_Object, frozen=True):
    """The signed whole answer to one work request."""

    in_reply_to: Digest
    server_time: Moment
    epoch: Positive
    wait_s: Annotated[int, Meta(ge=0, le=limits.WAIT_SECONDS)]
    has_work: bool  # false: nothing for this vehicle now, which is no error
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=limits.REPORTS_PER_REQUEST)] = ()
    verdicts: Annotated[tuple[Verdict, ...], Meta(max_length=limits.VERDICTS_PER_REPLY)] = ()
    leases: Annotated[
        tuple[Lease, ...], Meta(max_length=limits.LEASES_PER_REPLY + limits.HOLDING)
    ] = ()
    aborts: Annotated[tuple[Abort, ...], Meta(max_length=limits.HOLDING)] = ()
    notice: Text | None = None  # a line for the owner: quarantined, paused by the project


class Resync(_Object, frozen=True):
    """Sequence, session or epoch do not fit: start a new session with `nonce` (PROTOCOL 8.5)."""

    in_reply_to: Digest
    server_time: Moment
    nonce: Nonce
    epoch: Positive
    last_seq: Count
    last: Digest


class UpgradeRequired(_Object, frozen=True):
    in_reply_to: Digest
    server_time: Moment
    oldest: Positive
    newest: Positive


class UnknownVehicle(_Object, frozen=True):
    """Signed, so that a vehicle enrols again with its key and keeps its work."""

    in_reply_to: Digest
    server_time: Moment


# --- the project (PROTOCOL 5.1) -------------------------------------------------------------------


class RoleKey(_Object, frozen=True):
    """A public key and the time in which it may sign."""

    key: PublicKey
    not_before: Moment
    not_after: Moment


RoleKeys = Annotated[tuple[RoleKey, ...], Meta(min_length=1, max_length=limits.KEYS_PER_ROLE)]


class Terms(_Object, frozen=True):
    digest: Digest  # plain SHA-256 of the UTF-8 text
    size: Annotated[int, Meta(ge=1, le=limits.TERMS_BYTES)]
    version: Version


class Project(_Object, frozen=True):
    """The TUF target `project.json`: who may sign what for this project."""

    name: Name
    scheduler_keys: RoleKeys
    batch_keys: RoleKeys
    terms: Terms
    protocol_oldest: Positive
    protocol_newest: Positive
    sign_up: Literal["open", "invite"]

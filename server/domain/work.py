"""What is read and written while work is given out, taken in and judged, as frozen values.

The rows that pages and commands show are in `server.domain.records`. A write that names an old
state is refused by the database when the row has left it.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.domain.brake import Brake
from workunits.values import BatchId, Digest, KeyId, LeaseId, Milliseconds, OwnerId, SessionId


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """A replica that nobody has taken, with what its lease must say about the unit."""

    id: int
    unit_id: int
    batch_id: BatchId
    idx: int
    rows: int
    body: bytes


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A replica that was leased, with its unit."""

    id: int
    unit_id: int
    batch_id: BatchId
    state: str
    owner_id: OwnerId | None
    vehicle_id: KeyId
    lease_id: LeaseId
    leased_ms: Milliseconds
    deadline_ms: Milliseconds
    code: str | None
    detail: str | None
    unit_state: str
    idx: int
    rows: int
    body: bytes
    is_repeat: bool = False  # not counted among the unit's replicas and errors


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """ready -> leased."""

    id: int
    owner_id: OwnerId
    vehicle_id: KeyId
    lease_id: LeaseId
    leased_ms: Milliseconds
    deadline_ms: Milliseconds


@dataclass(frozen=True, slots=True)
class ReportTaken:
    """leased or lost -> reported or set_aside; the owner's voice is claimed (again)."""

    id: int
    old: str
    owner_id: OwnerId
    output: Digest
    output_size: int
    runtime: str | None
    compute_ms: int
    ended_ms: Milliseconds
    new: str = "reported"


@dataclass(frozen=True, slots=True)
class ReplicaEnd:
    """A lease that ends without a result; `frees_owner`: the owner may try the unit again."""

    id: int
    old: str
    new: str
    code: str | None
    detail: str | None
    ended_ms: Milliseconds
    frees_owner: bool
    is_repeat: bool = (
        False  # from now on it counts neither among the unit's replicas nor its errors
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """How many replicas of a unit are in each state that still counts."""

    ready: int = 0
    leased: int = 0
    reported: int = 0
    inconclusive: int = 0


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """What decides about one more replica."""

    id: int
    batch_id: BatchId
    state: str
    rows: int
    replicas: int  # ever made, without returned ones and an owner's repeated lapses
    errors: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class UnitChange:
    """A unit's new state; the counts are added, what is None stays."""

    id: int
    old: str
    new: str
    replicas: int = 0
    errors: int = 0
    failure: str | None = None
    canonical_id: int | None = None
    output: Digest | None = None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A result that waits for its verdict."""

    id: int
    state: str  # reported, inconclusive, set_aside
    owner_id: OwnerId
    vehicle_id: KeyId
    output: Digest
    output_size: int


@dataclass(frozen=True, slots=True)
class UnitToCheck:
    id: int
    batch_id: BatchId
    idx: int
    rows: int
    state: str
    replicas: int
    errors: int
    output: Digest | None  # canonical, when the unit is done
    results: tuple[ResultRow, ...]


@dataclass(frozen=True, slots=True)
class VerdictGiven:
    """What is said of a waiting result: valid, invalid, inconclusive, not_needed, set_aside or, when
    its vehicle was released, reported again."""

    id: int
    vehicle_id: KeyId
    old: str
    new: str
    residual: str | None
    kflop: int
    is_final: bool  # final ones are told to the vehicle
    code: str | None = None  # why there is none on the result itself


@dataclass(frozen=True, slots=True)
class UntoldVerdict:
    id: int
    vehicle_id: KeyId
    lease_id: LeaseId
    state: str
    kflop: int


@dataclass(frozen=True, slots=True)
class Crediting:
    replica_id: int
    owner_id: OwnerId
    vehicle_id: KeyId
    kflop: int
    at_ms: Milliseconds
    reason: str


@dataclass(frozen=True, slots=True)
class SessionStep:
    """One processed request: the session moves on and keeps the reply it may have to repeat."""

    vehicle_id: KeyId
    old_session: SessionId
    old_seq: int
    session: SessionId
    seq: int
    digest: Digest
    reply: bytes
    client: str
    seen_ms: Milliseconds
    returns: int
    returns_since_ms: Milliseconds
    brake: Brake


@dataclass(frozen=True, slots=True)
class DepartureRow:
    request: Digest
    reply: bytes
    at_ms: Milliseconds

"""The rows of the database as frozen values: what services, storage and pages hand each other.

Nothing is decided here. Ids and digests are raw bytes, times milliseconds since the epoch, credit
whole kFLOP. The states are those of `server.domain.lifecycle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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

_NEVER: Final = Milliseconds(0)


@dataclass(frozen=True, slots=True)
class ProjectSecrets:
    """What only this server knows, made once by `init`; `restore` raises the epoch."""

    epoch: int
    ticket_key: bytes  # opens uploads, hides network prefixes and keys that have left
    tie_key: bytes  # orders results that are equally good, so that no vehicle can aim for it


@dataclass(frozen=True, slots=True)
class OwnerRow:
    id: OwnerId
    name: str
    is_public: bool
    code_digest: Digest | None
    state: str  # active, erased
    created_ms: Milliseconds
    credit_kflop: int = 0
    month_kflop: int = 0


@dataclass(frozen=True, slots=True)
class VehicleRow:
    id: KeyId
    owner_id: OwnerId
    public_key: bytes
    name: str
    state: str  # active, quarantined, retired
    state_reason: str | None
    client: str
    created_ms: Milliseconds
    seen_ms: Milliseconds
    session: SessionId
    seq: int
    last_digest: Digest
    last_reply: bytes | None
    nonce: Nonce | None
    valid: int = 0
    invalid: int = 0
    credit_kflop: int = 0
    returns: int = 0  # leases handed back within an hour from `returns_since_ms` on
    returns_since_ms: Milliseconds = _NEVER
    halvings: int = 0  # the brake's; see `server.domain.brake`
    lost_in_row: int = 0
    paused_until_ms: Milliseconds = _NEVER


@dataclass(frozen=True, slots=True)
class ConsentRow:
    vehicle_id: KeyId
    terms: Digest
    version: str
    at_ms: Milliseconds
    scopes: str  # space separated
    recorded_ms: Milliseconds
    request: Digest  # of the enrolment that brought it


@dataclass(frozen=True, slots=True)
class ModelRow:
    name: str
    digest: Digest
    size: int
    facts: bytes  # ModelFacts as JSON text
    state: str  # active, retired
    added_ms: Milliseconds


@dataclass(frozen=True, slots=True)
class BatchRow:
    id: BatchId
    model_name: str
    kind: str
    options: bytes  # JSON text
    state: str
    quorum: int
    assurance: str
    units: int
    rows: int
    kflop_per_row: int
    lease_s: int
    created_ms: Milliseconds
    deadline_ms: Milliseconds
    manifest: Digest
    tree: str  # name of the blob with the levels of the Merkle tree
    units_done: int = 0
    units_failed: int = 0
    rows_failed: int = 0
    ended_ms: Milliseconds | None = None


@dataclass(frozen=True, slots=True)
class BatchProgress:
    batch: BatchRow
    ready: int  # replicas nobody has taken yet
    leased: int
    active_owners: int  # with an active vehicle, counted up to the quorum

    @property
    def waits_for_owner(self) -> bool:
        """Work is ready, nobody computes it, and there are fewer owners than the quorum wants."""
        return self.ready > 0 and self.leased == 0 and self.active_owners < self.batch.quorum


@dataclass(frozen=True, slots=True)
class NewUnit:
    """One unit as publishing makes it; `body` is the leaf's bytes (a packed `messages.Unit`)."""

    idx: int
    first_row: int
    rows: int
    body: bytes


@dataclass(frozen=True, slots=True)
class UnitRow:
    id: int
    batch_id: BatchId
    idx: int
    first_row: int
    rows: int
    body: bytes
    state: str
    needs_check: bool
    replicas: int
    errors: int
    failure: str | None
    canonical_id: int | None
    output: Digest | None


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """One unit in the order of the batch's rows, as the assembler reads it."""

    idx: int
    first_row: int
    rows: int
    state: str  # open, done, failed, cancelled
    failure: str | None
    output: Digest | None


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    id: int
    unit_id: int
    batch_id: BatchId
    state: str
    owner_id: OwnerId | None
    vehicle_id: KeyId | None
    lease_id: LeaseId | None
    leased_ms: Milliseconds | None
    deadline_ms: Milliseconds | None
    ended_ms: Milliseconds | None
    output: Digest | None
    output_size: int | None
    code: str | None
    detail: str | None
    residual: str | None
    runtime: str | None
    compute_ms: int | None
    kflop: int | None


@dataclass(frozen=True, slots=True)
class UnitStory:
    unit: UnitRow
    replicas: tuple[ReplicaRow, ...]


@dataclass(frozen=True, slots=True)
class UploadRow:
    lease_id: LeaseId
    digest: Digest
    size: int
    is_complete: bool
    touched_ms: Milliseconds
    vehicle_id: KeyId | None = None  # whose quota it takes


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the leaderboard; `rank` counts from 1."""

    rank: int
    name: str
    credit_kflop: int


@dataclass(frozen=True, slots=True)
class ProjectTotals:
    """What `status` shows; counted from indexes, never by reading all replicas."""

    owners: int
    vehicles: int
    batches_running: int
    replicas_leased: int
    units_to_check: int
    credit_kflop: int

"""What the services need from the outside, as protocols: time, chance, keys, blobs, the database.

A port says what is promised; `server.storage` and `server.adapters` keep the promises, and the fakes
in the tests keep the same ones. Repositories work inside the transaction that handed them out.
Writes that state an old state raise `StateChanged` when the row was no longer in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from server.domain.brake import Brake
from server.domain.records import (
    BatchProgress,
    BatchRow,
    ConsentRow,
    ModelRow,
    NewUnit,
    OwnerRow,
    ProjectSecrets,
    ProjectTotals,
    Standing,
    UnitOutcome,
    UnitStory,
    UploadRow,
    VehicleRow,
)
from server.domain.work import (
    Crediting,
    DepartureRow,
    HeldRow,
    LeaseGrant,
    ReadyRow,
    ReplicaEnd,
    ReportTaken,
    ResultRow,
    SessionStep,
    UnitChange,
    UnitCounts,
    UnitToCheck,
    UntoldVerdict,
    VerdictGiven,
)
from workunits.values import BatchId, Digest, KeyId, LeaseId, Milliseconds, OwnerId, SessionId
from workunits.wire.messages import Envelope, ModelFacts, OutputRules, Program


class Clock(Protocol):
    def now_ms(self) -> Milliseconds: ...


class Randomness(Protocol):
    def token(self, size: int) -> bytes:
        """`size` bytes that nobody can guess."""
        ...


class Sealer(Protocol):
    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        """Signed with the scheduler's key."""
        ...


class Blobs(Protocol):
    """Names are hex, or `kind/hex`; nothing else is a name. Writing returns when it is on disk."""

    def put(self, name: str, raw: bytes) -> None: ...
    def put_stream(self, name: str, chunks: Iterable[bytes]) -> int:
        """The number of bytes written."""
        ...

    def put_many(self, blobs: Iterable[tuple[str, bytes]]) -> None:
        """As `put` for each, with one flush of the folders at the end."""
        ...

    def read(self, name: str) -> bytes:
        """Raises NotFound."""
        ...

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes from `start` to `end` (exclusive) of each range. Raises NotFound."""
        ...

    def view(self, name: str) -> memoryview:
        """The bytes without reading them all: mapped for as long as the view lives. Raises NotFound."""
        ...

    def size(self, name: str) -> int | None:
        """None: there is no such blob."""
        ...

    def chunks(self, name: str, start: int, end: int) -> Iterator[bytes]: ...
    def delete(self, name: str) -> None:
        """Nothing happens when it is gone already."""
        ...

    def drop_passing(self, before: Milliseconds) -> int:
        """Remove what writers left who were cut off before then; how many."""
        ...


class UploadFiles(Protocol):
    """Unfinished uploads, kept by the HTTP side."""

    def discard(self, lease: LeaseId) -> None: ...
    def kept(self) -> list[LeaseId]:
        """The leases of which there is something."""
        ...


class MetaRepository(Protocol):
    def found(self, secrets: ProjectSecrets) -> None: ...
    def secrets(self) -> ProjectSecrets:
        """Raises Outage: the database was never founded (`init`)."""
        ...

    def get(self, key: str) -> bytes | None: ...
    def put(self, key: str, value: bytes) -> None: ...


class OwnerRepository(Protocol):
    def add(self, owner: OwnerRow) -> None: ...
    def get(self, owner: OwnerId) -> OwnerRow | None: ...
    def by_code(self, code_digest: Digest) -> OwnerRow | None: ...
    def has_name(self, name: str) -> bool: ...
    def list(self, after: OwnerId | None = None, limit: int = 1000) -> list[OwnerRow]:
        """In the order of their ids."""
        ...

    def erase(self, owner: OwnerId, anonymous_name: str) -> None:
        """Name, code and vehicles' names and keys go; credit and judged results stay, nobody's."""
        ...


class VehicleRepository(Protocol):
    def add(self, vehicle: VehicleRow, consent: ConsentRow) -> None: ...
    def by_ids(self, ids: Sequence[KeyId]) -> dict[KeyId, VehicleRow]: ...
    def of_owner(self, owner: OwnerId) -> list[VehicleRow]: ...
    def list(self, after: KeyId | None = None, limit: int = 1000) -> list[VehicleRow]: ...
    def set_state(self, vehicle: KeyId, old: str, new: str, reason: str | None) -> None: ...
    def enrol_again(self, vehicle: VehicleRow, consent: ConsentRow) -> None:
        """A known key begins anew with the session in `vehicle`; its old session is retired."""
        ...

    def enrolments(self, vehicle: KeyId, request: Digest) -> tuple[bool, bool]:
        """Whether the enrolment with this digest was taken before, and whether it was the last."""
        ...

    def advance(self, steps: Sequence[SessionStep]) -> None:
        """Each vehicle's session moves on, from the session and seq that were read."""
        ...

    def brakes(self, ids: Sequence[KeyId]) -> dict[KeyId, Brake]:
        """Of those that are here."""
        ...

    def set_brakes(self, brakes: Mapping[KeyId, Brake]) -> None: ...
    def offer_nonce(self, vehicle: KeyId, nonce: bytes) -> None: ...
    def is_retired(self, vehicle: KeyId, session: SessionId) -> bool: ...
    def retire_session(self, vehicle: KeyId, session: SessionId, now: Milliseconds) -> None:
        """Only the youngest of a vehicle are kept."""
        ...

    def sign_of_clone(
        self, vehicle: KeyId, request: Digest, now: Milliseconds, since: Milliseconds
    ) -> int:
        """Notes one for each request, and returns how many there were since `since`."""
        ...

    def forget_signs(self, vehicle: KeyId) -> None: ...
    def enrolled(self, vehicle: KeyId) -> int:
        """How many enrolments of this vehicle were taken."""
        ...


class JoiningRepository(Protocol):
    def attempts(self, prefix: bytes, since: Milliseconds) -> int: ...
    def note_attempt(self, prefix: bytes, now: Milliseconds) -> None: ...
    def add_invite(self, digest: Digest, now: Milliseconds) -> None: ...
    def use_invite(self, digest: Digest, vehicle: KeyId) -> bool:
        """False: unknown, or used by another vehicle."""
        ...

    def departure(self, request: Digest) -> DepartureRow | None: ...
    def add_departure(self, departure: DepartureRow) -> None: ...
    def has_left(self, mark: bytes) -> bool:
        """Whether an erased vehicle left this mark of its key behind."""
        ...

    def add_left(self, marks: Sequence[bytes], now: Milliseconds) -> None: ...


class ModelRepository(Protocol):
    def add(self, model: ModelRow) -> None:
        """Raises Conflict: the name is taken."""
        ...

    def get(self, name: str) -> ModelRow | None: ...
    def list(self) -> list[ModelRow]: ...
    def retire(self, name: str) -> None:
        """Raises NotFound, Conflict."""
        ...


class BatchRepository(Protocol):
    def add(self, batch: BatchRow, units: Iterable[NewUnit]) -> None:
        """The batch, its units and `quorum` ready replicas of each, in the order of the units."""
        ...

    def get(self, batch: BatchId) -> BatchRow | None: ...
    def by_ids(self, ids: Sequence[BatchId]) -> dict[BatchId, BatchRow]: ...
    def find(self, prefix_hex: str) -> list[BatchRow]:
        """Those whose id begins so; at most two, enough to say that it is not clear."""
        ...

    def running(self, limit: int) -> list[BatchRow]:
        """The oldest first."""
        ...

    def progress(self, batch: BatchId) -> BatchProgress | None: ...
    def overdue(self, now: Milliseconds) -> list[BatchRow]: ...
    def count(self, batch: BatchId, done: int, failed: int, rows_failed: int) -> None:
        """Adds to the settled units of a batch."""
        ...

    def end(self, batch: BatchId, state: str, now: Milliseconds) -> bool:
        """A running batch ends; False when it was not running any more."""
        ...

    def unsettled(self, limit: int) -> list[BatchRow]:
        """Ended batches whose units were not all closed yet."""
        ...

    def open_units(self, batch: BatchId, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Of the next `limit` units to close: id and rows of the open ones, and the index after."""
        ...

    def settled_to(self, batch: BatchId, end: int) -> None:
        """All units before index `end` are closed."""
        ...

    def list(self, limit: int = 100) -> list[BatchRow]:
        """The youngest first."""
        ...


class UnitRepository(Protocol):
    def canonical(self, batch: BatchId) -> Iterator[UnitOutcome]:
        """Every unit of the batch, in order, read in blocks."""
        ...

    def story(self, batch: BatchId, idx: int) -> UnitStory | None: ...
    def to_check(self, limit: int, beside: Sequence[BatchId] = ()) -> list[UnitToCheck]:
        """The next that are due, without those of the batches `beside`."""
        ...

    def counts(self, units: Sequence[int]) -> dict[int, UnitCounts]: ...
    def change(self, changes: Sequence[UnitChange]) -> None: ...
    def ask_check(self, units: Sequence[int]) -> None: ...
    def checked(self, units: Sequence[int]) -> None: ...
    def results(self, units: Sequence[int]) -> dict[int, tuple[ResultRow, ...]]:
        """The results of each unit that wait for a verdict, by id."""
        ...


class ReplicaRepository(Protocol):
    def by_leases(self, leases: Sequence[LeaseId]) -> dict[LeaseId, HeldRow]: ...
    def held_by(self, vehicles: Sequence[KeyId]) -> list[HeldRow]: ...
    def undecided_of(self, vehicles: Sequence[KeyId]) -> list[HeldRow]:
        """Their results that wait for a verdict."""
        ...

    def held_counts(self, vehicles: Sequence[KeyId]) -> dict[KeyId, int]: ...
    def results_counted(self, units: Sequence[int]) -> dict[int, int]:
        """How many results wait for a verdict, for each unit that has any."""
        ...

    def newest(self) -> int:
        """The highest id there is; nothing new can be ready while it stays the same."""
        ...

    def ready(self, batch: BatchId, after: int, limit: int) -> list[ReadyRow]: ...
    def voices(self, units: Sequence[int]) -> dict[int, set[OwnerId]]:
        """The owners who have a replica of each unit."""
        ...

    def lapsed(self, units: Sequence[int]) -> set[tuple[int, OwnerId]]:
        """Which owners have let a lease of which unit lapse, as far as their vehicles are here."""
        ...

    def still_ready(self, ids: Sequence[int]) -> set[int]: ...
    def lease(self, grants: Sequence[LeaseGrant]) -> None: ...
    def take(self, reports: Sequence[ReportTaken]) -> None: ...
    def end(self, ends: Sequence[ReplicaEnd]) -> None: ...
    def judge(self, verdicts: Sequence[VerdictGiven]) -> None: ...
    def make_ready(self, units: Sequence[tuple[int, BatchId]]) -> None:
        """One more ready replica for each; their counts change with `units.change`."""
        ...

    def cancel_ready(self, units: Sequence[int]) -> None: ...
    def close(self, units: Sequence[int], now: Milliseconds) -> None:
        """All replicas of units that ended without a canonical result: cancelled, not needed."""
        ...

    def past_deadline(self, now: Milliseconds, limit: int) -> list[HeldRow]: ...
    def untold(self, vehicles: Sequence[KeyId], limit: int) -> list[UntoldVerdict]: ...
    def told(self, ids: Sequence[int]) -> None: ...


class PayloadRepository(Protocol):
    """Small tensor payloads, inputs and outputs alike, under `digests.of_tensors`."""

    def add(self, payloads: Mapping[Digest, bytes]) -> None:
        """Those that are there already stay; one that was damaged becomes what it should be."""
        ...

    def read(self, wanted: Sequence[Digest]) -> dict[Digest, bytes]: ...


class UploadRepository(Protocol):
    def get(self, lease: LeaseId) -> UploadRow | None: ...
    def by_leases(self, leases: Sequence[LeaseId]) -> dict[LeaseId, UploadRow]: ...
    def put(self, upload: UploadRow) -> None:
        """New, or in place of the one with the same lease."""
        ...

    def untouched(self, before: Milliseconds, limit: int) -> list[UploadRow]: ...
    def not_awaited(self, limit: int) -> list[UploadRow]:
        """Uploads of leases for which no report is taken any more."""
        ...

    def delete(self, leases: Sequence[LeaseId]) -> None: ...
    def bytes_of(self, vehicle: KeyId, beside: LeaseId) -> int:
        """What a vehicle has announced that no result names yet, without the lease `beside`."""
        ...

    def bytes_in_all(self) -> int: ...
    def is_named(self, digest: Digest) -> bool:
        """Whether an upload, or a replica with a large output, names this payload."""
        ...


class CreditRepository(Protocol):
    def grant(self, credits: Sequence[Crediting]) -> None:
        """Ledger row, owner, vehicle and day of each, together."""
        ...

    def drop_day(self, day: int) -> int:
        """The day has left the 30: its credit is taken from the month; how many owners had any."""
        ...

    def oldest_day(self) -> int | None: ...
    def standings(self, period: str, page: int, per_page: int) -> list[Standing]:
        """Public owners by credit, `period` is '30d' or 'all', pages count from 1."""
        ...

    def unbalanced(self) -> int:
        """How many owners have another credit than the sum of their ledger."""
        ...

    def totals(self) -> ProjectTotals: ...


class HousekeepingRepository(Protocol):
    def forget_sessions(self, before: Milliseconds) -> int: ...
    def forget_attempts(self, before: Milliseconds) -> int: ...
    def forget_clone_signs(self, before: Milliseconds) -> int: ...
    def forget_departures(self, before: Milliseconds) -> int: ...


class Repositories(Protocol):
    """Everything one transaction can do."""

    @property
    def meta(self) -> MetaRepository: ...
    @property
    def owners(self) -> OwnerRepository: ...
    @property
    def vehicles(self) -> VehicleRepository: ...
    @property
    def joining(self) -> JoiningRepository: ...
    @property
    def models(self) -> ModelRepository: ...
    @property
    def batches(self) -> BatchRepository: ...
    @property
    def units(self) -> UnitRepository: ...
    @property
    def replicas(self) -> ReplicaRepository: ...
    @property
    def payloads(self) -> PayloadRepository: ...
    @property
    def uploads(self) -> UploadRepository: ...
    @property
    def credit(self) -> CreditRepository: ...
    @property
    def housekeeping(self) -> HousekeepingRepository: ...


class Database(Protocol):
    def transaction(self) -> AbstractContextManager[Repositories]:
        """The one writer (BEGIN IMMEDIATE); commits at the end, rolls back on any exception."""
        ...

    def reading(self) -> AbstractContextManager[Repositories]:
        """A steady view of the last commit; writing through it is refused."""
        ...

    def data_version(self) -> int:
        """Changes when another process has committed (SQLite's PRAGMA data_version)."""
        ...


class Catalogue(Protocol):
    """The models that vehicles may trust: targets of the project's TUF metadata."""

    def add_model(
        self, digest: Digest, size: int, facts: ModelFacts, now: Milliseconds
    ) -> None: ...
    def retire_model(self, name: str, digest: Digest, now: Milliseconds) -> None: ...


class ModelFiles(Protocol):
    def as_file(self, digest: Digest) -> AbstractContextManager[Path]:
        """A published model's bytes as a file, for the process that runs it. Raises NotFound."""
        ...


class Recompute(Protocol):
    """Vetting and running models in a process of its own, so that no model harms the server.

    Raises Outage when the process gives no answer, otherwise what the contract raises.
    """

    def vet(self, model: Path, *, name: str) -> ModelFacts:
        """Raises GraphRefused; the facts are without a calibration."""
        ...

    def calibrate(
        self,
        model: Path,
        program: Program,
        inputs: bytes,
        shared: bytes | None,
        rows: int,
        *,
        is_portable_exact: bool,
        numbers: Sequence[int] | None = None,
        leaves_out: bool = False,
    ) -> OutputRules:
        """The rules that `rows` rows give; `inputs` and `shared` are tensor payloads (or no `shared`).

        `numbers` are those of the rows where they came from, for refusals. With `leaves_out` rows on
        which an output is not a number do not count, as long as two others do.
        """
        ...

    def runtime_version(self) -> str:
        """Of the ONNX Runtime that calibrates."""
        ...

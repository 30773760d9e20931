"""The server's working parts over real storage: batches of a toy model, time and chance in hand.

The toy's output is one float32 per row: the unit's index times 1,000 plus the row. It needs neither
ONNX nor keys on disk, so that a test can have a thousand units in a second. A wide toy repeats each
value, so that inputs become blobs and outputs uploads.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine, event

from server.domain.names import public_blob, tree_blob
from server.domain.records import BatchRow, NewUnit, OwnerRow, ProjectSecrets, VehicleRow
from server.domain.work import UnitCounts
from server.errors import Outage
from server.services.attachments import Answer
from server.services.enrolment import Enrolments
from server.services.exchange import Arrival, Exchange
from server.services.standings import Standings
from server.services.sweeping import Sweeping
from server.services.validation import Validation
from server.storage.blobs import FolderBlobs
from server.storage.database import SqliteDatabase
from server.storage.migrations import migrate
from server.workers.sweep import Sweep
from server.workers.validate import Validate
from tests.support.still_clock import StillClock
from workunits.trust import digests, merkle, roles
from workunits.trust import envelope as dsse
from workunits.values import BatchId, Digest, LeaseId, Milliseconds
from workunits.wire import codec, limits, tensors
from workunits.wire.messages import (
    Envelope,
    InputPart,
    Manifest,
    Message,
    OutputRule,
    Program,
    TensorSpec,
    Unit,
)

DAY_S: Final = 86_400
KFLOP_PER_ROW: Final = 7
ROWS: Final = 4
LEASE_S: Final = 3600
SCHEDULER: Final = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
BATCH_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
TERMS: Final = digests.plain(b"terms")
OUTPUTS: Final = (TensorSpec(name="y", dtype="float32", shape=(1,)),)
TICKET_KEY: Final = b"t" * 32
TIE_KEY: Final = b"u" * 32
MODEL_FILE: Final = b"model".ljust(100, b"!")
MODEL: Final = digests.plain(MODEL_FILE)


class FixedSealer:
    """Implements the port `Sealer` with a key that never changes."""

    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        return dsse.seal(value, payload_type, SCHEDULER)


@dataclass
class CountedRandomness:
    """Implements the port `Randomness`: no two draws are alike, and each run draws the same."""

    drawn: int = 0

    def token(self, size: int) -> bytes:
        self.drawn += 1
        return digests.plain(b"draw %d" % self.drawn)[:size]


@dataclass
class DiscardedUploads:
    """Implements the port `UploadFiles` and remembers."""

    leases: list[LeaseId] = field(default_factory=list)

    def discard(self, lease: LeaseId) -> None:
        self.leases.append(lease)

    def kept(self) -> list[LeaseId]:
        return []


class FailingWrites:
    """The writer's connection fails at its n-th statement, or at the commit when that is the n-th."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._left: int | None = None
        self.seen = 0
        event.listen(database.writer, "before_cursor_execute", self._on_statement)
        event.listen(database.writer, "commit", self._on_commit)

    def fail_at(self, number: int) -> None:
        self._left, self.seen = number, 0

    def work_again(self) -> None:
        self._left = None

    def _on_statement(self, *_: object) -> None:
        self._count()

    def _on_commit(self, _: Connection) -> None:
        self._count()

    def _count(self) -> None:
        self.seen += 1
        if self._left is not None and self.seen == self._left:
            self._left = None
            raise Outage("the disk failed, because the test wants it")


def output_of(index: int, rows: int, wrong_by: float = 0.0, width: int = 1) -> bytes:
    """The toy's payload for a unit; a liar's is off by something."""
    values = [index * 1000.0 + row + wrong_by for row in range(rows)]
    data = b"".join(struct.pack("<f", value) * width for value in values)
    return tensors.encode({"y": tensors.RawTensor("float32", (rows, width), data)})


def input_of(index: int, width: int = 1) -> bytes:
    data = struct.pack("<f", float(index)) * (ROWS * width)
    return tensors.encode({"x": tensors.RawTensor("float32", (ROWS, width), data)})


class WorkServer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = StillClock()
        self.randomness = CountedRandomness()
        self.uploads = DiscardedUploads()
        self.blobs = FolderBlobs(folder / "blobs")
        self.path = folder / "server.sqlite3"
        if not self.path.exists():
            self.path.write_bytes(_founded())
        self.database = _opened(self.path)
        self.faults = FailingWrites(self.database)
        self.start()

    def reopen(self) -> None:
        """As after a kill: whatever was not committed is gone, and so is everything in memory."""
        self.database.close()
        self.database = _opened(self.path)
        self.faults = FailingWrites(self.database)
        self.start()

    def start(self) -> None:
        """The services as after a start: nothing in memory."""
        self.exchange = Exchange(
            self.database, self.blobs, FixedSealer(), self.clock, self.randomness
        )
        self.validate = Validate(Validation(self.database, self.blobs))
        self.sweep = Sweep(
            Sweeping(self.database, self.uploads, self.blobs), Standings(self.database)
        )

    def enrolments(self, sign_up: str = "open") -> Enrolments:
        return Enrolments(
            self.database,
            FixedSealer(),
            self.clock,
            self.randomness,
            sign_up=sign_up,
            terms=TERMS,
        )

    def publish(
        self,
        units: int,
        *,
        quorum: int = 2,
        deadline_s: int = 14 * DAY_S,
        lease_s: int = LEASE_S,
        width: int = 1,
        rows_per_step: int = ROWS,
    ) -> BatchRow:
        """A running batch of the toy model."""
        batch_id = BatchId(self.randomness.token(16))
        bodies = []
        inputs: dict[Digest, bytes] = {}
        for index in range(units):
            raw = input_of(index, width)
            part = InputPart(scope="row", digest=digests.of_tensors(raw), size=len(raw))
            inputs[part.digest] = raw
            unit = Unit(
                batch=batch_id, index=index, first_row=index * ROWS, rows=ROWS, inputs=(part,)
            )
            bodies.append(codec.pack(unit))
        tree = merkle.build(merkle.leaf_hash(body) for body in bodies)
        manifest = manifest_of(
            batch_id, units, tree, _specs("y", width), _specs("x", width), rows_per_step
        )
        packed = codec.pack(dsse.seal(manifest, roles.MANIFEST, BATCH_KEY))
        digest = digests.of_manifest(packed)
        self.blobs.put(public_blob(digest), packed)
        self.blobs.put(tree_blob(batch_id), tree)
        now = self.clock.now_ms()
        batch = BatchRow(
            id=batch_id,
            model_name="toy",
            kind="tensor",
            options=b"{}",
            state="running",
            quorum=quorum,
            assurance="replicated",
            units=units,
            rows=units * ROWS,
            kflop_per_row=KFLOP_PER_ROW,
            lease_s=lease_s,
            created_ms=now,
            deadline_ms=Milliseconds(now + deadline_s * 1000),
            manifest=digest,
            tree=tree_blob(batch_id),
        )
        small = {name: raw for name, raw in inputs.items() if len(raw) <= limits.ATTACHMENT_BYTES}
        self.blobs.put_many(
            (public_blob(name), raw) for name, raw in inputs.items() if name not in small
        )
        with self.database.transaction() as repos:
            repos.payloads.add(small)
            repos.batches.add(
                batch,
                (NewUnit(index, index * ROWS, ROWS, body) for index, body in enumerate(bodies)),
            )
        return batch

    def answer(self, sent: Sequence[bytes]) -> list[Message]:
        """What the HTTP side does with messages that arrived together."""
        answers = self.exchange.answer([arrival(raw) for raw in sent])
        return [dsse.unpack_message(raw) for raw in self.exchange.carry(answers)]

    def answers(self, sent: Sequence[bytes]) -> list[Answer]:
        return self.exchange.answer([arrival(raw) for raw in sent])

    def settle(self) -> None:
        """Everything that the background would do now."""
        while self.validate.run_once(self.clock.now_ms()) + self.sweep.run_once(
            self.clock.now_ms()
        ):
            pass

    def batch(self, batch: BatchRow) -> BatchRow:
        with self.database.reading() as repos:
            found = repos.batches.get(batch.id)
        assert found is not None
        return found

    def counts(self, unit: int) -> UnitCounts:
        with self.database.reading() as repos:
            return repos.units.counts([unit])[unit]

    def vehicle(self, public_key: bytes) -> VehicleRow:
        key = digests.of_key(public_key)
        with self.database.reading() as repos:
            return repos.vehicles.by_ids([key])[key]

    def owners(self) -> list[OwnerRow]:
        with self.database.reading() as repos:
            return repos.owners.list()


def arrival(raw: bytes) -> Arrival:
    message = dsse.unpack_message(raw)
    return Arrival(
        request=roles.accept_request(message.envelope),
        digest=digests.of_request(message.envelope.payload),
        attachments=dsse.by_digest(message, digests.of_tensors),
    )


@contextmanager
def work_server(folder: Path) -> Iterator[WorkServer]:
    server = WorkServer(folder)
    try:
        yield server
    finally:
        server.database.close()


def _opened(path: Path) -> SqliteDatabase:
    """The database, with the dialect of the first one: statements are compiled once in a process.

    Compiling them anew for each database would take half of a short test's time, and they are never
    forgotten.
    """
    database = SqliteDatabase(path)
    first = _first_engine(database.writer)
    for holder in (database.writer, database.readers, database._connection):
        holder.dialect = first.dialect
    for engine in (database.writer, database.readers):
        engine._compiled_cache = first._compiled_cache
    return database


_ENGINES: Final[list[Engine]] = []


def _first_engine(engine: Engine) -> Engine:
    """The first one that was ever asked for."""
    if not _ENGINES:
        _ENGINES.append(engine)
    return _ENGINES[0]


@cache
def _founded() -> bytes:
    """The database of a new project; migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.sqlite3"
        migrate(path)
        with SqliteDatabase(path) as database, database.transaction() as repos:
            repos.meta.found(ProjectSecrets(1, TICKET_KEY, TIE_KEY))
        return path.read_bytes()


def manifest_of(
    batch: BatchId,
    units: int,
    tree: bytes,
    outputs: tuple[TensorSpec, ...] = OUTPUTS,
    inputs: tuple[TensorSpec, ...] | None = None,
    rows_per_step: int = ROWS,
) -> Manifest:
    return Manifest(
        batch=batch,
        model_name="toy",
        model_bytes=len(MODEL_FILE),
        program=Program(
            model=MODEL,
            inputs=inputs or _specs("x", 1),
            outputs=outputs,
            rows_per_step=rows_per_step,
            optimisation="all",
            precision="fp32",
            runtime_from="1.20",
            runtime_below="2",
            kflop_per_row=KFLOP_PER_ROW,
        ),
        agreement=(OutputRule(name="y", rule="tolerance", tau=1e-5, sigma=1.0),),
        root=merkle.root_of(tree),
        units=units,
        rows=units * ROWS,
        not_before=Milliseconds(0),
        not_after=Milliseconds(2**50),
    )


def _specs(name: str, width: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name=name, dtype="float32", shape=(width,)),)

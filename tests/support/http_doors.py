"""The HTTP side over real storage in a folder, with services that answer what a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.adapters.clock import SystemClock
from server.domain.names import public_blob
from server.domain.records import ProjectSecrets
from server.http.bodies import Room
from server.http.doors import Doors
from server.http.forgeries import Strangers
from server.http.front import Front
from server.http.gathering import Gathering
from server.http.partials import Partials
from server.http.turns import Turns
from server.http.uploads import Uploads
from server.http.writers import Writers
from server.ports import Clock
from server.services.enrolment import Enrolments
from server.services.exchange import Arrival
from server.services.standings import Standings
from server.settings import BODIES_BYTES, DATABASE_FILE
from server.storage.database import SqliteDatabase
from server.storage.migrations import migrate
from tests.support.faulty_blobs import FaultyBlobs
from tests.support.http_server import served
from tests.support.work_server import BATCH_KEY, manifest_of
from workunits.trust import digests, merkle, roles
from workunits.trust import envelope as dsse
from workunits.values import BatchId, Digest
from workunits.wire import codec
from workunits.wire.messages import Departure, Enrolment, Envelope, TensorSpec

TICKET_KEY = b"t" * 32


class ScriptedEnrolments(Enrolments):
    """Answers with `reply`, or raises `fault`; keeps what it was asked."""

    def __init__(self) -> None:
        self.networks: list[str | None] = []
        self.reply: Envelope | None = None
        self.fault: Exception | None = None
        self.may_go = threading.Event()  # cleared: it waits, as for another's write lock
        self.may_go.set()

    def enrol(self, request: Enrolment, digest: Digest, network: str | None) -> Envelope:
        self.networks.append(network)
        return self._answer()

    def leave(self, request: Departure, digest: Digest) -> Envelope:
        return self._answer()

    def _answer(self) -> Envelope:
        assert self.may_go.wait(30)
        if self.fault is not None:
            raise self.fault
        assert self.reply is not None
        return self.reply


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a test of the HTTP side stands on."""

    folder: Path
    url: str
    database: SqliteDatabase
    blobs: FaultyBlobs
    enrolments: ScriptedEnrolments

    def publish(self, outputs: tuple[TensorSpec, ...]) -> Digest:
        """The blob of a manifest whose program gives these outputs."""
        manifest = manifest_of(BatchId(b"b" * 16), 1, merkle.build([digests.ZERO]), outputs)
        packed = codec.pack(dsse.seal(manifest, roles.MANIFEST, BATCH_KEY))
        self.blobs.put(public_blob(digests.of_manifest(packed)), packed)
        return digests.of_manifest(packed)


def echo(arrivals: Sequence[Arrival]) -> list[bytes]:
    """Each request's digest as its answer."""
    return [arrival.digest for arrival in arrivals]


@contextmanager
def grounds(
    folder: Path,
    answer_all: Callable[[Sequence[Arrival]], Sequence[bytes]] = echo,
    trusted_proxies: Sequence[str] = (),
    most_waiting: int = 100,
    most_body_bytes: int = BODIES_BYTES,
    clock: Clock | None = None,
) -> Iterator[Grounds]:
    """A served HTTP side over the storage in `folder`."""
    for name in ("uploads", "metadata"):
        (folder / name).mkdir()
    migrate(folder / DATABASE_FILE)
    blobs = FaultyBlobs(folder / "blobs")
    enrolments = ScriptedEnrolments()
    gathering = Gathering(answer_all, most_waiting=most_waiting)
    writers = Writers(threads=2, most=4)
    with SqliteDatabase(folder / DATABASE_FILE) as database:
        with database.transaction() as repositories:
            repositories.meta.found(ProjectSecrets(1, TICKET_KEY, b"u" * 32))
        clock = SystemClock() if clock is None else clock
        partials = Partials(folder / "uploads")
        doors = Doors(
            project="Night & Co <b>",
            database=database,
            blobs=blobs,
            clock=clock,
            enrolments=enrolments,
            standings=Standings(database),
            work=gathering,
            uploads=Uploads(database, blobs, partials, clock, TICKET_KEY),
            turns=Turns(),
            metadata=folder / "metadata",
            writers=writers,
            room=Room(most_body_bytes, is_behind_proxy=bool(trusted_proxies)),
            strangers=Strangers(clock, is_behind_proxy=bool(trusted_proxies)),
            is_behind_proxy=bool(trusted_proxies),
        )
        gathering.start()
        try:
            with served(Front(doors), trusted_proxies) as url:
                yield Grounds(folder, url, database, blobs, enrolments)
        finally:
            gathering.close()
            writers.close()

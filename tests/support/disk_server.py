"""A scene that goes through everything the server writes, as a list of acts that may be repeated.

An act is one thing that one party does: it is prepared, said to the server, and heard. Whoever got no
answer does the same act again from what it had saved, so a play may break the disk in any act, begin
it again, and compare with `state_of` what an undisturbed one would have left. Nothing is broken here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.domain.records import BatchRow
from server.http.partials import Partials
from server.http.uploads import Offer, Uploads
from server.services.standings import Standings
from server.services.sweeping import Sweeping
from server.services.tidying import Tidying
from server.settings import DATABASE_FILE
from server.workers.sweep import Sweep
from tests.support.model_vehicle import ModelVehicle
from tests.support.work_server import LEASE_S, ROWS, TICKET_KEY, WorkServer, arrival, output_of
from workunits.errors import BadDigest
from workunits.trust import digests
from workunits.trust import envelope as dsse
from workunits.values import LeaseId
from workunits.wire import codec
from workunits.wire.messages import Report, Unit

ASKED: Final = digests.plain(b"asked")
# Wide enough that a result is past what rides along.
WIDE: Final = 4_200
_PIECE_BYTES: Final = 40_000
# Pages written between two of SQLite's checkpoints.
_CHECKPOINT: Final = 60
# Attempts to enrol are counted as often as they are made, also by who got no answer.
_TABLES: Final = """
    SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'enrolment_attempts'"""


class DiskServer(WorkServer):
    """The working parts with real uploads, on a folder that may be there already."""

    def start(self) -> None:
        super().start()
        # Often, so that a short scene has several.
        self.database.writer.raw_connection().execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        folder = self.folder / "uploads"
        folder.mkdir(exist_ok=True)
        self.partials = Partials(folder)
        self.taking = Uploads(self.database, self.blobs, self.partials, self.clock, TICKET_KEY)
        self.sweep = Sweep(
            Sweeping(self.database, self.partials, self.blobs), Standings(self.database)
        )
        self.tidying = Tidying(self.database, self.partials, self.blobs)


@dataclass
class Stage:
    """The server and everybody who speaks with it."""

    server: DiskServer
    vehicles: dict[str, ModelVehicle] = field(default_factory=dict)
    batches: dict[str, BatchRow] = field(default_factory=dict)
    # The last request of each vehicle, and what the server said to it.
    said: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def memory(self) -> Memory:
        """What everybody but the server remembers now."""
        server = self.server
        return Memory(
            deepcopy(self.vehicles), dict(self.batches), dict(self.said),
            server.clock.wall_ms, server.clock.at_s, server.randomness.drawn,
        )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """What a stage is at one moment, apart from the server's disk."""

    vehicles: dict[str, ModelVehicle]
    batches: dict[str, BatchRow]
    said: dict[str, tuple[bytes, bytes]]
    wall_ms: int
    at_s: float
    drawn: int

    def back(self, stage: Stage) -> None:
        """Everybody remembers just this again."""
        stage.vehicles = deepcopy(self.vehicles)
        stage.batches, stage.said = dict(self.batches), dict(self.said)
        stage.server.clock.wall_ms, stage.server.clock.at_s = self.wall_ms, self.at_s
        stage.server.randomness.drawn = self.drawn


Act = Callable[[Stage], None]


def scene() -> list[tuple[str, Act]]:
    """Two honest owners and a liar, a lost lease, an error, a departure, a late result, a cut-off
    session, a batch that is cancelled, and one whose results are uploaded."""
    people = {"one": 0.0, "two": 0.0, "liar": 5.0, "leaver": 0.0}
    rounds = [act for _ in range(2) for act in _round(("one", "two", "liar"))]
    return [
        ("publish", lambda stage: _publish(stage, "small", 3, 1)),
        *((f"enrol {name}", _enrols(name, wrong)) for name, wrong in people.items()),
        ("one leases", _talks("one", 3)),
        ("liar leases", _talks("liar", 2)),
        ("leaver leases", _talks("leaver", 1)),
        ("leaver leaves", _leave),
        ("one reports two", _report_all_but_one),
        ("liar reports", _reports("liar")),
        ("settle", _settle),
        ("two leases", _talks("two", 1)),
        ("two fails", _fail),
        ("a lease is lost", _lose),
        ("one reports late", _reports("one")),
        ("one loses count", _lose_count),
        ("one begins anew", _talks("one", 0)),
        *rounds,
        ("publish wide", lambda stage: _publish(stage, "wide", 2, WIDE)),
        ("one leases wide", _talks("one", 2)),
        ("two leases wide", _talks("two", 1)),
        ("one uploads", _uploads("one")),
        ("one reports wide", _talks("one", 0)),
        ("two uploads", _uploads("two")),
        ("two reports wide", _talks("two", 0)),
        ("settle wide", _settle),
        ("cancel", _cancel),
        ("settle at the end", _settle),
    ]


def _round(names: tuple[str, ...]) -> list[tuple[str, Act]]:
    acts: list[tuple[str, Act]] = []
    for name in names:
        acts += [(f"{name} leases", _talks(name, 2)), (f"{name} reports", _reports(name))]
    return [*acts, ("settle", _settle)]


def repeated(stage: Stage, name: str) -> bytes:
    """What the server says when a vehicle's last request comes once more."""
    (said,) = stage.server.exchange.carry(
        stage.server.exchange.answer([arrival(stage.said[name][0])])
    )
    return said


def state_of(folder: Path) -> dict[str, object]:
    """Everything that the server keeps; passing files that a kill left behind do not count."""
    connection = sqlite3.connect(folder / DATABASE_FILE)
    try:
        names = [row[0] for row in connection.execute(_TABLES)]
        tables: dict[str, object] = {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in names
        }
    finally:
        connection.close()
    for kept in ("blobs", "uploads"):
        files = [path for path in (folder / kept).rglob("*") if path.is_file()]
        tables[kept] = {path.name: path.read_bytes() for path in files if _is_kept(path)}
    return tables


def _is_kept(path: Path) -> bool:
    return path.parent.name == "uploads" or path.suffix != ".part"


def _talk(stage: Stage, name: str, units: int) -> None:
    vehicle = stage.vehicles[name]
    raw = vehicle.request(units)
    (said,) = stage.server.exchange.carry(stage.server.exchange.answer([arrival(raw)]))
    vehicle.hear(dsse.unpack_message(said))
    stage.said[name] = (raw, said)


def _talks(name: str, units: int) -> Act:
    return lambda stage: _talk(stage, name, units)


def _publish(stage: Stage, name: str, units: int, width: int) -> None:
    """As a submitter who looks first whether it has gone through after all."""
    with stage.server.database.reading() as repos:
        found = [row for row in repos.batches.list() if row.rows == units * ROWS]
    stage.batches[name] = found[0] if found else stage.server.publish(units, width=width)


def _enrols(name: str, wrong_by: float) -> Act:
    def enrol(stage: Stage) -> None:
        number = len(stage.vehicles)
        vehicle = ModelVehicle(number, number, wrong_by)
        request = vehicle.enrolment(name=f"owner {name}")
        stage.server.enrolments().enrol(request, ASKED, "10.0.0.0/24")
        stage.vehicles[name] = vehicle

    return enrol


def _leave(stage: Stage) -> None:
    stage.server.enrolments().leave(stage.vehicles["leaver"].departure(), ASKED)
    del stage.said["leaver"]


def _report_all_but_one(stage: Stage) -> None:
    vehicle = stage.vehicles["one"]
    vehicle.compute()
    vehicle.done.popitem()
    _talk(stage, "one", 0)


def _reports(name: str) -> Act:
    def report(stage: Stage) -> None:
        stage.vehicles[name].compute()
        _talk(stage, name, 0)

    return report


def _fail(stage: Stage) -> None:
    stage.vehicles["two"].fail()
    _talk(stage, "two", 0)


def _settle(stage: Stage) -> None:
    stage.server.settle()


def _lose(stage: Stage) -> None:
    stage.server.clock.pass_s(LEASE_S + 60)
    stage.server.settle()


def _lose_count(stage: Stage) -> None:
    """A session out of step: the answer is a resync."""
    vehicle = stage.vehicles["one"]
    vehicle.seq += 1
    _talk(stage, "one", 0)
    # Its repetition is another resync, with a nonce of its own.
    del stage.said["one"]


def _uploads(name: str) -> Act:
    """A client sends its outputs from wherever the server stands, and names them in its next report."""

    def upload(stage: Stage) -> None:
        vehicle = stage.vehicles[name]
        for lease in vehicle.holds.values():
            unit = codec.unpack(lease.unit, Unit, most=4096)
            raw = output_of(unit.index, unit.rows, width=WIDE)
            _upload(stage.server.taking, lease.lease, raw)
            vehicle.done[lease.lease] = Report(
                lease=lease.lease,
                outcome="done",
                output=digests.of_tensors(raw),
                output_size=len(raw),
            )

    return upload


def _upload(taking: Uploads, lease: LeaseId, raw: bytes) -> None:
    """From the beginning if a part that a power cut damaged was thrown away."""
    try:
        _send_rest(taking, lease, raw)
    except BadDigest:
        _send_rest(taking, lease, raw)


def _send_rest(taking: Uploads, lease: LeaseId, raw: bytes) -> None:
    received = taking.standing(lease).received
    offer = Offer(lease, received, len(raw), digests.of_tensors(raw))
    if taking.begin(offer).complete:
        return
    for start in range(received, len(raw), _PIECE_BYTES):
        taking.append(lease, raw[start : start + _PIECE_BYTES])
        taking.touch(offer)
    taking.finish(offer)


def _cancel(stage: Stage) -> None:
    server = stage.server
    with server.database.transaction() as repos:
        for name in ("small", "wide"):
            repos.batches.end(stage.batches[name].id, "cancelled", server.clock.now_ms())

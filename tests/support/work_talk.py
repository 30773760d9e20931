"""How model vehicles join a `WorkServer`, talk to it and work, and what its database then holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import msgspec

from tests.support.model_vehicle import ModelVehicle
from tests.support.work_server import WorkServer
from workunits.trust import digests, roles
from workunits.trust import envelope as dsse
from workunits.values import LeaseId
from workunits.wire import codec
from workunits.wire.messages import Reply, Report, WorkRequest


def join(
    server: WorkServer, seed: int, owner: int | None = None, wrong_by: float = 0.0
) -> ModelVehicle:
    """A vehicle of a new owner, or of one who is here."""
    vehicle = ModelVehicle(seed, seed if owner is None else owner, wrong_by)
    asked = vehicle.enrolment(how="new" if owner is None else "existing")
    server.enrolments().enrol(asked, digests.of_request(codec.pack(asked)), None)
    return vehicle


def talk(server: WorkServer, vehicle: ModelVehicle, units: int = 0) -> Reply:
    reply = vehicle.hear(server.answer([vehicle.request(units)])[0])
    assert isinstance(reply, Reply)
    return reply


def work(server: WorkServer, *fleet: ModelVehicle, units: int = 1) -> None:
    """Each is leased up to `units` units, computes them and reports."""
    for vehicle in fleet:
        talk(server, vehicle, units)
        vehicle.compute()
        talk(server, vehicle)


def result(lease: LeaseId, raw: bytes) -> Report:
    return Report(lease=lease, outcome="done", output=digests.of_tensors(raw), output_size=len(raw))


def asked(vehicle: ModelVehicle, **changes: object) -> WorkRequest:
    """The vehicle's next request with other fields; it remembers nothing of it."""
    raw = vehicle.request(0)
    vehicle.saved = None
    request = roles.accept_request(dsse.unpack_message(raw).envelope)
    return msgspec.structs.replace(request, **changes)


def signed(vehicle: ModelVehicle, request: WorkRequest, carried: Sequence[bytes] = ()) -> bytes:
    return dsse.pack_message(dsse.seal(request, roles.WORK_REQUEST, vehicle.key), carried)


def report(
    server: WorkServer, vehicle: ModelVehicle, reports: Sequence[Report], *carried: bytes
) -> Reply:
    """Send these reports and nothing else."""
    vehicle.saved = signed(vehicle, asked(vehicle, reports=tuple(reports)), carried)
    return talk(server, vehicle)


def rows(server: WorkServer, query: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(server.path)) as connection:
        return connection.execute(query, values).fetchall()


def dump(server: WorkServer, *beside: str) -> list[str]:
    """Everything in the database, without the lines about the tables `beside`."""
    with closing(sqlite3.connect(server.path)) as connection:
        lines = list(connection.iterdump())
    skipped = tuple(f'INSERT INTO "{table}"' for table in beside)
    return [line for line in lines if not line.startswith(skipped)] if skipped else lines

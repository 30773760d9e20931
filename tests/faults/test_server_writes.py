"""The disk fails at each statement in turn, the commit included; the same again gives the right end.

One scene goes through everything the server writes. For every number there is, it is played with
the failure there: whoever asked asks again, and the end must be the same as without a failure.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from server.errors import Outage
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import LEASE_S, WorkServer, work_server
from workunits.trust import digests

T = TypeVar("T")

ASKED = digests.plain(b"asked")
# Each share fails at every 40th statement; together a tenth of them, spread over the whole scene. Below
# the statements, at every call of the disk, it is `test_server_disk.py`.
SHARES = 4
STRIDE = 40


class Scene:
    """Two honest owners and a liar, a lost lease, an error, a return, a departure, a late result."""

    def __init__(self, server: WorkServer) -> None:
        self.server = server
        self.outages = 0

    def again(self, act: Callable[[], T]) -> T:
        """What anyone does whose request failed on the server's side: the same once more."""
        try:
            return act()
        except Outage:
            self.outages += 1
            check_invariants(self.server.path)
            return act()

    def talk(self, vehicle: ModelVehicle, units: int = 0) -> None:
        raw = vehicle.request(units)
        vehicle.hear(self.again(lambda: self.server.answer([raw]))[0])

    def play(self) -> dict[str, object]:
        server = self.server
        batch = self.again(lambda: server.publish(3))
        one, two, liar, leaver = (
            ModelVehicle(seed, seed, 5.0 if seed == 2 else 0.0) for seed in range(4)
        )
        door = server.enrolments()
        for vehicle in (one, two, liar, leaver):
            request = vehicle.enrolment(name=f"owner {vehicle.seed}")
            self.again(lambda asked=request: door.enrol(asked, ASKED, "10.0.0.0/24"))  # type: ignore[misc]
        self.talk(one, 3)
        self.talk(liar, 2)
        self.talk(leaver, 1)
        self.again(lambda: door.leave(leaver.departure(), ASKED))
        one.compute()
        one.done.popitem()
        self.talk(one)
        liar.compute()
        self.talk(liar)
        self.again(server.settle)
        self.talk(two, 1)
        two.fail()
        self.talk(two)
        server.clock.pass_s(LEASE_S + 60)
        self.again(server.settle)
        one.compute()
        self.talk(one)
        one.seq += 1
        self.talk(one)
        self.talk(one)
        for _ in range(4):
            for vehicle in (one, two, liar):
                self.talk(vehicle, 2)
                vehicle.compute()
                self.talk(vehicle)
            self.again(server.settle)
        self.again(lambda: _cancel(server, batch.id))
        self.again(server.settle)
        return summary(server.path)


def _cancel(server: WorkServer, batch: bytes) -> None:
    with server.database.transaction() as repos:
        for found in repos.batches.running(9):
            if found.id == batch:
                repos.batches.end(found.id, "cancelled", server.clock.now_ms())


def summary(path: Path) -> dict[str, object]:
    """The end of the scene in what does not depend on chance: ids and names are left out."""
    queries = {
        "units": "SELECT idx, state, replicas, errors, failure, output FROM units ORDER BY idx",
        "replicas": "SELECT unit_id, state, code, kflop FROM replicas ORDER BY unit_id, state, code",
        "owners": "SELECT name, credit_kflop, month_kflop FROM owners ORDER BY name",
        "vehicles": "SELECT id, state, valid, invalid, credit_kflop FROM vehicles ORDER BY id",
        "ledger": "SELECT kflop, reason FROM ledger ORDER BY replica_id",
        "batches": "SELECT state, units_done, units_failed, rows_failed FROM batches",
        "attempts": "SELECT count(*) FROM enrolment_attempts",
    }
    connection = sqlite3.connect(path)
    found: dict[str, object] = {
        name: connection.execute(query).fetchall() for name, query in queries.items()
    }
    connection.close()
    return found


def play(folder: Path, fail_at: int | None) -> tuple[dict[str, object], int, int]:
    """The end of the scene, how many statements it took, and how many failures were met."""
    folder.mkdir()
    with work_server(folder) as server:
        server.faults.fail_at(-1 if fail_at is None else fail_at)
        scene = Scene(server)
        end = scene.play()
        check_invariants(server.path)
        return end, server.faults.seen, scene.outages


@pytest.mark.parametrize("share", range(SHARES))
def test_a_failure_anywhere_changes_nothing_in_the_end(tmp_path: Path, share: int) -> None:
    wanted, statements, _ = play(tmp_path / "whole", None)
    assert statements > 300
    for number in range(1 + share * STRIDE // SHARES, statements + 1, STRIDE):
        end, _, outages = play(tmp_path / f"fails{number}", number)
        assert outages == 1, number
        assert end == wanted, number

"""Another command holds the database for longer than anybody waits: an outage, and then all goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from server.errors import Outage
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import work_server
from workunits.trust import digests

TOLD = "is being written by another command; try again"


def test_a_database_locked_for_long_is_an_outage_and_then_goes_on(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        batch, vehicle = server.publish(1, quorum=1), ModelVehicle(0, 0)
        asked = digests.plain(b"asked")
        server.enrolments().enrol(vehicle.enrolment(name="owner"), asked, "10.0.0.0/24")
        # The real limit is for commands that publish; waiting it out shows no more.
        server.database.writer.raw_connection().execute("PRAGMA busy_timeout = 20")
        other = sqlite3.connect(server.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        raw = vehicle.request(1)
        for _ in range(3):
            with pytest.raises(Outage, match=TOLD):
                server.answer([raw])
        with pytest.raises(Outage, match=TOLD):
            server.settle()
        other.execute("ROLLBACK")
        other.close()
        for units in (1, 0):
            vehicle.hear(server.answer([vehicle.request(units)])[0])
            vehicle.compute()
        server.settle()
        assert server.batch(batch).state == "completed"
        check_invariants(server.path)

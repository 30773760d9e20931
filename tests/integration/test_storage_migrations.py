"""A project of an older version is brought to this one with all that it holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from server.domain.records import UploadRow
from server.storage.database import SqliteDatabase, schema_version
from server.storage.migrations import HEAD, migrate
from tests.support.server_invariants import check_invariants
from tests.support.work_server import WorkServer, work_server
from tests.support.work_talk import join, talk, work
from workunits.trust import digests
from workunits.values import KeyId, LeaseId

# What 0002 added; without it the database is one of 0001.
_BACK_TO_0001 = """
    DROP INDEX uploads_by_vehicle;
    ALTER TABLE uploads DROP COLUMN vehicle_id;
    ALTER TABLE replicas DROP COLUMN is_repeat;
    ALTER TABLE vehicles DROP COLUMN halvings;
    ALTER TABLE vehicles DROP COLUMN lost_in_row;
    ALTER TABLE vehicles DROP COLUMN paused_until_ms;
    UPDATE alembic_version SET version_num = '0001';
"""


def at_work(server: WorkServer) -> tuple[KeyId, LeaseId]:
    """A batch half done, with an upload under way; whose it is, and of which lease."""
    server.publish(4)
    one, two = join(server, 1), join(server, 2)
    for vehicle in (one, two):
        work(server, vehicle, units=2)
    server.settle()
    [lease] = (lease.lease for lease in talk(server, one, 1).leases)
    upload = UploadRow(lease, digests.plain(b"x"), 9, False, server.clock.now_ms())
    with server.database.transaction() as repos:
        repos.uploads.put(upload)
    return digests.of_key(one.public_key), lease


def test_a_project_of_0001_goes_on_where_it_stood(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        owner, lease = at_work(server)
        path = server.path
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_BACK_TO_0001)
        before = connection.execute("SELECT * FROM vehicles ORDER BY id").fetchall()
    assert schema_version(path) == "0001"
    assert migrate(path)
    assert schema_version(path) == HEAD
    check_invariants(path)
    with closing(sqlite3.connect(path)) as connection:
        after = connection.execute("SELECT * FROM vehicles ORDER BY id").fetchall()
        whose = connection.execute("SELECT lease_id, vehicle_id FROM uploads").fetchall()
    assert after == [(*row, 0, 0, 0) for row in before]
    assert whose == [(lease, owner)]
    with SqliteDatabase(path) as database, database.reading() as repos:
        assert repos.uploads.bytes_of(owner, lease) == 0
        assert repos.uploads.bytes_in_all() == 9


def test_the_vehicles_of_a_migrated_project_finish_their_batch(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        batch = server.publish(3)
        one, two = join(server, 1), join(server, 2)
        work(server, one, units=3)
        server.database.close()
        with closing(sqlite3.connect(server.path)) as connection:
            connection.executescript(_BACK_TO_0001)
        migrate(server.path)
        server.reopen()
        work(server, two, units=3)
        server.settle()
        assert server.batch(batch).state == "completed"
        talk(server, one)
        assert {verdict.verdict for verdict in one.verdicts} == {"valid"}
        check_invariants(server.path)

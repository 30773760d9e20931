"""The database file: durable, guarded, versioned, and the same by migration as by its tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from server.domain.records import ModelRow
from server.domain.work import LeaseGrant
from server.errors import Conflict, NotFound, Outage, StateChanged
from server.storage.database import SqliteDatabase, schema_version
from server.storage.migrations import HEAD, migrate
from server.storage.tables import metadata
from tests.support.server_invariants import check_invariants
from tests.support.work_server import WorkServer, work_server
from workunits.trust import digests
from workunits.values import KeyId, LeaseId, Milliseconds, OwnerId


def schema_of(connection: sqlite3.Connection) -> dict[str, object]:
    """Tables, their columns and keys, and indexes with their text, as SQLite sees them."""
    found: dict[str, object] = {}
    names = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%'"
    ).fetchall()
    for kind, name, sql in names:
        if kind == "table":
            columns = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
            foreign = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            unique = {
                tuple(row[2] for row in connection.execute(f"PRAGMA index_info({index[1]})"))
                for index in connection.execute(f"PRAGMA index_list({name})").fetchall()
                if index[2]
            }
            found[name] = (columns, foreign, unique)
        elif sql is not None:
            found[name] = " ".join(sql.split())
    return found


def test_the_migrations_give_exactly_the_tables(tmp_path: Path) -> None:
    by_tables, by_migration = tmp_path / "tables", tmp_path / "migration"
    engine = create_engine(f"sqlite:///{by_tables}")
    metadata.create_all(engine)
    engine.dispose()
    migrate(by_migration)
    found = []
    for path in (by_tables, by_migration):
        connection = sqlite3.connect(path)
        found.append(schema_of(connection))
        connection.close()
    assert found[0] == found[1]


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    assert migrate(path)
    assert schema_version(path) == HEAD
    before = path.read_bytes()
    assert not migrate(path)
    assert path.read_bytes() == before


def test_a_missing_or_older_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    with pytest.raises(Outage, match="server init"):
        SqliteDatabase(path)
    sqlite3.connect(path).close()
    with pytest.raises(Outage, match="run `tesla-at-home-server migrate`"):
        SqliteDatabase(path)
    path.write_bytes(b"this is a letter to my aunt, and no database" * 100)
    with pytest.raises(Outage, match="not a database"):
        SqliteDatabase(path)


def test_a_database_without_a_project_says_so(tmp_path: Path) -> None:
    migrate(tmp_path / "server.sqlite3")
    with (
        SqliteDatabase(tmp_path / "server.sqlite3") as database,
        database.reading() as repos,
        pytest.raises(Outage, match="init"),
    ):
        repos.meta.secrets()


def test_every_commit_is_flushed_and_keys_are_enforced(tmp_path: Path) -> None:
    migrate(tmp_path / "server.sqlite3")
    with (
        SqliteDatabase(tmp_path / "server.sqlite3") as database,
        database.writer.connect() as connection,
    ):
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000,
    }  # fmt: skip


def test_readers_cannot_write_and_see_a_steady_view(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        with server.database.reading() as repos:
            assert repos.batches.list() == []
            server.publish(1)
            assert repos.batches.list() == []
        with pytest.raises(Outage), server.database.reading() as repos:
            repos.meta.put("x", b"y")


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        before = server.database.data_version()
        server.publish(1)
        assert server.database.data_version() == before
        with SqliteDatabase(server.path) as other, other.transaction() as repos:
            repos.meta.put("x", b"y")
        assert server.database.data_version() != before


def test_an_exception_rolls_everything_back(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        with pytest.raises(Conflict):
            _put_and_fail(server)
        with server.database.transaction() as repos:
            assert repos.meta.get("x") is None


def _put_and_fail(server: WorkServer) -> None:
    with server.database.transaction() as repos:
        repos.meta.put("x", b"y")
        raise Conflict("on second thoughts")


def test_a_failed_commit_leaves_the_writer_usable(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        # BEGIN, the upsert, the commit.
        server.faults.fail_at(3)
        with pytest.raises(Outage), server.database.transaction() as repos:
            repos.meta.put("x", b"y")
        with server.database.transaction() as repos:
            assert repos.meta.get("x") is None


def test_a_write_that_finds_another_state_is_refused(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        server.publish(1)
        grant = LeaseGrant(
            1, OwnerId(b"o" * 16), KeyId(b"v" * 32), LeaseId(b"l" * 16), Milliseconds(1),
            Milliseconds(2),
        )  # fmt: skip
        with server.database.transaction() as repos:
            repos.replicas.lease([grant])
        with pytest.raises(StateChanged), server.database.transaction() as repos:
            repos.replicas.lease([grant])


def test_one_owner_cannot_have_two_voices_in_a_unit(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        server.publish(1)
        grants = [
            LeaseGrant(
                number, OwnerId(b"o" * 16), KeyId(b"v" * 32), LeaseId(bytes([number]) * 16),
                Milliseconds(1), Milliseconds(2),
            )
            for number in (1, 2)
        ]  # fmt: skip
        with pytest.raises(StateChanged), server.database.transaction() as repos:
            repos.replicas.lease(grants)


def test_long_lists_of_keys_are_cut_into_statements(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        added = {digests.of_tensors(b"%d" % n): b"%d" % n for n in range(1_500)}
        with server.database.transaction() as repos:
            repos.payloads.add(added)
            repos.payloads.add(added)
        with server.database.reading() as repos:
            assert repos.payloads.read(list(added)) == added
            assert repos.payloads.read([]) == {}


def test_batches_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        batch = server.publish(1)
        server.publish(1)
        with server.database.reading() as repos:
            assert [found.id for found in repos.batches.find(batch.id.hex()[:9])] == [batch.id]
            for wrong in ("", "xyz", "a" * 33):
                assert repos.batches.find(wrong) == []


def test_models_are_added_once_and_retired_once(tmp_path: Path) -> None:
    model = ModelRow("m", digests.plain(b"m"), 1, b"{}", "active", Milliseconds(1))
    with work_server(tmp_path) as server:
        with server.database.transaction() as repos:
            repos.models.add(model)
            repos.models.retire("m")
            assert [found.state for found in repos.models.list()] == ["retired"]
            with pytest.raises(Conflict):
                repos.models.retire("m")
            with pytest.raises(NotFound):
                repos.models.retire("n")
        with pytest.raises(Conflict), server.database.transaction() as repos:
            repos.models.add(model)


def test_publishing_makes_units_in_order_with_their_ready_replicas(tmp_path: Path) -> None:
    with work_server(tmp_path) as server:
        batch = server.publish(5_000)
        with server.database.reading() as repos:
            outcomes = list(repos.units.canonical(batch.id))
            ready = repos.replicas.ready(batch.id, 0, 4)
            progress = repos.batches.progress(batch.id)
            assert repos.batches.progress(ready[0].batch_id) == progress
        assert [outcome.idx for outcome in outcomes] == list(range(5_000))
        assert [row.idx for row in ready] == [0, 0, 1, 1]
        assert progress is not None
        assert (progress.ready, progress.leased, progress.active_owners) == (10_000, 0, 0)
        check_invariants(server.path)


def test_queries_of_the_hot_path_read_no_table_that_grows(tmp_path: Path) -> None:
    """Every statement of an exchange, a validation and a sweep finds its rows by an index."""
    with work_server(tmp_path) as server:
        scans = _scans(server)
    assert scans == {}


def _scans(server: WorkServer) -> dict[str, str]:
    from sqlalchemy import event

    from tests.support.model_vehicle import ModelVehicle

    seen: dict[str, object] = {}

    def remember(_c: object, _k: object, sql: str, parameters: object, *_: object) -> None:
        seen[sql] = parameters

    for engine in (server.database.writer, server.database.readers):
        event.listen(engine, "before_cursor_execute", remember)
    server.publish(3)
    seen.clear()
    fleet = [ModelVehicle(seed, seed) for seed in range(2)]
    for vehicle in fleet:
        server.enrolments().enrol(vehicle.enrolment(), digests.plain(b"e"), "10.0.0.0/24")
    for _ in range(3):
        for vehicle in fleet:
            vehicle.hear(server.answer([vehicle.request(2)])[0])
            vehicle.compute()
        server.settle()
    server.clock.pass_s(100_000)
    server.settle()
    connection = sqlite3.connect(server.path)
    found = {}
    for sql, parameters in seen.items():
        if sql.startswith(("BEGIN", "INSERT")):
            continue
        values = parameters[0] if isinstance(parameters, list) else parameters
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()  # type: ignore[arg-type]
        scanned = [
            step[3] for step in plan if step[3].startswith("SCAN") and "USING" not in step[3]
        ]
        if scanned and not all("CONSTANT ROW" in step for step in scanned):
            found[sql] = "; ".join(scanned)
    connection.close()
    return found

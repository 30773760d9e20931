"""Bytes of the project that changed on its disk: found, named with what to do, and never believed.

SQLite keeps no checksums: a changed bit inside a number of a row is found where a digest, a signature
or a sum covers it, and nowhere else. These tests hold what must hold whatever bit it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from server.domain.records import BatchRow
from server.settings import DATABASE_FILE
from tests.support.disk_server import WIDE, DiskServer, Stage, repeated
from tests.support.halfway import Halfway, doctor, enrol, sql, work_through
from tests.support.server_invariants import check_invariants
from tests.support.work_server import ROWS, output_of
from workunits.trust import digests, roles
from workunits.trust import envelope as dsse

PAGE_BYTES: Final = 4096
# Every page in turn would show no more: pages of one table are alike.
PAGES_APART: Final = 4
CHANGED_BITS: Final = 30


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Halfway:
    return Halfway.in_folder(tmp_path_factory.mktemp("halfway"))


@pytest.fixture
def stage(tmp_path: Path, halfway: Halfway) -> Iterator[Stage]:
    opened = halfway.open(halfway.copy(tmp_path / "project"))
    yield opened
    opened.server.database.close()


def change(path: Path, at: int, size: int, draw: Random | None) -> None:
    """Zero the head of a piece of a file, or change one bit anywhere in it."""
    raw = bytearray(path.read_bytes())
    if draw is None:
        raw[at : at + 64] = bytes(64)
    else:
        raw[at + draw.randrange(size)] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


def check_answers(database: Path) -> None:
    """No result of the liar, nor one that a bit was changed in, is anybody's answer."""
    right = {
        digests.of_tensors(output_of(index, ROWS, width=width))
        for index in range(3)
        for width in (1, WIDE)
    }
    assert {
        row[0] for row in sql(database, "SELECT output FROM units WHERE state = 'done'")
    } <= right


# --- the database -------------------------------------------------------------------------------


def test_every_broken_page_is_named_with_its_remedy(tmp_path: Path, halfway: Halfway) -> None:
    pages = (halfway.folder / DATABASE_FILE).stat().st_size // PAGE_BYTES
    assert pages > 40
    for page in range(0, pages, PAGES_APART):
        folder = halfway.copy(tmp_path / f"page{page}")
        change(folder / DATABASE_FILE, page * PAGE_BYTES, PAGE_BYTES, None)
        found = doctor(folder, "database")
        assert not found.is_well, page
        assert "tesla-at-home-server restore FILE" in found.detail
        for line in halfway.told(folder):
            assert "damaged" in line, (page, line)
            assert "\n" not in line


def test_a_changed_bit_anywhere_makes_no_wrong_answer(tmp_path: Path, halfway: Halfway) -> None:
    size = (halfway.folder / DATABASE_FILE).stat().st_size
    for seed in range(CHANGED_BITS):
        folder = halfway.copy(tmp_path / f"bit{seed}")
        change(folder / DATABASE_FILE, 0, size, Random(seed))
        halfway.told(folder)
        if doctor(folder, "database").is_well:
            check_answers(folder / DATABASE_FILE)


def test_an_index_that_misses_an_entry_is_found(stage: Stage) -> None:
    change_behind_index(
        stage.server.path,
        "replicas_by_lease",
        "UPDATE replicas SET lease_id = zeroblob(16) WHERE id = 1",
    )
    assert "replicas_by_lease" in doctor(stage.server.folder, "database").detail


def change_behind_index(database: Path, index: str, statement: str) -> None:
    """Carry out a statement while the schema does not know the index."""
    columns = "type, name, tbl_name, rootpage, sql"
    (row,) = sql(database, f"SELECT {columns} FROM sqlite_master WHERE name = ?", index)
    schema(database, "DELETE FROM sqlite_master WHERE name = ?", index)
    sql(database, statement)
    schema(database, f"INSERT INTO sqlite_master ({columns}) VALUES (?, ?, ?, ?, ?)", *row)


def schema(database: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(statement, values)
    connection.close()


def test_credit_that_is_not_in_the_ledger_is_found(stage: Stage) -> None:
    assert doctor(stage.server.folder, "database").is_well
    sql(
        stage.server.path,
        "UPDATE owners SET credit_kflop = credit_kflop + 1 WHERE name LIKE '%one'",
    )
    found = doctor(stage.server.folder, "database")
    assert (found.is_well, found.detail[:14]) == (False, "1 owners' cred")


# --- what the database holds --------------------------------------------------------------------


def test_a_stored_result_that_changed_speaks_for_nobody_and_against_nobody(stage: Stage) -> None:
    server = stage.server
    batch = server.publish(1)
    for name in ("one", "two"):
        vehicle = stage.vehicles[name]
        vehicle.hear(server.answer([vehicle.request(3)])[0])
        vehicle.compute()
        vehicle.hear(server.answer([vehicle.request(0)])[0])
    assert results_of(server, batch) == ["reported", "reported"]
    damage_payload(server, output_of(0, ROWS))
    before = sql(server.path, "SELECT id, invalid FROM vehicles ORDER BY id")
    server.settle()
    assert sql(server.path, "SELECT id, invalid FROM vehicles ORDER BY id") == before
    assert server.batch(batch).units_done == 0
    for name in ("three", "four"):
        enrol(stage, name)
    work_through(stage, ("three", "four"))
    assert server.batch(batch).state == "completed"
    check_answers(server.path)
    check_invariants(server.path)


def results_of(server: DiskServer, batch: BatchRow) -> list[object]:
    query = """SELECT r.state FROM replicas r JOIN units u ON u.id = r.unit_id
        WHERE u.batch_id = ? ORDER BY r.state"""
    return [state for (state,) in sql(server.path, query, batch.id)]


def damage_payload(server: DiskServer, raw: bytes) -> None:
    changed, digest = raw[:-1] + bytes([raw[-1] ^ 1]), digests.of_tensors(raw)
    assert sql(server.path, "SELECT raw FROM payloads WHERE digest = ?", digest) == [(raw,)]
    sql(server.path, "UPDATE payloads SET raw = ? WHERE digest = ?", changed, digest)


def test_a_stored_reply_that_changed_is_no_dead_end(stage: Stage) -> None:
    server, vehicle = stage.server, stage.vehicles["one"]
    raw, said = stage.said["one"]
    assert repeated(stage, "one") == said
    sql(
        server.path,
        "UPDATE vehicles SET last_reply = "
        "CAST(substr(last_reply, 1, length(last_reply) - 1) || x'00' AS BLOB) WHERE id = ?",
        digests.of_key(vehicle.public_key),
    )
    assert dsse.unpack_message(repeated(stage, "one")).envelope.payload_type == roles.RESYNC
    vehicle.saved = raw
    vehicle.hear(server.answer([raw])[0])
    (answer,) = server.answer([vehicle.request(0)])
    assert answer.envelope.payload_type == roles.REPLY

"""The store: what is saved is there after a crash, and one transaction is all or nothing."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tesla_at_home.adapters import store as store_module
from tesla_at_home.adapters import store_copy
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.store import FILE_NAME, Store
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.events import Need, Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.errors import CannotSave, ClientError, NotJoined, StoreDamaged
from tesla_at_home.policy.gates import Gate
from tesla_at_home.ports import ConsentRecord, Membership
from tests.support.machine_bench import lease_id, offer
from workunits.errors import BadDigest
from workunits.trust import digests
from workunits.values import Digest, LeaseId, Milliseconds, OwnerId, SessionId
from workunits.wire.messages import Consent

MEMBER = Membership(
    "http://127.0.0.1", digests.of_key(b"k"), "v", OwnerId(bytes(16)), "o", SessionId(b"s" * 16), 3
)
RECORD = ConsentRecord(
    Consent(terms=digests.ZERO, version="1", at=Milliseconds(1), scopes=("compute",))
)
UNIT = HeldUnit(offer=offer(1), state="leased", deadline_ms=Milliseconds(9))


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    with Store.create(tmp_path) as store:
        store.join(MEMBER, RECORD, Milliseconds(5))
    return tmp_path


def test_a_directory_of_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotJoined, match="join URL"):
        Store.open(tmp_path)
    with Store.create(tmp_path) as store:
        with pytest.raises(NotJoined):
            store.membership()
        with pytest.raises(NotJoined):
            store.books()
        assert (store.consent(), store.gate(), store.units()) == (None, None, [])


def test_joining_begins_a_session_and_keeps_units(joined: Path) -> None:
    with Store.open(joined) as store:
        assert store.membership() == MEMBER
        assert store.books().talk.session == MEMBER.session
        store.save(Changes(units=(UNIT,), books=replace(store.books(), notice="n")))
        again = dataclasses.replace(MEMBER, session=SessionId(b"t" * 16), epoch=4)
        store.join(again, RECORD, Milliseconds(6))
        assert store.units() == [UNIT]
        assert (store.books().notice, store.books().talk.epoch) == ("n", 4)
        store.change_membership(MEMBER)
        assert store.membership() == MEMBER
    assert (joined / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_changes_are_all_there_for_the_next_process(joined: Path) -> None:
    entry = Entry(7, "unit_resumed", "text", lease_id(1), 3, "parked")
    gate = Gate().view()
    with Store.open(joined) as store:
        store.save(Changes(store.books(), (UNIT,), (), (entry,), gate))
    with Store.open(joined, is_writer=False) as store:
        assert store.units() == [UNIT]
        assert store.history()[-1] == entry
        assert store.history(1) == [entry]
        assert store.gate() == gate
        store.save(Changes(dropped=(UNIT.lease,)))
        assert store.units() == []


def test_a_failed_save_changes_nothing(joined: Path) -> None:
    bad = Entry(1, "kind", None)  # type: ignore[arg-type]
    with Store.open(joined) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.save(Changes(units=(UNIT,), entries=(bad,)))
        assert store.units() == []


def test_consents_are_added_and_never_changed(joined: Path) -> None:
    withdrawn = ConsentRecord(RECORD.consent, Milliseconds(9))
    with Store.open(joined) as store:
        store.add_consent(withdrawn)
        assert store.consents() == [RECORD, withdrawn]
        assert store.consent() == withdrawn


def test_orders_are_taken_once_in_their_order(joined: Path) -> None:
    first, second = Order(kind="pause", until_ms=5), Order(kind="finish")
    with Store.open(joined) as writer, Store.open(joined, is_writer=False) as other:
        assert writer.take_orders() == []
        other.add_order(first)
        other.add_order(second)
        assert writer.take_orders() == [first, second]
        assert writer.take_orders() == []


def test_the_history_does_not_grow_for_ever(joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_HISTORY_LINES", 3)
    with Store.open(joined) as store:
        entries = tuple(Entry(n, "kind", str(n)) for n in range(10))
        store.save(Changes(entries=entries))
        assert store.history() == list(entries[-3:])


def test_a_later_version_and_a_broken_file_say_so(joined: Path) -> None:
    with sqlite3.connect(joined / FILE_NAME) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(ClientError, match="later version"):
        Store.open(joined)
    for path in joined.glob(FILE_NAME + "*"):
        path.unlink()
    (joined / FILE_NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreDamaged, match="not a database"):
        Store.open(joined)


def damage_pages(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))


def damage_rows(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        for table in ("values_by_name", "consents", "units"):
            raw.execute(f"UPDATE {table} SET packed = ?", (b"\xc1",))
        raw.execute("INSERT INTO orders (packed) VALUES (?)", (b"\xc1",))
        raw.execute("UPDATE history SET text = CAST(x'ff' AS TEXT)")
    raw.close()


def damage_types(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE values_by_name SET packed = 7")
        raw.execute("DROP TABLE units")
        raw.execute("DROP TABLE consents")
        raw.execute("DROP TABLE orders")
        raw.execute("DROP TABLE history")
    raw.close()


READS: list[Callable[[Store], object]] = [
    Store.membership, Store.books, Store.units, Store.consent, Store.consents, Store.take_orders,
    Store.history, Store.check,
]  # fmt: skip


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("damage", [damage_pages, damage_rows, damage_types])
def test_damage_behind_the_header_names_the_file_and_the_way_out(
    joined: Path, damage: Callable[[Path], None], read: Callable[[Store], object]
) -> None:
    with Store.open(joined) as store:
        store.save(Changes(units=(UNIT,)))
    damage(joined / FILE_NAME)
    with pytest.raises(StoreDamaged) as caught, Store.open(joined) as s:
        read(s)
    assert FILE_NAME in str(caught.value)
    assert "`tesla-at-home run` sets it aside" in str(caught.value)
    store_copy.remove(joined)
    with pytest.raises(StoreDamaged) as caught, Store.open(joined) as s:
        read(s)
    for word in (FILE_NAME, "recover", "another --dir", "spool"):
        assert word in str(caught.value)


def test_a_full_disk_says_so_and_keeps_what_was_saved(joined: Path) -> None:
    entries = tuple(Entry(n, "kind", "x" * 1000) for n in range(200))
    with Store.open(joined) as store:
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(ClientError, match="full; make room") as caught:
            store.save(Changes(units=(UNIT,), entries=entries))
        assert FILE_NAME in str(caught.value)
        assert store.units() == []
        store.save(Changes(units=(UNIT,)))
        assert store.units() == [UNIT]


def test_a_database_that_may_not_be_written_says_so(joined: Path) -> None:
    with Store.open(joined) as store:
        store._db.execute("PRAGMA query_only = ON")
        with pytest.raises(ClientError, match="make the directory writable"):
            store.save(Changes(units=(UNIT,)))


def test_another_programs_writing_is_waited_for_a_moment_only(joined: Path) -> None:
    with Store.open(joined, patience_s=0.01) as store:
        other = sqlite3.connect(joined / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CannotSave, match="locked; another program holds it"):
            store.save(Changes(units=(UNIT,)))
        assert store.units() == []
        other.execute("COMMIT")
        other.close()
        store.save(Changes(units=(UNIT,)))
        assert store.units() == [UNIT]


def test_a_store_of_the_first_version_is_read_and_gets_checksums(joined: Path) -> None:
    with Store.open(joined) as store:
        store.save(Changes(units=(UNIT,)))
        store.add_order(Order(kind="finish"))
    with sqlite3.connect(joined / FILE_NAME) as raw:
        for table in ("values_by_name", "units", "consents", "orders"):
            raw.execute(f"UPDATE {table} SET packed = substr(packed, 1, length(packed) - 4)")
        raw.execute("PRAGMA user_version = 1")
    raw.close()
    with Store.open(joined) as store:
        store.check()
        assert (store.membership(), store.consents()) == (MEMBER, [RECORD])
        assert (store.units(), store.take_orders()) == ([UNIT], [Order(kind="finish")])


def test_a_changed_byte_is_found_or_changes_nothing(joined: Path) -> None:
    """Wherever the disk changes the file: what the agent goes by is as it was, or is not believed."""
    with Store.open(joined) as store:
        store.save(Changes(units=(UNIT,), gate=Gate().view()))
        before = (store.membership(), store.books(), store.units(), store.consents(), store.gate())
    path = joined / FILE_NAME
    whole = path.read_bytes()
    found = 0
    for at in range(100, len(whole), 61):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            with Store.open(joined) as store:
                store.check()
                after = (
                    store.membership(), store.books(), store.units(), store.consents(), store.gate(),
                )  # fmt: skip
                assert after == before, at
        except StoreDamaged:
            found += 1
        for tail in ("-wal", "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
    assert found


# --- files --------------------------------------------------------------------------------------


def test_a_file_has_its_name_only_when_its_digest_is_right(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    need = Need("input", digests.of_tensors(b"right"), 5)
    shelf.part(need).write_bytes(b"wrong")
    with pytest.raises(BadDigest):
        shelf.accept(need)
    assert not shelf.has(need)
    assert not shelf.part(need).exists()
    shelf.put(need, b"right")
    shelf.put(need, b"ignored: it is there")
    assert shelf.read(need) == b"right"


def test_models_used_least_recently_go_first(tmp_path: Path) -> None:
    import os

    shelf = FileShelf(tmp_path)
    names = []
    for number in range(4):
        raw = bytes([number]) * 10
        need = Need("model", digests.plain(raw), 10)
        shelf.put(need, raw)
        os.utime(shelf.path(need), (number, number))
        names.append(need)
    shelf.use(names[0])
    assert shelf.held("model")[0] == names[0].digest
    shelf.evict({names[1].digest}, 20)
    assert [shelf.has(need) for need in names] == [True, True, False, False]
    shelf.evict(set(), 0)
    assert shelf.held("model") == ()


def test_names_that_are_no_digest_are_not_ours(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    need = Need("model", digests.plain(b"x"), 1)
    shelf.put(need, b"x")
    for name in ("README", ".DS_Store", "f" * 63, "F" * 64, "f" * 64 + ".part"):
        (tmp_path / "models" / name).write_text("stray")
    (tmp_path / "models" / "folder").mkdir()
    assert shelf.held("model") == (need.digest,)
    shelf.evict(set(), 0)
    assert shelf.held("model") == ()
    assert (tmp_path / "models" / "README").exists()


def test_begun_files_that_nothing_waits_for_go(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    wanted, other, part = (
        Need("model", digests.plain(b"w"), 1),
        Need("model", digests.plain(b"o"), 1),
        Need("input", digests.of_tensors(b"i"), 1),
    )
    for need in (wanted, other, part):
        shelf.part(need).write_bytes(b"")
        shelf.part(need).with_name(f"{shelf.part(need).name}.etag").write_bytes(b"e")
    shelf.evict({wanted.digest}, 100)
    shelf.forget(LeaseId(b"l" * 16), [part.digest])
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    name = shelf.part(wanted).name
    assert left == [name, f"{name}.etag"]


def test_a_units_files_go_with_it(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    need = Need("input", digests.of_tensors(b"x"), 1)
    shelf.put(need, b"x")
    lease = LeaseId(b"l" * 16)
    shelf.spool(lease).write_bytes(b"this is not a spool file, it is damaged")
    assert shelf.begin(lease) == 0
    assert shelf.spool(lease).with_suffix(".damaged").exists()
    shelf.output(lease).write_bytes(b"x")
    shelf.forget(lease, [need.digest, Digest(bytes(32))])
    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert left == []
    assert shelf.begin(lease) == 0
    assert 0 < shelf.free_bytes() <= shelf.disk_bytes()


def test_what_no_unit_in_hand_needs_is_swept(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    kept, gone = (Need("input", digests.of_tensors(raw), 1) for raw in (b"k", b"g"))
    shelf.put(kept, b"k")
    shelf.put(gone, b"g")
    shelf.part(gone).write_bytes(b"")
    mine, old = LeaseId(b"m" * 16), LeaseId(b"o" * 16)
    for lease in (mine, old):
        shelf.spool(lease).write_bytes(b"")
        shelf.output(lease).with_suffix(".part").write_bytes(b"")
    (tmp_path / "spool" / "README.txt").write_text("not ours")
    shelf.sweep({mine}, {kept.digest})
    left = {path.name for path in (tmp_path / "spool").rglob("*") if path.is_file()}
    assert left == {
        "README.txt", kept.digest.hex(), f"{mine.hex()}.steps", f"{mine.hex()}.part",
    }  # fmt: skip

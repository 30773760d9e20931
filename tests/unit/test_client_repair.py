"""A damaged database: found, named, set aside; what only the owner could say again is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tesla_at_home.adapters import repair, store_copy
from tesla_at_home.adapters.clock import SystemRandomness
from tesla_at_home.adapters.store import FILE_NAME, REPAIRED, Store
from tesla_at_home.agent.changes import Changes, after_order
from tesla_at_home.agent.events import Order
from tesla_at_home.errors import NotJoined, StoreDamaged
from tesla_at_home.ports import ConsentRecord
from tests.support.still_clock import StillClock
from tests.unit.test_client_store import MEMBER, RECORD, UNIT
from workunits.values import Milliseconds

CLOCK = StillClock()
DAMAGE = StoreDamaged("damaged, says the test")


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    with Store.create(tmp_path) as store:
        store.join(MEMBER, RECORD, Milliseconds(5))
        store.save(Changes(units=(UNIT,)))
    return tmp_path


def mend(directory: Path) -> str:
    return repair.mend(directory, DAMAGE, CLOCK, SystemRandomness())


def garble(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: list[Callable[[Path], None]] = [garble, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_new_store_has_what_only_the_owner_could_say_again(
    damage: Callable[[Path], None], joined: Path
) -> None:
    with Store.open(joined) as store:
        store.apply_order(Order(kind="pause", until_ms=77))
        before = store.books()
    damage(joined / FILE_NAME)
    with pytest.raises(StoreDamaged), Store.open(joined) as store:
        store.check()
    line = mend(joined)
    with Store.open(joined) as store:
        store.check()
        assert (store.membership(), store.consents()) == (MEMBER, [RECORD])
        books = store.books()
        assert books.paused_until_ms == 77
        # A session of its own, in which the project sends again what it has leased.
        assert books.talk.session != before.talk.session
        assert (books.talk.is_renewed, books.talk.saved, store.units()) == (True, None, [])
        last = store.last(REPAIRED)
        assert last is not None
        assert last.text == line
    assert f"{FILE_NAME}.damaged-1" in line
    assert (joined / f"{FILE_NAME}.damaged-1").exists()


def test_its_log_goes_with_it(joined: Path) -> None:
    with Store.open(joined) as store:
        store.save(Changes(dropped=(UNIT.lease,)))
        log = (joined / f"{FILE_NAME}-wal").read_bytes()
        (joined / "kept").write_bytes(log)
    (joined / "kept").rename(joined / f"{FILE_NAME}-wal")
    garble(joined / FILE_NAME)
    mend(joined)
    assert (joined / f"{FILE_NAME}.damaged-1-wal").read_bytes() == log
    with Store.open(joined) as store:
        store.check()
        assert store.membership() == MEMBER


def test_a_repair_that_was_cut_off_is_begun_again(joined: Path) -> None:
    (joined / FILE_NAME).rename(joined / f"{FILE_NAME}.damaged-1")
    (joined / f"{FILE_NAME}-wal").write_bytes(b"an old log")
    with pytest.raises(StoreDamaged):
        Store.open(joined)
    mend(joined)
    Store.create(joined).close()
    with Store.open(joined) as store:
        assert store.membership() == MEMBER
    # And one that ended before the first row was written.
    (joined / FILE_NAME).unlink()
    Store.create(joined).close()
    with pytest.raises(StoreDamaged), Store.open(joined) as store:
        store.check()
    mend(joined)
    with Store.open(joined) as store:
        assert store.consents() == [RECORD]


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_the_copy_nothing_is_moved_and_no_consent_invented(
    damage: Callable[[Path], None], joined: Path
) -> None:
    damage(store_copy.path_in(joined))
    garble(joined / FILE_NAME)
    before = sorted(path.name for path in joined.iterdir())
    with pytest.raises(StoreDamaged, match="says the test"):
        mend(joined)
    assert sorted(path.name for path in joined.iterdir()) == before


def test_a_copy_with_any_changed_byte_is_none(joined: Path) -> None:
    path = store_copy.path_in(joined)
    whole = path.read_bytes()
    assert store_copy.read(joined) is not None
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert store_copy.read(joined) is None
        path.write_bytes(whole[:at])
        assert store_copy.read(joined) is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_ended_consent_stays_ended(joined: Path) -> None:
    with Store.open(joined) as store:
        store.add_consent(ConsentRecord(RECORD.consent, Milliseconds(9)))
    garble(joined / FILE_NAME)
    mend(joined)
    with Store.open(joined) as store:
        record = store.consent()
        assert record is not None
        assert record.withdrawn_ms == 9


def test_while_a_consent_is_ended_no_copy_says_it_holds(
    joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(self: Store, record: ConsentRecord) -> None:
        raise Killed

    with Store.open(joined) as store:
        monkeypatch.setattr(Store, "_add_consent", kill)
        with pytest.raises(Killed):
            store.add_consent(ConsentRecord(RECORD.consent, Milliseconds(9)))
    assert store_copy.read(joined) is None


def test_the_running_agents_wishes_reach_the_copy(joined: Path) -> None:
    with Store.open(joined) as store:
        store.save(Changes(books=after_order(store.books(), Order(kind="finish"))))
    found = store_copy.read(joined)
    assert found is not None
    assert found.books.is_finishing
    assert found.books.talk.saved is None


def test_a_disk_that_damages_one_after_the_other_is_given_time(joined: Path) -> None:
    clock, waits = StillClock(), []
    for _ in range(5):
        waits.append(repair.wait_s(joined, clock))
        garble(joined / FILE_NAME)
        repair.mend(joined, DAMAGE, clock, SystemRandomness())
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] >= 3600
    kept = [path.name for path in repair.set_aside(joined)]
    assert kept == [f"{FILE_NAME}.damaged-{number}" for number in (3, 4, 5)]
    clock.pass_s(2 * 86_400)
    assert repair.wait_s(joined, clock) == 0


def test_no_copy_and_no_database_is_a_directory_of_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotJoined):
        Store.open(tmp_path)
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(NotJoined):
        Store.open(tmp_path)

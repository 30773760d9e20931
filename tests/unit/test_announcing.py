"""What `run` says of itself: the important changes, once each, and never too many lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.view import Entry
from tesla_at_home.announcing import MOST_LINES, WINDOW_S, Announcing, entry_line
from tesla_at_home.ports import ConsentRecord, Membership
from tests.support.machine_bench import lease_id, offer
from tests.support.still_clock import StillClock
from workunits.trust import digests
from workunits.values import Milliseconds, OwnerId, SessionId
from workunits.wire.messages import Consent

MEMBER = Membership(
    "http://127.0.0.1", digests.of_key(b"k"), "v", OwnerId(bytes(16)), "o", SessionId(b"s" * 16), 3
)
RECORD = ConsentRecord(
    Consent(terms=digests.ZERO, version="1", at=Milliseconds(1), scopes=("compute",))
)
UNIT = HeldUnit(offer=offer(1), state="leased", deadline_ms=Milliseconds(9))


class Listener:
    """An agent's books, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.clock = StillClock()
        self.store = Store.create(folder)
        self.store.join(MEMBER, RECORD, Milliseconds(5))
        self.announcing = Announcing(self.store, self.clock, self.said.append)

    def hears(self, changes: Changes) -> list[str]:
        self.said.clear()
        self.announcing.save(changes)
        return list(self.said)


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def test_it_begins_with_what_where_and_how_to_stop(listener: Listener, tmp_path: Path) -> None:
    listener.announcing.begin(tmp_path)
    (line,) = listener.said
    assert MEMBER.url in line
    assert str(tmp_path) in line
    assert "Ctrl-C" in line


def test_a_retired_vehicle_says_its_notice(listener: Listener, tmp_path: Path) -> None:
    books = replace(listener.store.books(), notice="this vehicle was retired")
    assert listener.hears(Changes(books=books)) == ["the project says: this vehicle was retired"]
    again = Announcing(listener.store, listener.clock, listener.said.append)
    again.begin(tmp_path)
    assert listener.said[-1] == "the project says: this vehicle was retired"


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        ("gate_closed", "the car is not parked", "gate closed: the car is not parked"),
        ("gate_opened", "all conditions hold", "gate open: all conditions hold"),
        ("unit_computed", "computed in 2.0 s", f"unit {lease_id(1).hex()[:8]} computed in 2.0 s"),
        ("verdict", "valid", None),
        ("ordered", "pause", None),
    ],
)
def test_entries_that_matter_are_lines(kind: str, text: str, line: str | None) -> None:
    assert entry_line(Entry(1, kind, text, lease_id(1))) == line


def test_trouble_is_said_once_and_so_is_its_end(listener: Listener) -> None:
    books = listener.store.books()
    trouble = Changes(books=replace(books, fault="no connection"))
    assert listener.hears(trouble) == ["trouble: no connection; it is tried again"]
    assert listener.hears(trouble) == []
    assert listener.hears(Changes(books=books)) == ["the project answers again"]


def test_idleness_is_said_once_until_there_is_work(listener: Listener) -> None:
    def asked(at_ms: int) -> Changes:
        next_ms = listener.clock.now_ms() + 600_000
        return Changes(
            books=replace(listener.store.books(), last_contact_ms=at_ms, next_contact_ms=next_ms)
        )

    assert "600 s" in listener.hears(asked(1))[0]
    assert listener.hears(asked(2)) == []
    listener.hears(Changes(units=(UNIT,)))
    assert listener.hears(asked(3)) == []
    listener.hears(Changes(dropped=(UNIT.lease,)))
    assert len(listener.hears(asked(4))) == 1


def test_lines_are_bounded_and_a_listener_may_go(listener: Listener) -> None:
    entries = tuple(Entry(1, "gate_opened", "again") for _ in range(10 * MOST_LINES))
    said = listener.hears(Changes(entries=entries))
    assert len(said) == MOST_LINES
    assert "history" in said[-1]
    listener.clock.pass_s(WINDOW_S)
    assert len(listener.hears(Changes(entries=entries))) == MOST_LINES

    def gone(line: str) -> None:
        raise BrokenPipeError

    deaf = Announcing(listener.store, listener.clock, gone)
    deaf.save(Changes(entries=entries))
    assert len(listener.store.history(10_000)) > 20 * MOST_LINES

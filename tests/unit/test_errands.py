"""Jobs for the lanes: what went wrong on this disk or with the day's budget is told as an event."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.events import (
    Event,
    Fetched,
    FetchFailed,
    Moved,
    Need,
    Unanswered,
)
from tesla_at_home.errands import Errands
from tesla_at_home.ports import Cancellation
from tests.support import models
from tests.support.hostile_http import HostileServer, hostile_server, ranged
from tests.support.machine_bench import Bench
from tests.support.project_in_memory import MemoryProject
from workunits.trust import digests, envelope
from workunits.values import Milliseconds

RAW = bytes(range(256)) * 4096
MODEL = Need("model", digests.plain(RAW), len(RAW))
NOW = Milliseconds(1_800_000_000_000)


class FullShelf(FileShelf):
    """A disk that takes nothing any more, and gives nothing back."""

    def put(self, need: Need, raw: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/else/file")

    def accept(self, need: Need) -> None:
        raise OSError(errno.EROFS, "Read-only file system")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def over_http(server: HostileServer, shelf: FileShelf) -> Errands:
    project = MemoryProject(lambda: NOW)
    return Errands(HttpTransport(server.url, user_agent="test/1"), project, project, shelf)


def fetch(errands: Errands, left_bytes: int) -> list[Event]:
    return errands.fetch(MODEL, 10**9, frozenset(), left_bytes, Cancellation())


def a_request() -> SavedRequest:
    """As the agent writes its first one down."""
    bench = Bench()
    bench.begin()
    saved = bench.machine.state.books.talk.saved
    assert saved is not None
    return saved


def test_a_fetch_stops_when_the_days_budget_is_used_up_and_goes_on_the_next_day(
    server: HostileServer, tmp_path: Path
) -> None:
    server.on(f"/v1/blobs/{MODEL.digest.hex()}", ranged(RAW, '"v1"'))
    errands = over_http(server, FileShelf(tmp_path))
    moved, failed = fetch(errands, 100_000)
    assert isinstance(moved, Moved)
    assert 100_000 <= moved.down < 100_000 + 65_536
    assert failed == FetchFailed(MODEL, "today's data budget is used up", was_cancelled=True)
    rest, fetched = fetch(errands, 10**9)
    assert isinstance(rest, Moved)
    assert rest.down == len(RAW) - moved.down
    assert server.seen[1].headers["range"] == f"bytes={moved.down}-"
    assert fetched == Fetched(MODEL)


def test_a_disk_that_takes_nothing_is_a_failed_fetch(server: HostileServer, tmp_path: Path) -> None:
    server.on(f"/v1/blobs/{MODEL.digest.hex()}", ranged(RAW, '"v1"'))
    moved, failed = fetch(over_http(server, FullShelf(tmp_path)), 10**9)
    assert moved == Moved(down=len(RAW))
    assert failed == FetchFailed(MODEL, "this disk: Read-only file system")


def test_an_answer_that_finds_no_room_is_asked_for_again(tmp_path: Path) -> None:
    project = MemoryProject(lambda: NOW)
    project.publish(models.mlp(), rows=8, rows_per_unit=8)
    errands = Errands(project, project, project, FullShelf(tmp_path))
    saved = a_request()
    moved, told = errands.post(saved, [], project.project(), NOW, Cancellation())
    assert isinstance(moved, Moved)
    assert moved.up
    assert moved.down
    assert told == Unanswered("file: No space left on device")


def test_a_request_that_got_no_answer_counts(tmp_path: Path) -> None:
    project = MemoryProject(lambda: NOW)
    project.lose_reply()
    errands = Errands(project, project, project, FileShelf(tmp_path))
    saved = a_request()
    moved, told = errands.post(saved, [], project.project(), NOW, Cancellation())
    assert moved == Moved(up=len(envelope.pack_message(saved.sealed, [])))
    assert isinstance(told, Unanswered)

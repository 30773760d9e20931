"""Whatever comes in the place of an answer: an outage in one line, in bounded memory, and the saved
request stays.

`test_transport` has the answers that lie about a body; here are those that break in the head, at each
byte class of a message, and those that boxes between vehicle and project give.
"""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tesla_at_home.adapters.exchange import HttpLimits
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.transport import MESSAGE, HttpTransport
from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.commands import Post
from tesla_at_home.agent.events import Answered, Event, Refused, Unanswered
from tesla_at_home.errands import Errands
from tesla_at_home.errors import Unreachable
from tesla_at_home.ports import Cancellation
from tests.support.hostile_http import (
    Answer,
    HostileServer,
    cut,
    head,
    hostile_server,
    ranged,
    raw,
    repeating,
    reset,
    whole,
)
from tests.support.link import PROJECT
from tests.support.machine_bench import Bench
from tests.support.project_in_memory import MemoryProject
from tests.support.work_server import SCHEDULER
from workunits.trust import envelope, roles
from workunits.values import Milliseconds
from workunits.wire import limits
from workunits.wire.messages import Reply

QUICK = HttpLimits(connect_s=5.0, silence_s=5.0, stall_s=0.5, stall_bytes=1024)
BODY = bytes(range(256)) * 1024
HTML = b"<html>Please log in to the hotel's network</html>"
ATTACHMENT = b"a" * 5000
BOMB = zlib.compress(bytes(50_000_000), wbits=31)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + f"Content-Type: {MESSAGE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def transport(server: HostileServer) -> HttpTransport:
    return HttpTransport(server.url, user_agent="test/1", bounds=QUICK)


@pytest.fixture
def bench() -> Bench:
    """An agent whose request is under way."""
    bench = Bench()
    bench.begin()
    return bench


def saved_of(bench: Bench) -> SavedRequest:
    (command,) = bench.took(Post)
    assert isinstance(command, Post)
    return command.saved


def exchange(transport: HttpTransport, saved: SavedRequest, shelf: Path) -> Event:
    """What the agent is told of one try."""
    project = MemoryProject(lambda: Milliseconds(1))
    errands = Errands(transport, project, project, FileShelf(shelf))
    _, event = errands.post(saved, (), PROJECT, Milliseconds(1), Cancellation())
    return event


def reply_to(saved: SavedRequest) -> bytes:
    """The project's own answer, with an attachment."""
    reply = Reply(
        in_reply_to=saved.digest, server_time=Milliseconds(1_800_000_000_000), epoch=1, wait_s=0,
        has_work=False,
    )  # fmt: skip
    sealed = envelope.seal(reply, roles.REPLY, SCHEDULER)
    return envelope.pack_message(sealed, [ATTACHMENT])


NO_ANSWERS: dict[str, tuple[Answer, str]] = {
    "cut in the status line": (raw(b"HTTP/1.1 20"), "broke"),
    "cut in the headers": (raw(head(200, MESSAGE, 10)[:40]), "broke"),
    "cut behind the headers": (raw(head(200, MESSAGE, 10)), "broke"),
    "reset at once": (reset(b""), "broke"),
    "reset in the headers": (reset(OK), "broke"),
    "reset in the body": (reset(head(200, MESSAGE, 10) + b"12345"), "broke"),
    "a network that wants a login": (whole(511, HTML, "text/html"), "511"),
    "a proxy that wants a login": (whole(407, HTML, "text/html"), "407"),
    "a gateway's time-out": (whole(504, HTML, "text/html"), "504"),
    "an empty success": (whole(204, b"", MESSAGE), "204"),
    "early hints and nothing else": (raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "103"),
    "a gzip bomb": (whole(200, BOMB, MESSAGE, Content_Encoding="gzip"), "compressed"),
    "a deflate bomb": (whole(200, BOMB, MESSAGE, Content_Encoding="deflate"), "compressed"),
    "two encodings": (whole(200, BOMB, MESSAGE, Content_Encoding="br, gzip"), "compressed"),
    "a flood of interim answers": (repeating(b"", CONTINUE * 1000), "headers"),
    "endless headers": (repeating(OK, b"X: " + b"y" * 60_000 + b"\r\n"), "headers|broke"),
    "an endless header": (repeating(OK + b"X: ", b"y" * 65_536), "headers|broke"),
    "a dripping status line": (repeating(b"HTTP/1.1 200 ", b"O", every_s=0.01), "stalled"),
    "dripping headers": (repeating(OK, b"X: y\r\n", every_s=0.05), "stalled"),
    "a chunk without a number": (raw(CHUNKED + b"zz\r\nabc"), "broke"),
    "a chunk that is cut": (raw(CHUNKED + b"ff\r\nabc"), "broke"),
    "an endless chunk size": (repeating(CHUNKED, b"0" * 65_536), "broke"),
    "endless trailers": (repeating(CHUNKED + b"0\r\n", b"X: y\r\n" * 100, 0.01), "stalled"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_the_saved_request_outlasts_what_is_no_answer(
    name: str, server: HostileServer, transport: HttpTransport, bench: Bench, tmp_path: Path
) -> None:
    answer, word = NO_ANSWERS[name]
    server.on("/v1/work", answer)
    saved = saved_of(bench)
    tracemalloc.start()
    try:
        event = exchange(transport, saved, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(event, Unanswered)
    assert any(part in event.detail for part in word.split("|")), event.detail
    assert "\n" not in event.detail
    assert peak < 4 * limits.MIB
    bench.do(event)
    assert bench.books.talk.saved == saved


@pytest.mark.parametrize("part", ["envelope", "attachment", "last byte"])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_message_that_is_cut_is_never_taken_for_a_whole_one(
    part: str, says_length: bool, server: HostileServer, transport: HttpTransport, bench: Bench,
    tmp_path: Path,
) -> None:  # fmt: skip
    saved = saved_of(bench)
    message = reply_to(saved)
    after = {
        "envelope": 100,
        "attachment": message.index(ATTACHMENT) + 1000,
        "last byte": len(message) - 1,
    }[part]
    length = len(message) if says_length else None
    server.on("/v1/work", raw(head(200, MESSAGE, length) + message[:after]))
    event = exchange(transport, saved, tmp_path)
    assert isinstance(event, Unanswered)
    bench.do(event)
    assert bench.books.talk.saved == saved


def test_a_length_that_is_too_short_makes_no_answer(
    server: HostileServer, transport: HttpTransport, bench: Bench, tmp_path: Path
) -> None:
    saved = saved_of(bench)
    message = reply_to(saved)
    server.on("/v1/work", raw(head(200, MESSAGE, len(message) - 10) + message))
    assert isinstance(exchange(transport, saved, tmp_path), Unanswered)


def test_what_follows_the_answer_is_not_read(
    server: HostileServer, transport: HttpTransport, bench: Bench, tmp_path: Path
) -> None:
    saved = saved_of(bench)
    answer = head(200, MESSAGE, len(reply_to(saved))) + reply_to(saved)
    server.on("/v1/work", raw(CONTINUE + answer + answer + b"x" * 10_000))
    event = exchange(transport, saved, tmp_path)
    assert isinstance(event, Answered)
    bench.do(event)
    assert bench.books.talk.saved is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 507])
def test_a_refusal_keeps_the_saved_request(
    status: int, server: HostileServer, transport: HttpTransport, bench: Bench, tmp_path: Path
) -> None:
    problem = b'{"code":"busy","detail":"later"}'
    server.on("/v1/work", whole(status, problem, "application/problem+json", Retry_After="7"))
    saved = saved_of(bench)
    event = exchange(transport, saved, tmp_path)
    assert isinstance(event, Refused)
    assert (event.retry_after_s, event.is_final) == (7, False)
    bench.do(event)
    assert bench.books.talk.saved == saved


HELD = 100_000
REST = len(BODY) - HELD
AFTER_A_CUT: dict[str, tuple[Answer, int, bool]] = {
    "the rest": (ranged(BODY, '"v1"'), REST, True),
    "another version": (ranged(BODY, '"v2"'), len(BODY), True),
    "all of it": (whole(200, BODY, ETag='"v1"'), len(BODY), True),
    "another part": (
        whole(206, BODY[5:], ETag='"v1"', Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}"),
        0, False,
    ),
    "part of something larger": (
        whole(206, BODY[HELD:], Content_Range=f"bytes {HELD}-{len(BODY) - 1}/{len(BODY) + 1}"),
        0, False,
    ),
    "a part that does not say which": (whole(206, BODY[HELD:], ETag='"v1"'), 0, False),
    "an empty success": (whole(204, b""), 0, False),
    "a cut again": (cut(BODY, 0, ETag='"v1"'), 0, False),
    "a captive portal": (whole(511, HTML, "text/html"), 0, False),
}  # fmt: skip


@pytest.mark.parametrize("name", AFTER_A_CUT)
def test_a_fetch_that_was_cut_goes_on_by_what_comes(
    name: str, server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    answer, bytes_down, is_whole = AFTER_A_CUT[name]
    to = tmp_path / "f"
    to.write_bytes(BODY[:HELD])
    (tmp_path / "f.etag").write_bytes(b'"v1"')
    server.on("/blob", answer, ranged(BODY, '"v1"'))
    counted: list[int] = []
    try:
        fetch(transport, to, counted)
    except Unreachable:
        assert not is_whole
        fetch(transport, to, [])
    assert sum(counted) == bytes_down
    assert to.read_bytes() == BODY


@pytest.mark.parametrize("name", ["an empty success", "a captive portal"])
def test_what_came_before_is_kept_when_nobody_answers(
    name: str, server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    to = tmp_path / "f"
    to.write_bytes(BODY[:HELD])
    (tmp_path / "f.etag").write_bytes(b'"v1"')
    server.on("/blob", AFTER_A_CUT[name][0])
    with pytest.raises(Unreachable):
        fetch(transport, to, [])
    assert to.read_bytes() == BODY[:HELD]


def fetch(transport: HttpTransport, to: Path, counted: list[int]) -> None:
    transport.fetch("/blob", to, size=len(BODY), cancel=Cancellation(), on_bytes=counted.append)

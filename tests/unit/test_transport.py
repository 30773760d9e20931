"""The transport against a server that cuts, stalls, drips, redirects, lies and never ends."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tesla_at_home.adapters.exchange import HttpLimits
from tesla_at_home.adapters.transport import MESSAGE, HttpTransport, check_base_url
from tesla_at_home.agent.events import Moved
from tesla_at_home.errors import Cancelled, ClientError, Told, Unreachable
from tesla_at_home.ports import Cancellation
from tests.support.hostile_http import (
    Answer,
    HostileServer,
    cut,
    dripping,
    endless,
    head,
    hostile_server,
    ranged,
    raw,
    self_signed,
    silent,
    whole,
)
from workunits.values import Digest, LeaseId
from workunits.wire import limits

BODY = bytes(range(256)) * 1024
LEASE = LeaseId(b"l" * 16)
UPLOAD = f"/v1/uploads/{(b'l' * 16).hex()}"
QUICK = HttpLimits(connect_s=5.0, silence_s=5.0, stall_s=1.0, stall_bytes=1024)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def transport(server: HostileServer) -> HttpTransport:
    return HttpTransport(server.url, user_agent="test/1", bounds=QUICK)


def _post(transport: HttpTransport, cancel: Cancellation | None = None) -> bytes:
    return transport.post("/v1/work", b"request", cancel=cancel or Cancellation())


def _fetch(transport: HttpTransport, to: Path, size: int = len(BODY)) -> int:
    counted: list[int] = []
    transport.fetch("/blob", to, size=size, cancel=Cancellation(), on_bytes=counted.append)
    return sum(counted)


def _upload(transport: HttpTransport, source: Path) -> int:
    counted: list[int] = []
    transport.upload(
        LEASE, b"t" * 16, source, digest=Digest(bytes(32)), size=source.stat().st_size,
        cancel=Cancellation(), on_bytes=counted.append,
    )  # fmt: skip
    return sum(counted)


def test_a_message_goes_out_and_its_answer_comes_back(
    server: HostileServer, transport: HttpTransport
) -> None:
    server.on("/v1/work", whole(200, b"answer", MESSAGE))
    assert _post(transport) == b"answer"
    (seen,) = server.seen
    assert (seen.method, seen.body) == ("POST", b"request")
    assert seen.headers["content-type"] == MESSAGE
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"] == "test/1"


HTML = b"<html>Please log in to the hotel's network</html>"
NO_ANSWERS: dict[str, tuple[Answer, str]] = {
    "a captive portal's page": (whole(200, HTML, "text/html"), "captive portal"),
    "another content type": (whole(200, b"{}", "application/json"), "captive portal"),
    "no content type": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "no content type"),
    "a redirect": (whole(302, b"", "text/html", Location="http://127.0.0.1:1/"), "redirects"),
    "a redirect with an endless body": (
        raw(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n" + b"x" * 100_000), "redirects"),
    "a compressed answer": (whole(200, b"bomb", MESSAGE, Content_Encoding="gzip"), "compressed"),
    "cut in the middle": (cut(BODY, 1000, MESSAGE), "broke"),
    "too long, and says so": (
        raw(head(200, MESSAGE, limits.MESSAGE_BYTES + 1)), "at most"),
    "endless": (endless(MESSAGE), "more than"),
    "not HTTP": (raw(b"\x16\x03\x01\x02\x00garbage\r\n\r\n"), "broke"),
    "closed at once": (raw(b""), "broke"),
    "dripping": (dripping(MESSAGE), "stalled"),
    "a proxy's 502": (whole(502, HTML, "text/html"), "502"),
    "a problem that is no JSON": (whole(400, b"{", "application/problem+json"), "not readable"),
    "a length of thousands of digits": (
        raw(head(200, MESSAGE, None).replace(b"\r\n\r\n", b"\r\nContent-Length: " + b"9" * 5000
            + b"\r\n\r\n")), "5000 digits"),
    "a problem of such a length": (
        raw(head(503, "application/problem+json", None, Content_Length="9" * 5000)), "5000 digits"),
    "a problem that is too long": (
        whole(400, b" " * 100_000, "application/problem+json"), "at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_is_an_outage(
    name: str, server: HostileServer, transport: HttpTransport
) -> None:
    answer, word = NO_ANSWERS[name]
    server.on("/v1/work", answer)
    with pytest.raises(Unreachable, match=word) as caught:
        _post(transport)
    assert not isinstance(caught.value, Told)
    assert "\n" not in str(caught.value)
    assert len(server.seen) == 1


def test_silence_is_an_outage(server: HostileServer, transport: HttpTransport) -> None:
    server.on("/v1/work", silent(server, head(200, MESSAGE, 100)))
    with pytest.raises(Unreachable, match="stalled"):
        _post(transport)


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with hostile_server() as gone:
        url = gone.url
    with pytest.raises(Unreachable, match="no connection"):
        _post(HttpTransport(url, user_agent="test/1"))


def test_an_endless_answer_is_never_held_in_memory(
    server: HostileServer, transport: HttpTransport
) -> None:
    server.on("/leaderboard", endless("application/json"))
    tracemalloc.start()
    try:
        with pytest.raises(Unreachable, match="more than"):
            transport.page("/leaderboard")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limits.MIB


def test_a_problem_document_is_told(server: HostileServer, transport: HttpTransport) -> None:
    problem = (
        b'{"type":"about:blank","title":"Busy","status":503,"code":"busy","detail":"a\\u001b[2Jb"}'
    )
    server.on(
        "/v1/work", whole(503, problem, "application/problem+json; charset=utf-8", Retry_After="7")
    )
    with pytest.raises(Told) as caught:
        _post(transport)
    told = caught.value
    assert (told.status, told.problem, told.retry_after_s) == (503, "busy", 7)
    assert "\x1b" not in told.detail


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("99999999999", 86_400),
        ("soon", None),
        ("-3", None),
        ("Wed, 21 Oct 2026 07:28:30 +99999999999999999999", None),
        ("9" * 6000, 86_400),
    ],
)
def test_retry_after_is_seconds_or_a_date(
    said: str, wanted: int | None, server: HostileServer, transport: HttpTransport
) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    server.on(
        "/v1/work",
        whole(429, b'{"code":"x"}', "application/problem+json", Retry_After=said, Date=date),
    )
    with pytest.raises(Told) as caught:
        _post(transport)
    assert caught.value.retry_after_s == wanted


def test_cancelling_closes_the_socket_from_another_thread(server: HostileServer) -> None:
    server.on("/v1/work", silent(server))
    _cancel_while_it_waits(server)


def _cancel_while_it_waits(server: HostileServer) -> None:
    patient = HttpTransport(server.url, user_agent="test/1")
    cancel = Cancellation()
    caught: list[Exception] = []

    def wait_for_answer() -> None:
        try:
            _post(patient, cancel)
        except Unreachable as error:
            caught.append(error)

    waiting = threading.Thread(target=wait_for_answer)
    waiting.start()
    assert server.reached.wait(5)
    cancel.cancel()
    waiting.join(5)
    assert not waiting.is_alive()
    assert isinstance(caught[0], Cancelled)
    assert server.hung_up.wait(5)


def test_a_certificate_that_nobody_vouches_for_is_no_answer(tmp_path: Path) -> None:
    context, _ = self_signed(tmp_path)
    with hostile_server(context) as server:
        server.on("/v1/work", whole(200, b"answer", MESSAGE))
        with pytest.raises(Unreachable, match="certificate"):
            _post(HttpTransport(server.url, user_agent="test/1", bounds=QUICK))
        assert server.seen == []


def test_cancelling_reaches_through_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with hostile_server(context) as server:
        server.on("/v1/work", silent(server))
        _cancel_while_it_waits(server)


def test_what_was_cancelled_before_never_speaks(
    server: HostileServer, transport: HttpTransport
) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(Cancelled):
        _post(transport, cancel)
    assert server.seen == []


def test_cancelling_in_the_middle_of_a_body_is_never_the_end_of_it(
    server: HostileServer, tmp_path: Path
) -> None:
    # Without a length a closed connection is the end of the body: it must not be taken for it.
    server.on("/blob", silent(server, head(200, "application/octet-stream", None) + BODY[:5000]))
    cancel = Cancellation()
    with pytest.raises(Cancelled):
        HttpTransport(server.url, user_agent="test/1").fetch(
            "/blob", tmp_path / "f", size=5000, cancel=cancel, on_bytes=lambda _: cancel.cancel()
        )


@pytest.mark.parametrize("length", [len(BODY), None])
def test_a_file_of_which_only_the_most_is_known(
    server: HostileServer, transport: HttpTransport, tmp_path: Path, length: int | None
) -> None:
    whole = head(200, "application/octet-stream", length) + BODY
    server.on("/blob", lambda visit: visit.send(whole))
    to, cancel = tmp_path / "f", Cancellation()
    to.write_bytes(b"what a cut left behind is of no use without a length")
    transport.fetch("/blob", to, size=10**6, cancel=cancel, on_bytes=lambda _: None, is_exact=False)
    assert to.read_bytes() == BODY


def test_a_file_is_fetched_and_counted(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/blob", ranged(BODY, '"v1"'))
    assert _fetch(transport, tmp_path / "f") == len(BODY)
    assert (tmp_path / "f").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_cut_fetch_goes_on_where_it_stopped(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/blob", cut(BODY, 100_000, ETag='"v1"'), ranged(BODY, '"v1"'))
    with pytest.raises(Unreachable, match="broke"):
        _fetch(transport, tmp_path / "f")
    held = (tmp_path / "f").stat().st_size
    assert 0 < held <= 100_000
    assert _fetch(transport, tmp_path / "f") == len(BODY) - held
    assert server.seen[1].headers["range"] == f"bytes={held}-"
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_fetch_starts_anew_when_the_thing_has_changed(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/blob", cut(bytes(len(BODY)), 100_000, ETag='"v1"'), ranged(BODY, '"v2"'))
    with pytest.raises(Unreachable):
        _fetch(transport, tmp_path / "f")
    _fetch(transport, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("etag", ["", "\xa0abc", "a b", '"' + "x" * 5000])
def test_an_etag_that_cannot_be_said_again_makes_it_start_anew(
    etag: str, server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/blob", cut(bytes(len(BODY)), 100_000, ETag=etag), ranged(BODY, '"v2"'))
    with pytest.raises(Unreachable):
        _fetch(transport, tmp_path / "f")
    assert _fetch(transport, tmp_path / "f") == len(BODY)
    assert "range" not in server.seen[1].headers
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_torn_etag_file_makes_it_start_anew(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    (tmp_path / "f.etag").write_bytes(b"\xff\xfe\x00")
    server.on("/blob", ranged(BODY, '"v2"'))
    assert _fetch(transport, tmp_path / "f") == len(BODY)
    assert (tmp_path / "f").read_bytes() == BODY


def test_whoever_counts_may_end_it_and_it_goes_on_later(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    def enough(count: int) -> None:
        raise Cancelled("enough for today")

    server.on("/blob", ranged(BODY, '"v1"'))
    with pytest.raises(Cancelled):
        transport.fetch(
            "/blob", tmp_path / "f", size=len(BODY), cancel=Cancellation(), on_bytes=enough
        )
    held = (tmp_path / "f").stat().st_size
    assert 0 < held < len(BODY)
    assert _fetch(transport, tmp_path / "f") == len(BODY) - held
    assert server.seen[1].headers["range"] == f"bytes={held}-"
    assert (tmp_path / "f").read_bytes() == BODY


def test_an_upload_may_be_ended_by_whoever_counts(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    def enough(count: int) -> None:
        raise Cancelled("enough for today")

    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, _state(0), _state(len(BODY), complete=True))
    with pytest.raises(Cancelled):
        transport.upload(
            LEASE, b"t" * 16, source, digest=Digest(bytes(32)), size=len(BODY),
            cancel=Cancellation(), on_bytes=enough,
        )  # fmt: skip


def test_every_byte_that_moved_is_told_once_whatever_became_of_it(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/v1/work", whole(503, HTML, "text/html"), cut(BODY, 1000, MESSAGE))
    for _ in range(2):
        with pytest.raises(Unreachable):
            _post(transport)
    moved = transport.take_moved()
    assert moved.up == 2 * len(b"request")
    assert 0 < moved.down <= 1000
    server.on("/metadata/1.root.json", whole(200, BODY))
    assert b"".join(transport.pieces("/metadata/1.root.json", cancel=Cancellation())) == BODY
    assert transport.take_moved() == Moved(down=len(BODY))
    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, _state(1000), _state(len(BODY), complete=True))
    _upload(transport, source)
    assert transport.take_moved().up == len(BODY) - 1000
    assert transport.take_moved() == Moved()


def test_what_is_there_already_is_not_fetched_again(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(BODY)
    assert _fetch(transport, tmp_path / "f") == 0
    assert server.seen == []


WRONG_FILES: dict[str, Answer] = {
    "longer than signed": whole(200, BODY + b"x"),
    "shorter than signed": whole(200, BODY[:-1]),
    "endless": endless("application/octet-stream"),
    "a captive portal's page": whole(200, HTML, "text/html"),
    "another range": whole(206, BODY[5:], Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}"),
    "no range at all": whole(206, BODY),
    "nothing to satisfy": whole(416, b"{}", "application/problem+json"),
    "not found": whole(404, b'{"code":"not_found"}', "application/problem+json"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_never_grows_past_its_size_and_mends_itself(
    name: str, server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    server.on("/blob", WRONG_FILES[name], ranged(BODY, '"v1"'))
    with pytest.raises(Unreachable):
        _fetch(transport, tmp_path / "f")
    held = tmp_path / "f"
    assert not held.exists() or held.stat().st_size <= len(BODY)
    if held.exists():
        held.unlink()  # as the caller does when the digest does not fit
    _fetch(transport, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def _state(received: int, complete: bool = False) -> Answer:
    text = f'{{"received":{received},"size":1,"complete":{str(complete).lower()}}}'
    return whole(200, text.encode(), "application/json")


def test_an_upload_sends_what_the_server_lacks(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, _state(1000), _state(len(BODY), complete=True))
    assert _upload(transport, source) == len(BODY) - 1000
    asked, sent = server.seen
    assert (asked.method, sent.method) == ("GET", "PATCH")
    assert sent.body == BODY[1000:]
    assert sent.headers["authorization"] == asked.headers["authorization"] == f"Ticket {'74' * 16}"
    assert sent.headers["upload-offset"] == "1000"
    assert sent.headers["upload-length"] == str(len(BODY))
    assert sent.headers["upload-digest"] == bytes(32).hex()


def test_a_complete_upload_sends_nothing(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, _state(len(BODY), complete=True))
    assert _upload(transport, source) == 0
    assert len(server.seen) == 1


def test_an_upload_without_rest_asks_the_server_to_finish(
    server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, _state(len(BODY) + 7), _state(len(BODY), complete=True))
    assert _upload(transport, source) == 0
    assert server.seen[1].headers["content-length"] == "0"


@pytest.mark.parametrize(
    "answer", [whole(200, HTML, "text/html"), whole(200, b"[]", "application/json")]
)
def test_a_page_in_the_place_of_an_uploads_state_sends_nothing(
    answer: Answer, server: HostileServer, transport: HttpTransport, tmp_path: Path
) -> None:
    source = tmp_path / "out"
    source.write_bytes(BODY)
    server.on(UPLOAD, answer)
    with pytest.raises(Unreachable):
        _upload(transport, source)
    assert [s.method for s in server.seen] == ["GET"]


def test_netrc_never_takes_the_place_of_a_ticket(
    server: HostileServer, transport: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    source = tmp_path / "out"
    source.write_bytes(b"x")
    server.on(UPLOAD, _state(1, complete=True))
    _upload(transport, source)
    assert server.seen[0].headers["authorization"].startswith("Ticket ")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://example.org/", "https://example.org"),
        ("https://example.org:8443/project/", "https://example.org:8443/project"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_addresses_that_are_taken(given: str, kept: str) -> None:
    assert check_base_url(given) == kept


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("http://example.org", "not encrypted"),
        ("http://127.0.0.1.example.org", "not encrypted"),
        ("http://128.0.0.1", "not encrypted"),
        ("http://localhost.example.org", "not encrypted"),
        ("https://me:pw@example.org", "password"),
        ("https://example.org/?x=1", "leave out"),
        ("https://example.org:port", "no address"),
        ("ftp://example.org", "no address"),
        ("example.org", "no address"),
        ("https://", "no address"),
        ("https://[::1", "no address"),
        ("", "no address"),
    ],
)
def test_addresses_that_are_refused(given: str, word: str) -> None:
    with pytest.raises(ClientError, match=word):
        check_base_url(given)

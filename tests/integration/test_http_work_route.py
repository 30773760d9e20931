"""`POST /v1/work` over real HTTP: what is refused before anything is stored, and how."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import Outage, Refused
from server.http import protocol
from server.http.bodies import MESSAGE_TYPE
from server.http.problems import CONTENT_TYPE, Problem
from server.services.exchange import Arrival
from tests.support.http_doors import Grounds, grounds
from workunits.trust import digests, envelope, roles
from workunits.values import Nonce, SessionId
from workunits.wire import limits
from workunits.wire.messages import Departure, WorkRequest

KEY = Ed25519PrivateKey.generate()
HEADERS = {"Content-Type": MESSAGE_TYPE}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        yield found


def work_request(seq: int = 1) -> WorkRequest:
    return WorkRequest(
        protocol=1,
        key=envelope.public_bytes(KEY),
        epoch=1,
        session=SessionId(bytes(16)),
        seq=seq,
        previous=digests.ZERO,
        client="1.0",
    )


def message(seq: int = 1, attachments: Sequence[bytes] = ()) -> bytes:
    return envelope.pack_message(
        envelope.seal(work_request(seq), roles.WORK_REQUEST, KEY), attachments
    )


def post(site: Grounds, body: bytes, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.post(f"{site.url}/v1/work", data=body, headers=headers or HEADERS, timeout=30)


def problem_in(answer: requests.Response) -> Problem:
    assert answer.headers["Content-Type"] == CONTENT_TYPE
    found = msgspec.json.decode(answer.content, type=Problem)
    assert found.status == answer.status_code
    return found


def test_a_good_request_is_answered(site: Grounds) -> None:
    raw = message(attachments=[b"payload"])
    answer = post(site, raw)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == MESSAGE_TYPE
    wanted = digests.of_request(envelope.unpack_message(raw).envelope.payload)
    assert answer.content == wanted


def test_a_connection_serves_many_requests(site: Grounds) -> None:
    with requests.Session() as session:
        for seq in range(1, 6):
            answer = session.post(
                f"{site.url}/v1/work", data=message(seq), headers=HEADERS, timeout=30
            )
            assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"", b"\xc1", b"{}", b"not a message", message()[:-1]])
def test_what_is_no_message_is_malformed(site: Grounds, body: bytes) -> None:
    answer = post(site, body)
    assert (answer.status_code, problem_in(answer).code) == (400, "malformed_message")


def test_another_content_type_is_refused(site: Grounds) -> None:
    for headers in (
        {"Content-Type": "application/json"},
        {"Content-Type": ""},
        {"Content-Type": MESSAGE_TYPE, "Content-Encoding": "gzip"},
    ):
        answer = post(site, message(), headers)
        assert (answer.status_code, problem_in(answer).code) == (415, "wrong_content_type")


def test_a_forged_signature_is_refused(site: Grounds) -> None:
    sealed = envelope.seal(work_request(), roles.WORK_REQUEST, Ed25519PrivateKey.generate())
    answer = post(site, envelope.pack_message(sealed))
    assert (answer.status_code, problem_in(answer).code) == (403, "bad_signature")


def test_another_kind_of_payload_is_refused(site: Grounds) -> None:
    leaving = Departure(key=envelope.public_bytes(KEY), erase=False, nonce=Nonce(bytes(16)))
    answer = post(site, envelope.pack_message(envelope.seal(leaving, roles.DEPARTURE, KEY)))
    assert (answer.status_code, problem_in(answer).code) == (415, "wrong_payload_type")


def test_another_method_is_refused(site: Grounds) -> None:
    answer = requests.get(f"{site.url}/v1/work", timeout=30)
    assert (answer.status_code, problem_in(answer).code) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def connection(site: Grounds) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=30)


def test_an_announced_oversize_is_refused_before_it_comes(site: Grounds) -> None:
    client = connection(site)
    client.putrequest("POST", "/v1/work")
    client.putheader("Content-Type", MESSAGE_TYPE)
    client.putheader("Content-Length", str(limits.MESSAGE_BYTES + 1))
    client.endheaders()
    answer = client.getresponse()
    assert answer.status == 413
    assert msgspec.json.decode(answer.read(), type=Problem).code == "limit_exceeded"
    assert answer.getheader("Connection") == "close"
    client.close()


def test_an_unannounced_oversize_is_refused_while_it_streams(site: Grounds) -> None:
    client = connection(site)
    client.putrequest("POST", "/v1/work")
    client.putheader("Content-Type", MESSAGE_TYPE)
    client.putheader("Transfer-Encoding", "chunked")
    client.endheaders()
    chunk = b"%x\r\n%b\r\n" % (limits.MIB, bytes(limits.MIB))
    for _ in range(limits.MESSAGE_BYTES // limits.MIB):
        client.send(chunk)
    client.send(b"1\r\n")
    client.send(b"x\r\n")
    answer = client.getresponse()
    assert answer.status == 413
    client.close()


def test_a_client_that_goes_away_in_the_middle_harms_nobody(site: Grounds) -> None:
    client = connection(site)
    client.putrequest("POST", "/v1/work")
    client.putheader("Content-Type", MESSAGE_TYPE)
    client.putheader("Content-Length", "1000")
    client.endheaders()
    client.send(b"half")
    client.close()
    assert post(site, message()).status_code == 200


def test_a_head_without_end_is_cut_off(site: Grounds) -> None:
    client = connection(site)
    client.putrequest("POST", "/v1/work")
    for number in range(40):
        client.putheader(f"X-{number}", "x" * 1000)
    client.endheaders()
    answer = client.getresponse()
    assert answer.status == 431
    assert msgspec.json.decode(answer.read(), type=Problem).code == "head_too_large"
    client.close()


def test_too_many_headers_are_cut_off(site: Grounds) -> None:
    client = connection(site)
    client.putrequest("GET", "/healthz")
    for number in range(200):
        client.putheader(f"X-{number}", "x")
    client.endheaders()
    assert client.getresponse().status == 431
    client.close()


def test_what_is_not_http_is_told_so(site: Grounds) -> None:
    client = connection(site)
    client.connect()
    client.sock.sendall(b"\x16\x03\x01 hello, tls?\r\n\r\n")
    raw = b""
    while piece := client.sock.recv(4096):
        raw += piece
    assert raw.startswith(b"HTTP/1.1 400 ")
    assert b'"not_http"' in raw
    client.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=400)
    | st.tuples(st.integers(0, 10_000), st.integers(0, 255)).map(
        lambda change: _changed(message(), *change)
    )
)
def test_hostile_bodies_get_a_problem_or_an_answer(site: Grounds, body: bytes) -> None:
    answer = post(site, body)
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500
        assert problem_in(answer).code in {
            "malformed_message",
            "bad_signature",
            "wrong_payload_type",
            "limit_exceeded",
        }


def _changed(raw: bytes, place: int, value: int) -> bytes:
    """`raw` with one byte replaced."""
    at = place % len(raw)
    return raw[:at] + bytes([value]) + raw[at + 1 :]


def test_the_guilty_request_alone_is_refused(tmp_path: Path) -> None:
    def answer_all(arrivals: Sequence[Arrival]) -> list[bytes]:
        if any(arrival.request.seq == 13 for arrival in arrivals):
            raise Refused("13 brings bad luck")
        return [arrival.digest for arrival in arrivals]

    with grounds(tmp_path, answer_all) as site, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seq: post(site, message(seq)), range(1, 21)))
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * 12 + [400] + [200] * 7
    assert problem_in(answers[12]).code == "refused"


def test_an_outage_is_503_and_says_when_to_come_again(tmp_path: Path) -> None:
    def answer_all(arrivals: Sequence[Arrival]) -> list[bytes]:
        raise Outage("disk full at /secret/place")

    with grounds(tmp_path, answer_all) as site:
        answer = post(site, message())
    assert (answer.status_code, problem_in(answer).code) == (503, "outage")
    assert int(answer.headers["Retry-After"]) > 0
    assert "secret" not in answer.text


def test_a_bug_is_500_and_keeps_its_story_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer_all(arrivals: Sequence[Arrival]) -> list[bytes]:
        raise ZeroDivisionError("in a secret place")

    with grounds(tmp_path, answer_all) as site:
        answer = post(site, message())
    assert (answer.status_code, problem_in(answer).code) == (500, "server_error")
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_beyond_the_bound_is_busy(tmp_path: Path) -> None:
    entered, may_go = threading.Event(), threading.Event()

    def answer_all(arrivals: Sequence[Arrival]) -> list[bytes]:
        entered.set()
        assert may_go.wait(30)
        return [arrival.digest for arrival in arrivals]

    with grounds(tmp_path, answer_all, most_waiting=1) as site, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, site, message(1))
        assert entered.wait(30)
        others = [pool.submit(post, site, message(seq)) for seq in (2, 3)]
        refused = next(iter(_finished(others)))
        may_go.set()
        answers = [first.result(), *[other.result() for other in others]]
    assert (refused.status_code, problem_in(refused).code) == (503, "busy")
    assert int(refused.headers["Retry-After"]) > 0
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503]


def _finished(futures: Sequence[Future[requests.Response]]) -> Iterator[requests.Response]:
    for future in as_completed(futures, timeout=30):
        yield future.result()


def test_a_body_without_room_is_told_to_come_again(tmp_path: Path) -> None:
    with grounds(tmp_path, most_body_bytes=100) as site:
        for path in ("/v1/work", "/v1/enrol", "/v1/leave"):
            answer = requests.post(site.url + path, message(), headers=HEADERS, timeout=30)
            assert (answer.status_code, problem_in(answer).code) == (503, "busy")
            assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("rest", [b"x", b"\r\n", b"0123456789" * 10])
def test_nothing_but_another_request_keeps_an_answered_connection(
    site: Grounds, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    client = connection(site)
    client.connect()
    length = 0 if rest == b"\r\n" else 10**9
    head = f"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    client.sock.sendall(head.encode())
    assert client.sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    client.sock.settimeout(10)  # below the keep-alive time
    client.sock.sendall(rest)
    assert client.sock.recv(4096) == b""
    client.close()


def test_a_connection_goes_on_after_a_body_that_was_not_wanted(site: Grounds) -> None:
    client = connection(site)
    for _ in range(3):
        client.putrequest("GET", "/healthz")
        client.putheader("Content-Length", "10")
        client.endheaders()
        client.send(b"0123456789")
        assert client.getresponse().read()
    client.close()

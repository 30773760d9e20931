"""`/v1/enrol` and `/v1/leave` over real HTTP: what reaches the service, and how its refusals look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.errors import Conflict, Forbidden, TooMany
from server.http.bodies import MESSAGE_TYPE
from server.http.problems import Problem
from tests.support.http_doors import Grounds, grounds
from workunits.trust import digests, envelope, roles
from workunits.values import Milliseconds, Nonce, SessionId
from workunits.wire.messages import Consent, Departed, Departure, Enrolment, Envelope, NewOwner

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Grounds]:
    with grounds(tmp_path, trusted_proxies=["127.0.0.1"]) as found:
        found.enrolments.reply = some_reply()
        yield found


def some_reply() -> Envelope:
    departed = Departed(in_reply_to=digests.ZERO, server_time=Milliseconds(1), erased=False)
    return envelope.seal(departed, roles.DEPARTED, KEY)


def enrolment() -> bytes:
    wanted = Enrolment(
        protocol=1,
        key=envelope.public_bytes(KEY),
        session=SessionId(os.urandom(16)),
        vehicle_name="car",
        owner=NewOwner(code="0123456789abcdef"),
        consent=Consent(terms=digests.ZERO, version="1", at=Milliseconds(1), scopes=("compute",)),
        client="1.0",
    )
    return envelope.pack_message(envelope.seal(wanted, roles.ENROLMENT, KEY))


def departure() -> bytes:
    leaving = Departure(key=envelope.public_bytes(KEY), erase=False, nonce=Nonce(bytes(16)))
    return envelope.pack_message(envelope.seal(leaving, roles.DEPARTURE, KEY))


def post(site: Grounds, path: str, body: bytes, **headers: str) -> requests.Response:
    named = {"Content-Type": MESSAGE_TYPE} | {k.replace("_", "-"): v for k, v in headers.items()}
    return requests.post(site.url + path, data=body, headers=named, timeout=30)


def code_of(answer: requests.Response) -> str:
    return msgspec.json.decode(answer.content, type=Problem).code


@pytest.mark.parametrize(("path", "body"), [("/v1/enrol", enrolment()), ("/v1/leave", departure())])
def test_the_answer_is_a_message(site: Grounds, path: str, body: bytes) -> None:
    answer = post(site, path, body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, MESSAGE_TYPE)
    assert envelope.unpack_message(answer.content).envelope == some_reply()


def test_the_network_is_that_of_the_client_behind_the_proxy(site: Grounds) -> None:
    post(site, "/v1/enrol", enrolment())
    post(site, "/v1/enrol", enrolment(), X_Forwarded_For="203.0.113.9")
    # What the client itself wrote stands before what our proxy added, and is not believed.
    post(site, "/v1/enrol", enrolment(), X_Forwarded_For="127.0.0.1, 198.51.100.7")
    # Who could write whatever they like is counted together with all who do.
    for nonsense in ("garbage", "127.0.0.1", "1.2.3.4:x", "::1"):
        post(site, "/v1/enrol", enrolment(), X_Forwarded_For=nonsense)
    networks = site.enrolments.networks
    assert networks == ["unknown", "203.0.113.0/24", "198.51.100.0/24", *["unknown"] * 4]


def test_nobody_but_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    with grounds(tmp_path) as site:
        site.enrolments.reply = some_reply()
        post(site, "/v1/enrol", enrolment(), X_Forwarded_For="203.0.113.9")
        assert site.enrolments.networks == [None]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Forbidden("wrong invitation"), 403, "forbidden"),
        (Conflict("the name is taken"), 409, "conflict"),
        (TooMany("ten an hour"), 429, "too_many_requests"),
    ],
)
def test_a_refusal_is_a_problem(site: Grounds, fault: Exception, status: int, code: str) -> None:
    site.enrolments.fault = fault
    answer = post(site, "/v1/enrol", enrolment())
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 429)


@pytest.mark.parametrize("path", ["/v1/enrol", "/v1/leave"])
@pytest.mark.parametrize("body", [b"", b"garbage", enrolment()[:-1]])
def test_what_is_no_message_is_refused(site: Grounds, path: str, body: bytes) -> None:
    answer = post(site, path, body)
    assert (answer.status_code, code_of(answer)) == (400, "malformed_message")


def test_a_message_at_the_wrong_door_is_refused(site: Grounds) -> None:
    answer = post(site, "/v1/leave", enrolment())
    assert (answer.status_code, code_of(answer)) == (415, "wrong_payload_type")
    answer = post(site, "/v1/enrol", departure(), Content_Type="application/json")
    assert (answer.status_code, code_of(answer)) == (415, "wrong_content_type")


def test_reads_do_not_wait_for_those_who_write(site: Grounds) -> None:
    """As when another process holds the write lock: all who join wait, and everything else goes on."""
    site.enrolments.may_go.clear()
    with ThreadPoolExecutor(40) as pool:
        joining = [pool.submit(post, site, "/v1/enrol", enrolment()) for _ in range(40)]
        busy = next(done.result() for done in as_completed(joining))
        assert (busy.status_code, code_of(busy)) == (503, "busy")
        for path in ("/v1/blobs/" + "00" * 32, "/metadata/none.json", "/leaderboard", "/healthz"):
            assert requests.get(site.url + path, timeout=5).status_code in (200, 404)
        site.enrolments.may_go.set()
        statuses = [done.result().status_code for done in joining]
    assert (statuses.count(200), statuses.count(503)) == (4, 36)

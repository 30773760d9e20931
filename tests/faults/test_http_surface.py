"""The whole HTTP side against strangers: no 5xx, problem documents, and no trace of what was refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from server.http import openapi
from server.http.bodies import MESSAGE_TYPE
from tests.support.server_invariants import check_invariants
from tests.support.surface import (
    DOORS,
    Answer,
    Surface,
    expect_refused_cleanly,
    expect_sane,
    message,
    storm,
    surface,
)

if TYPE_CHECKING:
    from schemathesis.specs.openapi.schemas import OpenApiCase

# Each of them speaks once in the storm.
VEHICLES: Final = 150
# Where nothing is asked for, nothing can be asked wrongly.
OPERATIONS: Final = [
    (operation.method.upper(), operation.path, mode)
    for operation in openapi.OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation.parameters
]


@pytest.fixture(scope="module")
def site() -> Iterator[Surface]:
    with surface() as found:
        yield found


# --- by the description ---------------------------------------------------------------------------


@schemathesis.serializer(MESSAGE_TYPE)
def _as_message(context: schemathesis.SerializationContext, value: object) -> bytes:
    """Whatever is drawn, packed as messages are."""
    return msgspec.msgpack.encode(value)


@schemathesis.serializer("application/octet-stream")
def _as_bytes(context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@pytest.fixture(scope="module")
def described(site: Surface) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{site.url}/v1/openapi.json")


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_every_operation_answers_as_it_is_described(
    site: Surface,
    described: schemathesis.BaseSchema,
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    operation = described[path][method]
    before = site.kept()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=10,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: OpenApiCase) -> None:
        found = case.call(timeout=30)
        # A schema cannot say that a message must be signed, nor a number that nothing is there.
        case.validate_response(found, excluded_checks=[positive_data_acceptance])
        headers = {name.lower(): values[0] for name, values in found.headers.items()}
        answer = Answer(method, found.status_code, headers, found.content)
        expect_refused_cleanly(site, before, answer)

    check()


# --- messages -----------------------------------------------------------------------------------


def test_good_messages_are_answered() -> None:
    with surface() as site:
        for door in DOORS:
            answer = site.post(door.path, message(site, door, 0, door.said(site, 0)))
            assert (answer.status, answer.headers["content-type"]) == (200, MESSAGE_TYPE)


def test_a_damaged_message_changes_nothing() -> None:
    with surface(VEHICLES) as site:
        statuses = storm(site, Random(20261122), VEHICLES)
        check_invariants(site.folder / "server.sqlite3")
    assert sum(statuses.values()) == VEHICLES
    # Unreadable, of another type, and not signed: each kind of refusal was met.
    assert {400, 403, 415} <= statuses.keys()


# --- methods and addresses ----------------------------------------------------------------------

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW")
ADDRESSES: Final = (
    "/v1/work", "/v1/enrol", "/v1/leave", "/v1/status", "/v1/leaderboard", "/v1/openapi.json",
    "/v1/blobs/" + "00" * 32, "/v1/uploads/" + "00" * 16, "/v1/nothing", "/v1/", "/healthz",
    "/metadata/timestamp.json", "/metadata/none",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_answer_everywhere(site: Surface, method: str) -> None:
    before = site.kept()
    for path in ADDRESSES:
        expect_refused_cleanly(site, before, site.ask(method, path))


@pytest.mark.parametrize(
    "path",
    [
        "/metadata/..%2fkeys%2froot.pem",
        "/metadata/%2e%2e/keys/root.pem",
        "/metadata/../keys/root.pem",
        "/metadata/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
        "/metadata/..%5ckeys%5croot.pem",
        "/metadata/.%00./keys/root.pem",
        "/metadata//etc/passwd",
        "/metadata/%252e%252e/keys/root.pem",
        "/metadata/targets/..%c0%afkeys/root.pem",
        "/static/../templates/base.html",
        "/static/%2e%2e%2ftemplates%2fbase.html",
        "/static/..%2f..%2fapi.py",
        "/static/%00",
        "/v1/blobs/..%2f..%2fserver.sqlite3",
        "/v1/blobs/%2e%2e",
        "/v1/blobs/" + "0" * 64 + "%00",
        "/v1/blobs/" + "０" * 64,
        "/v1/uploads/..%2f..%2fproject.toml",
        "/v1/uploads/" + "0" * 32 + "/..",
        "/v1/uploads/" + "%30" * 31 + "%0a",
        "//keys/root.pem",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/keys/root.pem",
        "/server.sqlite3",
    ],
)
def test_no_address_leads_to_what_is_not_served(site: Surface, path: str) -> None:
    secrets = [file.read_bytes() for file in (site.folder / "keys").iterdir()]
    for method in ("GET", "HEAD", "PATCH", "POST"):
        answer = site.ask(method, path)
        assert 400 <= answer.status < 500, answer
        assert not any(secret in answer.content for secret in (*secrets, b"SQLite", b"root:"))


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=1e9", "page=99999999999", "page=%00", "page=1&page=x", "page=٣",
     "period=1d", "period=%ff", "period[]=all", "period=all%27--", "=&&==", "page", "%", "page=%"],
)  # fmt: skip
def test_whatever_is_asked_the_pages_stand(site: Surface, query: str) -> None:
    expect_sane(site.ask("GET", f"/v1/leaderboard?{query}"))
    page = site.ask("GET", f"/leaderboard?{query}")
    assert page.status in (200, 400, 404)
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src" not in page.headers["content-security-policy"]


# --- heads --------------------------------------------------------------------------------------


def said_to(site: Surface, raw: bytes) -> bytes:
    """What comes back of bytes that no client would send, until the server hangs up or waits."""
    address = urlsplit(site.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as link:
        link.sendall(raw)
        link.shutdown(socket.SHUT_WR)
        found = b""
        while piece := link.recv(65536):
            found += piece
        return found


BODY: Final = b"x" * 10
TYPE: Final = b"Content-Type: " + MESSAGE_TYPE.encode() + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nContent-Length: 5\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: 1e1\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n",
        b"POST http://elsewhere/v1/work HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.0\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/9.9\r\nHost: a\r\nContent-Length: 10\r\n",
        b"POST /v1/work\x00 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nX: \x00\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nX : y\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\n folded: y\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\nHost: a\nContent-Length: 10\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n",
        b"POST /v1/work HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 10\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: a\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\nRange: bytes=" + b"0-1," * 5000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=range(22),
)
def test_an_odd_head_gets_an_answer_of_its_own_or_none(site: Surface, head: bytes) -> None:
    """One request is one answer: no second request can be smuggled in behind the first."""
    before = site.kept()
    found = said_to(site, head + TYPE + b"\r\n" + BODY)
    answers = found.replace(b"HTTP/1.1 100 Continue", b"").count(b"HTTP/1.1 ")
    assert answers <= 1 + found.count(b'"not_http"')
    assert b" 500 " not in found.split(b"\r\n")[0]
    assert b"HTTP/1.1 200" not in found
    assert site.kept() == before
    assert site.ask("GET", "/healthz").status == 200


def test_a_request_behind_two_lengths_is_never_read(site: Surface) -> None:
    inner = b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"
    for lengths in (
        b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(inner),
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(inner),
    ):
        found = said_to(site, b"POST /v1/work HTTP/1.1\r\nHost: a\r\n" + lengths + b"\r\n" + inner)
        assert b'"project"' not in found

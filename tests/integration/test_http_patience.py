"""Callers that drip, fall silent, or never read: the server ends them, and answers all others."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from server.http import bodies, protocol, unread
from server.http.unread import READ_BYTES, is_taken
from tests.integration.test_http_uploads import add_batch, headers, new_lease, standing
from tests.support.http_doors import Grounds, grounds
from workunits.wire import limits

LARGE = "ab" * 32
# More than the kernel of either side takes on its own.
LARGE_BYTES = 64 * limits.MIB


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        add_batch(found)
        found.blobs.put_stream(LARGE, (bytes(limits.MIB) for _ in range(LARGE_BYTES // limits.MIB)))
        yield found


@pytest.fixture
def caller(site: Grounds) -> Iterator[socket.socket]:
    parts = urlsplit(site.url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=60) as connected:
        yield connected


def until_end(caller: socket.socket) -> int:
    """Bytes until the server hangs up, however it does."""
    came = 0
    try:
        while piece := caller.recv(limits.MIB):
            came += len(piece)
    except ConnectionResetError:
        pass
    return came


@pytest.mark.parametrize("keeps", [True, False])
def test_who_reads_nothing_is_hung_up_on(
    keeps: bool, site: Grounds, caller: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "READ_S", 0.2)
    ended = "keep-alive" if keeps else "close"
    caller.sendall(
        f"GET /v1/blobs/{LARGE} HTTP/1.1\r\nHost: x\r\nConnection: {ended}\r\n\r\n".encode()
    )
    hung_up = select.poll()
    hung_up.register(caller, select.POLLRDHUP)
    assert hung_up.poll(30_000)
    assert until_end(caller) < LARGE_BYTES
    assert requests.get(site.url + "/healthz", timeout=30).status_code == 200


def test_who_reads_gets_everything(site: Grounds, caller: socket.socket) -> None:
    caller.sendall(
        f"GET /v1/blobs/{LARGE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert until_end(caller) > LARGE_BYTES


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        (10**6, 10**6, False),
        (10**6, 10**6 - READ_BYTES + 1, False),
        (10**6, 10**6 - READ_BYTES, True),
        (READ_BYTES // 2, READ_BYTES // 4, False),
        (READ_BYTES // 2, 0, True),
        (0, 0, True),
    ],
)
def test_a_reader_takes_enough_or_all(before: int, now: int, wanted: bool) -> None:
    assert is_taken(before, now) is wanted


def test_a_message_that_never_ends_is_told_to_come_again(
    site: Grounds, caller: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.whole, "__defaults__", (0.2,))
    head = f"POST /v1/work HTTP/1.1\r\nHost: x\r\nContent-Type: {bodies.MESSAGE_TYPE}\r\n"
    caller.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
    assert caller.recv(4096).startswith(b"HTTP/1.1 408 ")
    until_end(caller)


def test_an_upload_that_falls_silent_keeps_what_came(
    site: Grounds, caller: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.pieces, "__defaults__", (0.2, bodies.PIECE_BYTES))
    lease = new_lease(site)
    lines = [f"{name}: {value}" for name, value in headers(lease, 0).items()]
    head = "\r\n".join([f"PATCH /v1/uploads/{lease.hex()} HTTP/1.1", "Host: x", *lines])
    caller.sendall(f"{head}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"result " * 100)
    assert caller.recv(4096).startswith(b"HTTP/1.1 408 ")
    until_end(caller)
    assert standing(site, lease).received == 700


def test_a_connection_that_says_nothing_is_ended(
    site: Grounds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60) as caller:
        assert until_end(caller) == 0

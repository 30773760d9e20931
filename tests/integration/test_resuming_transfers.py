"""The client's transport and the server's routes with a cut between them: only the rest is sent again.

Bytes are counted on the wire, below both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.domain.names import public_blob
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.errors import Unreachable
from tesla_at_home.ports import Cancellation
from tests.integration.test_http_uploads import (
    DIGEST,
    PAYLOAD,
    add_batch,
    assert_stored,
    new_lease,
    standing,
    ticket,
)
from tests.support.cutting_proxy import Cut, CuttingProxy, cutting_proxy
from tests.support.http_doors import Grounds, grounds
from workunits.trust import digests
from workunits.values import LeaseId
from workunits.wire import limits

# Heads of a request or an answer.
HEAD_BYTES = 2048
# What the server has read from the connection, and not yet from the buffer, when it breaks.
BUFFERS_BYTES = 768 * limits.KIB
SIZE = len(PAYLOAD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        add_batch(found)
        yield found


@pytest.fixture
def proxy(site: Grounds) -> Iterator[CuttingProxy]:
    with cutting_proxy(site.url) as found:
        yield found


@pytest.fixture
def transport(proxy: CuttingProxy) -> HttpTransport:
    return HttpTransport(proxy.url, user_agent="test/1")


def upload(transport: HttpTransport, lease: LeaseId, source: Path) -> None:
    opening = bytes.fromhex(ticket(lease).removeprefix("Ticket "))
    transport.upload(
        lease, opening, source, digest=DIGEST, size=SIZE, cancel=Cancellation(),
        on_bytes=lambda _: None,
    )  # fmt: skip


@pytest.mark.parametrize("after", [1_200_000, 2_000_000, SIZE])
def test_an_upload_that_was_cut_sends_only_the_rest(
    after: int, site: Grounds, proxy: CuttingProxy, transport: HttpTransport, tmp_path: Path
) -> None:
    lease, source = cut_upload(after, site, proxy, transport, tmp_path)
    # The next request waits for its turn, so by then everything that came is on disk.
    states = (standing(site, lease).received for _ in range(1000))
    received = next(state for state in states if state)
    assert after - HEAD_BYTES - BUFFERS_BYTES <= received <= after
    upload(transport, lease, source)
    *_, last = proxy.connections
    assert 0 <= last.up - (SIZE - received) <= HEAD_BYTES
    assert_stored(site, lease)


@pytest.mark.parametrize("after", [0, 10, 200, 400, 5000])
def test_an_upload_that_was_cut_early_begins_again(
    after: int, site: Grounds, proxy: CuttingProxy, transport: HttpTransport, tmp_path: Path
) -> None:
    lease, source = cut_upload(after, site, proxy, transport, tmp_path)
    for _ in range(3):
        # The server may not have noticed the cut before it is asked: then it says where it stands.
        with contextlib.suppress(Unreachable):
            upload(transport, lease, source)
    assert_stored(site, lease)


def cut_upload(
    after: int, site: Grounds, proxy: CuttingProxy, transport: HttpTransport, folder: Path
) -> tuple[LeaseId, Path]:
    """An upload of which the server got so many bytes, head included."""
    lease, source = new_lease(site), folder / "output"
    source.write_bytes(PAYLOAD)
    proxy.cuts = [None, Cut("up", after)]
    with pytest.raises(Unreachable):
        upload(transport, lease, source)
    return lease, source


def test_an_upload_whose_answer_was_lost_sends_nothing_again(
    site: Grounds, proxy: CuttingProxy, transport: HttpTransport, tmp_path: Path
) -> None:
    lease = new_lease(site)
    source = tmp_path / "output"
    source.write_bytes(PAYLOAD)
    proxy.cuts = [None, Cut("down", 20)]
    with pytest.raises(Unreachable):
        upload(transport, lease, source)
    upload(transport, lease, source)
    *_, last = proxy.connections
    assert last.up <= HEAD_BYTES
    assert_stored(site, lease)


@pytest.mark.parametrize("after", [10, 150, 100_000, SIZE - 1])
def test_a_fetch_that_was_cut_brings_only_the_rest(
    after: int, site: Grounds, proxy: CuttingProxy, transport: HttpTransport, tmp_path: Path
) -> None:
    name = public_blob(digests.of_tensors(PAYLOAD))
    site.blobs.put(name, PAYLOAD)
    to = tmp_path / "f"
    proxy.cuts = [Cut("down", after)]
    with pytest.raises(Unreachable):
        fetch(transport, name, to)
    held = to.stat().st_size if to.exists() else 0
    assert after - HEAD_BYTES <= held <= after
    fetch(transport, name, to)
    *_, last = proxy.connections
    assert 0 <= last.down - (SIZE - held) <= HEAD_BYTES
    assert to.read_bytes() == PAYLOAD


def test_a_transfer_cut_ten_times_comes_to_its_end(
    site: Grounds, proxy: CuttingProxy, transport: HttpTransport, tmp_path: Path
) -> None:
    name = public_blob(digests.of_tensors(PAYLOAD))
    site.blobs.put(name, PAYLOAD)
    proxy.cuts = [Cut("down", 250_000)] * 10
    for _ in range(10):
        with pytest.raises(Unreachable):
            fetch(transport, name, tmp_path / "f")
    fetch(transport, name, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == PAYLOAD
    assert sum(connection.down for connection in proxy.connections) <= SIZE + 11 * HEAD_BYTES


def fetch(transport: HttpTransport, name: str, to: Path) -> None:
    transport.fetch(
        f"/v1/blobs/{name}", to, size=SIZE, cancel=Cancellation(), on_bytes=lambda _: None
    )

"""Uploads and slow answers of a server that lies about what it has.

Downloads that are longer, shorter, endless or another range: `tests/unit/test_transport.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tesla_at_home.adapters.exchange import HttpLimits
from tesla_at_home.adapters.transport import MESSAGE, HttpTransport
from tesla_at_home.errors import Unreachable
from tesla_at_home.ports import Cancellation
from tests.support.hostile_http import Answer, HostileServer, dripping, hostile_server, whole
from workunits.trust import digests
from workunits.values import LeaseId

OUTPUT = bytes(range(256)) * 512
LEASE = LeaseId(b"l" * 16)
UPLOAD = f"/v1/uploads/{LEASE.hex()}"
HTML = b"<html>Please log in to the hotel's network</html>"


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.write_bytes(OUTPUT)
    return path


def upload(server: HostileServer, source: Path) -> int:
    """Send it; how many bytes went up."""
    counted: list[int] = []
    HttpTransport(server.url, user_agent="test/1").upload(
        LEASE, b"t" * 16, source, digest=digests.of_tensors(OUTPUT), size=len(OUTPUT),
        cancel=Cancellation(), on_bytes=counted.append,
    )  # fmt: skip
    return sum(counted)


def state(received: int, complete: bool = False) -> Answer:
    text = f'{{"received":{received},"size":{len(OUTPUT)},"complete":{str(complete).lower()}}}'
    return whole(200, text.encode(), "application/json")


LIES: dict[str, tuple[list[Answer], str]] = {
    "a page for an upload": ([state(0), whole(200, HTML, "text/html")], "in the place of"),
    "a word for an upload": ([state(0), whole(200, b"ok", "text/plain")], "in the place of"),
    "nothing for an upload": ([state(0), whole(204, b"", "text/plain")], "in the place of"),
    "another object for an upload": (
        [state(0), whole(200, b'{"done":1}', "application/json")],
        "not an upload's state",
    ),
    "never complete": ([state(0), state(len(OUTPUT))], "says it has"),
    "less than before": ([state(len(OUTPUT) // 2), state(0)], "says it has 0 of"),
    "more than there is": ([state(10**15), state(10**15)], "says it has"),
    "less than nothing": ([state(-5), state(-5)], "says it has"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_upload_counts_only_when_the_project_says_that_it_is_complete(
    name: str, server: HostileServer, source: Path
) -> None:
    answers, line = LIES[name]
    server.on(UPLOAD, *answers)
    with pytest.raises(Unreachable, match=line) as caught:
        upload(server, source)
    assert "\n" not in str(caught.value)
    assert source.read_bytes() == OUTPUT
    server.on(UPLOAD, state(100), state(len(OUTPUT), complete=True))
    assert upload(server, source) == len(OUTPUT) - 100


def test_a_message_that_drips_for_ever_does_not_keep_the_others_waiting(
    server: HostileServer,
) -> None:
    bounds = HttpLimits(stall_s=300.0, whole_s=0.3)
    transport = HttpTransport(server.url, user_agent="test/1", bounds=bounds)
    server.on("/v1/work", dripping(MESSAGE))
    with pytest.raises(Unreachable, match="not at an end"):
        transport.post("/v1/work", b"request", cancel=Cancellation())
    server.on("/metadata/timestamp.json", dripping("application/json"))
    with pytest.raises(Unreachable, match="not at an end"):
        list(transport.pieces("/metadata/timestamp.json", cancel=Cancellation()))

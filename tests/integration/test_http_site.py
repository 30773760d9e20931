"""The whole server over real HTTP: join, work, report, be credited, be seen; start and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import fleet
from bench.project import project
from server.app import Site
from server.http.bodies import MESSAGE_TYPE
from server.http.listening import bound_socket
from tests.support.http_server import running
from workunits.trust import digests, envelope, roles
from workunits.values import Milliseconds, SessionId
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Consent,
    Enrolment,
    NewOwner,
    Project,
    Reply,
)

UNITS = 4
HEADERS = {"Content-Type": MESSAGE_TYPE}


@contextmanager
def site_on(folder: Path) -> Iterator[str]:
    site = Site(folder, bound_socket("127.0.0.1", 0))
    with running(lambda ready: site.run(ready.set), site.stop):
        yield site.url


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project with one batch and two owners with a vehicle each."""
    with project(units=UNITS, vehicles=2) as found:
        yield found


def post(url: str, path: str, body: bytes) -> bytes:
    answer = requests.post(url + path, data=body, headers=HEADERS, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.content


def exchange(url: str, vehicle: fleet.Vehicle, units: int) -> Reply:
    return vehicle.take(post(url, "/v1/work", vehicle.request(units)))


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Asks again, each time over HTTP, until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"


def test_work_is_done_twice_checked_and_credited(folder: Path) -> None:
    vehicles = [fleet.Vehicle(0), fleet.Vehicle(1)]
    with site_on(folder) as url:
        for vehicle in vehicles:
            assert len(exchange(url, vehicle, UNITS).leases) == UNITS
        for vehicle in vehicles:
            reply = exchange(url, vehicle, 0)
            assert [receipt.outcome for receipt in reply.receipts] == ["taken"] * UNITS
        eventually(lambda: len(standings(url)) == 2)
        credits = {line["credit_kflop"] for line in standings(url)}
        assert credits == {UNITS * fleet.ROWS * 1000}
        verdicts = exchange(url, vehicles[0], 0).verdicts
        assert [verdict.verdict for verdict in verdicts] == ["valid"] * UNITS
        status = requests.get(f"{url}/v1/status", timeout=30).json()
        assert (status["replicas_leased"], status["batches_running"]) == (0, 0)


def standings(url: str) -> list[dict[str, int]]:
    page = requests.get(f"{url}/v1/leaderboard", timeout=30).json()
    found: list[dict[str, int]] = page["standings"]
    return found


def test_a_repeated_request_gets_the_same_reply_also_after_a_restart(folder: Path) -> None:
    vehicle = fleet.Vehicle(0)
    raw = vehicle.request(1)
    with site_on(folder) as url:
        first, again = post(url, "/v1/work", raw), post(url, "/v1/work", raw)
    with site_on(folder) as url:
        after_restart = post(url, "/v1/work", raw)
    envelopes = [envelope.unpack_message(answer).envelope for answer in (first, again)]
    assert envelopes[0] == envelopes[1]
    assert envelope.unpack_message(after_restart).envelope == envelopes[0]


def project_of(url: str) -> Project:
    """What the metadata says; the client's checks of it are tested with the client."""
    metadata = f"{url}/metadata"
    newest = requests.get(f"{metadata}/timestamp.json", timeout=30).json()
    snapshot_version = newest["signed"]["meta"]["snapshot.json"]["version"]
    snapshot = requests.get(f"{metadata}/{snapshot_version}.snapshot.json", timeout=30).json()
    version = snapshot["signed"]["meta"]["targets.json"]["version"]
    targets = requests.get(f"{metadata}/{version}.targets.json", timeout=30).json()
    digest = targets["signed"]["targets"]["project.json"]["hashes"]["sha256"]
    raw = requests.get(f"{metadata}/targets/{digest}.project.json", timeout=30).content
    return codec.from_json(raw, Project, most=limits.PAYLOAD_BYTES)


def test_a_stranger_joins_with_what_the_metadata_says(folder: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with site_on(folder) as url:
        found = project_of(url)
        terms = requests.get(f"{url}/v1/blobs/{found.terms.digest.hex()}", timeout=30).content
        assert digests.plain(terms) == found.terms.digest
        enrolment = Enrolment(
            protocol=1,
            key=envelope.public_bytes(key),
            session=SessionId(os.urandom(16)),
            vehicle_name="car",
            owner=NewOwner(code="0123456789abcdef", name="nightjar", is_public=True),
            consent=Consent(
                terms=found.terms.digest, version=found.terms.version, at=now(), scopes=("compute",)
            ),
            client="1.0",
        )
        sealed = envelope.seal(enrolment, roles.ENROLMENT, key)
        raw = post(url, "/v1/enrol", envelope.pack_message(sealed))
        answer = roles.accept_enrolled(
            envelope.unpack_message(raw).envelope,
            found,
            digests.of_request(sealed.payload),
            now(),
        )
    assert answer.owner_name == "nightjar"
    assert answer.vehicle == digests.of_key(envelope.public_bytes(key))


def now() -> Milliseconds:
    return Milliseconds(time.time_ns() // 1_000_000)


# --- as a process -----------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "--dir", str(folder), "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def url_said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:"), process.communicate()
    return line.split()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_says_where_it_listens_and_stops_cleanly(
    folder: Path, number: signal.Signals, code: int
) -> None:
    with serving(folder, "--port", "0") as process:
        url = url_said_by(process)
        found = json.loads((folder / "serve.json").read_text())
        assert found == {"pid": process.pid, "url": url}
        assert requests.get(f"{url}/healthz", timeout=30).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert "role=all" in err
    assert not (folder / "serve.json").exists()


def test_a_second_one_on_the_same_project_says_so(folder: Path) -> None:
    with serving(folder, "--port", "0") as first:
        url = url_said_by(first)
        with serving(folder, "--port", "0") as second:
            out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert str(first.pid) in err
    assert url in err


def test_a_killed_one_does_not_stand_in_the_way(folder: Path) -> None:
    with serving(folder, "--port", "0") as first:
        url_said_by(first)
        first.kill()
        first.wait(30)
    with site_on(folder) as url:
        assert requests.get(f"{url}/healthz", timeout=30).status_code == 200


def test_an_address_in_use_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(folder, "--port", str(port)) as process:
            _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert str(port) in last
    assert "in use" in last
    assert "Traceback" not in err


def test_a_folder_without_a_project_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1

"""Bad signatures over real HTTP: a network that sends too many is refused unread for a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import settings
from server.http.bodies import MESSAGE_TYPE
from server.http.problems import Problem
from tests.support.http_doors import Grounds, grounds
from tests.support.still_clock import StillClock
from workunits.trust import digests, envelope, roles
from workunits.values import SessionId
from workunits.wire.messages import WorkRequest

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
FORGER = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def site(tmp_path: Path, clock: StillClock) -> Iterator[Grounds]:
    with grounds(tmp_path, trusted_proxies=["127.0.0.1"], clock=clock) as found:
        yield found


def request(signer: Ed25519PrivateKey) -> bytes:
    wanted = WorkRequest(
        protocol=1, key=envelope.public_bytes(KEY), epoch=1, session=SessionId(bytes(16)), seq=1,
        previous=digests.ZERO, client="1.0",
    )  # fmt: skip
    return envelope.pack_message(envelope.seal(wanted, roles.WORK_REQUEST, signer))


def post(
    site: Grounds, session: requests.Session, host: str, body: bytes, path: str = "/v1/work"
) -> requests.Response:
    named = {"Content-Type": MESSAGE_TYPE, "X-Forwarded-For": host}
    return session.post(site.url + path, data=body, headers=named, timeout=30)


def code_of(answer: requests.Response) -> str:
    return msgspec.json.decode(answer.content, type=Problem).code


def test_a_network_that_sends_forgeries_is_told_to_wait_and_others_are_not(
    site: Grounds, clock: StillClock
) -> None:
    with requests.Session() as session:
        for number in range(settings.BAD_SIGNATURES_PER_MINUTE):
            answer = post(site, session, f"203.0.113.{number}", request(FORGER))
            assert (answer.status_code, code_of(answer)) == (403, "bad_signature")
        for path in ("/v1/work", "/v1/enrol", "/v1/leave"):
            answer = post(site, session, "203.0.113.250", request(KEY), path)
            assert (answer.status_code, code_of(answer)) == (429, "too_many_bad_signatures")
            assert int(answer.headers["Retry-After"]) > 0
        assert post(site, session, "198.51.100.1", request(KEY)).status_code == 200
        clock.pass_s(60)
        assert post(site, session, "203.0.113.250", request(KEY)).status_code == 200


def test_this_computer_forges_as_long_as_it_likes(tmp_path: Path) -> None:
    with grounds(tmp_path) as site, requests.Session() as session:
        for _ in range(settings.BAD_SIGNATURES_PER_MINUTE + 5):
            answer = session.post(
                f"{site.url}/v1/work", data=request(FORGER),
                headers={"Content-Type": MESSAGE_TYPE}, timeout=30,
            )  # fmt: skip
            assert (answer.status_code, code_of(answer)) == (403, "bad_signature")

"""The whole server over real HTTP, and damaged messages for its doors.

Whoever is refused has changed nothing: `expect_refused_cleanly` compares all that the project keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import requests

from bench import fleet
from bench.project import project
from server.adapters.keys import KeyFolder
from server.adapters.metadata import ProjectMetadata
from server.app import Site
from server.http.bodies import MESSAGE_TYPE
from server.http.listening import bound_socket
from server.http.problems import CONTENT_TYPE, Problem
from tests.support.http_server import running
from tests.support.mutation import drawn, mutated
from tests.support.project_state import Tables, changed, files, tables
from workunits.trust import digests, envelope, roles
from workunits.values import Digest, Milliseconds, Nonce, SessionId
from workunits.wire import codec
from workunits.wire.messages import Consent, Departure, Enrolment, NewOwner

UNITS: Final = 4


@dataclass(frozen=True, slots=True)
class Surface:
    """A served project; `vehicles` have joined and said nothing yet."""

    folder: Path
    url: str
    terms: Digest
    vehicles: int

    def kept(self) -> tuple[dict[str, str], Tables]:
        """Files and tables."""
        return files(self.folder), tables(self.folder / "server.sqlite3")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One answer; nothing is followed, and the path goes out as it is written."""
        request = requests.Request(method, self.url, data=body, headers=headers).prepare()
        request.url = self.url + path
        with requests.Session() as session:
            return Answer.of(session.send(request, timeout=30, allow_redirects=False))

    def post(self, path: str, body: bytes) -> Answer:
        return self.ask("POST", path, body, **{"Content-Type": MESSAGE_TYPE})


@contextmanager
def surface(vehicles: int = 2) -> Iterator[Surface]:
    """A project that is served while the block runs."""
    with project(units=UNITS, vehicles=vehicles) as folder:
        site = Site(folder, bound_socket("127.0.0.1", 0))
        terms = ProjectMetadata(folder / "metadata", KeyFolder(folder / "keys")).terms()
        with running(lambda ready: site.run(ready.set), site.stop):
            yield Surface(folder, site.url, digests.plain(terms), vehicles)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whichever client it came through; names of headers in small letters."""

    method: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @classmethod
    def of(cls, found: requests.Response) -> Answer:
        headers = {name.lower(): value for name, value in found.headers.items()}
        return cls(found.request.method or "", found.status_code, headers, found.content)


def expect_sane(answer: Answer) -> None:
    """Raise AssertionError unless it is an answer or a refusal as PROTOCOL 10.2 has them."""
    assert answer.status < 500, answer
    if answer.status < 400 or answer.method == "HEAD":
        return
    assert answer.headers["content-type"] == CONTENT_TYPE, answer
    problem = msgspec.json.decode(answer.content, type=Problem)
    assert problem.status == answer.status
    assert "\n" not in problem.detail
    assert ("retry-after" in answer.headers) == (answer.status == 429)
    assert ("allow" in answer.headers) == (answer.status == 405)


def expect_refused_cleanly(
    site: Surface, before: tuple[dict[str, str], Tables], answer: Answer
) -> None:
    """A refusal leaves files and tables as they were."""
    expect_sane(answer)
    if answer.status != 200:
        after = site.kept()
        assert before[0] == after[0]
        assert changed(before[1], after[1]) == set(), answer


# --- the doors ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """`said(site, number)`: the payload of a good message of vehicle `number`."""

    path: str
    payload_type: str
    said: Callable[[Surface, int], bytes]


def _work(site: Surface, number: int) -> bytes:
    return envelope.unpack_message(fleet.Vehicle(number).request(1)).envelope.payload


def _leave(site: Surface, number: int) -> bytes:
    key = fleet.Vehicle(number).public
    return codec.pack(Departure(key=key, erase=bool(number % 2), nonce=Nonce(bytes(16))))


def _enrol(site: Surface, number: int) -> bytes:
    """Of a vehicle beyond those that have joined."""
    stranger = site.vehicles + number
    enrolment = Enrolment(
        protocol=1,
        key=fleet.Vehicle(stranger).public,
        session=SessionId(stranger.to_bytes(16, "big")),
        vehicle_name="car",
        owner=NewOwner(code=f"{stranger:016d}", name=f"stranger {stranger}", is_public=True),
        consent=Consent(terms=site.terms, version="1", at=Milliseconds(1), scopes=("compute",)),
        client="1.0",
    )
    return codec.pack(enrolment)


DOORS: Final = (
    Door("/v1/work", roles.WORK_REQUEST, _work),
    Door("/v1/leave", roles.DEPARTURE, _leave),
    Door("/v1/enrol", roles.ENROLMENT, _enrol),
)


def key_at(site: Surface, door: Door, number: int) -> int:
    """Whose key signs there."""
    return number if door.payload_type != roles.ENROLMENT else site.vehicles + number


def message(site: Surface, door: Door, number: int, payload: bytes) -> bytes:
    """A message as the vehicle itself would sign it, whatever the payload is."""
    key = fleet.key_of(key_at(site, door, number))
    return envelope.pack_message(envelope.seal_bytes(payload, door.payload_type, key))


def storm(site: Surface, random: Random, rounds: int) -> dict[int, int]:
    """`rounds` damaged messages; how often each status came.

    Half are damaged on the way, half by a vehicle that signs what it damaged. Each comes from a vehicle
    that has not spoken yet, so that what is not damaged is processed.
    """
    statuses: dict[int, int] = {}
    numbers = count()
    for _ in range(rounds):
        door, number = random.choice(DOORS), next(numbers) % site.vehicles
        payload = door.said(site, number)
        if random.random() < 0.5:
            body = message(site, door, number, mutated(payload, payload, drawn(random)))
        else:
            body = message(site, door, number, payload)
            body = mutated(body, body, drawn(random))
        before = site.kept()
        answer = site.post(door.path, body)
        expect_refused_cleanly(site, before, answer)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    return statuses

"""A project on loopback that knows how to enrol and to let go, and nothing else: for `join` and `leave`.

Signs like a real one, over a real TUF repository. Faults are attributes: lost replies, refusals, a
forger's key.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.tuf_repository import TufRepository, a_project
from workunits.trust import digests, envelope, roles
from workunits.values import Milliseconds, OwnerId
from workunits.wire.messages import (
    Departed,
    Departure,
    Enrolled,
    Enrolment,
    Envelope,
    NewOwner,
)

_MESSAGE = "application/vnd.tesla-at-home+msgpack"


@dataclass
class FakeProject:
    """What it was told, and how it answers."""

    now: Milliseconds
    url: str = ""
    enrolments: list[Enrolment] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    lose_replies: int = 0
    refuse: tuple[int, str, str] | None = None  # status, code, detail
    is_gone: bool = False
    known_codes: set[str] | None = None  # None: every owner's code is known
    board: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        project = a_project("fake", envelope.public_bytes(self.key))
        self.repository = TufRepository(project, self.now)

    def forge(self) -> None:
        """Sign from now on with a key that the metadata do not name."""
        self.key = Ed25519PrivateKey.generate()

    def knows(self, sealed: Envelope) -> bool:
        owner = roles.accept_enrolment(sealed).owner
        is_new = isinstance(owner, NewOwner)
        return is_new or self.known_codes is None or owner.code in self.known_codes

    def enrol(self, sealed: Envelope) -> Envelope:
        asked = roles.accept_enrolment(sealed)
        self.enrolments.append(asked)
        self.payloads.append(sealed.payload)
        name = asked.owner.name if isinstance(asked.owner, NewOwner) else None
        answer = Enrolled(
            in_reply_to=digests.of_request(sealed.payload),
            server_time=self.now,
            vehicle=digests.of_key(asked.key),
            owner=OwnerId(bytes(16)),
            owner_name=name or "brave-otter",
            epoch=1,
        )
        return envelope.seal(answer, roles.ENROLLED, self.key)

    def leave(self, sealed: Envelope) -> Envelope:
        asked = roles.accept_departure(sealed)
        self.departures.append(asked)
        answer = Departed(
            in_reply_to=digests.of_request(sealed.payload),
            server_time=self.now,
            erased=asked.erase,
        )
        return envelope.seal(answer, roles.DEPARTED, self.key)


@contextlib.contextmanager
def fake_project(now: Milliseconds) -> Iterator[FakeProject]:
    """A project that runs until the block ends."""
    project = FakeProject(now)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(project))
    project.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield project
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(project: FakeProject) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            raw = project.repository.files.get(path.removeprefix("/metadata/"))
            if project.is_gone:
                self._answer(502, b"<html>bad gateway</html>", "text/html")
            elif path == "/v1/leaderboard":
                self._answer(200, json.dumps(project.board).encode(), "application/json")
            elif raw is None:
                self._answer(404, b"nothing here", "text/plain")
            else:
                self._answer(200, raw, "application/json")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if project.is_gone:
                self._answer(502, b"<html>bad gateway</html>", "text/html")
                return
            refuse = project.refuse
            if self.path == "/v1/work":
                refuse = (503, "busy", "nothing is given out here")
            if refuse is not None:
                status, code, detail = refuse
                problem = json.dumps({"code": code, "detail": detail, "status": status})
                self._answer(status, problem.encode(), "application/problem+json")
                return
            sealed = envelope.unpack_message(body).envelope
            if self.path == "/v1/enrol" and not project.knows(sealed):
                problem = json.dumps({"code": "forbidden", "detail": "no owner has this code"})
                self._answer(403, problem.encode(), "application/problem+json")
                return
            act = project.enrol if self.path == "/v1/enrol" else project.leave
            answer = envelope.pack_message(act(sealed))
            if project.lose_replies:
                project.lose_replies -= 1
                self.close_connection = True
                return
            self._answer(200, answer, _MESSAGE)

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler

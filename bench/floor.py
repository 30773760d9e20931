"""The floor of a work request: our HTTP, both signatures and a commit, with nothing decided.

`python -m bench.floor FOLDER` prints its address and answers every request with a signed reply that
holds one lease; the reply is a row in SQLite, as durable as the real one.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from litestar.types import Receive, Scope, Send

from bench.fleet import OUTPUT
from server.adapters.clock import SystemClock
from server.http.bodies import Room
from server.http.forgeries import Strangers
from server.http.gathering import Gathering
from server.http.listening import Listener, bound_socket, url_of
from server.http.work import WorkRoute
from server.services.exchange import Arrival
from workunits.trust import digests, envelope, roles
from workunits.values import LeaseId, Milliseconds
from workunits.wire import codec
from workunits.wire.messages import Envelope, Lease, Reply

_LEASE = Lease(
    lease=LeaseId(bytes(16)),
    manifest=digests.ZERO,
    unit=bytes(120),
    proof=(digests.ZERO,) * 14,
    duration_s=3600,
    ticket=bytes(16),
)


class Floor:
    """Answers without deciding anything."""

    def __init__(self, folder: Path) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._database = sqlite3.connect(
            folder / "floor.sqlite3", isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE replies (vehicle BLOB PRIMARY KEY, raw BLOB)")

    def answer_all(self, arrivals: Sequence[Arrival]) -> list[bytes]:
        """A signed reply to each, stored in one commit."""
        replies = [(arrival.request.key, self._reply(arrival)) for arrival in arrivals]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(
            "INSERT OR REPLACE INTO replies VALUES (?, ?)",
            [(key, codec.pack(sealed)) for key, sealed in replies],
        )
        self._database.execute("COMMIT")
        return [envelope.pack_message(sealed, (OUTPUT,)) for _, sealed in replies]

    def _reply(self, arrival: Arrival) -> Envelope:
        reply = Reply(
            in_reply_to=arrival.digest,
            server_time=Milliseconds(0),
            epoch=1,
            wait_s=0,
            has_work=True,
            leases=(_LEASE,),
        )
        return envelope.seal(reply, roles.REPLY, self._key)


def main(folder: Path) -> None:
    """Until terminated."""
    gathering = Gathering(Floor(folder).answer_all)
    route = WorkRoute(gathering, Room(), Strangers(SystemClock()))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await route(scope, receive, send)

    sock = bound_socket("127.0.0.1", 0)
    gathering.start()
    Listener(application, sock).listen(lambda: print(url_of(sock), flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

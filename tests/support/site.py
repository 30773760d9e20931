"""The project as its HTTP side would reach it: real services over a folder, without HTTP.

Refusals and outages become what the vehicle's transport makes of them (`Told`). Remembers every signed
reply, and fails when a repetition of the request gets another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.domain.names import public_blob
from server.domain.records import BatchRow
from server.errors import Busy, NotFound, Outage, Refused
from server.http import problems
from server.http.partials import Partials
from server.http.uploads import Offer, Received, Uploads
from server.services.standings import Standings
from server.services.sweeping import Sweeping
from server.workers.sweep import Sweep
from tesla_at_home.errors import Told
from tests.support.still_clock import StillClock
from tests.support.work_server import MODEL, MODEL_FILE, TICKET_KEY, WorkServer, arrival
from workunits.errors import ContractError
from workunits.trust import digests, envelope, roles
from workunits.values import BatchId, Digest, LeaseId
from workunits.wire import codec
from workunits.wire.messages import Message


class Site:
    """One project; `reopen` is what is left of it after a kill."""

    def __init__(self, folder: Path, clock: StillClock) -> None:
        self.server = WorkServer(folder)
        self.server.clock = clock
        self._partials = Partials(folder / "uploads")
        (folder / "uploads").mkdir(exist_ok=True)
        self.server.blobs.put(public_blob(MODEL), MODEL_FILE)
        self.batches: list[BatchRow] = []
        self.widths: dict[BatchId, int] = {}
        self.replies: dict[Digest, bytes] = {}
        # By the vehicle's key, the request that it was last replied to.
        self.last: dict[bytes, bytes] = {}
        # How often a vehicle said something else under a number that was answered: only one that was
        # restored or copied does so (PROTOCOL 8.4).
        self.numbers_used_twice = 0
        self._numbers: dict[tuple[bytes, bytes, int], Digest] = {}
        self._open()

    def publish(
        self, units: int, *, quorum: int = 2, width: int = 1, rows_per_step: int = 2
    ) -> BatchRow:
        """See `WorkServer.publish`."""
        batch = self.server.publish(units, quorum=quorum, width=width, rows_per_step=rows_per_step)
        self.batches.append(batch)
        self.widths[batch.id] = width
        return batch

    def reopen(self) -> None:
        """As after `kill -9`: what was not committed is gone."""
        self.server.reopen()
        self._open()

    def _open(self) -> None:
        server = self.server
        server.start()
        server.sweep = Sweep(
            Sweeping(server.database, self._partials, server.blobs), Standings(server.database)
        )
        self._enrolments = server.enrolments()
        self._uploads = Uploads(
            server.database, server.blobs, self._partials, server.clock, TICKET_KEY
        )

    # --- messages --------------------------------------------------------------------------------

    def post(self, path: str, raw: bytes) -> bytes:
        """The packed answer."""
        with told():
            if path == "/v1/work":
                return self._work(raw)
            assert path == "/v1/enrol", path
            sealed = envelope.unpack_message(raw).envelope
            asked = roles.accept_enrolment(sealed)
            answer = self._enrolments.enrol(asked, digests.of_request(sealed.payload), None)
            return envelope.pack_message(answer)

    def _work(self, raw: bytes) -> bytes:
        asked = arrival(raw)
        number = (asked.request.key, asked.request.session, asked.request.seq)
        self.numbers_used_twice += self._numbers.get(number, asked.digest) != asked.digest
        exchange = self.server.exchange
        [packed] = exchange.carry(exchange.answer([asked]))
        if self._is_remembered(asked.digest, envelope.unpack_message(packed)):
            self.last[asked.request.key] = raw
            self._numbers[number] = asked.digest
        return packed

    def repeat_all(self) -> None:
        """Each vehicle's last request once more: the same reply, or none at all."""
        for raw in list(self.last.values()):
            self._work(raw)

    def _is_remembered(self, request: Digest, message: Message) -> bool:
        if message.envelope.payload_type != roles.REPLY:
            return False
        reply = codec.pack(message.envelope)
        assert self.replies.setdefault(request, reply) == reply, "a repetition got another reply"
        return True

    # --- files -----------------------------------------------------------------------------------

    def blob(self, name: str) -> bytes:
        """A blob that anybody may fetch."""
        with told():
            size = self.server.blobs.size(name)
            if size is None or "/" in name:
                raise NotFound("there is no such blob")
            return self.server.blobs.read(name)

    def standing(self, lease: LeaseId, authorization: str) -> Received:
        with told():
            self._uploads.admit(lease, authorization)
            return self._uploads.standing(lease)

    def begin(self, offer: Offer, authorization: str) -> Received:
        with told():
            held = self._uploads.admit(offer.lease, authorization)
            self._uploads.expect_size(held, offer.size)
            return self._uploads.begin(offer)

    def append(self, lease: LeaseId, piece: bytes) -> None:
        with told():
            self._uploads.append(lease, piece)

    def end(self, offer: Offer) -> Received:
        """After the last byte that came, be it the last one of all or not."""
        with told():
            standing = self._uploads.touch(offer)
            is_whole = standing.received == offer.size
            return self._uploads.finish(offer) if is_whole else standing

    def patch(self, offer: Offer, authorization: str, body: Callable[[], bytes]) -> Received:
        """A whole request for the next bytes, as a proxy would repeat it."""
        begun = self.begin(offer, authorization)
        if begun.complete:
            return begun
        self.append(offer.lease, body())
        return self.end(offer)


@contextmanager
def told() -> Iterator[None]:
    """What the HTTP side makes of an error, as the vehicle's transport gives it on."""
    try:
        yield
    except (ContractError, Refused, Busy, Outage) as error:
        problem = problems.of_error(error)
        wait = problem.headers().get("Retry-After")
        raise Told(
            problem.status, problem.code, problem.detail, None if wait is None else int(wait)
        ) from None

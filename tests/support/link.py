"""The link between one vehicle and the project: the client's ports, with a fault where one is due.

Implements `Transport`, `Metadata` and `Enroller` over a `Site`. What crosses, and what befalls it, is
`tests.support.weather`'s; here is what each fault does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from server.http.uploads import Offer
from tesla_at_home.agent.events import Moved
from tesla_at_home.errors import Told, Unreachable, Untrusted
from tesla_at_home.ports import Cancellation, KeyStore, ProjectView
from tests.support.site import Site
from tests.support.still_clock import StillClock
from tests.support.weather import Errand, Fault, Weather
from tests.support.work_server import BATCH_KEY, MODEL, MODEL_FILE, SCHEDULER, TERMS
from workunits.trust import envelope, roles
from workunits.trust.digests import of_key, of_request
from workunits.values import Digest, LeaseId, Milliseconds, SessionId, show
from workunits.wire.messages import (
    PROTOCOL_VERSION,
    Consent,
    Enrolled,
    Enrolment,
    ExistingOwner,
    NewOwner,
    Project,
    RoleKey,
    Terms,
)

CONSENT: Final = Consent(terms=TERMS, version="1", at=Milliseconds(1), scopes=("compute",))
# The client's own limit (settings.Network.stall_s).
STALL_S: Final = 300.0
_PIECES: Final = 2  # a file crosses in so many
_PORTAL: Final = b"<html>Please accept our terms</html>"
_BLOBS: Final = "/v1/blobs/"
_FOR_EVER: Final = Milliseconds(2**50)

T = TypeVar("T")


class AgentKilled(BaseException):
    """The vehicle's process ends at this moment; nothing of it runs any more."""


class Link:
    """One vehicle's way to the project."""

    def __init__(self, site: Site, weather: Weather, clock: StillClock, keys: KeyStore) -> None:
        self._site = site
        self._weather = weather
        self._clock = clock
        self._keys = keys
        self._down = self._up = 0
        self._last_answer = b""
        self.owner_code = ""

    # --- Transport -------------------------------------------------------------------------------

    def post(self, path: str, body: bytes, *, cancel: Cancellation) -> bytes:
        """See `ports.Transport`."""
        cancel.check()
        self._up += len(body)
        errand: Errand = "post" if path == "/v1/work" else "enrol"
        fault = self._weather.cross(errand, "asked")
        if fault == "portal":
            return _PORTAL
        raw = self._deliver(fault, lambda: self._site.post(path, body))
        answer = self._answer(self._weather.cross(errand, "answered"), raw)
        self._down += len(answer)
        return answer

    def _answer(self, fault: Fault | None, raw: bytes) -> bytes:
        before, self._last_answer = self._last_answer, raw
        if fault == "cut":
            return raw[: len(raw) // 2]  # without a length, a proxy's cut looks like the end
        if fault == "replayed":
            return before
        self._strike(fault)
        return raw

    def fetch(
        self,
        path: str,
        to: Path,
        *,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
        is_exact: bool = True,
    ) -> None:
        """See `ports.Transport`."""
        cancel.check()
        whole = self._ask("blob", lambda: self._site.blob(path.removeprefix(_BLOBS)))
        assert len(whole) == size or (not is_exact and len(whole) < size)
        to.touch()
        has = to.stat().st_size if is_exact else 0
        with to.open("r+b") as file:
            file.truncate(has)
            file.seek(has)
            for piece in _pieces(whole[has:]):
                fault = self._weather.cross("blob", "down")
                file.write(piece[: len(piece) // 2] if fault == "cut" else b"")
                self._strike(fault)
                file.write(piece)
                self._down += len(piece)
                on_bytes(len(piece))

    def upload(
        self,
        lease: LeaseId,
        ticket: bytes,
        source: Path,
        *,
        digest: Digest,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
    ) -> None:
        """See `ports.Transport`."""
        cancel.check()
        authorization = f"Ticket {show(ticket)}"
        has = self._ask("standing", lambda: self._site.standing(lease, authorization))
        if has.complete:
            return
        rest = source.read_bytes()[has.received :]
        offer = Offer(lease, has.received, size, digest, of_key(self._keys.public))
        fault = self._weather.cross("upload", "asked")
        if fault in ("twice", "late"):
            self._repeat(fault, lambda: self._site.patch(offer, authorization, lambda: rest))
            fault = None
        self._strike(fault)
        if not self._site.begin(offer, authorization).complete:
            self._send(offer, rest, on_bytes)
        self._strike(self._weather.cross("upload", "answered"))

    def _send(self, offer: Offer, rest: bytes, on_bytes: Callable[[int], None]) -> None:
        for piece in _pieces(rest):
            fault = self._weather.cross("upload", "up")
            if fault == "cut":
                self._site.append(offer.lease, piece[: len(piece) // 2])
            if fault in ("cut", "lost", "stalled"):
                self._site.end(offer)  # the server keeps what came
            self._strike(fault)
            self._site.append(offer.lease, piece)
            self._up += len(piece)
            on_bytes(len(piece))
        if not self._site.end(offer).complete:
            raise Unreachable("the project does not have all of it")

    def take_moved(self) -> Moved:
        """See `ports.Transport`."""
        moved = Moved(down=self._down, up=self._up)
        self._down = self._up = 0
        return moved

    # --- Metadata --------------------------------------------------------------------------------

    def held(self, trusted_now: Milliseconds) -> ProjectView:
        """See `ports.Metadata`."""
        return ProjectView(PROJECT, is_fresh=True)

    def refresh(self, trusted_now: Milliseconds, *, cancel: Cancellation) -> ProjectView:
        """See `ports.Metadata`."""
        cancel.check()
        return self._ask("look", lambda: self.held(trusted_now))

    def model_size(self, digest: Digest) -> int:
        """See `ports.Metadata`."""
        if digest != MODEL:
            raise Untrusted(f"the project does not name the model {digest.hex()[:16]}")
        return len(MODEL_FILE)

    # --- Enroller --------------------------------------------------------------------------------

    def again(
        self, session: SessionId, trusted_now: Milliseconds, *, cancel: Cancellation
    ) -> Enrolled:
        """See `ports.Enroller`."""
        try:
            return self.enrol(ExistingOwner(code=self.owner_code), session, cancel)
        except Told as told:
            if told.status not in (403, 404):
                raise
        return self.enrol(NewOwner(code=self.owner_code), session, cancel)

    def enrol(
        self, owner: NewOwner | ExistingOwner, session: SessionId, cancel: Cancellation
    ) -> Enrolled:
        enrolment = Enrolment(
            protocol=PROTOCOL_VERSION,
            key=self._keys.public,
            session=session,
            vehicle_name="car",
            owner=owner,
            consent=CONSENT,
            client="test/1",
        )
        sealed = self._keys.seal(enrolment, roles.ENROLMENT)
        raw = self.post("/v1/enrol", envelope.pack_message(sealed), cancel=cancel)
        answer = envelope.unpack_message(raw).envelope
        return roles.accept_enrolled(
            answer, PROJECT, of_request(sealed.payload), self._clock.now_ms()
        )

    # --- faults ----------------------------------------------------------------------------------

    def _ask(self, errand: Errand, serve: Callable[[], T]) -> T:
        answer = self._deliver(self._weather.cross(errand, "asked"), serve)
        self._strike(self._weather.cross(errand, "answered"))
        return answer

    def _deliver(self, fault: Fault | None, serve: Callable[[], T]) -> T:
        """What the project says to a request that `fault` befalls on its way."""
        if fault in ("twice", "late"):
            self._repeat(fault, serve)
        else:
            self._strike(fault)
        return serve()

    def _repeat(self, fault: Fault, serve: Callable[[], object]) -> None:
        def deliver() -> None:
            with suppress(Told):  # nobody hears the answer to a copy
                serve()

        if fault == "late":
            self._weather.later(deliver)
        else:
            deliver()

    def _strike(self, fault: Fault | None) -> None:
        """Raise what the vehicle meets."""
        if fault is None:
            return
        if fault == "agent_killed":
            raise AgentKilled
        if fault == "busy":
            raise Told(503, "busy", "ask again in a moment", 7)
        if fault == "server_killed":
            self._site.reopen()
        if fault == "stalled":
            self._clock.pass_s(STALL_S)
        raise Unreachable(f"the connection broke ({fault})")


def _pieces(raw: bytes) -> list[bytes]:
    each = max(1, -(-len(raw) // _PIECES))
    return [raw[at : at + each] for at in range(0, len(raw), each)]


def _project() -> Project:
    def role(public: bytes) -> tuple[RoleKey]:
        return (RoleKey(key=public, not_before=Milliseconds(0), not_after=_FOR_EVER),)

    return Project(
        name="world",
        scheduler_keys=role(envelope.public_bytes(SCHEDULER)),
        batch_keys=role(envelope.public_bytes(BATCH_KEY)),
        terms=Terms(digest=TERMS, size=5, version="1"),
        protocol_oldest=PROTOCOL_VERSION,
        protocol_newest=PROTOCOL_VERSION,
        sign_up="open",
    )


# What TUF would vouch for.
PROJECT: Final = _project()

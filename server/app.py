"""Joins the parts of the server: what `tesla-at-home-server serve` runs.

Decides what is made of what, and in which order it starts and stops; nothing else. Metadata is signed
anew before anyone can ask for it, and on the way down the socket closes before the writer does, so
that every request that was taken is answered.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from server import settings
from server.adapters import serving, settings_file, swapping
from server.adapters.clock import SystemClock, SystemRandomness
from server.adapters.keys import KeyFolder, KeySealer
from server.adapters.log_lines import log_to_stderr
from server.adapters.metadata import ProjectMetadata
from server.errors import NotAvailableYet, Refused
from server.http.bodies import Room
from server.http.doors import Doors
from server.http.forgeries import Strangers
from server.http.front import Front
from server.http.gathering import Gathering
from server.http.listening import Listener, bound_socket, url_of
from server.http.partials import Partials
from server.http.turns import Turns
from server.http.uploads import Uploads
from server.http.writers import Writers
from server.services.enrolment import Enrolments
from server.services.exchange import Arrival, Exchange
from server.services.standings import Standings
from server.services.sweeping import Sweeping
from server.services.tidying import Tidying
from server.services.validation import Validation
from server.services.versions import spoken
from server.storage.blobs import FolderBlobs
from server.storage.database import SqliteDatabase
from server.workers.rounds import Rounds
from server.workers.sweep import Sweep
from server.workers.validate import Validate
from workunits.trust import digests

ROLES: Final = ("all", "api", "publisher", "worker")
ALL_IN_ONE: Final = (
    "this one process holds the scheduler's key, and every other key that lies in keys/: whoever "
    "breaks into it can sign work; README says which keys to move to another machine"
)
_EXIT_CODES: Final[dict[int, int]] = {signal.SIGTERM: 0, signal.SIGINT: 130}

_log = logging.getLogger("server.app")


def serve(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    role: str = "all",
    trusted_proxies: Sequence[str] = (),
    no_work_wait_s: int = settings.NO_WORK_WAIT_S,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Serve the project in `directory` until a signal; the exit code.

    `no_work_wait_s` is what a vehicle is told to wait when there is nothing for it; `say` gets the
    one line that tells where it listens.

    Raises:
        Refused, Outage: it cannot be served, and how to mend it.
    """
    if role not in ROLES:
        raise Refused(f"--role {role}: use one of {', '.join(ROLES)}")
    if role != "all":
        raise NotAvailableYet(f"--role {role} is not available yet; use --role all")
    with ExitStack() as stack:
        stack.enter_context(swapping.using(directory))
        stack.enter_context(serving.only_one(directory))
        log_to_stderr()
        _log.warning("starting role=all note=%r", ALL_IN_ONE)
        site = Site(directory, bound_socket(host, port), trusted_proxies, no_work_wait_s)
        stack.callback(serving.withdraw, directory)

        def ready() -> None:
            serving.announce(directory, site.url)
            say(f"listening on {site.url}")

        with _stopped_by_signals(site) as received:
            site.run(ready)
    return _EXIT_CODES[received[0]] if received else 0


class Site:
    """One running server: its parts, the loop, and the threads beside it."""

    def __init__(
        self,
        directory: Path,
        listening: socket.socket,
        trusted_proxies: Sequence[str] = (),
        no_work_wait_s: int = settings.NO_WORK_WAIT_S,
    ) -> None:
        """Opens the project in `directory`; nothing runs yet."""
        self.url = url_of(listening)
        project = settings_file.read(directory)
        keys = KeyFolder(directory / "keys")
        sealer = KeySealer(keys.load("scheduler"))
        randomness = SystemRandomness()
        self._clock = SystemClock()
        self._metadata = ProjectMetadata(directory / "metadata", keys)
        self._blobs = FolderBlobs(directory / "blobs")
        self._database = SqliteDatabase(directory / settings.DATABASE_FILE)
        speaks = spoken(self._database, self._clock.now_ms())
        self._exchange = Exchange(
            self._database,
            self._blobs,
            sealer,
            self._clock,
            randomness,
            no_work_wait_s=no_work_wait_s,
            spoken=speaks,
        )
        (directory / "uploads").mkdir(mode=0o700, exist_ok=True)
        self._partials = Partials(directory / "uploads")
        standings = Standings(self._database)
        self._validate = Validate(Validation(self._database, self._blobs))
        self._sweep = Sweep(Sweeping(self._database, self._partials, self._blobs), standings)
        self._tidying = Tidying(self._database, self._partials, self._blobs)
        self._gathering = Gathering(self._answer, after=self._wake_validator)
        self._writers = Writers()
        enrolments = Enrolments(
            self._database,
            sealer,
            self._clock,
            randomness,
            sign_up=project.sign_up,
            terms=digests.plain(self._metadata.terms()),
            spoken=speaks,
        )
        doors = Doors(
            project=project.name,
            database=self._database,
            blobs=self._blobs,
            clock=self._clock,
            enrolments=enrolments,
            standings=standings,
            work=self._gathering,
            uploads=self._uploads(),
            turns=Turns(),
            metadata=directory / "metadata",
            writers=self._writers,
            room=Room(is_behind_proxy=bool(trusted_proxies)),
            strangers=Strangers(self._clock, is_behind_proxy=bool(trusted_proxies)),
            is_behind_proxy=bool(trusted_proxies),
        )
        self._workers = self._background()
        self._seen_version = self._database.data_version()
        self._listener = Listener(Front(doors), listening, trusted_proxies)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until `stop`, and leave nothing half done."""
        with ExitStack() as stack:
            stack.callback(self._database.close)
            self._refresh_metadata()
            self._gathering.start()
            stack.callback(self._gathering.close)
            stack.callback(self._writers.close)
            for worker in self._workers.values():
                worker.start()
                stack.callback(worker.stop)
            self._listener.listen(on_ready)
        _log.info("stopped")

    def stop(self) -> None:
        """From any thread or signal handler."""
        self._listener.stop()

    def _uploads(self) -> Uploads:
        with self._database.reading() as repositories:
            ticket_key = repositories.meta.secrets().ticket_key
        return Uploads(self._database, self._blobs, self._partials, self._clock, ticket_key)

    def _background(self) -> dict[str, Rounds]:
        return {
            worker.name: worker
            for worker in (
                Rounds(
                    "validate",
                    self._validate_some,
                    settings.VALIDATE_EVERY_S,
                    settings.VALIDATE_REST_S,
                ),
                Rounds("sweep", self._sweep_some, settings.SWEEP_EVERY_S),
                Rounds("tidy", self._tidy, settings.TIDY_EVERY_S),
                Rounds("metadata", self._refresh_metadata, settings.METADATA_EVERY_S),
                Rounds("other_writers", self._notice_other_writers, settings.NOTICE_EVERY_S),
            )
        }

    def _answer(self, arrivals: Sequence[Arrival]) -> list[bytes]:
        return self._exchange.carry(self._exchange.answer(arrivals))

    def _wake_validator(self, arrivals: Sequence[Arrival]) -> None:
        if any(arrival.request.reports for arrival in arrivals):
            self._workers["validate"].wake()

    def _validate_some(self) -> bool:
        done = self._validate.run_once(self._clock.now_ms())
        if done:
            # There may be more; a block that was not full can wait until some have gathered.
            self._workers["validate"].wake()
        return done >= settings.UNITS_PER_CHECK

    def _sweep_some(self) -> bool:
        done = self._sweep.run_once(self._clock.now_ms())
        if done:
            # A lease that ended may leave a unit with all the results it will get.
            self._workers["validate"].wake()
        return done > 0

    def _tidy(self) -> bool:
        if gone := self._tidying.tidy(self._clock.now_ms()):
            _log.info("tidied files=%d", gone)
        return False

    def _notice_other_writers(self) -> bool:
        """What a local command has changed is swept and validated now and not at the next tick."""
        version = self._database.data_version()
        if version != self._seen_version:
            self._seen_version = version
            self._workers["sweep"].wake()
            self._workers["validate"].wake()
        return False

    def _refresh_metadata(self) -> bool:
        for warning in self._metadata.refresh(self._clock.now_ms()):
            _log.warning("metadata note=%r", warning)
        return False


@contextmanager
def _stopped_by_signals(site: Site) -> Iterator[list[int]]:
    """The signals that came, first first; each stops the site, and the process only through it."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        site.stop()

    before = {number: signal.signal(number, stop) for number in _EXIT_CODES}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Jobs for the lanes: what goes over the link, and what is made of what comes back.

Each runs in a lane's thread, checks what came against what was signed, and says as events how it
went. Decides nothing about what follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tesla_at_home.agent import acceptance
from tesla_at_home.agent.books import HeldUnit, SavedRequest
from tesla_at_home.agent.events import (
    Answered,
    EnrolledAgain,
    Event,
    Fetched,
    FetchFailed,
    Need,
    OutputLost,
    ProjectSeen,
    Rechecked,
    Refused,
    Unanswered,
    Uploaded,
    UploadFailed,
)
from tesla_at_home.errors import Cancelled, ClientError, Told, Unreachable, Untrusted
from tesla_at_home.ports import (
    Cancellation,
    Enroller,
    Metadata,
    ProjectView,
    Shelf,
    Transport,
)
from workunits.errors import ContractError
from workunits.trust import envelope
from workunits.values import Digest, LeaseId, Milliseconds, SessionId
from workunits.wire import limits
from workunits.wire.messages import Project

WORK_PATH: Final = "/v1/work"
_BLOB_PATH: Final = "/v1/blobs/"
# The request is not at fault: too slow, too many, too early.
_PASSING: Final = frozenset({408, 425, 429})
_ABSENT: Final = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Errands:
    """The jobs, over the ports that they need."""

    transport: Transport
    metadata: Metadata
    enroller: Enroller
    shelf: Shelf

    def look(self, now: Milliseconds, cancel: Cancellation) -> tuple[ProjectView | None, Event]:
        """Bring the project's metadata up to date; what is held counts where that fails."""
        fault: str | None = None
        view: ProjectView | None = None
        was_cancelled = False
        try:
            view = self.metadata.refresh(now, cancel=cancel)
        except (Unreachable, Untrusted) as error:
            was_cancelled = isinstance(error, Cancelled)
            fault = None if was_cancelled else str(error)
            view = self._held(now)
        is_fresh, until_ms = (False, None) if view is None else (view.is_fresh, view.until_ms)
        return view, ProjectSeen(is_fresh, fault, was_cancelled, until_ms)

    def _held(self, now: Milliseconds) -> ProjectView | None:
        try:
            return self.metadata.held(now)
        except Untrusted:
            return None

    def post(
        self,
        saved: SavedRequest,
        outputs: Iterable[HeldUnit],
        project: Project | None,
        now: Milliseconds,
        cancel: Cancellation,
    ) -> list[Event]:
        """Send the saved request and read the answer; its attachments are on disk before it is told."""
        if project is None:
            return [Unanswered("the project's metadata are not here yet", is_untrusted=True)]
        try:
            body = envelope.pack_message(saved.sealed, self._attachments(outputs))
            raw = self.transport.post(WORK_PATH, body, cancel=cancel)
        except (Unreachable, Untrusted, OSError) as error:
            return [self.transport.take_moved(), _unanswered(error)]
        moved = self.transport.take_moved()
        try:
            accepted = acceptance.read_answer(raw, project, saved.digest, now, saved.holding)
            for need, file in accepted.files:
                self.shelf.put(need, file)
        except ContractError as error:
            detail = f"an answer that is not the project's: {error}"
            return [moved, Unanswered(detail, is_untrusted=True)]
        except OSError as error:
            return [moved, _unanswered(error)]
        return [moved, Answered(accepted.answer)]

    def _attachments(self, outputs: Iterable[HeldUnit]) -> list[bytes]:
        # One that is gone or damaged is asked for with the receipt `again`, and then made anew.
        return [
            self.shelf.output(unit.lease).read_bytes()
            for unit in outputs
            if unit.output is not None and self.shelf.has_output(unit.lease, unit.output)
        ]

    def enrol(self, session: SessionId, now: Milliseconds, cancel: Cancellation) -> list[Event]:
        """Join again with the same key."""
        try:
            return [EnrolledAgain(session, self.enroller.again(session, now, cancel=cancel))]
        except (Unreachable, Untrusted, OSError) as error:
            return [_unanswered(error)]
        except (ContractError, ClientError) as error:
            return [Unanswered(str(error), is_untrusted=True)]

    def fetch(
        self,
        need: Need,
        most_bytes: int,
        keep: frozenset[Digest],
        left_bytes: int,
        cancel: Cancellation,
    ) -> list[Event]:
        """Bring a file and check it; models that nothing needs make room for a new one.

        Stops, to go on another day, when `left_bytes` have come.
        """
        budget = _Budget(left_bytes)
        try:
            if need.kind == "model":
                self.shelf.evict(keep | {need.digest}, most_bytes - need.size)
            path = _BLOB_PATH + need.digest.hex()
            self.transport.fetch(
                path,
                self.shelf.part(need),
                size=need.size,
                cancel=cancel,
                on_bytes=budget.use,
                is_exact=need.kind != "manifest",  # a lease names it without its size
            )
            self.shelf.accept(need)
        except (Unreachable, Untrusted, ContractError, OSError) as error:
            # A server that gives other bytes under the name does not have the file either.
            is_told = isinstance(error, Told) and error.status in _ABSENT
            is_absent = is_told or isinstance(error, ContractError)
            failed = FetchFailed(
                need, _words(error), isinstance(error, Cancelled), is_absent, _retry_after_s(error)
            )
            return [self.transport.take_moved(), failed]
        return [self.transport.take_moved(), Fetched(need)]

    def recheck(self, leases: tuple[LeaseId, ...], needs: Iterable[Need]) -> list[Event]:
        """Forget those files that the disk damaged."""
        for need in needs:
            self.shelf.recheck(need)
        return [Rechecked(leases)]

    def upload(self, unit: HeldUnit, left_bytes: int, cancel: Cancellation) -> list[Event]:
        """Bring an output to the project, going on where it was cut; stops as `fetch` does."""
        assert unit.output is not None
        if not self.shelf.has_output(unit.lease, unit.output):
            return [OutputLost(unit.lease)]
        budget = _Budget(left_bytes)
        try:
            self.transport.upload(
                unit.lease,
                unit.offer.ticket,
                self.shelf.output(unit.lease),
                digest=unit.output,
                size=unit.output_size,
                cancel=cancel,
                on_bytes=budget.use,
            )
        except (Unreachable, Untrusted, OSError) as error:
            failed = UploadFailed(
                unit.lease, _words(error), isinstance(error, Cancelled), _retry_after_s(error)
            )
            return [self.transport.take_moved(), failed]
        return [self.transport.take_moved(), Uploaded(unit.lease)]


class _Budget:
    """Ends a transfer when what was left of the day's bytes is used up."""

    def __init__(self, left_bytes: int) -> None:
        self._left_bytes = left_bytes

    def use(self, count: int) -> None:
        self._left_bytes -= count
        if self._left_bytes <= 0:
            raise Cancelled("today's data budget is used up")


def rides_along(unit: HeldUnit) -> bool:
    """Whether the output goes with the report itself."""
    return unit.outcome == "done" and unit.output_size <= limits.ATTACHMENT_BYTES


def _words(error: Exception) -> str:
    """In one line; of a file's path only the name, because faults are shown to others too."""
    if isinstance(error, OSError):
        name = Path(str(error.filename)).name if error.filename else "this disk"
        return f"{name}: {error.strerror or error}"
    return str(error)


def _retry_after_s(error: Exception) -> int | None:
    return error.retry_after_s if isinstance(error, Told) else None


def _unanswered(error: Unreachable | Untrusted | OSError) -> Event:
    if isinstance(error, Told):
        is_final = 400 <= error.status < 500 and error.status not in _PASSING
        return Refused(error.problem, str(error), error.retry_after_s, is_final)
    return Unanswered(
        _words(error),
        was_cancelled=isinstance(error, Cancelled),
        is_untrusted=isinstance(error, Untrusted),
    )

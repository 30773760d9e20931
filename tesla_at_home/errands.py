"""Jobs for the lanes: what goes over the link, and what is made of what comes back.

Each runs in a lane's thread, checks what came against what was signed, and says as events how it
went. Decides nothing about what follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tesla_at_home.agent import acceptance
from tesla_at_home.agent.books import HeldUnit, SavedRequest
from tesla_at_home.agent.events import (
    Answered,
    EnrolledAgain,
    Event,
    Fetched,
    FetchFailed,
    Moved,
    Need,
    ProjectSeen,
    Refused,
    Unanswered,
    Uploaded,
    UploadFailed,
)
from tesla_at_home.errors import Cancelled, Told, Unreachable, Untrusted
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
        try:
            view = self.metadata.refresh(now, cancel=cancel)
        except (Unreachable, Untrusted) as error:
            fault = None if isinstance(error, Cancelled) else str(error)
            view = self._held(now)
        return view, ProjectSeen(is_fresh=view is not None and view.is_fresh, fault=fault)

    def _held(self, now: Milliseconds) -> ProjectView | None:
        try:
            return self.metadata.held(now)
        except Untrusted:
            return None

    def post(
        self,
        saved: SavedRequest,
        outputs: Iterable[LeaseId],
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
        except (Unreachable, Untrusted) as error:
            return [_unanswered(error)]
        moved = Moved(down=len(raw), up=len(body))
        try:
            accepted = acceptance.read_answer(raw, project, saved.digest, now)
            for need, file in accepted.files:
                self.shelf.put(need, file)
        except ContractError as error:
            detail = f"an answer that is not the project's: {error}"
            return [moved, Unanswered(detail, is_untrusted=True)]
        return [moved, Answered(accepted.answer)]

    def _attachments(self, outputs: Iterable[LeaseId]) -> list[bytes]:
        paths = [self.shelf.output(lease) for lease in outputs]
        # One that is gone is asked for with the receipt `again`.
        return [path.read_bytes() for path in paths if path.exists()]

    def enrol(self, session: SessionId, now: Milliseconds, cancel: Cancellation) -> list[Event]:
        """Join again with the same key."""
        try:
            return [EnrolledAgain(session, self.enroller.again(session, now, cancel=cancel))]
        except (Unreachable, Untrusted) as error:
            return [_unanswered(error)]
        except ContractError as error:
            return [Unanswered(str(error), is_untrusted=True)]

    def fetch(
        self, need: Need, most_bytes: int, keep: frozenset[Digest], cancel: Cancellation
    ) -> list[Event]:
        """Bring a file and check it; models that nothing needs make room for a new one."""
        counted = _Counted()
        try:
            if need.kind == "model":
                self.shelf.evict(keep, most_bytes - need.size)
            path = _BLOB_PATH + need.digest.hex()
            self.transport.fetch(
                path, self.shelf.part(need), size=need.size, cancel=cancel, on_bytes=counted.add
            )
            self.shelf.accept(need)
        except (Unreachable, Untrusted, ContractError, OSError) as error:
            failed = FetchFailed(need, str(error), isinstance(error, Cancelled))
            return [Moved(down=counted.bytes), failed]
        return [Moved(down=counted.bytes), Fetched(need)]

    def upload(self, unit: HeldUnit, cancel: Cancellation) -> list[Event]:
        """Bring an output to the project, going on where it was cut."""
        assert unit.output is not None
        counted = _Counted()
        try:
            self.transport.upload(
                unit.lease,
                unit.offer.ticket,
                self.shelf.output(unit.lease),
                digest=unit.output,
                size=unit.output_size,
                cancel=cancel,
                on_bytes=counted.add,
            )
        except (Unreachable, Untrusted, OSError) as error:
            failed = UploadFailed(unit.lease, str(error), isinstance(error, Cancelled))
            return [Moved(up=counted.bytes), failed]
        return [Moved(up=counted.bytes), Uploaded(unit.lease)]


class _Counted:
    def __init__(self) -> None:
        self.bytes = 0

    def add(self, count: int) -> None:
        self.bytes += count


def rides_along(unit: HeldUnit) -> bool:
    """Whether the output goes with the report itself."""
    return unit.outcome == "done" and unit.output_size <= limits.ATTACHMENT_BYTES


def _unanswered(error: Unreachable | Untrusted) -> Event:
    if isinstance(error, Told):
        is_final = 400 <= error.status < 500 and error.status not in _PASSING
        return Refused(error.problem, str(error), error.retry_after_s, is_final)
    return Unanswered(
        str(error),
        was_cancelled=isinstance(error, Cancelled),
        is_untrusted=isinstance(error, Untrusted),
    )

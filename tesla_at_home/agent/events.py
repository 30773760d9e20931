"""What can happen to the agent. Each event is one fact; none asks for anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from tesla_at_home.agent.books import Facts
from tesla_at_home.policy.signals import Heard
from tesla_at_home.settings import Settings
from workunits.trust.roles import Answer
from workunits.values import Digest, LeaseId, Milliseconds, SessionId
from workunits.wire.messages import Enrolled


@dataclass(frozen=True, slots=True)
class Now:
    """The moment of an event, and what chance gives for it."""

    wall_ms: Milliseconds
    boot_s: float
    boot_id: str
    minute_of_day: int
    draw: float  # [0, 1): jitter
    token: bytes  # 16 unguessable bytes: a session, if one is needed


@dataclass(frozen=True, slots=True)
class Need:
    """A file that a unit waits for."""

    kind: Literal["manifest", "model", "input"]
    digest: Digest
    size: int  # at most


class Order(Struct, frozen=True, kw_only=True):
    """What the owner wants. `until_ms` belongs to pause; None is until `resume`.

    leave: the agent stops and ends, so that the command can take over. reload: settings changed.
    """

    kind: Literal["pause", "resume", "finish", "leave", "reload"]
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `child_bytes` is the memory of the child, `most_bytes` its share."""

    child_bytes: int = 0
    most_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ordered:
    order: Order
    settings: Settings | None = None  # reload: the new ones


@dataclass(frozen=True, slots=True)
class Room:
    """What the disk has: told at the start and when it changed."""

    free_bytes: int = 0
    models: tuple[Digest, ...] = ()
    manifests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Consented:
    """Whether the consent on record holds for the terms that are valid now."""

    holds: bool


@dataclass(frozen=True, slots=True)
class ProjectSeen:
    """The project's metadata were looked at; `fault`: they could not be brought up to date.

    `was_cancelled`: from this side; what is held counts. From `until_ms` on what is held is stale.
    """

    is_fresh: bool
    fault: str | None = None
    was_cancelled: bool = False
    until_ms: Milliseconds | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A signed answer to the saved request, verified."""

    answer: Answer
    sent_bytes: int = 0
    came_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """An unsigned refusal of the saved request."""

    code: str
    detail: str
    retry_after_s: int | None
    is_final: bool  # the request itself is at fault: not 429, not 5xx


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer that counts. `was_cancelled`: from this side, so no fault of the project."""

    detail: str
    was_cancelled: bool = False
    is_untrusted: bool = False


@dataclass(frozen=True, slots=True)
class EnrolledAgain:
    session: SessionId
    enrolled: Enrolled


@dataclass(frozen=True, slots=True)
class Proved:
    """The unit proves into a manifest that a batch key signed, and its model is a TUF target.

    `most_bytes`: of this disk, what all units in hand may take.
    """

    lease: LeaseId
    facts: Facts
    missing: tuple[Need, ...]
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestMissing:
    lease: LeaseId
    need: Need


@dataclass(frozen=True, slots=True)
class OfferRefused:
    """A lease that does not check out; it is given back with the code."""

    lease: LeaseId
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Fetched:
    need: Need


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """`is_absent`: the project says that it does not have the file."""

    need: Need
    detail: str
    was_cancelled: bool = False
    is_absent: bool = False
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Rechecked:
    """The files of these units are right, or gone."""

    leases: tuple[LeaseId, ...]


@dataclass(frozen=True, slots=True)
class Uploaded:
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class UploadFailed:
    lease: LeaseId
    detail: str
    was_cancelled: bool = False
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class OutputLost:
    """The output on disk is not what the child put there; nothing of it was sent."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes went over the link."""

    down: int = 0
    up: int = 0


@dataclass(frozen=True, slots=True)
class ChildReady:
    """The child has a session, and this is the provider that it really got."""

    lease: LeaseId
    provider: str
    onnxruntime: str


@dataclass(frozen=True, slots=True)
class UnitStarted:
    """The child begins at this step; those before it stand in the spool."""

    lease: LeaseId
    first_step: int


@dataclass(frozen=True, slots=True)
class StepDone:
    lease: LeaseId
    step: int
    took_ms: int


@dataclass(frozen=True, slots=True)
class UnitDone:
    lease: LeaseId
    output: Digest
    size: int


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """The child says that the unit cannot be computed here."""

    lease: LeaseId
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ChildGone:
    """The child ended without having been told to.

    crashed: by what it computed. killed: from outside, by the kernel for want of memory or by a
    person. not_started: before it could compute anything, so whatever it was given.
    """

    detail: str
    cause: Literal["crashed", "killed", "not_started"] = "killed"


Event = (
    Heard
    | Tick
    | Ordered
    | Consented
    | Room
    | ProjectSeen
    | Answered
    | Refused
    | Unanswered
    | EnrolledAgain
    | Proved
    | ManifestMissing
    | OfferRefused
    | Fetched
    | FetchFailed
    | Rechecked
    | Uploaded
    | UploadFailed
    | OutputLost
    | Moved
    | ChildReady
    | UnitStarted
    | StepDone
    | UnitDone
    | UnitFailed
    | ChildGone
)

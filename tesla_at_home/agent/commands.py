"""What the agent wants done. The driver performs; nothing here does anything.

`URGENT` commands take computing or the link away: they are performed before anything is saved. All
others only after what they follow from is on disk (save, then speak).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.events import Need
from workunits.values import Digest, LeaseId, SessionId


@dataclass(frozen=True, slots=True)
class StopChild:
    """Stop computing now; then make the spool durable."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class ContinueChild:
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class KillChild:
    """End the child; the spool stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunUnit:
    """Compute the unit in the child, starting one or taking the one that has the model."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Prove:
    """Check the lease against manifest and metadata, and look which files are missing."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Sweep:
    """Remove the files of all units but these: what a kill left behind."""

    leases: frozenset[LeaseId]
    inputs: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Fetch:
    need: Need


@dataclass(frozen=True, slots=True)
class Recheck:
    """Look which of these files are damaged on disk, and forget those; their units wait."""

    leases: tuple[LeaseId, ...]
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class CancelTransfers:
    """Close what is open on the link."""


@dataclass(frozen=True, slots=True)
class LookAtProject:
    """Bring the project's metadata up to date."""


@dataclass(frozen=True, slots=True)
class Post:
    """Send the saved request, with the outputs that ride along."""

    saved: SavedRequest


@dataclass(frozen=True, slots=True)
class EnrolAgain:
    session: SessionId


@dataclass(frozen=True, slots=True)
class Forget:
    """The unit's files are not needed any more; `inputs` are those no other unit needs."""

    lease: LeaseId
    inputs: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """Tell the vehicle's sources how much was done, for scripts."""

    steps: int
    units: int


@dataclass(frozen=True, slots=True)
class Leave:
    """The owner leaves: stop and end."""


Command = (
    StopChild
    | ContinueChild
    | KillChild
    | RunUnit
    | Prove
    | Sweep
    | Fetch
    | Recheck
    | Upload
    | CancelTransfers
    | LookAtProject
    | Post
    | EnrolAgain
    | Forget
    | Count
    | Leave
)

URGENT: Final = (StopChild, KillChild, CancelTransfers)

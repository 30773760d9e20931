"""What the agent keeps on disk: units in hand, the exchange with the project, totals.

Frozen structs that are packed with the contract's codec. Says what is kept; `adapters/store.py` says
how, `agent.machine` when it changes.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from tesla_at_home.agent.tables import TalkState, UnitState
from tesla_at_home.policy.budget import Used
from tesla_at_home.policy.deadlines import SignedTime
from workunits.trust import digests
from workunits.values import BatchId, Digest, LeaseId, Milliseconds, Nonce, SessionId
from workunits.wire.messages import Envelope, InputPart, Lease, Runtime

# Lines of a unit's story that are kept; the first ones and the last ones tell most.
STORY_LINES: Final = 40


class Facts(Struct, frozen=True, kw_only=True):
    """What the proved unit and its manifest say."""

    batch: BatchId
    index: int
    rows: int
    steps: int
    kflop: int
    model: Digest
    model_bytes: int
    model_name: str
    inputs: tuple[InputPart, ...]
    output_bytes: int = 0  # of all its rows


class HeldUnit(Struct, frozen=True, kw_only=True):
    """One unit in the vehicle's hands; the lease is its name."""

    offer: Lease
    state: UnitState
    deadline_ms: Milliseconds
    facts: Facts | None = None
    steps_done: int = 0  # as last written down; the spool is the truth
    starts: int = 0
    crashes: int = 0  # in a row, without a step more between them
    crashed_at: int = 0  # the most steps that were done at one of them
    mended: int = 0  # how often its files, or its output, were damaged on this disk
    outcome: Literal["done", "failed", "returned"] | None = None
    output: Digest | None = None
    output_size: int = 0
    code: str | None = None
    detail: str | None = None
    runtime: Runtime | None = None
    compute_ms: int = 0
    settled_ms: int = 0  # when it was quarantined
    story: tuple[str, ...] = ()

    @property
    def lease(self) -> LeaseId:
        return self.offer.lease


class SavedRequest(Struct, frozen=True, kw_only=True):
    """A request as it was signed: sent again, byte for byte, until a signed answer comes."""

    sealed: Envelope
    digest: Digest
    reports: tuple[LeaseId, ...]
    wished: int = 0  # units that were asked for
    holding: tuple[LeaseId, ...] = ()  # all leases in hand when it was made


class Talk(Struct, frozen=True, kw_only=True):
    """The exchange with the project."""

    session: SessionId
    epoch: int
    state: TalkState = "idle"
    seq: int = 0  # of the last request that was answered
    previous: Digest = digests.ZERO
    nonce: Nonce | None = None
    saved: SavedRequest | None = None
    refused_code: str | None = None  # of unsigned refusals in a row
    refused_times: int = 0
    is_renewed: bool = False  # the session is new: what was leased before may come again
    alone: tuple[LeaseId, ...] = ()  # reports that are sent one by one after a refusal


class Totals(Struct, frozen=True, kw_only=True):
    """What this vehicle has given, by its own books and the project's verdicts."""

    units_reported: int = 0
    units_valid: int = 0
    units_invalid: int = 0
    units_failed: int = 0
    units_returned: int = 0
    kflop: int = 0


class Books(Struct, frozen=True, kw_only=True):
    """All that is not a unit."""

    talk: Talk
    signed: SignedTime = SignedTime()
    used: Used = Used()
    totals: Totals = Totals()
    seconds_per_unit: float | None = None
    paused_until_ms: int | None = None
    is_finishing: bool = False
    notice: str | None = None  # the project's line for the owner
    fault: str | None = None  # what last went wrong with the project
    last_contact_ms: int | None = None
    next_contact_ms: int | None = None

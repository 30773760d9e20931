"""How many voices a unit needs, when to compare them, when to give up. Pure.

Which results are the same work is `workunits.agreement`; what follows from it for the unit's
replicas is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.domain.work import UnitCounts

TOO_MANY_ERRORS: Final = "too_many_errors"
TOO_MANY_REPLICAS: Final = "too_many_replicas"
NO_AGREEMENT: Final = "no_agreement"
SET_ASIDE: Final = "set_aside"


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """Where a unit is given up."""

    replicas: int
    errors: int


@dataclass(frozen=True, slots=True)
class Move:
    """What an open unit needs next: more replicas, or an end as failed for a reason."""

    more: int = 0
    failure: str | None = None


def is_due(unit_state: str, waiting: int, quorum: int) -> bool:
    """Whether `waiting` results without a verdict are worth a look.

    An open unit wants its quorum first; a done one compares each late result with the canonical.
    """
    if unit_state == "done":
        return waiting > 0
    return unit_state == "open" and waiting >= quorum


def has_voice(replica_state: str) -> bool:
    """Whether a result counts for the quorum; one of a vehicle in quarantine is only measured."""
    return replica_state != SET_ASIDE


def next_move(unit: UnitCounts, quorum: int, most: UnitLimits) -> Move:
    """What an open unit needs after a loss, an error or a disagreement.

    Results that disagreed want one more voice than there are; lost and failed replicas want to be
    replaced; and a unit that cannot reach its quorum any more within the limits has failed.
    """
    if unit.state != "open":
        return Move()
    if unit.errors >= most.errors:
        return Move(failure=TOO_MANY_ERRORS)
    tally = unit.tally
    coming = tally.ready + tally.leased + tally.reported
    wanted = max(quorum, tally.inconclusive + 1) if tally.inconclusive else quorum
    missing = max(0, wanted - coming - tally.inconclusive)
    more = min(missing, max(0, most.replicas - unit.replicas))
    if coming + more == 0 or coming + more + tally.inconclusive < quorum:
        return Move(failure=NO_AGREEMENT if tally.inconclusive else TOO_MANY_REPLICAS)
    return Move(more=more)


def batch_end(units: int, done: int, failed: int) -> str | None:
    """The event that ends a running batch with these settled units, or None while some are open."""
    if done + failed < units:
        return None
    return "settle" if done else "fail"

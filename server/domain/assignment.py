"""How much work one vehicle gets, and which of the ready replicas. Pure.

Where the ready replicas come from, and how far each owner has been through them, is
`server.services.leasing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from server.domain.work import ReadyRow
from workunits.values import Milliseconds, OwnerId
from workunits.wire.messages import Wish


@dataclass(frozen=True, slots=True)
class Pick:
    """What was taken, and the last id that was looked at (what was passed over stays passed over)."""

    taken: tuple[ReadyRow, ...]
    seen_to: int


def leases_wanted(wish: Wish | None, held: int, most_held: int) -> int:
    """How many leases a vehicle gets at most now; it asks for what it can finish in its hours."""
    if wish is None or wish.seconds == 0:
        return 0
    return max(0, min(wish.units, most_held - held))


def pick(
    ready: Sequence[ReadyRow],
    owner: OwnerId,
    voices: Mapping[int, AbstractSet[OwnerId]],
    gone: AbstractSet[int],
    wanted: int,
) -> Pick:
    """The first `wanted` of `ready` (ordered by id) that `owner` may take.

    Nobody has two voices in a unit; `voices` says who has one, `gone` which replicas were taken
    meanwhile.
    """
    taken: list[ReadyRow] = []
    units: set[int] = set()
    seen_to = 0
    for row in ready:
        if len(taken) == wanted:
            break
        seen_to = row.id
        if row.id in gone or row.unit_id in units or owner in voices.get(row.unit_id, ()):
            continue
        taken.append(row)
        units.add(row.unit_id)
    return Pick(tuple(taken), seen_to)


def duration_s(lease_s: int, batch_deadline: Milliseconds, now: Milliseconds) -> int:
    """How long a lease runs: the batch's time, but not past the batch's own deadline; 0 is none."""
    return max(0, min(lease_s, (batch_deadline - now) // 1000))


def is_cut_short(lease_deadline: Milliseconds, batch_deadline: Milliseconds) -> bool:
    """Whether a lease ends with its batch, to the second; nobody let it lapse then."""
    return lease_deadline > batch_deadline - 1000

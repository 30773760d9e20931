"""What it takes for a vehicle to leave, alone or with its owner (PROTOCOL 5.4).

What it held goes back, and its results that have no verdict go with it: their unit gets another
replica, as if they had never been. So nobody leaves a voice behind and comes back with a second one.
An erased key leaves a mark, from which it cannot be told, and which keeps it from joining again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from server.domain import lifecycle, pseudonyms
from server.domain.records import VehicleRow
from server.domain.work import HeldRow, ReplicaEnd
from server.errors import Forbidden, NotFound
from server.ports import Randomness, Repositories
from server.services.settling import Ended, see_to_units
from workunits.trust import digests
from workunits.values import KeyId, Milliseconds
from workunits.wire.messages import Departure

_EVENT = {
    "leased": "return",
    "reported": "withdraw",
    "inconclusive": "withdraw",
    "set_aside": "withdraw",
}


class KeyHasLeft(Forbidden):
    """A key that left asks to join, or an old enrolment of it was sent again."""

    code: ClassVar[str] = "key_left"


class UnknownKey(NotFound):
    """A key leaves that was never here."""

    code: ClassVar[str] = "unknown_vehicle"


@dataclass(frozen=True, slots=True)
class Left:
    """How it stands with a vehicle after its departure; `is_news`: before, it was here."""

    erased: bool
    is_news: bool


def depart(
    repos: Repositories, request: Departure, now: Milliseconds, randomness: Randomness
) -> Left:
    """Carry out a departure; one that asks for nothing new changes nothing.

    Raises:
        UnknownKey: nothing is known of this key.
    """
    key = digests.of_key(request.key)
    vehicle = repos.vehicles.by_ids([key]).get(key)
    if vehicle is None:
        if not repos.joining.has_left(_mark(repos, key)):
            raise UnknownKey(
                "this project does not know this vehicle, so there is nothing to leave"
            )
        return Left(erased=True, is_news=False)
    if request.erase:
        _erase(repos, vehicle, now, randomness)
        return Left(erased=True, is_news=True)
    if vehicle.state == "retired":
        return Left(erased=False, is_news=False)
    _end(repos, _all_open(repos, [vehicle.id]), now)
    repos.vehicles.set_state(vehicle.id, vehicle.state, "retired", "its owner left with it")
    return Left(erased=False, is_news=True)


def expect_not_left(repos: Repositories, key: KeyId) -> None:
    """Raise `KeyHasLeft` for a key whose owner was erased."""
    if repos.joining.has_left(_mark(repos, key)):
        raise KeyHasLeft("this key has left; make a new key: join in a new directory")


def give_back(repos: Repositories, vehicles: Sequence[KeyId], now: Milliseconds) -> None:
    """What the vehicles held goes back for others, and costs their units nothing."""
    _end(repos, repos.replicas.held_by(vehicles), now)


def _erase(
    repos: Repositories, vehicle: VehicleRow, now: Milliseconds, randomness: Randomness
) -> None:
    keys = [one.id for one in repos.vehicles.of_owner(vehicle.owner_id)]
    _end(repos, _all_open(repos, keys), now)
    repos.joining.add_left([_mark(repos, key) for key in keys], now)
    repos.owners.erase(vehicle.owner_id, pseudonyms.erased(randomness.token(8)))


def _mark(repos: Repositories, key: KeyId) -> bytes:
    """Only this server can make it, so that nobody can find a key by it."""
    secret = repos.meta.secrets().ticket_key
    return hmac.new(secret, b"left " + key, hashlib.sha256).digest()


def _all_open(repos: Repositories, vehicles: Sequence[KeyId]) -> list[HeldRow]:
    return [*repos.replicas.held_by(vehicles), *repos.replicas.undecided_of(vehicles)]


def _end(repos: Repositories, rows: Sequence[HeldRow], now: Milliseconds) -> None:
    ended: dict[int, Ended] = {}
    for row in rows:
        before = ended.get(row.unit_id, Ended())
        ended[row.unit_id] = Ended(before.errors, before.returned + (not row.is_repeat))
    repos.replicas.end([_returned(row, now) for row in rows])
    see_to_units(repos, ended, now)


def _returned(row: HeldRow, now: Milliseconds) -> ReplicaEnd:
    return ReplicaEnd(
        id=row.id,
        old=row.state,
        new=lifecycle.after(lifecycle.REPLICA, row.state, _EVENT[row.state]),
        code="vehicle_left",
        detail=None,
        ended_ms=now,
        frees_owner=True,
    )

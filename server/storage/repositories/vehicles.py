"""Vehicles, their sessions and their consents in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from server import settings
from server.domain.brake import Brake
from server.domain.records import ConsentRow, VehicleRow
from server.domain.work import SessionStep
from server.storage.repositories.statements import AnySelect, among, chosen, keys, write_each
from server.storage.tables import clone_signs, consents, retired_sessions, vehicles
from workunits.values import Digest, KeyId, Milliseconds, OwnerId, SessionId

_ALL: Final = chosen(VehicleRow, vehicles)
_BY_IDS: Final = _ALL.where(vehicles.c.id.in_(keys()))
_OF_OWNER: Final = _ALL.where(vehicles.c.owner_id == bindparam("owner"))
_PAGE: Final = _ALL.where(vehicles.c.id > bindparam("after")).order_by(vehicles.c.id)
_SET_STATE: Final = (
    update(vehicles)
    .where(vehicles.c.id == bindparam("key"), vehicles.c.state == bindparam("old"))
    .values(state=bindparam("new"), state_reason=bindparam("reason"))
)
_ADVANCE: Final = (
    update(vehicles)
    .where(
        vehicles.c.id == bindparam("key"),
        vehicles.c.session == bindparam("old_session"),
        vehicles.c.seq == bindparam("old_seq"),
    )
    .values(
        session=bindparam("new_session"),
        seq=bindparam("new_seq"),
        last_digest=bindparam("digest"),
        last_reply=bindparam("reply"),
        nonce=None,
        client=bindparam("new_client"),
        seen_ms=bindparam("seen"),
        returns=bindparam("returned"),
        returns_since_ms=bindparam("returned_since"),
        halvings=bindparam("halved"),
        lost_in_row=bindparam("lost"),
        paused_until_ms=bindparam("paused_until"),
    )
)
_BRAKES: Final[AnySelect] = select(
    vehicles.c.id, vehicles.c.halvings, vehicles.c.lost_in_row, vehicles.c.paused_until_ms
).where(vehicles.c.id.in_(keys()))
_SET_BRAKE: Final = (
    update(vehicles)
    .where(vehicles.c.id == bindparam("key"))
    .values(
        halvings=bindparam("halved"),
        lost_in_row=bindparam("lost"),
        paused_until_ms=bindparam("paused_until"),
    )
)
_OFFER: Final = (
    update(vehicles)
    .where(vehicles.c.id == bindparam("key"), vehicles.c.nonce.is_(None))
    .values(nonce=bindparam("offered"))
)
_IS_RETIRED: Final = select(retired_sessions.c.retired_ms).where(
    retired_sessions.c.vehicle_id == bindparam("vehicle"),
    retired_sessions.c.session == bindparam("session"),
)
_ENROLMENT: Final = select(consents.c.id).where(
    consents.c.vehicle_id == bindparam("vehicle"), consents.c.request == bindparam("request")
)
_LAST_ENROLMENT: Final = select(func.max(consents.c.id)).where(
    consents.c.vehicle_id == bindparam("vehicle")
)
_ENROLLED: Final = select(func.count()).where(consents.c.vehicle_id == bindparam("vehicle"))
# A vehicle that begins session after session fills no disk: the youngest are enough to know a clone.
_FORGET_OLDEST: Final = delete(retired_sessions).where(
    retired_sessions.c.vehicle_id == bindparam("vehicle"),
    retired_sessions.c.session.in_(
        select(retired_sessions.c.session)
        .where(retired_sessions.c.vehicle_id == bindparam("vehicle"))
        .order_by(retired_sessions.c.retired_ms.desc())
        .offset(settings.RETIRED_SESSIONS_KEPT)
    ),
)
_SIGNS: Final = select(func.count()).where(
    clone_signs.c.vehicle_id == bindparam("vehicle"), clone_signs.c.at_ms > bindparam("since")
)


class SqlVehicles:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, vehicle: VehicleRow, consent: ConsentRow) -> None:
        self._connection.execute(insert(vehicles), asdict(vehicle))
        self._connection.execute(insert(consents), asdict(consent))

    def by_ids(self, ids: Sequence[KeyId]) -> dict[KeyId, VehicleRow]:
        found = (VehicleRow(*row) for row in among(self._connection, _BY_IDS, ids))
        return {vehicle.id: vehicle for vehicle in found}

    def of_owner(self, owner: OwnerId) -> list[VehicleRow]:
        rows = self._connection.execute(_OF_OWNER, {"owner": owner})
        return [VehicleRow(*row) for row in rows]

    def list(self, after: KeyId | None = None, limit: int = 1000) -> list[VehicleRow]:
        rows = self._connection.execute(_PAGE.limit(limit), {"after": after or b""})
        return [VehicleRow(*row) for row in rows]

    def set_state(self, vehicle: KeyId, old: str, new: str, reason: str | None) -> None:
        change = {"key": vehicle, "old": old, "new": new, "reason": reason}
        write_each(self._connection, _SET_STATE, [change], f"vehicle that was {old}")

    def enrol_again(self, vehicle: VehicleRow, consent: ConsentRow) -> None:
        row = asdict(vehicle)
        self._connection.execute(update(vehicles).where(vehicles.c.id == vehicle.id).values(**row))
        self._connection.execute(insert(consents), asdict(consent))

    def enrolments(self, vehicle: KeyId, request: Digest) -> tuple[bool, bool]:
        asked = {"vehicle": vehicle, "request": request}
        found = self._connection.execute(_ENROLMENT, asked).scalar()
        last = self._connection.execute(_LAST_ENROLMENT, {"vehicle": vehicle}).scalar()
        return found is not None, found is not None and found == last

    def advance(self, steps: Sequence[SessionStep]) -> None:
        rows = [
            {
                "key": step.vehicle_id,
                "old_session": step.old_session,
                "old_seq": step.old_seq,
                "new_session": step.session,
                "new_seq": step.seq,
                "digest": step.digest,
                "reply": step.reply,
                "new_client": step.client,
                "seen": step.seen_ms,
                "returned": step.returns,
                "returned_since": step.returns_since_ms,
                **_braked(step.brake),
            }
            for step in steps
        ]
        write_each(self._connection, _ADVANCE, rows, "sessions")

    def brakes(self, ids: Sequence[KeyId]) -> dict[KeyId, Brake]:
        found = among(self._connection, _BRAKES, ids)
        return {key: Brake(*fields) for key, *fields in found}

    def set_brakes(self, brakes: Mapping[KeyId, Brake]) -> None:
        rows = [{"key": key, **_braked(brake)} for key, brake in brakes.items()]
        write_each(self._connection, _SET_BRAKE, rows, "vehicles to brake")

    def offer_nonce(self, vehicle: KeyId, nonce: bytes) -> None:
        write_each(self._connection, _OFFER, [{"key": vehicle, "offered": nonce}], "nonce")

    def is_retired(self, vehicle: KeyId, session: SessionId) -> bool:
        found = self._connection.execute(_IS_RETIRED, {"vehicle": vehicle, "session": session})
        return found.first() is not None

    def retire_session(self, vehicle: KeyId, session: SessionId, now: Milliseconds) -> None:
        row = {"vehicle_id": vehicle, "session": session, "retired_ms": now}
        self._connection.execute(upsert(retired_sessions).on_conflict_do_nothing(), row)
        self._connection.execute(_FORGET_OLDEST, {"vehicle": vehicle})

    def sign_of_clone(
        self, vehicle: KeyId, request: Digest, now: Milliseconds, since: Milliseconds
    ) -> int:
        row = {"vehicle_id": vehicle, "request": request, "at_ms": now}
        self._connection.execute(upsert(clone_signs).on_conflict_do_nothing(), row)
        signs = self._connection.execute(_SIGNS, {"vehicle": vehicle, "since": since})
        return int(signs.scalar_one())

    def forget_signs(self, vehicle: KeyId) -> None:
        self._connection.execute(delete(clone_signs).where(clone_signs.c.vehicle_id == vehicle))

    def enrolled(self, vehicle: KeyId) -> int:
        return int(self._connection.execute(_ENROLLED, {"vehicle": vehicle}).scalar_one())


def _braked(brake: Brake) -> dict[str, object]:
    return {
        "halved": brake.halvings,
        "lost": brake.lost_in_row,
        "paused_until": brake.paused_until_ms,
    }

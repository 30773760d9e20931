"""What stands at the door (attempts, invitations, departures), the project's secrets, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Column, Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from server.domain.records import ProjectSecrets
from server.domain.work import DepartureRow
from server.errors import Outage
from server.storage.repositories.statements import chosen
from server.storage.tables import (
    clone_signs,
    departures,
    enrolment_attempts,
    invites,
    left_keys,
    meta,
    retired_sessions,
)
from workunits.values import Digest, KeyId, Milliseconds

_GET: Final = select(meta.c.value).where(meta.c.key == bindparam("key"))
_ATTEMPTS: Final = select(func.count()).where(
    enrolment_attempts.c.prefix == bindparam("prefix"),
    enrolment_attempts.c.at_ms > bindparam("since"),
)
_USED_BY: Final = select(invites.c.digest, invites.c.used_by).where(
    invites.c.digest == bindparam("digest")
)
_DEPARTURE: Final = chosen(DepartureRow, departures).where(
    departures.c.request == bindparam("request")
)

_HAS_LEFT: Final = select(left_keys.c.at_ms).where(left_keys.c.mark == bindparam("mark"))


class SqlMeta:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def found(self, secrets: ProjectSecrets) -> None:
        self.put("epoch", str(secrets.epoch).encode())
        self.put("ticket_key", secrets.ticket_key)
        self.put("tie_key", secrets.tie_key)

    def secrets(self) -> ProjectSecrets:
        epoch, ticket, tie = (self.get(key) for key in ("epoch", "ticket_key", "tie_key"))
        if epoch is None or ticket is None or tie is None:
            raise Outage("the database holds no project yet; run `tesla-at-home-server init`")
        return ProjectSecrets(int(epoch), ticket, tie)

    def get(self, key: str) -> bytes | None:
        value = self._connection.execute(_GET, {"key": key}).scalar()
        return None if value is None else bytes(value)

    def put(self, key: str, value: bytes) -> None:
        statement = upsert(meta).values(key=key, value=value)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["key"], set_={"value": value})
        )


class SqlJoining:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def attempts(self, prefix: bytes, since: Milliseconds) -> int:
        found = self._connection.execute(_ATTEMPTS, {"prefix": prefix, "since": since})
        return int(found.scalar_one())

    def note_attempt(self, prefix: bytes, now: Milliseconds) -> None:
        self._connection.execute(insert(enrolment_attempts), {"prefix": prefix, "at_ms": now})

    def add_invite(self, digest: Digest, now: Milliseconds) -> None:
        self._connection.execute(insert(invites), {"digest": digest, "created_ms": now})

    def use_invite(self, digest: Digest, vehicle: KeyId) -> bool:
        row = self._connection.execute(_USED_BY, {"digest": digest}).first()
        if row is None or row.used_by not in (None, vehicle):
            return False
        self._connection.execute(
            update(invites).where(invites.c.digest == digest).values(used_by=vehicle)
        )
        return True

    def departure(self, request: Digest) -> DepartureRow | None:
        row = self._connection.execute(_DEPARTURE, {"request": request}).first()
        return DepartureRow(*row) if row else None

    def add_departure(self, departure: DepartureRow) -> None:
        self._connection.execute(insert(departures), asdict(departure))

    def has_left(self, mark: bytes) -> bool:
        return self._connection.execute(_HAS_LEFT, {"mark": mark}).first() is not None

    def add_left(self, marks: Sequence[bytes], now: Milliseconds) -> None:
        rows = [{"mark": mark, "at_ms": now} for mark in marks]
        self._connection.execute(insert(left_keys), rows)


class SqlHousekeeping:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def forget_sessions(self, before: Milliseconds) -> int:
        return self._forget(retired_sessions.c.retired_ms, before)

    def forget_attempts(self, before: Milliseconds) -> int:
        return self._forget(enrolment_attempts.c.at_ms, before)

    def forget_clone_signs(self, before: Milliseconds) -> int:
        return self._forget(clone_signs.c.at_ms, before)

    def forget_departures(self, before: Milliseconds) -> int:
        return self._forget(departures.c.at_ms, before)

    def _forget(self, at: Column[int], before: Milliseconds) -> int:
        return self._connection.execute(delete(at.table).where(at < before)).rowcount

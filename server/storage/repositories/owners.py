"""Owners in SQL."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from server.domain import pseudonyms
from server.domain.records import OwnerRow
from server.storage.repositories.statements import chosen, word, write_each
from server.storage.tables import (
    clone_signs,
    consents,
    invites,
    ledger,
    owners,
    replicas,
    retired_sessions,
    uploads,
    vehicles,
)
from workunits.values import Digest, OwnerId

_ALL: Final = chosen(OwnerRow, owners)
_BY_ID: Final = _ALL.where(owners.c.id == bindparam("id"))
_BY_CODE: Final = _ALL.where(owners.c.code_digest == bindparam("code"))
_PAGE: Final = _ALL.where(owners.c.id > bindparam("after")).order_by(owners.c.id)
_HAS_NAME: Final = select(exists().where(owners.c.name_key == bindparam("name")))
_ERASE: Final = (
    update(owners)
    .where(owners.c.id == bindparam("key"), owners.c.state == word("active"))
    .values(
        name=bindparam("new_name"),
        name_key=bindparam("new_key"),
        is_public=False,
        code_digest=None,
        state="erased",
    )
)
# Nothing is leased to it any more; the state is stated for the index's sake.
_FORGET_VEHICLE: Final = (
    update(replicas)
    .where(replicas.c.vehicle_id == bindparam("vehicle"), replicas.c.state != word("leased"))
    .values(vehicle_id=None, untold=False)
)


class SqlOwners:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, owner: OwnerRow) -> None:
        row = asdict(owner) | {"name_key": pseudonyms.key(owner.name)}
        self._connection.execute(insert(owners), row)

    def get(self, owner: OwnerId) -> OwnerRow | None:
        row = self._connection.execute(_BY_ID, {"id": owner}).first()
        return OwnerRow(*row) if row else None

    def by_code(self, code_digest: Digest) -> OwnerRow | None:
        row = self._connection.execute(_BY_CODE, {"code": code_digest}).first()
        return OwnerRow(*row) if row else None

    def has_name(self, name: str) -> bool:
        return bool(self._connection.execute(_HAS_NAME, {"name": pseudonyms.key(name)}).scalar())

    def list(self, after: OwnerId | None = None, limit: int = 1000) -> list[OwnerRow]:
        rows = self._connection.execute(_PAGE.limit(limit), {"after": after or b""})
        return [OwnerRow(*row) for row in rows]

    def erase(self, owner: OwnerId, anonymous_name: str) -> None:
        """The row stays as the anonymous owner of the ledger; nothing in it names a person."""
        change = {
            "key": owner,
            "new_name": anonymous_name,
            "new_key": pseudonyms.key(anonymous_name),
        }
        write_each(self._connection, _ERASE, [change], "active owner")
        run = self._connection.execute
        run(update(ledger).where(ledger.c.owner_id == owner).values(vehicle_id=None))
        of_owner = select(vehicles.c.id).where(vehicles.c.owner_id == owner)
        for traces in (consents, retired_sessions, clone_signs):
            run(delete(traces).where(traces.c.vehicle_id.in_(of_owner)))
        for vehicle in run(of_owner).scalars().all():
            run(_FORGET_VEHICLE, {"vehicle": vehicle})
        run(update(uploads).where(uploads.c.vehicle_id.in_(of_owner)).values(vehicle_id=None))
        # An invitation stays used, but not by anybody.
        run(update(invites).where(invites.c.used_by.in_(of_owner)).values(used_by=b""))
        run(delete(vehicles).where(vehicles.c.owner_id == owner))

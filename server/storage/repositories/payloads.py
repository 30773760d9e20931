"""Small tensor payloads, and what is known of uploads, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, select, text
from sqlalchemy.dialects.sqlite import insert as upsert

from server.domain.records import UploadRow
from server.storage.repositories.statements import among, chosen, insert_each, keys, words
from server.storage.tables import payloads, replicas, uploads
from workunits.values import Digest, KeyId, LeaseId, Milliseconds

_add = upsert(payloads)
# One that is there already and is not the same was damaged on this disk: what comes now was checked.
_ADD: Final = _add.on_conflict_do_update(
    index_elements=["digest"],
    set_={"raw": _add.excluded.raw},
    where=payloads.c.raw != _add.excluded.raw,
)
_READ: Final = select(payloads.c.digest, payloads.c.raw).where(payloads.c.digest.in_(keys()))
_UPLOADS: Final = chosen(UploadRow, uploads)
_BY_LEASES: Final = _UPLOADS.where(uploads.c.lease_id.in_(keys()))
_UNTOUCHED: Final = _UPLOADS.where(uploads.c.touched_ms < bindparam("before")).order_by(
    uploads.c.touched_ms
)

_NOT_AWAITED: Final = (
    _UPLOADS.join(replicas, replicas.c.lease_id == uploads.c.lease_id)
    .where(replicas.c.state.not_in(words("leased", "lost")))
    .order_by(uploads.c.lease_id)
)
# The size stands there as the index `replicas_by_large_output` has it.
_NAMED_BY_REPLICA: Final = (
    select(replicas.c.id)
    .where(replicas.c.output == bindparam("digest"), text("output_size > 65536"))
    .limit(1)
)
_NAMED_BY_UPLOAD: Final = (
    select(uploads.c.lease_id).where(uploads.c.digest == bindparam("digest")).limit(1)
)
_BYTES_IN_ALL: Final = select(func.coalesce(func.sum(uploads.c.size), 0))
_BYTES_OF: Final = _BYTES_IN_ALL.where(
    uploads.c.vehicle_id == bindparam("vehicle"), uploads.c.lease_id != bindparam("beside")
)


class SqlPayloads:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, added: Mapping[Digest, bytes]) -> None:
        rows = [{"digest": digest, "raw": raw} for digest, raw in added.items()]
        insert_each(self._connection, _ADD, rows)

    def read(self, wanted: Sequence[Digest]) -> dict[Digest, bytes]:
        return {row.digest: row.raw for row in among(self._connection, _READ, wanted)}


class SqlUploads:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, lease: LeaseId) -> UploadRow | None:
        return self.by_leases([lease]).get(lease)

    def by_leases(self, leases: Sequence[LeaseId]) -> dict[LeaseId, UploadRow]:
        found = (UploadRow(*row) for row in among(self._connection, _BY_LEASES, leases))
        return {upload.lease_id: upload for upload in found}

    def put(self, upload: UploadRow) -> None:
        row = asdict(upload)
        statement = upsert(uploads).values(**row)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["lease_id"], set_=row)
        )

    def untouched(self, before: Milliseconds, limit: int) -> list[UploadRow]:
        rows = self._connection.execute(_UNTOUCHED.limit(limit), {"before": before})
        return [UploadRow(*row) for row in rows]

    def not_awaited(self, limit: int) -> list[UploadRow]:
        return [UploadRow(*row) for row in self._connection.execute(_NOT_AWAITED.limit(limit))]

    def is_named(self, digest: Digest) -> bool:
        return any(
            self._connection.execute(statement, {"digest": digest}).first() is not None
            for statement in (_NAMED_BY_UPLOAD, _NAMED_BY_REPLICA)
        )

    def bytes_of(self, vehicle: KeyId, beside: LeaseId) -> int:
        asked = {"vehicle": vehicle, "beside": beside}
        return int(self._connection.execute(_BYTES_OF, asked).scalar_one())

    def bytes_in_all(self) -> int:
        return int(self._connection.execute(_BYTES_IN_ALL).scalar_one())

    def delete(self, leases: Sequence[LeaseId]) -> None:
        if leases:
            self._connection.execute(delete(uploads).where(uploads.c.lease_id.in_(leases)))

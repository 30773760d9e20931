"""Models and batches in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Final

from sqlalchemy import Connection, Integer, bindparam, cast, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.domain.records import BatchProgress, BatchRow, ModelRow, NewUnit
from server.errors import Conflict, NotFound
from server.storage.repositories.statements import among, chosen, keys, word, write_each
from server.storage.tables import batches, models, replicas, units, vehicles
from workunits.values import BatchId, Milliseconds

# Units written at once while publishing; memory stays flat in the size of the batch.
_BLOCK: Final = 4_096

_MODELS: Final = chosen(ModelRow, models)
_BATCHES: Final = chosen(BatchRow, batches)
_BY_IDS: Final = _BATCHES.where(batches.c.id.in_(keys()))
_FIND: Final = (
    _BATCHES.where(batches.c.id >= bindparam("low"), batches.c.id <= bindparam("high"))
    .order_by(batches.c.id)
    .limit(2)
)
_RUNNING: Final = _BATCHES.where(batches.c.state == word("running")).order_by(batches.c.created_ms)
_OVERDUE: Final = _RUNNING.where(batches.c.deadline_ms <= bindparam("now"))
_UNSETTLED: Final = _BATCHES.where(
    batches.c.state != word("running"), batches.c.settled_to < batches.c.units
).order_by(batches.c.created_ms)
_COUNT: Final = (
    update(batches)
    .where(batches.c.id == bindparam("key"))
    .values(
        units_done=batches.c.units_done + bindparam("done"),
        units_failed=batches.c.units_failed + bindparam("failed"),
        rows_failed=batches.c.rows_failed + bindparam("lost_rows"),
    )
)
_END: Final = (
    update(batches)
    .where(batches.c.id == bindparam("key"), batches.c.state == word("running"))
    .values(state=bindparam("new"), ended_ms=bindparam("now"))
)
_READY: Final = select(func.count()).where(
    replicas.c.batch_id == bindparam("batch"), replicas.c.state == word("ready")
)
_LEASED: Final = select(func.count()).where(
    replicas.c.batch_id == bindparam("batch"), replicas.c.state == word("leased")
)
_OWNERS: Final = select(func.count()).select_from(
    select(vehicles.c.owner_id)
    .distinct()
    .where(vehicles.c.state == word("active"))
    .limit(cast(bindparam("most"), Integer))
    .subquery()
)
_LAST_UNIT: Final = select(func.coalesce(func.max(units.c.id), 0))
_SETTLED_TO: Final = select(batches.c.settled_to, batches.c.units).where(
    batches.c.id == bindparam("batch")
)
_OPEN_BETWEEN: Final = select(units.c.id, units.c.rows).where(
    units.c.batch_id == bindparam("batch"),
    units.c.idx >= bindparam("first"),
    units.c.idx < bindparam("end"),
    units.c.state == word("open"),
)


class SqlModels:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, model: ModelRow) -> None:
        try:
            self._connection.execute(insert(models), asdict(model))
        except IntegrityError:
            raise Conflict(
                f"a model is already called {model.name!r}; choose another name"
            ) from None

    def get(self, name: str) -> ModelRow | None:
        row = self._connection.execute(_MODELS.where(models.c.name == name)).first()
        return ModelRow(*row) if row else None

    def list(self) -> list[ModelRow]:
        rows = self._connection.execute(_MODELS.order_by(models.c.name))
        return [ModelRow(*row) for row in rows]

    def retire(self, name: str) -> None:
        model = self.get(name)
        if model is None:
            raise NotFound(f"there is no model called {name!r}")
        if model.state != "active":
            raise Conflict(f"model {name!r} is {model.state} already")
        self._connection.execute(
            update(models).where(models.c.name == name).values(state="retired")
        )


class SqlBatches:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, batch: BatchRow, units_of_batch: Iterable[NewUnit]) -> None:
        self._connection.execute(insert(batches), asdict(batch))
        # The writer is alone until the commit, so these ids are free.
        number = int(self._connection.execute(_LAST_UNIT).scalar_one()) + 1
        rest = iter(units_of_batch)
        while block := list(islice(rest, _BLOCK)):
            self._add_block(batch, block, number)
            number += len(block)

    def get(self, batch: BatchId) -> BatchRow | None:
        return self.by_ids([batch]).get(batch)

    def by_ids(self, ids: Sequence[BatchId]) -> dict[BatchId, BatchRow]:
        found = (BatchRow(*row) for row in among(self._connection, _BY_IDS, ids))
        return {batch.id: batch for batch in found}

    def find(self, prefix_hex: str) -> list[BatchRow]:
        digits = prefix_hex.lower()
        if not digits or len(digits) > 32 or digits.strip("0123456789abcdef"):
            return []
        low, high = (bytes.fromhex(digits.ljust(32, fill)) for fill in "0f")
        rows = self._connection.execute(_FIND, {"low": low, "high": high})
        return [BatchRow(*row) for row in rows]

    def running(self, limit: int) -> list[BatchRow]:
        return [BatchRow(*row) for row in self._connection.execute(_RUNNING.limit(limit))]

    def progress(self, batch: BatchId) -> BatchProgress | None:
        found = self.get(batch)
        if found is None:
            return None
        ready, leased = (
            int(self._connection.execute(statement, {"batch": batch}).scalar_one())
            for statement in (_READY, _LEASED)
        )
        owners = self._connection.execute(_OWNERS, {"most": found.quorum}).scalar_one()
        return BatchProgress(found, ready, leased, int(owners))

    def overdue(self, now: Milliseconds) -> list[BatchRow]:
        return [BatchRow(*row) for row in self._connection.execute(_OVERDUE, {"now": now})]

    def count(self, batch: BatchId, done: int, failed: int, rows_failed: int) -> None:
        row = {"key": batch, "done": done, "failed": failed, "lost_rows": rows_failed}
        write_each(self._connection, _COUNT, [row], "counts of a batch")

    def end(self, batch: BatchId, state: str, now: Milliseconds) -> bool:
        change = {"key": batch, "new": state, "now": now}
        return self._connection.execute(_END, change).rowcount == 1

    def open_units(self, batch: BatchId, limit: int) -> tuple[list[tuple[int, int]], int]:
        first, size = self._connection.execute(_SETTLED_TO, {"batch": batch}).one()
        end = min(first + limit, size)
        place = {"batch": batch, "first": first, "end": end}
        rows = self._connection.execute(_OPEN_BETWEEN, place)
        return [(row.id, row.rows) for row in rows], end

    def settled_to(self, batch: BatchId, end: int) -> None:
        self._connection.execute(
            update(batches).where(batches.c.id == batch).values(settled_to=end)
        )

    def unsettled(self, limit: int) -> list[BatchRow]:
        return [BatchRow(*row) for row in self._connection.execute(_UNSETTLED.limit(limit))]

    def _add_block(self, batch: BatchRow, block: Sequence[NewUnit], number: int) -> None:
        rows = [
            {
                "id": number + place,
                "batch_id": batch.id,
                "idx": unit.idx,
                "first_row": unit.first_row,
                "rows": unit.rows,
                "body": unit.body,
                "state": "open",
                "replicas": batch.quorum,
            }
            for place, unit in enumerate(block)
        ]
        self._connection.execute(insert(units), rows)
        ready = [
            {"unit_id": row["id"], "batch_id": batch.id, "state": "ready"}
            for row in rows
            for _ in range(batch.quorum)
        ]
        self._connection.execute(insert(replicas), ready)

    def list(self, limit: int = 100) -> list[BatchRow]:
        newest = _BATCHES.order_by(batches.c.created_ms.desc()).limit(limit)
        return [BatchRow(*row) for row in self._connection.execute(newest)]

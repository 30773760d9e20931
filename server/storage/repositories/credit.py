"""Credit in SQL: ledger, sums, days, standings, totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, true, update
from sqlalchemy.dialects.sqlite import insert as upsert

from server.domain.credit import day_of
from server.domain.records import ProjectTotals, Standing
from server.domain.work import Crediting
from server.storage.repositories.statements import word
from server.storage.tables import batches, ledger, owner_days, owners, replicas, units, vehicles

_TO_OWNER: Final = (
    update(owners)
    .where(owners.c.id == bindparam("key"))
    .values(
        credit_kflop=owners.c.credit_kflop + bindparam("more"),
        month_kflop=owners.c.month_kflop + bindparam("more"),
    )
)
_TO_VEHICLE: Final = (
    update(vehicles)
    # A key that belongs to somebody else now was not paid for.
    .where(vehicles.c.id == bindparam("key"), vehicles.c.owner_id == bindparam("owner"))
    .values(credit_kflop=vehicles.c.credit_kflop + bindparam("more"))
)
_new_day = upsert(owner_days)
_TO_DAY: Final = _new_day.on_conflict_do_update(
    index_elements=["day", "owner_id"], set_={"kflop": owner_days.c.kflop + _new_day.excluded.kflop}
)
_OF_DAY: Final = select(owner_days.c.owner_id).where(owner_days.c.day == bindparam("day"))
_FALL_OUT: Final = (
    update(owners)
    .where(owners.c.id.in_(_OF_DAY))
    .values(
        month_kflop=owners.c.month_kflop
        - select(owner_days.c.kflop)
        .where(owner_days.c.day == bindparam("day"), owner_days.c.owner_id == owners.c.id)
        .scalar_subquery()
    )
)
_LEDGER_OF_OWNER: Final = (
    select(func.coalesce(func.sum(ledger.c.kflop), 0))
    .where(ledger.c.owner_id == owners.c.id)
    .scalar_subquery()
)
_UNBALANCED: Final = (
    select(func.count()).select_from(owners).where(owners.c.credit_kflop != _LEDGER_OF_OWNER)
)
_OLDEST: Final = select(func.min(owner_days.c.day))
_BY_PERIOD: Final = {"all": owners.c.credit_kflop, "30d": owners.c.month_kflop}


class SqlCredit:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def grant(self, credits: Sequence[Crediting]) -> None:
        if not credits:
            return
        self._connection.execute(insert(ledger), [_ledger_row(credit) for credit in credits])
        to_owner: Counter[bytes] = Counter()
        to_vehicle: Counter[tuple[bytes, bytes]] = Counter()
        to_day: Counter[tuple[int, bytes]] = Counter()
        for credit in credits:
            to_owner[credit.owner_id] += credit.kflop
            to_vehicle[credit.vehicle_id, credit.owner_id] += credit.kflop
            to_day[day_of(credit.at_ms), credit.owner_id] += credit.kflop
        run = self._connection.execute
        run(_TO_OWNER, [{"key": owner, "more": kflop} for owner, kflop in to_owner.items()])
        run(
            _TO_VEHICLE,
            [
                {"key": vehicle, "owner": owner, "more": kflop}
                for (vehicle, owner), kflop in to_vehicle.items()
            ],
        )
        run(
            _TO_DAY,
            [
                {"day": day, "owner_id": owner, "kflop": kflop}
                for (day, owner), kflop in to_day.items()
            ],
        )

    def drop_day(self, day: int) -> int:
        self._connection.execute(_FALL_OUT, {"day": day})
        gone = self._connection.execute(delete(owner_days).where(owner_days.c.day == day))
        return gone.rowcount

    def oldest_day(self) -> int | None:
        day = self._connection.execute(_OLDEST).scalar()
        return None if day is None else int(day)

    def standings(self, period: str, page: int, per_page: int) -> list[Standing]:
        earned = _BY_PERIOD[period]
        first = (page - 1) * per_page
        rows = self._connection.execute(
            select(owners.c.name, earned)
            .where(owners.c.is_public == true(), earned > 0)
            .order_by(earned.desc(), owners.c.name)
            .limit(per_page)
            .offset(first)
        )
        return [Standing(first + 1 + place, *row) for place, row in enumerate(rows)]

    def unbalanced(self) -> int:
        return int(self._connection.execute(_UNBALANCED).scalar_one())

    def totals(self) -> ProjectTotals:
        counts = (
            select(func.count()).select_from(owners).where(owners.c.state == word("active")),
            select(func.count()).select_from(vehicles).where(vehicles.c.state == word("active")),
            select(func.count()).select_from(batches).where(batches.c.state == word("running")),
            select(func.count()).select_from(replicas).where(replicas.c.state == word("leased")),
            select(func.count()).select_from(units).where(units.c.needs_check == true()),
            select(func.coalesce(func.sum(owners.c.credit_kflop), 0)),
        )
        return ProjectTotals(*(int(self._connection.execute(one).scalar_one()) for one in counts))


def _ledger_row(credit: Crediting) -> dict[str, object]:
    return {
        "at_ms": credit.at_ms,
        "owner_id": credit.owner_id,
        "vehicle_id": credit.vehicle_id,
        "replica_id": credit.replica_id,
        "kflop": credit.kflop,
        "reason": credit.reason,
    }
